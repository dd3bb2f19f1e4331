"""Claims about mesh files: other programs read the same mesh, and each file says its unit and coordinate system."""

from __future__ import annotations

import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.implant.options import MESH_FORMATS as FORMATS
from SkullVAELib.mesh import three_mf
from SkullVAELib.mesh.colours import THICKNESS_SCALE_MM
from SkullVAELib.mesh.files import VertexScalar, write_mesh, write_obj, write_ply, write_stl
from SkullVAELib.mesh.mesh import Mesh, concatenate_meshes, largest_mesh_component
from SkullVAELib.mesh.three_mf import write_3mf

WRITERS = {"stl": write_stl, "obj": write_obj, "ply": write_ply}


def ball(radius: float = 10.0, centre=(30.0, -50.0, 70.0)) -> Mesh:
    made = trimesh.creation.icosphere(2, radius)
    return Mesh(made.vertices + centre, np.asarray(made.faces, np.int64))


def test_every_format_has_its_writer():
    assert set(WRITERS) | {"3mf"} == set(FORMATS)


@pytest.mark.parametrize("kind", WRITERS)
def test_another_program_reads_the_same_mesh_in_lps_mm(kind, tmp_path):
    mesh = ball()
    WRITERS[kind](mesh, tmp_path / f"a.{kind}")
    read = trimesh.load(tmp_path / f"a.{kind}")
    assert read.is_watertight and read.is_winding_consistent
    assert read.volume / 1000 == pytest.approx(mesh.volume_ml, rel=1e-4)
    assert np.allclose(read.bounds.mean(0), [-30, 50, 70], atol=1e-3)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_file_says_its_unit_its_coordinate_system_and_what_it_is_not_for(kind, tmp_path):
    WRITERS[kind](ball(), tmp_path / f"a.{kind}")
    head = (tmp_path / f"a.{kind}").read_bytes()[: 80 if kind == "stl" else 400]
    assert b"SPACE=LPS" in head and b"UNIT=mm" in head
    assert b"SkullVAE" in head and b"research software" in head and b"not for clinical use" in head
    assert not head.startswith(b"solid")


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_mesh_gives_the_same_bytes(kind, tmp_path):
    for name in "ab":
        WRITERS[kind](ball(), tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_a_ply_carries_the_thickness_as_numbers_and_as_colours(tmp_path):
    mesh = ball()
    thickness = np.linspace(0, 2 * THICKNESS_SCALE_MM, len(mesh.points))
    write_ply(mesh, tmp_path / "a.ply", VertexScalar.thickness(thickness))
    assert b"comment thickness: mm" in (tmp_path / "a.ply").read_bytes()[:600]
    read = trimesh.load(tmp_path / "a.ply", process=False)
    stored = read.metadata["_ply_raw"]["vertex"]["data"]
    assert np.allclose(stored["thickness"].ravel(), thickness, atol=1e-4)
    colours = read.visual.vertex_colors[:, :3].astype(float)
    lightness = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) > -1).all()
    assert np.array_equal(colours[-1], colours[len(colours) // 2 + 5])  # the same from THICK_MM on


def test_a_ply_carries_several_shades_and_the_colours_of_the_first(tmp_path):
    mesh = ball()
    thickness, unsure = np.linspace(1, 2, len(mesh.points)), np.linspace(3, 0, len(mesh.points))
    write_ply(mesh, tmp_path / "one.ply", VertexScalar.thickness(thickness))
    write_ply(mesh, tmp_path / "both.ply", VertexScalar.thickness(thickness), VertexScalar.uncertainty(unsure))
    one, both = (trimesh.load(tmp_path / f"{name}.ply", process=False) for name in ("one", "both"))
    stored = both.metadata["_ply_raw"]["vertex"]["data"]
    assert np.allclose(stored["thickness"].ravel(), thickness, atol=1e-4)
    assert np.allclose(stored["uncertainty"].ravel(), unsure, atol=1e-4)
    assert np.array_equal(both.visual.vertex_colors, one.visual.vertex_colors)


def test_meshes_are_joined_and_the_largest_is_found_again():
    both = concatenate_meshes([ball(4.0, (0, 0, 0)), ball(10.0)])
    assert both.volume_ml == pytest.approx(ball(4.0).volume_ml + ball(10.0).volume_ml)
    two = concatenate_meshes([ball(), Mesh(ball(4.0).points, ball(4.0).faces[:40])])
    assert largest_mesh_component(two).volume_ml == pytest.approx(ball().volume_ml)
    assert len(concatenate_meshes([]).faces) == 0


def objects_of(path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The objects of a 3MF file by their names, points and triangles, read without lib3mf."""
    with zipfile.ZipFile(path) as archive:
        model = ElementTree.fromstring(archive.read("3D/3dmodel.model"))
    core = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
    assert model.get("unit") == "millimeter"
    built = [item.get("objectid") for item in model.iter(f"{core}item")]
    found = {}
    for each in model.iter(f"{core}object"):
        assert each.get("id") in built and each.get("pid")
        points = [[float(point.get(axis)) for axis in "xyz"] for point in each.iter(f"{core}vertex")]
        faces = [[int(face.get(name)) for name in ("v1", "v2", "v3")] for face in each.iter(f"{core}triangle")]
        found[each.get("name")] = np.array(points), np.array(faces)
    return found


def test_a_3mf_holds_named_objects_with_the_same_points_and_triangles(tmp_path):
    meshes = {"Implant piece 1": ball(), "Implant piece 2": ball(5.0, (-20, 0, 3))}
    write_3mf(list(meshes.items()), tmp_path / "implant.3mf")
    found = objects_of(tmp_path / "implant.3mf")
    assert list(found) == list(meshes)
    for name, mesh in meshes.items():
        points, faces = found[name]
        np.testing.assert_allclose(points, mesh.points * [-1, -1, 1], atol=1e-5)
        assert np.array_equal(faces, mesh.faces)


def test_a_3mf_states_what_it_is_and_not_for_and_is_the_same_again(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_mesh(ball(), tmp_path / name / "implant.3mf")
    assert (tmp_path / "a" / "implant.3mf").read_bytes() == (tmp_path / "b" / "implant.3mf").read_bytes()
    with zipfile.ZipFile(tmp_path / "a" / "implant.3mf") as archive:
        model = archive.read("3D/3dmodel.model").decode()
    assert 'name="Application"' in model and "SkullVAE" in model
    assert "not for clinical use" in model and "LPS" in model
    assert "displaycolor=" in model
    assert list(objects_of(tmp_path / "a" / "implant.3mf")) == ["Implant"]


def test_without_lib3mf_the_remedy_is_stated_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(three_mf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SkullVAEError, match=r'pip install "skullvae\[3mf\]"'):
        write_mesh(ball(), tmp_path / "a.3mf")
    assert not list(tmp_path.iterdir())
