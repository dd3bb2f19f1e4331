"""Inputs in a Slicer scene and runs with a known result, for the tests of the module."""

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
    """Voxels without symmetry, so that any shift, flip or swap of axes is detected."""
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
    """A segmentation node with one segment "bone"; reference: whether it refers to a CT with this grid."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    if transform is not None:
        node.SetAndObserveTransformNodeID(transform.GetID())
    if reference:
        volume = addVolume(np.zeros(mask.shape, np.int16), ijkToRAS, transform=transform)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    addSegment(node, "bone", orientedImage(mask, ijkToRAS))
    return node


def exported(node, segmentID: str, ijkToRAS: np.ndarray, shape=SHAPE, transform=None) -> np.ndarray:
    """The voxels of a segment on a given grid, read by Slicer itself, as the reference for its position."""
    reference = addVolume(np.zeros(shape, np.uint8), ijkToRAS, transform=transform)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, reference).transpose(2, 1, 0).copy()
    slicer.mrmlScene.RemoveNode(reference)
    return array


def fingerprint(node) -> dict:
    """The properties of a node's segments that must not change: names, label values, voxels or points, geometry."""
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
    """A closed mesh of four random points, RAS mm, with thickness, uncertainty and difference at each."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(-50, 50, (4, 3)).astype(np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)
    return MeshData(points, faces, *generator.uniform(1, 8, (3, 4)).astype(np.float32))


class KnownRun:
    """Replaces CompletionRun: two polls, then an implant of random voxels outside the bone.

    seed: selects the implant; noDefect: end as the library does for an intact skull; failure: end with this error;
    meshes: whether the result contains the meshes of printable implant and skull.
    """

    live = responsePending = False

    def __init__(self, seed: int = 7, noDefect: bool = False, failure: Exception | None = None, meshes: bool = False):
        self._seed, self._noDefect, self._failure, self._meshes = seed, noDefect, failure, meshes
        self.stage, self.fraction = "", 0.0
        self.started = self.closed = False

    def __call__(self, array: np.ndarray, grid: np.ndarray, settings: RunSettings) -> KnownRun:
        self.array, self.affine, self.settings = np.array(array), grid, settings
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
    """Complete this input with a known result; (the run, the added result)."""
    run = KnownRun(**known)
    added = SkullVAELogic(createRun=run).completeSkull(node, segmentID, newSegmentation=newSegmentation)
    assert run.closed
    return run, added


def shortenTimers(widget) -> None:
    """Make the panel notice changes sooner than a user would notice, so that the tests wait less."""
    for timer in (widget._timer, widget._restTimer, widget.editSection._timer):
        timer.setInterval(20)


def settle(widget) -> None:
    """Wait until the panel has requested everything that was changed, and the responses are in the scene."""
    slicer_standin.processEvents()
    timers = widget._restTimer, widget.editSection._timer
    slicer_standin.waitFor(lambda: not (widget.logic.responsePending or any(timer.active for timer in timers)))
    slicer_standin.processEvents(0.05)


def waitFor(condition, what: str) -> None:
    """Wait for a condition that must become true; the time it takes is not tested."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f"{what} did not happen")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z")


