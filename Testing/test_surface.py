"""The implant's mesh: closed, manifold, outward, as large as the labelmap, and where the labelmap is."""

import struct

import numpy as np
import pytest
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.files import write_stl
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.mesh.mesh import Mesh

RNG = np.random.default_rng(0)


def affine(spacing=(1, 1, 1), rotate=False, flip=False, origin=(80.0, -120.0, 300.0)) -> np.ndarray:
    """An affine with this spacing, oblique if `rotate`, left-handed if `flip`."""
    turn = np.eye(3)
    if rotate:
        a, b = np.radians(25), np.radians(-40)
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
            [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
        )
    result = np.eye(4)
    result[:3, :3] = turn * np.array(spacing) * np.array([-1 if flip else 1, 1, 1])
    result[:3, 3] = origin
    return result


GRIDS = {
    "1 mm": affine(),
    "anisotropic": affine((0.96, 0.96, 1.5)),
    "oblique": affine((0.8, 0.8, 1.2), rotate=True),
    "left-handed": affine((0.5, 0.5, 0.5), flip=True),
    "oblique, left-handed": affine((0.7, 0.9, 1.3), rotate=True, flip=True),
}


def plate(shape=(48, 48, 32), thickness=3.0) -> np.ndarray:
    """A domed plate of this many voxels' thickness, like an implant."""
    x, y, z = np.indices(shape) - np.array(shape)[:, None, None, None] / 2 + 0.3
    radius = np.sqrt(x**2 + y**2 + (z + 40) ** 2)
    return (np.abs(radius - 40) < thickness / 2) & (np.hypot(x, y) < 20)


def awkward_masks() -> dict[str, np.ndarray]:
    """Masks that trip surface extraction: bad contacts, noise, single sheets, the whole grid."""
    empty = np.zeros((12, 12, 12), bool)
    masks = {name: empty.copy() for name in ("one voxel", "edge contact", "corner contact", "sheet")}
    masks["one voxel"][5, 5, 5] = True
    masks["edge contact"][[5, 6], [5, 6], [5, 5]] = True
    masks["corner contact"][[5, 6], [5, 6], [5, 6]] = True
    masks["sheet"][:, :, 6] = True
    masks["chequerboard"] = np.indices((12, 12, 12)).sum(axis=0) % 2 == 0
    masks["whole grid"] = np.ones((5, 6, 7), bool)
    masks["hollow"] = ndimage.binary_dilation(masks["one voxel"], iterations=4) & ~masks["one voxel"]
    masks |= {f"noise {p}": RNG.random((20, 20, 20)) < p for p in (0.05, 0.3, 0.5, 0.7, 0.95)}
    masks["sponge"] = ndimage.gaussian_filter(RNG.normal(size=(40, 40, 40)), 1) > 0.05
    return masks


def closed_and_consistent(faces: np.ndarray) -> bool:
    """Whether each directed edge occurs once and so does its opposite: closed, manifold, consistently wound."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    keys = directed @ [faces.max() + 1, 1]
    return len(np.unique(keys)) == len(keys) and np.array_equal(
        np.sort(keys), np.sort(directed[:, ::-1] @ [faces.max() + 1, 1])
    )


def read_stl(path) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Header, (M, 3, 3) corners and (M, 3) normals of a binary STL."""
    data = path.read_bytes()
    (count,) = struct.unpack("<I", data[80:84])
    facets = np.frombuffer(data[84:], np.dtype([("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")]))
    assert len(facets) == count
    return data[:80], facets["c"], facets["n"]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", awkward_masks())
def test_every_mask_gives_a_closed_manifold_mesh(name, grid):
    mesh = mask_surface(Volume(awkward_masks()[name], GRIDS[grid]))
    assert closed_and_consistent(mesh.faces)
    assert mesh.volume_ml > 0


@pytest.mark.parametrize("name", awkward_masks())
def test_stl_stays_closed_when_its_corners_are_merged(name, tmp_path):
    # STL has no point indices: programs merge equal coordinates, so no two points may coincide in single precision.
    write_stl(mask_surface(Volume(awkward_masks()[name], GRIDS["oblique"])), tmp_path / "a.stl")
    _, corners, _ = read_stl(tmp_path / "a.stl")
    _, index = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    assert closed_and_consistent(index.reshape(-1, 3))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("thickness", [2.0, 3.0, 6.0])
def test_mesh_has_the_volume_of_the_voxels(grid, thickness):
    mask = Volume(plate(thickness=thickness), GRIDS[grid])
    assert mask_surface(mask).volume_ml == pytest.approx(mask.array.sum() * mask.voxel_ml, rel=0.02)


