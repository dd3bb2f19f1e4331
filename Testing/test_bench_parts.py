"""Claims about the parts for the bench: the ring is the bone, so that the implant fits with its clearance; the template
is the completed outer surface. The skull is the shell of test_part, known exactly."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import trimesh
from mesh_check import faults, self_intersections
from scipy.spatial import cKDTree
from test_part import INNER, OUTER, as_trimesh, canonical, completed, lean

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.implant.bench_parts import GROOVE_MM
from SkullVAELib.implant.implant_mesh import make_implant
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.implant.tooling import Tooling, ToolingInputs, ToolingOptions, make_tooling
from SkullVAELib.mesh.isosurface import bone_surface

WIDTH = 9.0
OPTIONS = ImplantOptions(clearance_mm=0.5)


@cache
def inputs(twice: bool = False) -> ToolingInputs:
    completion = completed("1 mm", twice=twice)
    return ToolingInputs(completion, make_implant(completion, OPTIONS), OPTIONS)


@cache
def parts() -> Tooling:
    return make_tooling(inputs(), ToolingOptions(ring_mm=WIDTH, template_mm=WIDTH))


@cache
def bone_cloud() -> cKDTree:
    bone = as_trimesh(bone_surface(completed("1 mm").bone))
    near = np.abs(lean(canonical(completed("1 mm"), bone.triangles_center), 0.28)) < WIDTH
    return cKDTree(trimesh.sample.sample_surface(bone.submesh([near], append=True), 150_000, seed=0)[0])


def test_each_defect_has_its_own_part():
    made = make_tooling(inputs(True), ToolingOptions(ring_mm=5.0))
    assert sorted(made.parts) == ["fit_ring", "fit_ring_2"]
    assert [entry["defect"] for entry in made.figures["ring"]["parts"]] == [1, 2]
    assert faults(as_trimesh(made.parts["fit_ring_2"])) == []


def test_ring_and_template_are_one_sound_body_each():
    assert sorted(parts().parts) == ["fit_ring", "template"]
    assert parts().warnings == []
    for mesh in parts().parts.values():
        assert faults(as_trimesh(mesh)) == []
    assert as_trimesh(parts().parts["fit_ring"]).euler_number == 0
    assert as_trimesh(parts().parts["template"]).euler_number == 2
    (entry,) = parts().figures["ring"]["parts"]
    assert entry["volume_ml"] == pytest.approx(parts().parts["fit_ring"].volume_ml, abs=0.01)


def test_the_implant_fits_into_the_ring_with_its_clearance():
    ring = as_trimesh(parts().parts["fit_ring"])
    cloud = cKDTree(trimesh.sample.sample_surface(ring, 150_000, seed=0)[0])
    implant = inputs().printable.mesh
    gap = cloud.query(implant.points)[0]
    assert gap.min() > 0.5 - 0.04
    wall = canonical(completed("1 mm"), implant.points)
    facing = (np.abs(lean(wall, 0.28)) < 1.0) & (np.abs(np.linalg.norm(wall, axis=1) - 59) < 1.5)
    assert np.median(gap[facing]) == pytest.approx(0.52, abs=0.06)
    assert self_intersections(trimesh.util.concatenate([ring, as_trimesh(implant)])) == 0


def test_the_ring_is_the_bone_around_the_defect():
    points = canonical(completed("1 mm"), parts().parts["fit_ring"].points)
    beyond = lean(points, 0.28)
    on_bone = (beyond < WIDTH - 1.5) & (np.abs(np.linalg.norm(points, axis=1) - 59) < 4)
    away = bone_cloud().query(parts().parts["fit_ring"].points[on_bone])[0]
    assert np.percentile(away, 99) < 0.2
    assert beyond.max() == pytest.approx(WIDTH, abs=1.0)
    radius = np.linalg.norm(points, axis=1)
    assert radius.min() > INNER - 0.6 and radius.max() < OUTER + 0.6


def test_the_template_is_the_completed_outer_surface_with_a_groove_at_the_rim():
    mesh = parts().parts["template"]
    points = canonical(completed("1 mm"), mesh.points)
    normals = mesh.vertex_normals() @ completed("1 mm").proposal.alignment[:3, :3].T
    beyond, radius = lean(points, 0.28), np.linalg.norm(points, axis=1)
    top = (normals[:, 2] > 0.8) & (radius > OUTER - 2) & (beyond < WIDTH - 2.0)
    over_plate = top & (beyond < -GROOVE_MM - 1.5)
    over_bone = top & (beyond > GROOVE_MM + 1.5)
    assert np.abs(radius[over_plate] - OUTER).max() < 0.1
    assert over_bone.sum() > 1000
    assert np.percentile(bone_cloud().query(mesh.points[over_bone])[0], 99) < 0.2  # of which the cloud's density is 0.1
    assert np.abs(np.median(radius[over_bone]) - OUTER) < 0.1
    groove = top & (np.abs(beyond) < 0.3)
    assert radius[groove].min() == pytest.approx(OUTER - GROOVE_MM, abs=0.25)


def test_the_template_stands_on_a_flat_base():
    mesh = as_trimesh(parts().parts["template"])
    normals = mesh.face_normals
    areas = mesh.area_faces
    which = np.unique(normals.round(2), axis=0, return_inverse=True)[1].ravel()
    down = np.median(normals[which == np.bincount(which, areas).argmax()], axis=0)  # of the largest flat face
    down /= np.linalg.norm(down)
    flat = normals @ down > 0.9999
    height = mesh.triangles_center[flat] @ down
    assert areas[flat].sum() > 1200
    assert np.ptp(height) < 0.01
    assert (mesh.vertices @ down).max() == pytest.approx(height.max(), abs=0.01)


@pytest.mark.parametrize("options", [{"ring": 2.0}, {"template": 90.0}, {"ring": float("nan")}])
def test_widths_out_of_range_are_refused(options):
    with pytest.raises(SkullVAEError):
        ToolingOptions.parse(**options)
