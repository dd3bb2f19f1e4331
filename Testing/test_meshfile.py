"""Claims about mesh files: other programs read the same mesh, and each file says its unit and coordinate system."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from SkullVAELib.implant.options import MESH_FORMATS as FORMATS
from SkullVAELib.mesh.colours import THICKNESS_SCALE_MM
from SkullVAELib.mesh.files import VertexScalar, write_obj, write_ply, write_stl
from SkullVAELib.mesh.mesh import Mesh, concatenate_meshes, largest_mesh_component

WRITERS = {"stl": write_stl, "obj": write_obj, "ply": write_ply}


def ball(radius: float = 10.0, centre=(30.0, -50.0, 70.0)) -> Mesh:
    made = trimesh.creation.icosphere(2, radius)
    return Mesh(made.vertices + centre, np.asarray(made.faces, np.int64))


def test_every_format_has_its_writer():
    assert set(WRITERS) == set(FORMATS)


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
