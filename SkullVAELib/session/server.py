"""Responds to the requests of a session for other shapes and implants, see `skullvae complete --interactive`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np

from SkullVAELib.completion.defects import CHOSEN, EXCLUDED
from SkullVAELib.completion.options import MOST_PROPOSALS
from SkullVAELib.completion.proposals import ProposalSampler
from SkullVAELib.completion.result import Completion, PreparedPatient
from SkullVAELib.completion.voxel_edit import VoxelEdit
from SkullVAELib.core.atomic_output import publish_files
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import as_json_text
from SkullVAELib.core.memory import return_freed_memory
from SkullVAELib.implant.addition_options import ADDITION_LISTS, ADDITION_TEXTS
from SkullVAELib.implant.options import MESH_FORMATS, ImplantOptions
from SkullVAELib.implant.tooling import ToolingOptions
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.report.result_files import RunResult
from SkullVAELib.report.result_names import TOOLING_FILES
from SkullVAELib.session.cleanup import RESPONSES
from SkullVAELib.session.protocol import SHAPE_KINDS, DefectSelection, Request, Requests

_IMPLANT_FILES = (
    *(f"implant_{number}.{kind}" for kind in MESH_FORMATS for number in ("[1-9]", "[1-9][0-9]")),
    *(f"implant.{kind}" for kind in reversed(MESH_FORMATS)),
)

# Report fields in the response to a request for another shape, and for another printable implant.
_SHAPE_FIELDS = ("found", "gamma", "proposal", "proposals", "candidates", "implant", "edited", "checks", "warnings")
_IMPLANT_FIELDS = (*_SHAPE_FIELDS, "printable_implant", "mesh")

NOTHING_FILLED = "No defect is filled: there is no implant. Select a candidate defect, or point at a hole."
"""Warning in the response to a request that selects no defect."""

# Report fields that are measured on the implant: those of another shape do not apply.
_OF_IMPLANT = ("implant", "printable_implant", "checks", "uncertainty", "edited")

# Options of an "implant" request that are numbers, and those that are text.
_NUMBERS = ("clearance", "under_contour", "smooth", "split", "insertable")
_TEXTS = ("thickness", "holes", *ADDITION_TEXTS)
_KIND_OF_OPTION = (
    dict.fromkeys(_NUMBERS, "a number") | dict.fromkeys(_TEXTS, "text") | dict.fromkeys(ADDITION_LISTS, "a list")
)

# Options of a "tooling" request that are true or false, and those that are numbers.
_FLAGS, _LENGTHS = ("mould",), ("mould_clearance", "mould_wall", "ring", "template")


def serve(result: RunResult, requests: Requests, folder: Path, stream: TextIO) -> None:
    """Respond to requests until their end.

    Each response is one line of JSON on the stream, or two for another shape. Its files are in responses/NUMBER in the
    folder and are complete when the line is written. A request that fails has a response with "error" and changes
    nothing.

    Parameters
    ----------
    result : RunResult
        Result of the run; if it found no defect, a "defects" request can name one.
    requests : Requests
        The requests.
    folder : Path
        Folder of the results of the run.
    stream : TextIO
        Stream that the responses are written to.
    """
    session = InteractiveSession(
        result, folder, lambda message: print(as_json_text(message, None), end="", file=stream, flush=True)
    )
    return_freed_memory()
    while (request := requests.take()) is not None:
        session.respond(request, lambda: requests.waits(*SHAPE_KINDS))
        return_freed_memory()


class InteractiveSession:
    """Keeps the current shape and printable implant of a completion and changes them on request.

    Voxels that the user has edited and points on the outer surface are kept when another shape is requested: they are
    applied to it. They are discarded when no defect is filled any more.

    Parameters
    ----------
    result : RunResult
        Result of a run.
    folder : Path
        Folder of the results of the run.
    send : callable
        Called with each response, a dict.

    Raises
    ------
    ValueError
        The completion has no prepared patient.
    """

    def __init__(self, result: RunResult, folder: Path, send: Callable[[dict], None]):
        self._folder, self._send = folder, send
        if result.completion.patient is None:
            raise ValueError("a session needs a completion with a prepared patient")
        # The numbers in a "defects" request are those of the run's candidates, so each selection starts from the run.
        self._run = result.completion
        self._listed = {entry["number"]: entry for entry in result.report.get("candidates", [])}
        self._patient = result.completion.patient
        # The completion with proposal 1 and the run's gamma; None until it is needed.
        self._first: Completion | None = result.completion
        self._own_gamma = self._patient.prior.gamma_or_own(self._patient.options.gamma)
        self._sampler = ProposalSampler(self._patient)
        # The completion with the current shape before the voxels were edited, and the edit.
        self._unedited = result.completion
        self._edit: VoxelEdit | None = None
        self._result = replace(result, report=result.report | {"proposal": 1, "gamma": self._own_gamma})
        self._responders = {
            "gamma": self._respond_to_gamma,
            "proposal": self._respond_to_proposal,
            "defects": self._respond_to_defects,
            "edited": self._respond_to_edited,
            "points": self._respond_to_points,
            "implant": self._respond_to_implant,
            "tooling": self._respond_to_tooling,
            "skull": self._respond_to_skull,
            "report": self._respond_to_report,
        }

    def respond(self, request: Request, shape_waits: Callable[[], bool] = lambda: False) -> None:
        """Process one request and send the response.

        Parameters
        ----------
        request : Request
            The request.
        shape_waits : callable
            Whether a request for another shape is queued; the mesh of the current shape is then not computed.
        """
        from SkullVAELib.core.errors import explain

        if request.superseded:
            self._send({"response": request.number, "superseded": True})
            return
        start = time.perf_counter()
        try:
            if request.error is not None:
                raise request.error
            for fields in self._responders[request.kind](request, shape_waits):
                self._send({"response": request.number, **fields, "seconds": round(time.perf_counter() - start, 3)})
        except BrokenPipeError:  # the reader of the responses has ended
            raise
        except Exception as error:
            self._send({"response": request.number, "error": str(explain(error))})

    def _respond_to_gamma(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        self._require_implant()
        if self._patient.prior.kind == "mean" and request.value:
            raise SkullVAEError("Gamma has no effect on the prior 'mean'", "Run again with another --prior")
        return self._other_shape(request, self._result.report["proposal"], float(request.value), shape_waits)

    def _respond_to_proposal(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        if not 1 <= request.value <= MOST_PROPOSALS:
            raise SkullVAEError(f"The proposal {request.value} does not exist", f"Choose 1 to {MOST_PROPOSALS}")
        self._require_implant()
        return self._other_shape(request, request.value, self._own_gamma, shape_waits)

    def _other_shape(
        self, request: Request, proposal: int, gamma: float, shape_waits: Callable[[], bool]
    ) -> Iterator[dict]:
        """Yield a response with the voxels as soon as they are available, then one with the mesh."""
        unedited = self._shape(proposal, gamma)
        completion = self._edited(unedited, self._edit)
        if not completion.found:
            raise SkullVAEError("The implant of this shape is empty", "Choose another gamma or proposal")
        result = self._of_shape(completion, proposal, gamma)
        yield self._voxels(request, result)
        self._result, self._unedited = result, unedited
        yield self._mesh(request, shape_waits)

    @staticmethod
    def _edited(completion: Completion, edit: VoxelEdit | None) -> Completion:
        return completion if edit is None else edit.applied(completion)

    def _respond_to_edited(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        """Make the implant of voxels that the user has edited."""
        self._require_implant()
        volume, bone = read_volume(request.value), self._unedited.bone
        if volume.array.shape != bone.array.shape or not np.allclose(volume.affine, bone.affine, atol=1e-3):
            raise SkullVAEError(
                "The edited implant has another grid than the image that was completed",
                "Write it on the grid of implant.nrrd",
            )
        edit = VoxelEdit.of(self._unedited, volume.array != 0)
        completion = self._edited(self._unedited, edit)
        if not completion.found:
            raise SkullVAEError("The edited implant is empty", "Undo the edit, or exclude the defect")
        result = self._of_shape(completion, self._result.report["proposal"], self._result.report["gamma"])
        yield self._voxels(request, result)
        self._result, self._edit = result, None if edit.empty else edit
        yield self._mesh(request, shape_waits)

    def _respond_to_points(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        """Move the outer surface to points."""
        self._require_implant()
        patient = self._patient.with_points(request.value)
        sampler = self._sampler.with_points(patient)
        proposal, gamma = self._result.report["proposal"], self._result.report["gamma"]
        run = self._run.patient
        assert run is not None
        own_defects = self._patient.defects is run.defects
        if own_defects and (request.value, proposal, gamma) == (run.options.through, 1, self._own_gamma):
            unedited = self._run
        else:
            unedited = sampler.completion(proposal, gamma)
        completion = self._edited(unedited, self._edit)
        if not completion.found:
            raise SkullVAEError("The implant through these points is empty", "Move the points nearer to the implant")
        result = self._of_shape(completion, proposal, gamma)
        yield self._voxels(request, result)
        self._patient, self._sampler, self._result, self._unedited = patient, sampler, result, unedited
        self._first = unedited if (proposal, gamma) == (1, self._own_gamma) else None
        yield self._mesh(request, shape_waits)

    def _respond_to_defects(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        """Fill other defects, with the current gamma and proposal 1: the further proposals depend on the defects."""
        selection: DefectSelection = request.value
        if selection == DefectSelection():
            yield self._without_defect()
            return
        patient, first = self._with_defects(selection)
        gamma = self._result.report["gamma"]
        unedited = first if first is not None and gamma == self._own_gamma else patient.completion(gamma)
        edit = self._edit and self._edit.connected_to(unedited.implant.array)
        completion = self._edited(unedited, edit)
        if not completion.found:
            raise SkullVAEError(
                "The implant of these defects is empty", "Select another candidate defect, or point at a hole"
            )
        proposals = [{"number": entry["number"]} for entry in self._result.report.get("proposals", [])]
        result = self._of_shape(completion, 1, gamma)
        result = replace(result, report=result.report | ({"proposals": proposals} if proposals else {}))
        yield self._voxels(request, result)
        self._patient, self._result, self._sampler = patient, result, ProposalSampler(patient)
        self._unedited, self._edit = unedited, edit
        self._first = unedited if gamma == self._own_gamma else first
        yield self._mesh(request, shape_waits)

    def _with_defects(self, selection: DefectSelection) -> tuple[PreparedPatient, Completion | None]:
        """The patient with these defects, and its completion with the run's gamma if that is the run's own result.

        Points on the outer surface that are not at these defects are discarded.
        """
        patient = self._run.patient
        assert patient is not None
        points = self._patient.options.through
        of_run = {entry["number"] for entry in self._listed.values() if entry["filled"]}
        if self._run.found and not selection.at and set(selection.filled) == of_run:
            kept = patient.points_at_defects(points)
            return (patient, self._run) if kept == patient.options.through else (patient.with_points(kept), None)
        # A candidate that grew from a point given to the run has no number of its own: its centre is such a point.
        known = {candidate.number for candidate in patient.finder.candidates}
        grown = [self._listed[number] for number in selection.filled if number in self._listed and number not in known]
        filled = [number for number in selection.filled if number not in {entry["number"] for entry in grown}]
        at = [*selection.at, *(tuple(entry["centre_mm"]) for entry in grown)]
        other = patient.with_defects(filled, at)
        return other.with_points(other.points_at_defects(points)), None

    def _with_reasons(self, candidates: list[dict]) -> list[dict]:
        """Candidates with the reason of the run where the decision is that of the run, otherwise the user's."""
        changed = []
        for entry in candidates:
            of_run = self._listed.get(entry["number"])
            if of_run is not None and of_run["filled"] == entry["filled"]:
                reason = of_run["reason"]
            else:
                reason = CHOSEN if entry["filled"] else EXCLUDED
            changed.append(entry | {"reason": reason})
        return changed

    def _without_defect(self) -> dict:
        """Discard the implant: no defect is selected. Return the response, which has no files."""
        report = {name: value for name, value in self._result.report.items() if name not in _OF_IMPLANT}
        candidates = self._with_reasons([entry | {"filled": False} for entry in self._listed.values()])
        report |= {"found": False, "candidates": candidates, "warnings": [NOTHING_FILLED], "mesh": None}
        empty = replace(
            self._run,
            completed=self._run.bone,
            implant=self._run.bone.with_array(np.zeros_like(self._run.bone.array)),
            found=False,
            proposal=None,
        )
        self._result = replace(self._result, completion=empty, printable_implant=None, report=report)
        self._unedited, self._edit = empty, None
        self._patient = self._patient.with_points(())
        return {"files": [], "report": _selected(report, _SHAPE_FIELDS)}

    def _require_implant(self) -> None:
        if not self._result.found:
            raise SkullVAEError("There is no implant: no defect is filled", "Point at a hole, or select a candidate")

    def _of_shape(self, completion: Completion, proposal: int, gamma: float) -> RunResult:
        """The result with another completion, still without the printable implant and what is measured on it."""
        report = {name: value for name, value in self._result.report.items() if name not in _OF_IMPLANT}
        changes: dict = {
            "found": True,
            "proposal": proposal,
            "gamma": gamma,
            "implant": completion.report["implant"],
            "warnings": list(completion.report["warnings"]),
            "parameters": report["parameters"] | {"gamma": gamma},
            "checks": None,  # until the mesh has been checked
        }
        if "edited" in completion.report:
            changes["edited"] = completion.report["edited"]
        if "candidates" in completion.report:
            changes["candidates"] = self._with_reasons(completion.report["candidates"])
        return replace(self._result, completion=completion, printable_implant=None, report=report | changes)

    def _voxels(self, request: Request, result: RunResult) -> dict:
        """Write the voxels of a result and return the response, which the mesh follows."""
        implant = result.completion.implant
        return self._published(
            request, ["implant.nrrd"], lambda staging: write_volume(implant, staging / "implant.nrrd")
        ) | {"report": _selected(result.report, _SHAPE_FIELDS), "more": True}

    def _mesh(self, request: Request, shape_waits: Callable[[], bool]) -> dict:
        """Return the response with the mesh of the current shape, or none if another shape is requested already."""
        if shape_waits():
            return {"files": [], "superseded": True, "more": False}
        return self._with_implant(request, self._result.options) | {"more": False}

    def _respond_to_implant(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        options = self._implant_options(request.value)
        if not self._result.found:
            # For the implant of the next selection of defects.
            self._result = replace(self._result, options=options)
            yield {"files": [], "report": {}}
            return
        yield self._with_implant(request, options)

    def _respond_to_tooling(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        """Make additional printed parts of the current implant."""
        options = self._tooling_options(request.value)
        self._require_implant()
        if self._result.printable_implant is None:
            self._result = self._result.with_implant()
        result = self._result

        def write(staging: Path) -> None:
            nonlocal result
            result = result.write_tooling(staging, options)

        response = self._published(request, TOOLING_FILES, write)
        # Warnings of the parts alone: those of the implant are known.
        report = {"tooling": result.report["tooling"]}
        yield response | {
            "report": report | {"warnings": result.report["warnings"][len(self._result.report["warnings"]) :]}
        }

    @staticmethod
    def _tooling_options(value: dict) -> ToolingOptions:
        """The options in a "tooling" request; at least one part has to be requested."""
        for name, option in value.items():
            number = isinstance(option, int | float) and not isinstance(option, bool)
            if name not in (*_FLAGS, *_LENGTHS):
                known = ", ".join((*_FLAGS, *_LENGTHS))
                raise SkullVAEError(f"The tooling option '{name}' is unknown", f"Use {known}")
            if option is not None and not (number if name in _LENGTHS else isinstance(option, bool)):
                kind = "a number" if name in _LENGTHS else "true or false"
                raise SkullVAEError(f"The tooling option '{name}' must be {kind}", "Correct the value, or send null")
        options = ToolingOptions.parse(**value)
        if not options.any:
            raise SkullVAEError("No additional part is requested", 'Send for example {"mould": true}')
        return options

    def _respond_to_skull(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        yield self._published(request, ["skull.stl"], self._result.write_skull) | {"report": {}}

    def _respond_to_report(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        if self._result.found and self._result.printable_implant is None:
            self._result = self._result.with_implant()

        result = self._result

        def write(staging: Path) -> None:
            nonlocal result
            result = result.attempt("The picture", lambda made: made.write_preview(staging))[0]
            result = result.write_report(staging, staging / "preview.png")
            (staging / "preview.png").unlink(missing_ok=True)

        response = self._published(request, ["report.html"], write)
        yield response | {"report": _selected(result.report, ["warnings"]) if result is not self._result else {}}

    def _shape(self, proposal: int, gamma: float) -> Completion:
        """The completion with a shape; that of the run is kept, so that it is returned at once and unchanged."""
        if (proposal, gamma) != (1, self._own_gamma):
            return self._sampler.completion(proposal, gamma)
        if self._first is None:
            self._first = self._sampler.completion(1, gamma)
        return self._first

    def _implant_options(self, value: dict) -> ImplantOptions:
        """The options in an "implant" request; options that it does not contain have their default."""
        for name, option in value.items():
            kind = _KIND_OF_OPTION.get(name)
            if kind is None:
                raise SkullVAEError(f"The implant option '{name}' is unknown", f"Use {', '.join(_KIND_OF_OPTION)}")
            number = isinstance(option, int | float) and not isinstance(option, bool)
            right = {"a number": number, "text": isinstance(option, str), "a list": isinstance(option, list)}[kind]
            if option is not None and not right:
                raise SkullVAEError(f"The implant option '{name}' must be {kind}", "Correct the value, or send null")
        return ImplantOptions.parse(**value, thickness_map="ply" in self._result.formats)

    def _with_implant(self, request: Request, options: ImplantOptions) -> dict:
        """Make the printable implant of the current shape and return the response."""
        result = self._result.with_implant(options)
        if not result.printable.pieces:
            cause = " ".join(result.printable.warnings) or "The printable implant is empty with these options"
            raise SkullVAEError(cause, "Reduce clearance, under-contour or holes")
        response = self._published(request, _IMPLANT_FILES, result.write_implant)
        self._result = result
        return response | {"report": _selected(result.report, _IMPLANT_FIELDS)}

    def _published(self, request: Request, names: Iterable[str], write: Callable[[Path], None]) -> dict:
        """Write files into the folder of the request, where they appear complete; names: patterns of their names."""
        folder = self._folder / RESPONSES / str(request.number)
        with publish_files(folder, names) as staging:
            write(staging)
            made = [path.name for path in staging.iterdir() if path.suffix]
        return {"folder": str(folder), "files": sorted(made, key=lambda name: (name.count("_"), name))}


def _selected(report: dict, names: Iterable[str]) -> dict:
    return {name: report[name] for name in names if name in report}