# Replaces the library's command line with results that are easy to predict: the implant is the bone shifted by one
# voxel, or by "gamma" voxels on request; the printable implant is a tetrahedron whose thickness is the clearance.
# There are three candidate defects at 40, 80 and 120 mm on the first axis. That with the number N is filled by the bone
# shifted by N voxels, and adds N mm to the thickness. In mode "nothing" none is filled unless a point is at it.
CHILD = """
    import json, pathlib, sys
    import numpy as np
    from SkullVAELib.io.images import read_volume, write_volume
    from SkullVAELib.mesh.files import VertexScalar, write_ply
    from SkullVAELib.mesh.mesh import Mesh
    mode = pathlib.Path(__file__).stem
    if sys.argv[1] == "compare":
        _, plan, outcome, _, folder, *options = sys.argv[1:]
        if mode == "bad":
            print("The skulls do not match. Check that both are of one patient.", file=sys.stderr)
            sys.exit(2)
        if mode == "slow":
            import time; time.sleep(600)
        def ofFile(path):
            path = pathlib.Path(path)
            if path.is_dir():
                return {"files": sorted(each.name for each in path.iterdir()), "implant": ofFile(path / "implant.nrrd")}
            if path.suffix == ".stl":
                facet = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
                corners = np.frombuffer(path.read_bytes(), facet, offset=84)["corners"].reshape(-1, 3)
                return {"mesh": (corners.astype(float).mean(0) * [-1, -1, 1]).tolist()}
            volume = read_volume(path)
            return {"voxels": int((volume.array != 0).sum()), "affine": volume.affine.tolist()}
        pathlib.Path(folder).mkdir()
        points = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, 30]], float)
        faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
        scalar = VertexScalar("difference_mm", np.array([-1.5, 0, 0.5, np.nan]), 2.0, "mm", signed=True)
        write_ply(Mesh(points, faces), folder + "/difference.ply", scalar)
        sides = {"outer": {"mean": -0.41, "p95": 3.2, "max": 6.11}}
        report = {
            "displacement": {"mm": 4.14, "outward_mm": -1.2, "rotation_deg": 6.21},
            "registration_mm": {"median": 0.21}, "difference_mm": sides, "shape_mm": sides, "rim": None,
            "resorption": {"lost_ml": 2.31, "gained_ml": 0.4, "thickness_change_mm": None},
            "warnings": ["<little> found."],
            "read": {"plan": ofFile(plan), "outcome": ofFile(outcome), "options": options},
        }
        pathlib.Path(folder, "compare.json").write_text(json.dumps(report))
        sys.exit(0)
    command, source, _, folder, *options = sys.argv[1:]
    if command == "mesh":
        # The bounding box of the voxels' centres, in the labelmap's own coordinates.
        if mode == "bad_mesh":
            print("The disk is full. Free some space.", file=sys.stderr)
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
    def send(**message):
        print(json.dumps(message), flush=True)
    added = removed = base = np.zeros_like(volume.array)
    points = []
    def publish(folder):
        # The voxels that were edited are kept in every shape.
        write_volume(volume.with_array((base | added) & (1 - removed)), pathlib.Path(folder, "implant.nrrd"))
    def shape(shift, folder):
        global base
        base = np.roll(volume.array, shift, axis=0) & (1 - volume.array)
        publish(folder)
    def edited():
        if not (added.any() or removed.any() or points):
            return {}
        return {"edited": {"voxels_added_ml": added.sum() / 1000.0, "voxels_removed_ml": removed.sum() / 1000.0,
                           "points": [{"at": point} for point in points]}}
    def mesh(size, folder, name="implant.ply"):
        points = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, size]], float)
        faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
        write_ply(Mesh(points, faces), pathlib.Path(folder, name), VertexScalar.thickness(np.full(4, size)))
    def solid(size, path):
        from SkullVAELib.mesh.files import write_stl
        points = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, size]], float)
        write_stl(Mesh(points, np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])), path)
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
    send(stage="completing", fraction=0.5)
    if mode == "slow":
        sys.stdin.read()
    def candidates(filled):
        chances, reasons = (0.999, 0.4, 0.02), ("large & <open>", "small", "at the skull base")
        return [
            {"number": n, "volume_ml": 10.0 * n, "centre_mm": [40.0 * n, 5.0, -7.0], "probability": chances[n - 1],
             "filled": n in filled, "reason": reasons[n - 1]}
            for n in (1, 2, 3)
        ]
    def measures(filled):
        return {"volume_ml": 10.0 * sum(filled), "rim_gap_mm": 0.4}
    def nearest(point):
        return min((1, 2, 3), key=lambda n: abs(40.0 * n - float(point[0])))
    def filling(filled, folder):
        implant = np.zeros_like(volume.array)
        for n in filled:
            implant |= np.roll(volume.array, n, axis=0) & (1 - volume.array)
        global base
        base = implant
        publish(folder)
        return implant
    filled = set() if mode == "nothing" else {1}
    for option in options:
        if option.startswith("--at="):
            filled.add(nearest(option[5:].split(",")))
        elif option.startswith("--not-at="):
            filled.discard(nearest(option[9:].split(",")))
    implant = filling(filled, folder)
    write_volume(volume.with_array(volume.array | implant), folder + "/completed.nrrd")
    if filled:
        mesh(30.0, folder)
    mesh(60.0, folder, "skull_display.ply")
    pathlib.Path(folder, "report.html").write_text("<p>report</p>")
    report = {"version": "1", "options": options, "gamma": None, "found": bool(filled)}
    if filled:
        report["implant"] = measures(filled)
    report |= {"candidates": candidates(filled), "warnings": [] if filled else ["No defect was found. Point at it."]}
    pathlib.Path(folder, "report.json").write_text(json.dumps(report))
    send(stage="done", fraction=1)
    for line in sys.stdin if "--interactive" in options else ():
        request = json.loads(line)
        number = request.pop("request")
        (kind, value), = request.items()
        responses = pathlib.Path(folder, "responses", str(number))
        responses.mkdir(parents=True)
        fields = {"response": number, "folder": str(responses)}
        if mode == "dies":
            print("Killed", file=sys.stderr, flush=True)
            sys.exit(1)
        if kind == "gamma" and value > 5:
            send(response=number, error="A gamma of 9 is too large. Use 0 to 2.")
        elif kind == "gamma":
            send(stage="decoding", fraction=0.2)
            shape(int(value), responses)
            report = {"gamma": value, "implant": {}} | edited()
            send(**fields, files=["implant.nrrd"], report=report, seconds=0.1, more=True)
            mesh(30.0 + value, responses)
            send(**fields, files=["implant.ply"], more=False)
        elif kind == "edited":
            wanted = read_volume(value).array & (1 - volume.array)
            added, removed = wanted & (1 - base), base & (1 - wanted)
            publish(responses)
            send(**fields, files=["implant.nrrd"], report={"implant": {}} | edited(), more=True)
            mesh(100.0 + added.sum() - removed.sum(), responses)
            send(**fields, files=["implant.ply"], report={"implant": {}} | edited(), more=False)
        elif kind == "points" and any(abs(point[0]) > 150 for point in value):
            send(response=number, error="The point is beside the defect. Move it to the implant.")
        elif kind == "points":
            points = value
            shape(1 + len(points), responses)
            send(**fields, files=["implant.nrrd"], report={"implant": {}} | edited(), more=True)
            mesh(200.0 + len(points), responses)
            send(**fields, files=["implant.ply"], report={"implant": {}} | edited(), more=False)
        elif kind == "proposal":
            send(response=number, superseded=True)
        elif kind == "defects":
            filled = set(value["filled"])
            if not value["filled"] and not value["at"]:
                send(response=number, files=[], report={"found": False, "candidates": candidates(())})
            elif any(abs(40.0 * nearest(point) - point[0]) > 15 for point in value["at"]):
                send(response=number, error="There is no hole near the point. Move the point.")
            else:
                filled |= {nearest(point) for point in value["at"]}
                filling(filled, responses)
                fields["report"] = {"found": True, "implant": measures(filled), "candidates": candidates(filled)}
                fields["report"] |= {"warnings": [], "asked": value}
                send(**fields, files=["implant.nrrd"], more=True)
                mesh(30.0 + sum(filled), responses)
                send(**fields, files=["implant.ply"], more=False)
        elif kind == "implant":
            mesh(value["clearance"], responses)
            send(**fields, files=["implant.ply"], report={"printable_implant": value}, seconds=0.1)
        elif kind == "tooling" and value.get("mould_wall") == 30:
            send(response=number, error="The mould is too large. Use a thinner wall.")
        elif kind == "tooling":
            names = ["mould_a", "mould_b"] * bool(value.get("mould"))
            names += ["fit_ring"] * ("ring" in value) + ["template"] * ("template" in value)
            for size, name in enumerate(names, 50):
                solid(size, responses / f"{name}.stl")
            piece = {"piece": 1, "size_mm": [60.2, 50, 40], "halves_ml": [20.2, 30.1], "cement_ml": 12.34}
            bench = {"parts": [{"defect": 1, "volume_ml": 7.77}]}
            figures = {"mould": {"pieces": [piece]}} if value.get("mould") else {}
            figures |= {name: bench for name in ("ring", "template") if name in value}
            files = [f"{name}.stl" for name in names]
            send(**fields, files=files, report={"tooling": figures, "warnings": ["Undercuts <hold> the cast."]})
        elif kind == "report":
            (responses / "report.html").write_text("<p>newer report</p>")
            send(**fields, files=["report.html"])
        elif kind == "skull":
            solid(77, responses / "skull.stl")
            send(**fields, files=["skull.stl"])
"""


def childCommand(folder: Path, mode: str) -> list[str]:
    """The command to run instead of the library's command line; mode: how it behaves."""
    script = folder / f"{mode}.py"
    script.write_text(textwrap.dedent(CHILD), encoding="utf-8")
    return [sys.executable, str(script)]


def runWithChild(folder: Path, mode: str):
    """(list of the runs that the factory has made, factory of runs); mode: how the command behaves."""
    command = childCommand(folder, mode)
    runs = []

    def create(array, grid, settings):
        runs.append(CompletionRun(array, grid, settings, command))
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
