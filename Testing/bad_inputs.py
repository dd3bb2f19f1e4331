"""Every kind of bad input, and the message of `skullvae complete` for it.

    python Testing/bad_inputs.py     # writes Docs/explanation/bad_inputs.md by running them all

test_bad_inputs.py runs the same list and compares the page with the messages.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pydicom
from broken import HEAD, NO_HEAD, Scene
from dicom_files import along_z, ct_slice, uid, with_meta, write_series
from image_files import cut, nifti, nrrd, several_values, written

from SkullVAELib.cli import main as cli
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, write_volume

PAGE = Path(__file__).resolve().parents[1] / "Docs" / "explanation" / "bad_inputs.md"
GOLDEN = Path(__file__).resolve().parent / "data" / "golden"


@dataclass(frozen=True)
class Skull:
    """The small skull that inputs are made of: bool masks at 2 mm, with a defect and complete."""

    defective: Volume
    complete: Volume

    @classmethod
    def golden(cls) -> Skull:
        skull, implant = (read_volume(GOLDEN / name) for name in ("skull.nrrd", "implant.nrrd"))
        bone = skull.array != 0
        return cls(skull.with_array(bone), skull.with_array(bone | (implant.array != 0)))

    def ct(self) -> np.ndarray:
        """A CT of the defective skull in Hounsfield units: air, a head of soft tissue, bone."""
        bone = self.defective.array
        head = ndimage.binary_fill_holes(
            ndimage.binary_dilation(ndimage.binary_closing(bone, iterations=6), iterations=3)
        )
        hounsfield = np.where(bone, 900, np.where(head, 40, -1000)).astype(np.int16)
        return hounsfield + np.random.default_rng(0).normal(0, 12, bone.shape).astype(np.int16)


@dataclass(frozen=True)
class BadInput:
    """One kind: make writes it into a folder, and gives the file's path or the whole argument list after `complete`.

    code: the exit code; said: words that the sentence must hold, "" where nothing is said.
    """

    make: Callable[[Path, Skull], Path | list]
    code: int
    said: str


def _file(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _volume(folder: Path, skull: Skull, array: np.ndarray, name: str = "a.nrrd") -> Path:
    """An array written on the skull's grid."""
    array = array.astype(np.uint8) if array.dtype == bool else array
    write_volume(Volume(array, skull.defective.affine), folder / name)
    return folder / name


def _scene(what: str) -> Callable[[Path, Skull], Path]:
    def make(folder: Path, skull: Skull) -> Path:
        write_volume((NO_HEAD | HEAD)[what](Scene.of(skull.defective)), folder / "a.nrrd")
        return folder / "a.nrrd"

    return make


def _nifti(folder: Path, skull: Skull, name: str = "a.nii.gz", array: np.ndarray | None = None, **patched) -> Path:
    """A NIfTI file on the skull's grid, of the skull by default; patched: see image_files.nifti."""
    array = skull.defective.array.astype(np.uint8) if array is None else array
    return nifti(folder, name, array, skull.defective.affine, **patched)


def _folder(folder: Path, *names: str) -> Path:
    (folder / "series").mkdir()
    for name in names:
        made = ct_slice(np.zeros((8, 8)))
        del made.Rows, made.Columns, made.PixelData
        made.save_as(folder / "series" / name, enforce_file_format=True)
    return folder / "series"


def _series(folder: Path, count: int = 35, drop: tuple[int, ...] = (), **elements) -> Path:
    """A small DICOM series of air; drop: numbers of the slices that are missing."""
    write_series(
        folder / "series",
        np.full((count, 64, 64), -1000.0),
        along_z(count, 2.0),
        (1.0, 1.0, 2.0),
        change=lambda index, made: None if index in drop else made,
        **elements,
    )
    return folder / "series"


def _truncated(series: Path) -> Path:
    for path in sorted(series.iterdir())[10:13]:
        cut(path, -3000)
    return series


def _two_patients(folder: Path) -> Path:
    """Two series of two patients, in subfolders."""
    for number, patient in enumerate(("A", "B")):
        made = _series(folder, SeriesInstanceUID=uid(patient), StudyInstanceUID=uid(patient, 1), PatientID=patient)
        for path in made.glob("IM*"):
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = uid(patient, path.name)
            with_meta(dataset).save_as(made / f"{number}_{path.name}", enforce_file_format=True)
            path.unlink()
    return folder / "series"


