"""The result of a run, completion and printable implant, and the writing of its files."""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.checks.self_check import SelfCheck, check_voxels
from SkullVAELib.completion.face import FACE_ERROR_MM
from SkullVAELib.completion.proposals import ProposalSampler, mean_difference_mm
from SkullVAELib.core.background import Background
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import as_json_text
from SkullVAELib.core.progress import Stages, report_step, stage_part, with_steps_to
from SkullVAELib.core.threads import one_thread
from SkullVAELib.core.version import NOTICE, __version__
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.implant_mesh import PrintableImplant, make_implant
from SkullVAELib.implant.options import MESH_FORMATS, ImplantOptions
from SkullVAELib.implant.tooling import NO_TOOLING, Tooling, ToolingInputs, ToolingOptions, make_tooling
from SkullVAELib.io.images import write_volume
from SkullVAELib.mesh.colours import UNCERTAINTY_SCALE_MM
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.files import VertexScalar, vertex_scalars, write_mesh, write_ply
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.three_mf import write_3mf
from SkullVAELib.report.preview import render_preview
from SkullVAELib.report.result_names import RESULT_FILES

if TYPE_CHECKING:
    from SkullVAELib.completion.result import Completion
    from SkullVAELib.io.dicom_volume import DicomVolume

_T = TypeVar("_T")

POINT_MM = 0.3
"""Distance of the printable implant from a point on its outer surface above which the user is warned, mm."""


