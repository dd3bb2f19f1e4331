"""Inputs in a Slicer scene and runs with a known result, for the tests of the module's logic."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import vtk  # noqa: E402
from SkullVAEModule.completion import CompletionResult, CompletionRun, RunSettings  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.masks import Mask  # noqa: E402
from SkullVAEModule.meshfiles import MeshData  # noqa: E402
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy  # noqa: E402

BINARY = "Binary labelmap"
SURFACE = "Closed surface"
SHAPE = (18, 15, 12)
REPORT = {
    "software": "SkullVAE 0.1.0",
    "disclaimer": "Research",
    "model_file": "skullvae.safetensors",
    "model_sha256": "abc",
    "parameters": {"gamma": 1.0, "prior": "a|b"},
    "implant": {"volume_ml": 8.2, "rim_gap_mm": 0.7},
    "warnings": ['thin "|" bone'],
    "seconds": {"total": 1.0},
}
PROVENANCE = ("source", "role", "note", "software", "model_file", "model_sha256", "parameters")


def rotation(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    transform = vtk.vtkTransform()
    transform.RotateWXYZ(degrees, *axis)
    return np.array([[transform.GetMatrix().GetElement(i, j) for j in range(4)] for i in range(4)])


def affine(directions: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = directions[:3, :3] * spacing
    result[:3, 3] = (-31.25, 47.5, 12.75)
    return result


OBLIQUE = rotation(33, (1, 2, 0.5))
GRIDS = {
    "ras": affine(np.eye(3), (1, 1, 1)),
    "lps": affine(np.diag([-1.0, -1.0, 1.0]), (1, 1, 1)),
    "axes swapped": affine(np.eye(3)[[2, 0, 1]], (1, 1, 1)),
    "oblique": affine(OBLIQUE, (1, 1, 1)),
    "oblique and anisotropic": affine(OBLIQUE, (0.49, 0.73, 2.5)),
    "left-handed": affine(np.diag([-1.0, 1.0, 1.0]), (0.8, 0.8, 1.25)),
    "oblique and left-handed": affine(OBLIQUE[:3, :3] @ np.diag([1.0, 1.0, -1.0]), (0.7, 0.9, 1.5)),
}


def vtkMatrix(array: np.ndarray):
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


def orientedImage(array: np.ndarray, ijkToRAS: np.ndarray, start=(0, 0, 0)):
    """An image of (I, J, K) voxels whose extent starts at `start` on the lattice of ijkToRAS."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*[value for a, n in zip(start, array.shape, strict=True) for value in (a, a + n - 1)])
    image.SetGeometryFromImageToWorldMatrix(vtkMatrix(ijkToRAS))
    flat = np.ascontiguousarray(array.transpose(2, 1, 0)).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    return image


def randomMask(seed: int, shape=SHAPE, fill: float = 0.4) -> np.ndarray:
    """Voxels with no symmetry: any shift, flip or swap of axes shows."""
    return (np.random.default_rng(seed).random(shape) < fill).astype(np.uint8)


def addSegment(node, segmentID: str, image, name: str = "Bone", labelValue: int = 1) -> str:
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetLabelValue(labelValue)
    segment.AddRepresentation(BINARY, image)
    assert node.GetSegmentation().AddSegment(segment, segmentID)
    return segmentID


def addVolume(array: np.ndarray, ijkToRAS: np.ndarray, className="vtkMRMLScalarVolumeNode", transform=None):
    node = slicer.mrmlScene.AddNewNodeByClass(className, "CT")
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape)
    flat = np.ascontiguousarray(array.transpose(2, 1, 0)).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(vtkMatrix(ijkToRAS))
    if transform is not None:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def addTransform(matrix: np.ndarray):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Moved")
    node.SetMatrixTransformToParent(vtkMatrix(matrix))
    return node


def addSkull(mask: np.ndarray, ijkToRAS: np.ndarray, reference: bool = True, transform=None):
    """A segmentation node with one segment "bone", drawn on a CT with this grid where reference is true."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    if transform is not None:
        node.SetAndObserveTransformNodeID(transform.GetID())
    if reference:
        volume = addVolume(np.zeros(mask.shape, np.int16), ijkToRAS, transform=transform)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    addSegment(node, "bone", orientedImage(mask, ijkToRAS))
    return node


def exported(node, segmentID: str, ijkToRAS: np.ndarray, shape=SHAPE, transform=None) -> np.ndarray:
    """What Slicer itself finds in a segment on a given grid: the judge of where a segment lies."""
    reference = addVolume(np.zeros(shape, np.uint8), ijkToRAS, transform=transform)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, reference).transpose(2, 1, 0).copy()
    slicer.mrmlScene.RemoveNode(reference)
    return array


def fingerprint(node) -> dict:
    """Everything of a node's segments that must not change: names, label values, voxels or points, geometry."""
    segmentation = node.GetSegmentation()
    result = {}
    for segmentID in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentID)
        entry = [segment.GetName(), segment.GetLabelValue()]
        image = segment.GetRepresentation(BINARY)
        if image is not None:
            matrix = vtk.vtkMatrix4x4()
            image.GetImageToWorldMatrix(matrix)
            scalars = image.GetPointData().GetScalars()
            elements = [matrix.GetElement(i, j) for i in range(4) for j in range(4)]
            entry += [image.GetExtent(), elements, vtk_to_numpy(scalars).tobytes() if scalars else b""]
        surface = segment.GetRepresentation(SURFACE)
        if surface is not None:
            entry.append(vtk_to_numpy(surface.GetPoints().GetData()).tobytes())
        result[segmentID] = entry
    return result


