"""The line at the top of the panel: what to do next; and the names of the stages of a run."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _


@dataclass(frozen=True)
class Situation:
    """What the next step depends on.

    Attributes
    ----------
    missing : str
        What the input lacks before a run can start; empty if nothing.
    loaded : bool
        Whether the scene contains a CT or a segmentation.
    volume, preview : bool
        Whether the input is a CT, and whether its threshold is previewed.
    running, exporting, updating, placing : bool
        Whether a run, an export or an update of the implant is in progress, or a point is being placed.
    makingParts, comparing : bool
        Whether additional parts are being made, or plan and outcome compared.
    marking : str
        Where to click to place a point of the implant; empty if none is being placed.
    nothingFilled : bool
        Whether the last run of this input has no defect that is filled.
    present : bool
        Whether there is a result of this input.
    rating : str
        Overall rating, the worst of all rated figures; empty without a self-check.
    folder, exported : bool
        Whether a folder that exists is chosen for the export, and whether the present result was exported.
    """

    missing: str = ""
    loaded: bool = True
    volume: bool = False
    preview: bool = False
    running: bool = False
    exporting: bool = False
    updating: bool = False
    placing: bool = False
    marking: str = ""
    makingParts: bool = False
    comparing: bool = False
    nothingFilled: bool = False
    present: bool = False
    rating: str = ""
    folder: bool = False
    exported: bool = False


def nextStep(now: Situation) -> str:
    """What the user does next, as one sentence.

    >>> nextStep(Situation(volume=True))
    'Preview the threshold to check the bone, then click Complete skull.'
    """
    if now.running:
        return _("Wait for the result, or click Cancel.")
    if now.exporting:
        return _("Wait for the export, or click Cancel.")
    if now.comparing:
        return _("Wait for the comparison, or click Cancel.")
    if now.placing:
        return _("Click on the hole in a slice view or in the 3D view.")
    if now.marking:
        return now.marking
    if not now.loaded:
        return _("Load a head CT or a segmentation of the skull. Sample Data offers examples under SkullVAE.")
    if now.missing:
        return now.missing + "."
    if now.makingParts:
        return _("Wait until the additional parts are made.")
    if now.updating:
        return _("Wait until the implant is updated.")
    if now.present:
        return _checkAndExport(now)
    if now.nothingFilled:
        return _("Click Point at a hole, then click on the hole in a slice view.")
    if now.preview:
        return _("Check in the slice views that bone is green and soft tissue is not, then click Complete skull.")
    if now.volume:
        return _("Preview the threshold to check the bone, then click Complete skull.")
    return _("Click Complete skull.")


def _checkAndExport(now: Situation) -> str:
    if now.exported:
        return _("Inspect the exported files before printing.")
    if now.rating == "poor":
        if now.folder:
            return _("Correct what Result rates as poor, inspect the implant in the views, then click Export.")
        return _(
            "Correct what Result rates as poor, inspect the implant in the views, then choose a folder and click"
            " Export."
        )
    if now.folder:
        return _("Check the implant in the views, then click Export.")
    return _("Check the implant in the views, then choose a folder and click Export.")


def implantNote(present: bool, live: bool) -> str:
    """When a change in the section "Implant" applies.

    present: whether there is a result; live: whether its process takes requests.
    """
    if present and not live:
        return _("The process of this result has ended: changes apply with the next Complete skull.")
    if present:
        return _("Changes apply at once, also in the groups below; Proposals with the next Complete skull.")
    return _("Can also be changed after Complete skull: the printable implant then follows at once.")


def defectsNote(present: bool, waiting: bool) -> str:
    """When a change in the section "Defects" applies.

    present: whether there is a result; waiting: whether its process takes requests, also if it found no defect.
    """
    if waiting:
        return _("Checked holes and points apply at once, the face with the next Complete skull.")
    if present:
        return _("The process of this result has ended: changes apply with the next Complete skull.")
    return _("Complete skull lists the holes here. They can then be checked and unchecked.")


def replacementNote(kept: str, points: int) -> str:
    """What Complete skull does to an implant that was edited by hand; empty if it was not.

    kept: name under which it is kept, empty if it is not edited; points: number of points on its surface.
    """
    if not kept:
        return ""
    text = _("Complete skull replaces the implant that was edited by hand. A copy is kept as segment '{name}'.")
    text = text.format(name=kept)
    if points:
        text += " " + _("Its surface points are applied to the new implant.")
    return text


def stageText(stage: str) -> str:
    """The stage that a run has reported, in words; the name of an unknown one.

    >>> stageText("measure"), stageText("other stage"), stageText("")
    ('Measuring the implant', 'Other stage', '')
    """
    words = {
        "load libraries": _("Loading the libraries"),
        "load model": _("Loading the model"),
        "read": _("Reading the input"),
        "bone": _("Segmenting the bone"),
        "register": _("Registering the mean skull"),
        "warp": _("Warping the mean skull to the patient"),
        "prior": _("Predicting the complete shape"),
        "gap": _("Finding defects"),
        "face": _("Completing the face"),
        "implant": _("Designing the implant"),
        "mesh": _("Making the printable implant"),
        "measure": _("Measuring the implant"),
        "proposals": _("Making further proposals"),
        "tooling": _("Making additional printed parts"),
        "preview": _("Drawing the preview"),
        "write": _("Writing the result"),
    }
    return words.get(stage) or stage.capitalize()