@dataclass(frozen=True)
class RunResult:
    """Result of a run: a completion, its printable implant and the report.

    Attributes
    ----------
    completion : Completion
        The completed skull.
    grey : GreyLevels or None
        The CT that was completed; None for a segmentation.
    options : ImplantOptions
        Default options of `with_implant`.
    formats : tuple of str
        Mesh formats to write in addition to STL, of `MESH_FORMATS`.
    report : dict
        Content of report.json so far.
    printable_implant : PrintableImplant or None
        The meshes; None until `with_implant`.
    uncertain : bool
        Whether PLY files of the implant also hold the uncertainty and the difference to the mirrored skull.
    difference_mm : (N,) array or None
        Signed distance to the mirrored skull at each point of the printable implant, see `SelfCheck`.
    """

    completion: Completion
    grey: GreyLevels | None
    options: ImplantOptions
    formats: tuple[str, ...]
    report: dict
    printable_implant: PrintableImplant | None = None
    uncertain: bool = False
    difference_mm: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        completion: Completion,
        options: ImplantOptions,
        formats: tuple[str, ...],
        input_name: str,
        model_name: str,
    ) -> RunResult:
        """Return the result of completing a volume, without its printable implant.

        Parameters
        ----------
        completion : Completion
            The completed skull.
        options, formats
            As the attributes.
        input_name, model_name : str
            Names of the image file and of the model file, for the report.

        Returns
        -------
        RunResult
            The result; its report starts with the figures of the completion.
        """
        grey = None if completion.patient is None else completion.patient.registered.grey
        report = {
            "software": f"SkullVAE {__version__}",
            "disclaimer": NOTICE,
            "input": input_name,
            "model_file": model_name,
            "found": completion.found,
            "mesh": None,
            **completion.report,
        }
        report["warnings"] = list(report.get("warnings", []))
        return cls(completion, grey, options, formats, report)

    @property
    def found(self) -> bool:
        """Whether a defect was found."""
        return self.completion.found

    @property
    def bone(self) -> Volume:
        """Bone of the input, bool on its grid."""
        return self.completion.bone

    @property
    def completed(self) -> Volume:
        """Bone of the input and the implant, bool on the input's grid."""
        return self.completion.completed

    @property
    def implant(self) -> Volume:
        """The implant, bool on the input's grid; it shares no voxel with `bone`."""
        return self.completion.implant

    @property
    def printable(self) -> PrintableImplant:
        """The printable implant; raises ValueError before `with_implant`."""
        if self.printable_implant is None:
            raise ValueError("the printable implant has not been made yet")
        return self.printable_implant

    def with_implant(self, options: ImplantOptions | None = None, insertion: bool = False) -> RunResult:
        """Return a copy with the printable implant made and its figures in the copy's report.

        Parameters
        ----------
        options : ImplantOptions, optional
            Options of the implant, by default `self.options`; the copy keeps them.
        insertion : bool
            Whether the report includes the figures of the insertion, see `make_implant`.

        Returns
        -------
        RunResult
            The copy.
        """
        options = options or self.options
        with stage_part(0.0, 0.8), Background(self._check_voxels) as checking:
            printable = make_implant(self.completion, options, self.grey, insertion)
        report = self.report | self._figures(printable, options)
        for of_the_earlier in ("checks", "tooling"):
            report.pop(of_the_earlier, None)
        result = replace(self, options=options, printable_implant=printable, report=report, difference_mm=None)
        report_step(0.85)
        result, check = result.attempt("The self-check of the implant", lambda _: checking.finish()(printable.mesh))
        if check is None:
            return result
        report = result.report | {"checks": check.report(), "warnings": [*report["warnings"], *check.warnings]}
        result = replace(result, report=report, difference_mm=check.difference_mm)
        result, defects = result.attempt("The figures of each defect", lambda made: made.defect_figures(printable))
        if defects:
            printable_figures = result.report["printable_implant"] | {"defects": defects}
            result = replace(result, report=result.report | {"printable_implant": printable_figures})
        return result

    def defect_figures(self, printable: PrintableImplant) -> list[dict]:
        """Figures and self-check of the implant of each defect by itself; none where there is one defect only.

        Parameters
        ----------
        printable : PrintableImplant
            The printable implant.

        Returns
        -------
        list of dict
            "defect" (number, largest first), "candidate" (number of the filled candidate nearest to it, if any),
            "volume_ml", "thickness_mm", "rating" and "warnings".
        """
        numbers = sorted({piece.defect for piece in printable.pieces})
        if len(numbers) < 2:
            return []
        labels, _ = ndimage.label(self.implant.array)
        index = np.argwhere(labels)
        voxels = cKDTree(apply_affine(self.implant.affine, index))
        filled = [entry for entry in self.report.get("candidates", []) if entry["filled"]]
        figures = []
        for number in numbers:
            own = PrintableImplant([piece for piece in printable.pieces if piece.defect == number], [])
            points = own.mesh.points[:: max(1, len(own.mesh.points) // 500)]
            nearest = index[voxels.query(points)[1]]
            label = np.bincount(labels[tuple(nearest.T)]).argmax()
            check = self.self_check(own, self.implant.with_array(labels == label))
            entry: dict = {"defect": number, "volume_ml": round(own.mesh.volume_ml, 3), **_thickness(own)}
            if filled:
                centre = points.mean(0)
                at = min(filled, key=lambda each: float(np.linalg.norm(np.array(each["centre_mm"]) - centre)))
                entry["candidate"] = at["number"]
            figures.append(entry | {"rating": check.rating, "warnings": check.warnings})
        return figures

    def self_check(self, printable: PrintableImplant, implant: Volume | None = None) -> SelfCheck:
        """Check the implant by the input, the completed skull and a printable implant, see `check_implant`.

        implant: voxels of a part of the implant; by default all of it.
        """
        return self._check_voxels(implant)(printable.mesh)

    def _check_voxels(self, implant: Volume | None = None) -> Callable[[Mesh | None], SelfCheck]:
        """The self-check but for the mesh, see `check_voxels`; implant: as of `self_check`."""
        patient = self.completion.patient
        everything = None if patient is None else patient.registered.everything
        all_bone = self.bone if everything is None else self.bone.with_array(everything)
        return check_voxels(all_bone, self.completed, self.implant if implant is None else implant)

    def _figures(self, printable: PrintableImplant, options: ImplantOptions) -> dict:
        mesh = printable.mesh
        edited, missed = self._edited(mesh, options)
        return {
            **edited,
            "warnings": [*self.completion.report.get("warnings", []), *printable.warnings, *missed],
            "mesh": {"triangles": len(mesh.faces), "area_mm2": mesh.area_mm2, "volume_ml": mesh.volume_ml},
            "printable_implant": {
                **dataclasses.asdict(options),
                "pieces": [piece.figures for piece in printable.pieces],
            },
            "implant": {**self._voxel_figures(), "area_cm2": round(mesh.area_mm2 / 100, 2), **_thickness(printable)},
        }

    def _edited(self, mesh: Mesh, options: ImplantOptions) -> tuple[dict, list[str]]:
        """The field "edited" with the distances of the points to the mesh, and warnings about points it misses."""
        edited = self.completion.report.get("edited")
        if edited is None:
            return {}, []
        entries, warnings = edited["points"], []
        if entries and len(mesh.faces):
            distances = np.abs(SurfaceDistance(mesh).signed(np.array([entry["at"] for entry in entries])))
            entries = [
                entry | {"distance_mm": round(float(mm), 2)} for entry, mm in zip(entries, distances, strict=True)
            ]
            limit = POINT_MM + options.under_contour_mm
            for entry in entries:
                if entry["distance_mm"] > limit:
                    place = "R {:.0f}, A {:.0f}, S {:.0f} mm".format(*entry["at"])
                    warnings.append(
                        f"The outer surface is {entry['distance_mm']:.1f} mm from the point at {place}. Move the point"
                        " away from the rim of the defect, or remove it."
                    )
        return {"edited": edited | {"points": entries}}, warnings

    def _voxel_figures(self) -> dict:
        """Figures of the implant in the report, without those that an earlier printable implant had."""
        figures = self.report.get("implant", {})
        return {name: value for name, value in figures.items() if name != "thickness_mm"}

    def write_implant(self, folder: Path, name: str = "implant", pieces: bool = True) -> None:
        """Write the printable implant in all formats; without one nothing is written.

        Parameters
        ----------
        folder : Path
            Existing folder.
        name : str
            File name without suffix.
        pieces : bool
            Whether several pieces are also written one by one, as NAME_1, NAME_2 and so on.
        """
        printable = self.printable_implant
        if printable is None:
            return
        more = self.uncertain and "ply" in self.formats
        scalars = vertex_scalars(
            printable.thickness_mm, self.band_mm if more else None, self.difference_mm if more else None
        )
        if printable.pieces:
            # In 3MF each piece is an object, which a slicing program shows and arranges by itself.
            objects = [(f"Implant piece {number}", piece.mesh) for number, piece in enumerate(printable.pieces, 1)]
            self._write(printable.mesh, scalars, folder / name, objects if len(objects) > 1 else ())
        if pieces and len(printable.pieces) > 1:
            start = 0
            for number, piece in enumerate(printable.pieces, 1):
                own = slice(start, start := start + len(piece.mesh.points))
                self._write(piece.mesh, [scalar.of(own) for scalar in scalars], folder / f"{name}_{number}")

    def write_skull(self, folder: Path) -> None:
        """Write the surface of the defective skull as skull.stl into an existing folder."""
        from SkullVAELib.mesh.decimation import skull_surface

        completion = self.completion
        implant = completion.implant if completion.implant_whole is None else completion.implant_whole
        write_mesh(skull_surface(completion.bone, implant, self.grey), folder / "skull.stl")

    def write_tooling(self, folder: Path, options: ToolingOptions) -> RunResult:
        """Make additional printed parts and write them as STL files into an existing folder.

        Parameters
        ----------
        folder : Path
            Existing folder.
        options : ToolingOptions
            Which parts.

        Returns
        -------
        RunResult
            With the figures of the parts in the field "tooling" of its report. A part that cannot be made is left out,
            with a warning.
        """
        inputs = ToolingInputs(self.completion, self.printable, self.options, self.grey)
        figures: dict[str, dict] = {}
        warnings: list[str] = []

        def make(own: ToolingOptions) -> Tooling:
            made = make_tooling(inputs, own)
            for stem, mesh in made.parts.items():
                write_mesh(mesh, folder / f"{stem}.stl")
            return made

        result = self
        for name, own in options.each():
            result, made = result.attempt(f"The {name}", lambda _, options=own: make(options))  # type: ignore[misc]
            if made is not None:
                figures |= made.figures
                warnings += made.warnings
        report = result.report | {"tooling": figures, "warnings": [*result.report["warnings"], *warnings]}
        return replace(result, report=report)

    def write_display(self, folder: Path) -> None:
        """Write a simplified surface of the defective skull as skull_display.ply into an existing folder."""
        from SkullVAELib.geometry.distance_field import downsample_mask
        from SkullVAELib.mesh.decimation import display_surface

        patient = self.completion.patient
        fraction = downsample_mask(self.completion.bone) if patient is None else patient.registered.skull.fraction
        write_mesh(display_surface(fraction), folder / "skull_display.ply")

    def write_dicom(self, source: DicomVolume, folder: Path) -> list[str]:
        """Write DICOM files into the folder of implant.stl, see `dicom_output.write_dicom`; returns warnings."""
        from SkullVAELib.report.dicom_output import write_dicom

        return write_dicom(source, self.completed.array, self.implant.array, folder / "implant.stl", folder)

    def with_uncertainty(self) -> RunResult:
        """Return a copy with "uncertainty" in its report: median and maximum of the 90 % band in mm.

        Without a printable implant, or without GP correction, there is no band and the result itself is returned.
        """
        band = self.band_mm
        if band is None:
            return self
        figures = {"median_mm": round(float(np.median(band)), 2), "most_mm": round(float(band.max()), 2)}
        return replace(self, report=self.report | {"uncertainty": figures})

    @cached_property
    @one_thread()
    def band_mm(self) -> np.ndarray | None:
        """(N,) half-width in mm of the 90 % uncertainty band at each point of the printable implant's mesh.

        None without a printable implant or without GP correction. Where the face was completed by its mirror image the
        half-width is `FACE_ERROR_MM`, and where the patient's own earlier bone was used, the 95th percentile of its
        residual.
        """
        completion = self.completion
        uncertainty, printable = completion.uncertainty, self.printable_implant
        if printable is None or not printable.pieces or completion.proposal is None or uncertainty is None:
            return None
        mesh, matrix = printable.mesh, completion.proposal.alignment
        normals = mesh.vertex_normals() @ np.linalg.inv(matrix[:3, :3])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-6)
        points = apply_affine(matrix, mesh.points)
        band = uncertainty.band_mm(torch.tensor(points).float(), torch.tensor(normals).float())
        reference = None if completion.patient is None else completion.patient.reference
        if reference is not None:
            weight = reference.surface.weight_at(mesh.points)
            band = (1 - weight) * band + weight * reference.quality.p95_mm
        return np.where(completion.proposal.of_face(mesh.points), FACE_ERROR_MM, band)

    def write_uncertainty(self, folder: Path) -> None:
        """Write the implant coloured by its uncertainty band as implant_uncertainty.ply, where there is a band."""
        if self.printable_implant is not None and self.band_mm is not None:
            scalar = VertexScalar.uncertainty(self.band_mm)
            write_ply(self.printable_implant.mesh, folder / "implant_uncertainty.ply", scalar)

    def write_preview(self, folder: Path) -> None:
        """Write the picture preview.png into an existing folder."""
        report, completion = self.report, self.completion
        footer = f"{report['software']}, model {report['model_file']}"
        title = report["input"]
        render_preview(completion.bone, completion.implant, folder / "preview.png", title=title, footer=footer)

    def write_report(self, folder: Path, preview: Path) -> RunResult:
        """Write report.html into an existing folder; without an implant the report states that.

        Parameters
        ----------
        folder : Path
            Existing folder.
        preview : Path
            The file preview.png, which the report embeds; a report without a picture is written where it is missing.

        Returns
        -------
        RunResult
            With a warning for each picture of the implant that could not be drawn; report.html is without it.
        """
        from SkullVAELib.report.case_report import write_case_report

        with stage_part(0.0, 0.5):
            result, thickness = self.attempt("The picture of the thickness", RunResult._thickness_pictures)
        with stage_part(0.5, 1.0):
            result, uncertain = result.attempt("The picture of the uncertainty", RunResult._uncertainty_pictures)
        figures, uncertainty = uncertain or ({}, [])
        picture = preview.read_bytes() if preview.exists() else None
        write_case_report(
            folder / "report.html", result.report | figures, picture, thickness or [], uncertainty=uncertainty
        )
        return result

    def attempt(self, what: str, make: Callable[[RunResult], _T]) -> tuple[RunResult, _T | None]:
        """Do something that the result can be without, such as drawing a picture.

        Parameters
        ----------
        what : str
            What is missing where it fails, for the warning.
        make : callable
            Called with this result.

        Returns
        -------
        result : RunResult
            This result; where `make` failed, a copy with a warning in its report.
        made : object or None
            What `make` returned; None where it failed.

        Raises
        ------
        OSError
            The operating system cannot write a file, for example because the disk is full: the files of the result
            would be affected, too.
        """
        try:
            return self, make(self)
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if os.environ.get("SKULLVAE_DEBUG", "") not in ("", "0"):
                traceback.print_exc()
            warning = (
                f"{what} is left out because of an error ({type(error).__name__}: {str(error)[:200]}). The other files"
                " are complete. Report the error with what SKULLVAE_DEBUG=1 prints."
            )
            return replace(self, report=self.report | {"warnings": [*self.report["warnings"], warning]}), None

    def _thickness_pictures(self) -> list[tuple[str, bytes]]:
        """Captions and PNGs of the thickness; none without a printable implant with a thickness map."""
        from SkullVAELib.report.case_report import thickness_pictures, without_speckles

        printable, proposal = self.printable_implant, self.completion.proposal
        if printable is None or not printable.pieces or proposal is None:
            return []
        if printable.thickness_mm is None:
            printable = make_implant(self.completion, replace(self.options, thickness_map=True), self.grey)
        if printable.thickness_mm is None:
            return []
        shown = without_speckles(printable.mesh, printable.thickness_mm)
        return thickness_pictures(printable.mesh, shown, np.linalg.inv(proposal.alignment)[:3, 3])

    def _uncertainty_pictures(self) -> tuple[dict, list[tuple[str, bytes]]]:
        """Figures of the uncertainty for the report, and captions and PNGs; nothing without a band."""
        from SkullVAELib.report.case_report import thickness_pictures

        printable, proposal, band = self.printable_implant, self.completion.proposal, self.band_mm
        if printable is None or proposal is None or band is None:
            return {}, []
        centre = np.linalg.inv(proposal.alignment)[:3, 3]
        pictures = thickness_pictures(printable.mesh, band, centre, UNCERTAINTY_SCALE_MM)
        return {"uncertainty": self.with_uncertainty().report["uncertainty"]}, pictures

    def _write(
        self, mesh: Mesh, scalars: list[VertexScalar], path: Path, objects: Sequence[tuple[str, Mesh]] = ()
    ) -> None:
        """Write a mesh in all formats; objects: names and meshes of its pieces, for 3MF."""
        for kind in MESH_FORMATS:
            if kind == "3mf" and kind in self.formats and objects:
                write_3mf(objects, path.with_suffix(".3mf"))
            elif kind == "stl" or kind in self.formats:
                write_mesh(mesh, path.with_suffix(f".{kind}"), *scalars)


def _thickness(printable: PrintableImplant) -> dict:
    """The report's "thickness_mm" of all pieces together; nothing without one.

    The mean is the volume over the area of the outer face, so that it includes the plate near its edge, within the
    least and the largest thickness away from the edge.
    """
    measured = [piece.figures for piece in printable.pieces if "thickness_mm" in piece.figures]
    if not measured:
        return {}
    thickness = [figures["thickness_mm"] for figures in measured]
    low, high = min(values["min"] for values in thickness), max(values["max"] for values in thickness)
    # Of the plate alone: tabs and a flange are not part of its thickness.
    volume = sum(figures.get("plate_ml", figures["volume_ml"]) for figures in measured)
    area = sum(figures["outer_area_cm2"] for figures in measured)
    mean = float(np.clip(10 * volume / max(area, 0.01), low, high))
    return {"thickness_mm": {"mean": round(mean, 2), "min": low, "max": high}}


def write_proposals(result: RunResult, count: int, folder: Path) -> list[dict]:
    """Make and write the proposals 2 to `count` as proposal_2.nrrd, proposal_2.stl and so on.

    A defect of the face alone has no further proposals: its mirror image is not sampled.

    Parameters
    ----------
    result : RunResult
        Result with a printable implant, which is the first proposal.
    count : int
        Number of proposals including the first, 1 to `MOST_PROPOSALS`.
    folder : Path
        Existing folder.

    Returns
    -------
    list of dict
        Entry of each proposal for the report, the first included.

    Raises
    ------
    ValueError
        The completion found no defect.
    SkullVAEError
        A proposal has no implant voxels.
    """
    patient, first = result.completion.patient, result.printable.mesh
    if patient is None:
        raise ValueError("proposals need a completion that found a defect")
    sampler = ProposalSampler(patient)
    entries = [_proposal_entry(1, result, 0.0, "implant")]
    for number in range(2, count + 1 if patient.defects.masks else 2):
        name = f"proposal_{number}"
        completion = sampler.completion(number, patient.options.gamma)
        if not completion.found:
            raise SkullVAEError(f"Proposal {number} has no implant", "Request fewer --proposals")
        with stage_part((number - 2) / (count - 1), (number - 1) / (count - 1)):
            other = replace(result, completion=completion, report=result.report | completion.report).with_implant()
        write_volume(completion.implant, folder / f"{name}.nrrd")
        other.write_implant(folder, name, pieces=False)
        entries.append(_proposal_entry(number, other, mean_difference_mm(first, other.printable.mesh), name))
    return entries


def _proposal_entry(number: int, result: RunResult, difference: float, name: str) -> dict:
    implant = result.report["implant"]
    suffixes = ("nrrd", "stl", *(kind for kind in MESH_FORMATS[1:] if kind in result.formats))
    return {
        "number": number,
        "volume_ml": implant["volume_ml"],
        "rim_gap_mm": implant["rim_gap_mm"],
        "difference_mm": round(difference, 3),
        "warnings": result.printable.warnings,
        "files": [f"{name}.{suffix}" for suffix in suffixes],
    }


@dataclass(frozen=True)
class OutputOptions:
    """What is written in addition to the files of every result.

    Attributes
    ----------
    proposals : int
        Number of implants, 1 to MOST_PROPOSALS.
    uncertainty : bool
        implant_uncertainty.ply, coloured by the 90 % uncertainty band.
    skull : bool
        skull.stl, the surface of the defective skull.
    display : bool
        skull_display.ply, the same simplified for display.
    html_report : bool
        report.html, one file with figures and pictures.
    preview : bool
        preview.png.
    dicom_source : DicomVolume or None
        The series for which DICOM files are written, see `dicom_output`; they hold the patient's name and identifiers.
    tooling : ToolingOptions
        Additional printed parts.
    """

    proposals: int = 1
    uncertainty: bool = False
    skull: bool = False
    display: bool = False
    html_report: bool = False
    preview: bool = True
    dicom_source: DicomVolume | None = None
    tooling: ToolingOptions = NO_TOOLING


# Share of the picture in the last stage.
_SHARE_OF_PICTURE = 0.4


def write_files(
    result: RunResult, folder: Path, outputs: OutputOptions, stages: Stages, seconds: dict[str, float] | None = None
) -> RunResult:
    """Write all files of a result into an existing folder, report.json last.

    Parameters
    ----------
    result : RunResult
        The printable implant is made if it has not been.
    folder : Path
        An empty folder, see `publish_files`.
    outputs : OutputOptions
        Further files.
    stages : Stages
        Stages "mesh", "proposals" (if any), "write" and "preview" are reported.
    seconds : dict, optional
        Of stages before these; together with those of `stages` they are written into the report.

    Returns
    -------
    RunResult
        With the complete report. A picture, an HTML report or a file for display that could not be made is left out,
        with a warning.
    """
    completion = result.completion
    # Picture and labelmaps need the voxels alone, so they are written beside the mesh: one after the other, for memory.
    drawn = [0.0]
    draw = partial(with_steps_to, drawn.append, result.write_preview, folder)
    with (
        Background(draw, waits=True) if outputs.preview else nullcontext() as picture,
        Background(partial(_write_labelmaps, completion, folder, picture), waits=True) as labelmaps,
    ):
        with stages.stage("mesh"):
            if completion.found:
                if result.printable_implant is None:
                    # The HTML report shows the thickness: without its map here, the implant would be made twice.
                    thickness_map = result.options.thickness_map or outputs.html_report
                    wanted = replace(result.options, thickness_map=thickness_map)
                    with stage_part(0.0, 0.7):
                        result = result.with_implant(wanted, insertion=True)
                result.write_implant(folder)
                report_step(0.8)
                if outputs.uncertainty:
                    result = result.attempt("implant_uncertainty.ply", lambda made: made.write_uncertainty(folder))[0]
                if outputs.uncertainty or outputs.html_report or outputs.proposals > 1:
                    result, figures = result.attempt("The figure of the uncertainty", RunResult.with_uncertainty)
                    result = figures or result
                if outputs.skull:
                    result = result.attempt("skull.stl", lambda made: made.write_skull(folder))[0]
            else:
                warning = (
                    "No implant was made: completed.nrrd is the bone of the input, implant.nrrd is empty, and there is"
                    " no implant.stl."
                )
                result = replace(result, report=result.report | {"warnings": [*result.report["warnings"], warning]})
            if outputs.display:
                report_step(0.85)
                result = result.attempt("skull_display.ply", lambda made: made.write_display(folder))[0]
        if completion.found and outputs.proposals > 1:
            with stages.stage("proposals"):
                proposals = write_proposals(result, outputs.proposals, folder)
                result = replace(result, report=result.report | {"proposals": proposals})
        if completion.found and outputs.tooling.any:
            with stages.stage("tooling"):
                result = result.write_tooling(folder, outputs.tooling)
        with stages.stage("write"):
            labelmaps.finish(lambda: report_step(0.9 * drawn[-1]))  # they wait for the picture
            if outputs.dicom_source is not None and completion.found:
                source = outputs.dicom_source
                result, said = result.attempt("The DICOM output", lambda made: made.write_dicom(source, folder))
                result = replace(
                    result, report=result.report | {"warnings": [*result.report["warnings"], *(said or [])]}
                )
        with stages.stage("preview"):
            if picture is not None:
                with stage_part(0.0, _SHARE_OF_PICTURE if outputs.html_report else 1.0):
                    finish = picture.finish
                    result = result.attempt("preview.png", lambda made: finish())[0]
            if outputs.html_report:
                with stage_part(_SHARE_OF_PICTURE, 1.0):
                    result, reported = result.attempt(
                        "report.html", lambda made: made.write_report(folder, folder / "preview.png")
                    )
                result = reported or result
    made = {file.name for file in folder.iterdir() if file.suffix}
    files = sorted(made | {RESULT_FILES[-1]}, key=lambda name: (name == RESULT_FILES[-1], name))
    taken = {**(seconds or {}), **stages.seconds}
    taken["total"] = round(sum(taken.values()), 3)
    result = replace(result, report=result.report | {"files": files, "seconds": taken})
    (folder / RESULT_FILES[-1]).write_text(as_json_text(result.report), encoding="utf-8")
    return result


def _write_labelmaps(completion: Completion, folder: Path, after: Background | None) -> None:
    if after is not None:
        with suppress(Exception):  # raised where the picture is needed
            after.finish()
    write_volume(completion.completed, folder / "completed.nrrd")
    write_volume(completion.implant, folder / "implant.nrrd")
