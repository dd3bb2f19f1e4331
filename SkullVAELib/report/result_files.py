"""What a run has made and still holds: a completion, the part of it, and their figures and files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from SkullVAELib import NOTICE, __version__
from SkullVAELib.completion.face import FACE_ERROR_MM as FACE_ERROR_MM
from SkullVAELib.completion.proposals import ProposalSampler, mean_difference_mm
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.implant import PrintableImplant, make_implant
from SkullVAELib.implant.options import MESH_FORMATS, ImplantOptions
from SkullVAELib.io.images import write_volume
from SkullVAELib.mesh.colours import UNCERTAINTY_SCALE_MM
from SkullVAELib.mesh.files import VertexScalar, vertex_scalars, write_mesh, write_ply
from SkullVAELib.mesh.isosurface import GreyLevels
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.preview import render_preview

if TYPE_CHECKING:
    from SkullVAELib.completion.result import Completion


@dataclass(frozen=True)
class RunResult:
    """A completion and its part.

    grey: the CT that was completed, if it was one; part: None until with_implant; formats: mesh formats to write beside
    STL; result: the report so far, which the steps add to; uncertain: whether a PLY tells the uncertainty, too.
    """

    completion: Completion
    grey: GreyLevels | None
    options: ImplantOptions
    formats: tuple[str, ...]
    result: dict
    part: PrintableImplant | None = None
    uncertain: bool = False

    @classmethod
    def of(
        cls,
        completion: Completion,
        volume: Volume,
        options: ImplantOptions,
        formats: tuple[str, ...],
        input_name: str,
        model_name: str,
    ) -> RunResult:
        """The outcome of completing a volume, its part not made yet; the names are those of input and model file."""
        grey = None
        if completion.found:
            about = completion.report["bone"]
            grey = GreyLevels.of(volume, completion.bone, about["threshold_hu"]) if about["kind"] == "ct" else None
        result = {
            "software": f"SkullVAE {__version__}",
            "disclaimer": NOTICE,
            "input": input_name,
            "model_file": model_name,
            "found": completion.found,
            "mesh": None,
            **completion.report,
        }
        result["warnings"] = list(result.get("warnings", []))
        return cls(completion, grey, options, formats, result)

    @property
    def printable(self) -> PrintableImplant:
        """The part; raises ValueError before with_implant."""
        if self.part is None:
            raise ValueError("the part is not made yet")
        return self.part

    def with_implant(self, options: ImplantOptions | None = None) -> RunResult:
        """The same with its part made, and the part's figures in its own copy of the report."""
        options = options or self.options
        part = make_implant(self.completion, options, self.grey)
        return replace(self, options=options, part=part, result=self.result | self._figures(part, options))

    def _figures(self, part: PrintableImplant, options: ImplantOptions) -> dict:
        mesh = part.mesh
        return {
            "warnings": [*self.completion.report.get("warnings", []), *part.warnings],
            "mesh": {"triangles": len(mesh.faces), "area_mm2": mesh.area_mm2, "volume_ml": mesh.volume_ml},
            "printable_implant": {**dataclasses.asdict(options), "pieces": [piece.figures for piece in part.pieces]},
            "implant": {**self.result.get("implant", {}), "area_cm2": round(mesh.area_mm2 / 100, 2)},
        }

    def write_implant(self, folder: Path, name: str = "implant", pieces: bool = True) -> None:
        """The part as NAME.stl and in the other formats; each piece of several as NAME_1 and so on, where wanted."""
        part = self.part
        if part is None:
            return
        shades = vertex_scalars(part.thickness_mm, self.band_mm if self.uncertain and "ply" in self.formats else None)
        if part.pieces:
            self._write(part.mesh, shades, folder / name)
        if pieces and len(part.pieces) > 1:
            start = 0
            for number, piece in enumerate(part.pieces, 1):
                own = slice(start, start := start + len(piece.mesh.points))
                self._write(piece.mesh, [shade.of(own) for shade in shades], folder / f"{name}_{number}")

    def write_skull(self, folder: Path) -> None:
        """The skull's bone as skull.stl."""
        from SkullVAELib.mesh.decimation import skull_surface

        write_mesh(skull_surface(self.completion.bone, self.completion.implant, self.grey), folder / "skull.stl")

    def write_display(self, folder: Path) -> None:
        """The skull's bone as skull_display.ply, quick to show."""
        from SkullVAELib.geometry.distance_field import downsample_mask
        from SkullVAELib.mesh.decimation import display_surface

        patient = self.completion.patient
        fraction = downsample_mask(self.completion.bone) if patient is None else patient.registered.skull.fraction
        write_mesh(display_surface(fraction), folder / "skull_display.ply")

    def with_uncertainty(self) -> RunResult:
        """The same with "uncertainty" in its report: in mm, how near the true surface lies, nine times of ten. As it is
        where there is no part, or where no rim correction was wanted."""
        band = self.band_mm
        if band is None:
            return self
        figures = {"median_mm": round(float(np.median(band)), 2), "most_mm": round(float(band.max()), 2)}
        return replace(self, result=self.result | {"uncertainty": figures})

    @cached_property
    @one_thread()
    def band_mm(self) -> np.ndarray | None:
        """(N,) at each point of the part's mesh, see Uncertainty.band_mm; None where there is none."""
        completion = self.completion
        uncertainty = completion.uncertainty
        if self.part is None or not self.part.pieces or completion.proposal is None or uncertainty is None:
            return None
        mesh, matrix = self.part.mesh, completion.proposal.alignment
        normals = mesh.vertex_normals() @ np.linalg.inv(matrix[:3, :3])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-6)
        at = apply_affine(matrix, mesh.points)
        band = uncertainty.band_mm(torch.tensor(at).float(), torch.tensor(normals).float())
        return np.where(completion.proposal.of_face(mesh.points), FACE_ERROR_MM, band)

    def write_uncertainty(self, folder: Path) -> None:
        """The part as implant_uncertainty.ply, coloured by how sure its surface is; nothing where there is no part."""
        if self.part is not None and self.band_mm is not None:
            write_ply(self.part.mesh, folder / "implant_uncertainty.ply", VertexScalar.uncertainty(self.band_mm))

    def write_preview(self, folder: Path) -> None:
        """The picture preview.png."""
        result, completion = self.result, self.completion
        footer = f"{result['software']}, model {result['model_file']}"
        title = result["input"]
        render_preview(completion.bone, completion.implant, folder / "preview.png", title=title, footer=footer)

    def write_report(self, folder: Path, preview: Path) -> None:
        """The report as report.html, for people; preview: the picture in it.

        Raises no error where there is no implant: the report says so.
        """
        from SkullVAELib.report.case_report import thickness_pictures, write_case_report

        part, pictures, unsure, told = self.part, [], [], self
        if part is not None and part.pieces and self.completion.proposal is not None:
            if part.thickness_mm is None:
                part = make_implant(self.completion, replace(self.options, thickness_map=True), self.grey)
            if part.thickness_mm is not None:
                centre = np.linalg.inv(self.completion.proposal.alignment)[:3, 3]
                pictures = thickness_pictures(part.mesh, part.thickness_mm, centre)
            told = self.with_uncertainty()
            if self.part is not None and self.band_mm is not None:
                unsure = thickness_pictures(self.part.mesh, self.band_mm, centre, UNCERTAINTY_SCALE_MM)
        write_case_report(folder / "report.html", told.result, preview.read_bytes(), pictures, unsure=unsure)

    def _write(self, mesh: Mesh, shades: list[VertexScalar], path: Path) -> None:
        for kind in MESH_FORMATS:
            if kind == "stl" or kind in self.formats:
                write_mesh(mesh, path.with_suffix(f".{kind}"), *shades)