def _with(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(np.float32)
    changed[tuple(n // 2 for n in array.shape)] = value
    return changed


def _pinholes(skull: Skull) -> np.ndarray:
    """A complete skull with holes of a voxel, as thin bone has below a threshold."""
    holes = np.random.default_rng(0).random(skull.complete.array.shape) < 0.02
    return skull.complete.array & ~holes


def _over_input(folder: Path, skull: Skull) -> list:
    _volume(folder, skull, skull.defective.array, "completed.nrrd")
    return [folder / "completed.nrrd", "-o", folder]


def _in_place_of_output(folder: Path, skull: Skull) -> list:
    return [_volume(folder, skull, skull.defective.array), "-o", _file(folder, "out", b"mine")]


def _no_folder_there(folder: Path, skull: Skull) -> list:
    return [_volume(folder, skull, skull.defective.array), "-o", _file(folder, "mine", b"mine") / "out"]


FILES: dict[str, BadInput] = {
    "a missing file": BadInput(lambda d, s: d / "a.nrrd", 2, "does not exist"),
    "a folder": BadInput(lambda d, s: _folder(d), 2, "holds no DICOM files"),
    "a DICOM folder without images": BadInput(lambda d, s: _folder(d, "IM0001", "IM0002"), 2, "but no images"),
    "a DICOM file without an image": BadInput(lambda d, s: _folder(d, "a.dcm") / "a.dcm", 2, "not a DICOM image"),
    "a DICOM file with another suffix": BadInput(
        lambda d, s: _folder(d, "a.nrrd") / "a.nrrd", 2, "suffix of another format"
    ),
    "DICOMDIR without files": BadInput(lambda d, s: _file(d, "DICOMDIR", bytes(200)), 2, "holds no DICOM files"),
    "a damaged zip archive": BadInput(lambda d, s: _file(d, "a.zip", b"PK\3\4"), 2, "damaged or incomplete"),
    "an archive that is no zip": BadInput(lambda d, s: _file(d, "a.7z", b"7z\xbc\xaf"), 2, "archive"),
    "a DICOM folder with a scout only": BadInput(
        lambda d, s: _series(d, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), 2, "localizer (scout)"
    ),
    "a DICOM series of MR": BadInput(lambda d, s: _series(d, Modality="MR"), 2, "not CT but MR"),
    "a DICOM series of 30 mm": BadInput(lambda d, s: _series(d, count=15), 2, "covers only 30 mm"),
    "a DICOM series with three neighbouring slices missing": BadInput(
        lambda d, s: _series(d, drop=(12, 13, 14)), 2, "3 neighbouring slices are missing"
    ),
    "a DICOM series with truncated slices": BadInput(lambda d, s: _truncated(_series(d)), 2, "damaged or truncated"),
    "a DICOM folder of two patients": BadInput(lambda d, s: _two_patients(d), 2, "several patients"),
    "a series that is not there": BadInput(
        lambda d, s: [_series(d), "--series", "9", "-o", d / "out"], 2, "There is no series '9'"
    ),
    "a scout chosen with --series": BadInput(
        lambda d, s: [_series(d, ImageType=["LOCALIZER"]), "--series", "2", "-o", d / "out"], 2, "is not usable"
    ),
    "--dicom without a DICOM input": BadInput(
        lambda d, s: [_volume(d, s, s.defective.array), "--dicom", "-o", d / "out"], 2, "needs a DICOM input"
    ),
    "a mesh": BadInput(lambda d, s: _file(d, "a.stl", b"solid"), 2, "surface model"),
    "another suffix": BadInput(lambda d, s: _file(d, "a.txt", b"text"), 2, "no known image suffix"),
    "a format other than the suffix": BadInput(
        lambda d, s: _nifti(d, s, "a.nii").rename(d / "a.nrrd"), 2, "cannot be read"
    ),
    "an empty file": BadInput(lambda d, s: _file(d, "a.nrrd", b""), 2, "is empty"),
    "text": BadInput(lambda d, s: _file(d, "a.nrrd", b"not an image\n" * 99), 2, "cannot be read"),
    "truncated .nrrd": BadInput(lambda d, s: cut(written(d, "a.nrrd"), 20000), 2, "complete"),
    "truncated .mha": BadInput(lambda d, s: cut(written(d, "a.mha"), 20000), 2, "truncated"),
    "truncated .nii": BadInput(lambda d, s: cut(written(d, "a.nii"), -1), 2, "truncated"),
    "truncated .nii.gz": BadInput(lambda d, s: cut(written(d, "a.nii.gz"), 20000), 2, "truncated"),
    "gzip with a wrong checksum": BadInput(
        lambda d, s: _file(d, "b.nii.gz", written(d, "a.nii.gz").read_bytes()[:-8] + bytes(8)), 2, "complete"
    ),
    "2D": BadInput(lambda d, s: _nifti(d, s, array=np.zeros((9, 9), np.int16)), 2, "2 dimensions"),
    "an axis of one voxel": BadInput(lambda d, s: _nifti(d, s, array=np.zeros((9, 9, 1), np.int16)), 2, "single slice"),
    "4D": BadInput(lambda d, s: _nifti(d, s, array=np.zeros((9, 9, 9, 2), np.int16)), 2, "4 dimensions"),
    "several values per voxel": BadInput(lambda d, s: several_values(d / "a.nrrd"), 2, "several values"),
    "a header that claims terabytes": BadInput(
        lambda d, s: nrrd(d, "100000 100000 100000", name="a.nrrd"), 2, "too large"
    ),
    "a gigabyte in a kilobyte": BadInput(lambda d, s: nrrd(d, "1000 1000 1000", name="a.nrrd"), 2, "truncated"),
    "zero spacing": BadInput(
        lambda d, s: nrrd(d, name="a.nrrd", directions="(0,0,0) (0,1,0) (0,0,1)"), 2, "voxel size"
    ),
    "negative spacing": BadInput(lambda d, s: _nifti(d, s, zoom=(80, "f", -1.0)), 2, "voxel size"),
    "spacing that is not a number": BadInput(lambda d, s: _nifti(d, s, row=(280, "f", float("nan"))), 2, "grid"),
    "infinite spacing": BadInput(lambda d, s: _nifti(d, s, row=(280, "f", float("inf"))), 2, "grid"),
    "a singular direction matrix": BadInput(
        lambda d, s: nrrd(d, name="a.nrrd", directions="(1,0,0) (1,0,0) (0,0,1)"), 2, "not perpendicular"
    ),
    "axes that are not perpendicular": BadInput(
        lambda d, s: nrrd(d, name="a.nrrd", directions="(1,0.3,0) (0,1,0) (0,0,1)"), 2, "not perpendicular"
    ),
    "a very long name": BadInput(lambda d, s: d / ("a" * 300 + ".nrrd"), 2, "too long"),
    "output over the input": BadInput(_over_input, 2, "would overwrite the input"),
    "a file instead of the output folder": BadInput(_in_place_of_output, 2, "is not a folder"),
    "an output folder that cannot be created": BadInput(_no_folder_there, 2, "cannot be created"),
}
"""Files and folders that are rejected before any voxel is read."""

VOXELS: dict[str, BadInput] = {
    "empty mask": BadInput(lambda d, s: _volume(d, s, np.zeros_like(s.defective.array)), 2, "is empty"),
    "all ones": BadInput(lambda d, s: _volume(d, s, np.ones_like(s.defective.array)), 2, "same value, 1"),
    "several labels": BadInput(
        lambda d, s: _volume(d, s, s.defective.array + 2 * s.complete.array.astype(np.uint8)), 2, "several labels"
    ),
    "a few voxels": BadInput(
        lambda d, s: _volume(d, s, np.indices(s.defective.array.shape).sum(0) == 9), 2, "too little bone"
    ),
    "NaN": BadInput(lambda d, s: _volume(d, s, _with(s.ct(), np.nan)), 2, "NaN or infinite"),
    "infinity": BadInput(lambda d, s: _volume(d, s, _with(s.ct(), np.inf)), 2, "NaN or infinite"),
    "a CT of stored values, 1024 too high": BadInput(
        lambda d, s: _volume(d, s, s.ct() + np.int16(1024)), 0, "offset of +1024"
    ),
    "a CT scaled to a tenth": BadInput(lambda d, s: _volume(d, s, s.ct() * np.float32(0.1)), 2, "Hounsfield"),
    "an MRI": BadInput(lambda d, s: _volume(d, s, np.abs(s.ct()).astype(np.float32) / 7), 2, "Hounsfield"),
    "an inverted CT": BadInput(lambda d, s: _volume(d, s, -s.ct()), 2, "Input rejected"),
    "a threshold above all values": BadInput(
        lambda d, s: [_volume(d, s, s.ct()), "--threshold", "3000", "-o", d / "out"], 2, "No voxel reaches"
    ),
    "a threshold below all values": BadInput(
        lambda d, s: [_volume(d, s, s.ct()), "--threshold", "-2000", "-o", d / "out"], 2, "Every voxel reaches"
    ),
    "a threshold below skin": BadInput(
        lambda d, s: [_volume(d, s, s.ct()), "--threshold", "-200", "-o", d / "out"], 0, "Low input quality"
    ),
    "an ROI beside the skull": BadInput(
        lambda d, s: [_volume(d, s, s.ct()), "--roi", "900,900,900,50,50,50", "-o", d / "out"], 2, "no bone in the ROI"
    ),
}
"""Files whose voxels are not bone."""

HEADS: dict[str, BadInput] = {
    **{
        what: BadInput(_scene(what), 2, "Input rejected: the bone is" if "voxels" in what else "Input rejected")
        for what in NO_HEAD
    },
    "voxels ten times too large": BadInput(_scene("voxels ten times too large"), 2, "correct the voxel size"),
    "upside down": BadInput(_scene("upside down"), 2, "Input rejected"),
    "more than half of the vault missing": BadInput(
        lambda d, s: _volume(d, s, s.complete.array & (Scene.of(s.complete).at[..., 0] > 15)), 2, "Input rejected"
    ),
    "vault's upper 60 mm": BadInput(_scene("vault's upper 60 mm"), 0, "of the cranial vault is present"),
    "complete already": BadInput(lambda d, s: _volume(d, s, s.complete.array), 3, "No defect was found"),
    "pinholes only": BadInput(lambda d, s: _volume(d, s, _pinholes(s)), 3, "No defect was found"),
    "mirrored": BadInput(_scene("mirrored"), 0, ""),
    "of a child, 80 %": BadInput(_scene("of a child, 80 %"), 0, ""),
    "not a head, with --force": BadInput(
        lambda d, s: [_scene("hollow ball")(d, s), "--force", "-o", d / "out"], 3, "deviates from an ellipsoid"
    ),
    "of a small child, 60 %": BadInput(_scene("of a small child, 60 %"), 0, "of an adult's size"),
    "giant, 130 %": BadInput(_scene("giant, 130 %"), 0, "of an adult's size"),
    "metal streaks": BadInput(_scene("metal streaks"), 0, ""),
    "a name that is not ASCII": BadInput(
        lambda d, s: _volume(d, s, s.defective.array, "Schädel 頭蓋骨 №1.nrrd"), 0, ""
    ),
}
"""Bone that is not a head, or a head in an unusual state; with exit code 0 the message is a warning."""

ALL = FILES | VOXELS | HEADS


def said_to(make: Callable[[Path, Skull], Path | list], skull: Skull, folder: Path) -> tuple[int, str]:
    """Run `complete` in this process on an input made in a folder: exit code, and what was said on stderr."""
    made = make(folder, skull)
    arguments = made if isinstance(made, list) else [made, "-o", folder / "out"]
    stderr = StringIO()
    with redirect_stderr(stderr):
        code = cli.main(["complete", *map(str, arguments), "--progress", "none", "--device", "cpu"])
    return code, stderr.getvalue()


def sentence(said: str, folder: Path) -> str:
    """What was said, for the page: without the folder's name, the numbers that a machine may give otherwise, and what a
    good run says anyway."""
    lines = [line for line in said.splitlines() if not line.startswith((*_OF_A_GOOD_RUN, "No defect was found in"))]
    lines = lines or said.splitlines()
    text = " ".join(lines).replace(f"{folder}{os.sep}", "").replace(str(folder), "out")
    return re.sub(r"a{100,}", "a...a", text) if not text.startswith(_OF_A_GOOD_RUN) else ""


_OF_A_GOOD_RUN = "Overall rating: ", "The results are in"

_HEAD = """# Bad input

The messages of `skullvae complete` on stderr for every kind of bad input that is tested. Exit code 2:
the input is rejected with one line, and nothing is written. Exit code 3: no defect was found. Exit code
0: there is a result, and the message is a warning, which is also in the report. Each row is a test
(`Testing/test_bad_inputs.py`). The page is written by `python Testing/bad_inputs.py`.

Inputs that give a wrong result *without* a message are listed under [known failures](robustness.md#known-failures).
"""

_TAIL = """Input that is not a head is detected by a score of how well the bone fits the mean skull: see [input
plausibility](robustness.md#input-plausibility). [Disturbed runs](robustness.md#disturbed-runs) covers
full disks, lack of memory, kills and two runs at the same time.
"""


def page(sentences: dict[str, tuple[int, str]]) -> str:
    """Docs/explanation/bad_inputs.md."""
    lines = [_HEAD]
    for title, group in (("Files", FILES), ("Voxels", VOXELS), ("Heads", HEADS)):
        lines += [f"## {title}", "", "| input | exit code | message |", "|---|---|---|"]
        for name in group:
            code, text = sentences[name]
            lines.append(f"| {name} | {code} | {text or '(none)'} |")
        lines.append("")
    return "\n".join([*lines, _TAIL])


def main() -> int:
    """Write the page."""
    skull, sentences = Skull.golden(), {}
    for name, bad in ALL.items():
        with tempfile.TemporaryDirectory() as folder:
            code, said = said_to(bad.make, skull, Path(folder))
            sentences[name] = (code, sentence(said, Path(folder)))
            print(f"{name}: {code} {sentences[name][1]}", file=sys.stderr, flush=True)
    PAGE.write_text(page(sentences), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