@pytest.mark.parametrize("grid", GRIDS)
def test_mesh_lies_where_the_mask_lies(grid):
    mask = Volume(plate(), GRIDS[grid])
    mesh = mask_surface(mask)
    voxels = np.argwhere(mask.array) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    assert np.allclose(mesh.points.min(axis=0), voxels.min(axis=0), atol=2 * mask.spacing.max())
    assert np.allclose(mesh.points.max(axis=0), voxels.max(axis=0), atol=2 * mask.spacing.max())
    inverse = np.linalg.inv(mask.affine)
    index = mesh.points @ inverse[:3, :3].T + inverse[:3, 3]
    depth = ndimage.distance_transform_edt(mask.array) + ndimage.distance_transform_edt(~mask.array)
    assert ndimage.map_coordinates(depth, index.T, order=1).max() < 2.0


def test_thin_plate_keeps_its_two_faces_apart():
    mesh = mask_surface(Volume(plate(thickness=2.0), affine()))
    assert ndimage.label(plate(thickness=2.0))[1] == 1
    assert len(mesh.points) - len(mesh.faces) / 2 == 2  # Euler characteristic of a sphere: not torn, not pierced


def test_one_shell_for_each_face_connected_piece():
    array = plate()
    array[2:5, 2:5, 2:5] = True
    array[5, 5, 5] = True
    faces = mask_surface(Volume(array, affine())).faces
    label = np.arange(faces.max() + 1)
    while True:
        lowest = label[faces].min(axis=1)
        new = label.copy()
        np.minimum.at(new, faces.ravel(), np.repeat(lowest, 3))
        if np.array_equal(new, label):
            break
        label = new
    assert len(np.unique(label)) == ndimage.label(array)[1] == 3


def test_smoothing_takes_the_steps_away():
    x, y, z = np.indices((60, 60, 60)) - 29.7
    ball = Volume(np.sqrt(x**2 + y**2 + z**2) < 25, affine(origin=(-29.7, -29.7, -29.7)))
    rough, smooth = (np.linalg.norm(mask_surface(ball, mm).points, axis=1).std() for mm in (0, None))
    assert smooth < 0.6 * rough and smooth < 0.15


def test_area_and_volume_of_a_tetrahedron():
    points = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]], float)
    mesh = Mesh(points, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    assert mesh.volume_ml == pytest.approx(1 / 6)
    assert mesh.area_mm2 == pytest.approx(150 + 50 * np.sqrt(3))


def test_stl_is_in_lps_millimetres_and_says_so(tmp_path):
    mesh = mask_surface(Volume(plate(), GRIDS["oblique, left-handed"]))
    write_stl(mesh, tmp_path / "implant.stl")
    header, corners, normals = read_stl(tmp_path / "implant.stl")
    assert b"SPACE=LPS" in header and b"UNIT=mm" in header and not header.startswith(b"solid")
    assert np.allclose(corners, mesh.points[mesh.faces] * [-1, -1, 1], atol=1e-3)
    computed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("ij,ij->i", computed, normals) > 0).all()
    assert np.einsum("ij,ij->", corners[:, 0].astype(float), computed) > 0  # outward in LPS, too


def test_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.stl").mkdir()
    with pytest.raises(IsADirectoryError):
        write_stl(mask_surface(Volume(plate(), affine())), tmp_path / "a.stl")
    assert [p.name for p in tmp_path.iterdir()] == ["a.stl"]


def test_empty_mask_is_refused():
    with pytest.raises(SkullVAEError, match="no voxel"):
        mask_surface(Volume(np.zeros((4, 4, 4), np.uint8), affine()))


def test_distances_to_a_triangle_are_those_to_its_face_edges_and_corners():
    triangle = Mesh(np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]]), np.array([[0, 1, 2]]))
    points = np.array(
        [[0.5, 0.5, 1], [0.5, 0.5, -1], [-3, -4, 0], [5, 0, -4], [0, 6, 3], [1, -2, 0], [-2, 1, 0], [2, 2, 0]]
    )
    expected = [1, -1, 5, -5, 5, 2, 2, np.sqrt(2)]
    assert np.allclose(SurfaceDistance(triangle).signed(points), expected)
    moved = Mesh(triangle.points[:, [2, 0, 1]] + 7, triangle.faces)
    assert np.allclose(SurfaceDistance(moved).signed(points[:, [2, 0, 1]] + 7), expected)