def nodeIDs() -> set[str]:
    nodes = slicer.mrmlScene.GetNodes()
    return {nodes.GetItemAsObject(i).GetID() for i in range(nodes.GetNumberOfItems())}


def tetrahedron(seed: int) -> MeshData:
    """A closed mesh of four random points, RAS mm, with a thickness and an uncertainty at each."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(-50, 50, (4, 3)).astype(np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)
    return MeshData(points, faces, *generator.uniform(1, 8, (2, 4)).astype(np.float32))


class KnownRun:
    """Takes the place of CompletionRun: two polls, then an implant of random voxels outside the bone.

    seed: which implant; noDefect: end as the library does for a whole skull; failure: end with this error;
    meshes: whether the part and the skull come as meshes, too.
    """

    live = responsePending = False

    def __init__(self, seed: int = 7, noDefect: bool = False, failure: Exception | None = None, meshes: bool = False):
        self._seed, self._noDefect, self._failure, self._meshes = seed, noDefect, failure, meshes
        self.stage, self.fraction = "", 0.0
        self.started = self.closed = False

    def __call__(self, array: np.ndarray, grid: np.ndarray, options: RunSettings) -> KnownRun:
        self.array, self.affine, self.options = np.array(array), grid, options
        bone = self.array > 0
        self.implant = ((randomMask(self._seed, bone.shape, 0.2) > 0) & ~bone).astype(np.uint8)
        self.completed = (bone | (self.implant > 0)).astype(np.uint8)
        return self

    def start(self) -> None:
        self.started, self._left = True, 2

    def poll(self) -> list[str]:
        self._left -= 1
        self.stage, self.fraction = "completing", 0.5
        return ["a line"]

    @property
    def running(self) -> bool:
        return self._left > 0

    def result(self) -> CompletionResult | None:
        if self._failure:
            raise self._failure
        if self._noDefect:
            return None
        meshes = (tetrahedron(self._seed), tetrahedron(self._seed + 1)) if self._meshes else ()
        return CompletionResult(Mask.of(self.completed), Mask.of(self.implant), REPORT, *meshes)

    def close(self) -> None:
        self.closed = True


def complete(node, segmentID: str = "bone", newSegmentation: bool = False, **known):
    """(the run that was made, what it added) of completing this input with a known result."""
    run = KnownRun(**known)
    added = SkullVAELogic(createRun=run).completeSkull(node, segmentID, newSegmentation=newSegmentation)
    assert run.closed
    return run, added


def waitFor(condition, what: str) -> None:
    """Wait for something that must happen; how long it takes is not the claim."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f"{what} did not happen")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits for its parent to notice does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