def write_proposals(outcome: RunResult, count: int, folder: Path) -> list[dict]:
    """Make and write the proposals 2 to count as proposal_2.nrrd, proposal_2.stl and so on; returns what the report
    says of all, the outcome's own, which is the first, included. A defect of the face alone has no other."""
    patient, first = outcome.completion.patient, outcome.printable.mesh
    if patient is None:
        raise ValueError("proposals are of a completion that found a defect")
    draws = ProposalSampler(patient)
    told = [_figures(1, outcome, 0.0, "implant")]
    for number in range(2, count + 1 if patient.defects.pieces else 2):
        name = f"proposal_{number}"
        completion = draws.completion(number, patient.options.gamma)
        if not completion.found:
            raise SkullVAEError(f"Nothing is left of the implant in proposal {number}", "Ask for fewer --proposals")
        other = replace(outcome, completion=completion, result=outcome.result | completion.report).with_implant()
        write_volume(completion.implant, folder / f"{name}.nrrd")
        other.write_implant(folder, name, pieces=False)
        told.append(_figures(number, other, mean_difference_mm(first, other.printable.mesh), name))
    return told


def _figures(number: int, outcome: RunResult, difference: float, name: str) -> dict:
    implant = outcome.result["implant"]
    suffixes = ("nrrd", "stl", *(kind for kind in ("obj", "ply") if kind in outcome.formats))
    return {
        "number": number,
        "volume_ml": implant["volume_ml"],
        "rim_gap_mm": implant["rim_gap_mm"],
        "difference_mm": round(difference, 3),
        "warnings": outcome.printable.warnings,
        "files": [f"{name}.{suffix}" for suffix in suffixes],
    }