# What the library's command line does, on voxels that are easy to foretell: the implant is the bone moved by one
# voxel, by "gamma" voxels when asked; the part is a tetrahedron whose thickness is the clearance.
CHILD = """
    import json, pathlib, sys
    import numpy as np
    from SkullVAELib.meshfile import Shade, write_ply
    from SkullVAELib.surface import Mesh
    from SkullVAELib.volume import read_volume, write_volume
    mode = pathlib.Path(__file__).stem
    command, source, _, folder, *options = sys.argv[1:]
    if command == "mesh":
        # The box around the voxels' centres, in the labelmap's own coordinates.
        if mode == "bad_mesh":
            print("There is no room on the disk. Free some.", file=sys.stderr)
            sys.exit(2)
        if mode == "slow_mesh":
            print(json.dumps({"stage": "surface", "fraction": 0.5}), flush=True)
            sys.stdin.read()
            import time; time.sleep(600)
        volume = read_volume(source)
        found = np.argwhere(volume.array)
        low, high = found.min(0), found.max(0)
        corners = np.array([[(low, high)[i >> a & 1][a] for a in range(3)] for i in range(8)])
        faces = [[0, 2, 1], [1, 2, 3], [4, 5, 6], [5, 7, 6], [0, 1, 4], [1, 5, 4]]
        faces += [[2, 6, 3], [3, 6, 7], [0, 4, 2], [2, 4, 6], [1, 3, 5], [3, 7, 5]]
        write_ply(Mesh(corners @ volume.affine[:3, :3].T + volume.affine[:3, 3], np.array(faces)), folder)
        sys.exit(0)
    assert command == "complete" and options[:2] == ["--progress", "json"], sys.argv
    volume = read_volume(source)
    def say(**message):
        print(json.dumps(message), flush=True)
    def shape(shift, folder):
        implant = np.roll(volume.array, shift, axis=0) & (1 - volume.array)
        write_volume(volume.with_array(implant), pathlib.Path(folder, "implant.nrrd"))
        return implant
    def mesh(size, folder, name="implant.ply"):
        points = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, size]], float)
        faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
        write_ply(Mesh(points, faces), pathlib.Path(folder, name), Shade.thickness(np.full(4, size)))
    if mode == "bad":
        print("a warning", file=sys.stderr)
        print("The bone is a single voxel. Segment the skull. Then run again.", file=sys.stderr)
        sys.exit(2)
    if mode == "crash":
        raise MemoryError("no room")
    if mode == "whole":
        sys.exit(3)
    if mode == "small_card" and options[options.index("--device") + 1] != "cpu":
        print("The graphics card has not enough memory. Use --device cpu.", file=sys.stderr)
        sys.exit(2)
    say(stage="completing", fraction=0.5)
    if mode == "slow":
        sys.stdin.read()
    implant = shape(1, folder)
    write_volume(volume.with_array(volume.array | implant), folder + "/completed.nrrd")
    mesh(30.0, folder)
    mesh(60.0, folder, "skull_display.ply")
    pathlib.Path(folder, "report.html").write_text("<p>report</p>")
    pathlib.Path(folder, "report.json").write_text(json.dumps({"version": "1", "options": options, "gamma": None}))
    say(stage="done", fraction=1)
    for line in sys.stdin if "--interactive" in options else ():
        request = json.loads(line)
        number = request.pop("request")
        (kind, value), = request.items()
        answers = pathlib.Path(folder, "answers", str(number))
        answers.mkdir(parents=True)
        told = {"answer": number, "folder": str(answers)}
        if mode == "dies":
            print("Killed", file=sys.stderr, flush=True)
            sys.exit(1)
        if kind == "gamma" and value > 5:
            say(answer=number, error="A gamma of 9 is too large. Use 0 to 2.")
        elif kind == "gamma":
            say(stage="decoding", fraction=0.2)
            shape(int(value), answers)
            say(**told, files=["implant.nrrd"], report={"gamma": value}, seconds=0.1, more=True)
            mesh(30.0 + value, answers)
            say(**told, files=["implant.ply"], more=False)
        elif kind == "proposal":
            say(answer=number, superseded=True)
        elif kind == "part":
            mesh(value["clearance"], answers)
            say(**told, files=["implant.ply"], report={"part": value}, seconds=0.1)
        elif kind == "report":
            (answers / "report.html").write_text("<p>newer report</p>")
            say(**told, files=["report.html"])
        elif kind == "host":
            from SkullVAELib.meshfile import write_stl
            points = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, 77]], float)
            write_stl(Mesh(points, np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])), answers / "skull.stl")
            say(**told, files=["skull.stl"])
"""


def childCommand(folder: Path, mode: str) -> list[str]:
    """What to run in place of the library's command line; it behaves in this mode."""
    script = folder / f"{mode}.py"
    script.write_text(textwrap.dedent(CHILD))
    return [sys.executable, str(script)]


def runWithChild(folder: Path, mode: str):
    """(the runs that were made, a factory of runs whose command behaves in this mode)."""
    command = childCommand(folder, mode)
    runs = []

    def create(array, grid, options):
        runs.append(CompletionRun(array, grid, options, command))
        return runs[-1]

    return runs, create


def addSphere(geometry: bool):
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(12)
    sphere.SetCenter(7, -4, 30)
    sphere.SetThetaResolution(24)
    sphere.SetPhiResolution(24)
    sphere.Update()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Printed")
    node.GetSegmentation().SetSourceRepresentationName(SURFACE)
    if geometry:
        grid = affine(OBLIQUE, (1.5, 1, 1))
        grid[:3, 3] = (7, -4, 30) - grid[:3, :3] @ [15, 20, 20]
        node.SetReferenceImageGeometryParameterFromVolumeNode(addVolume(np.zeros((31, 41, 41), np.int16), grid))
    segment = slicer.vtkSegment()
    segment.SetName("Bone")
    segment.AddRepresentation(SURFACE, sphere.GetOutput())
    node.GetSegmentation().AddSegment(segment, "bone")
    return node
