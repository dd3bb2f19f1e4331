"""Claims about loose bone, bone flaps and metal in the vault, on a vault that is a spherical shell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.bone import bone_mask, segment_bone
from SkullVAELib.registration.fragments import choose_fragments, registration_bone, with_added_bone
from SkullVAELib.registration.options import fragment_limit_mm
from SkullVAELib.registration.skull import Skull, prepare_skull
from SkullVAELib.registration.vault_shell import VaultShell, directions

SPACING = 1.5
OUTER, INNER = 80.0, 74.0
SIDE = np.array([0.8, 0.0, 0.6])
MIDDLE = 77.0 * SIDE

N = 136
AFFINE = np.diag([SPACING, SPACING, SPACING, 1.0])
AFFINE[:3, 3] = -SPACING * np.array([N / 2, N / 2, N / 2 - 10])
_GRID = np.ogrid[:N, :N, :N]
X, Y, Z = (SPACING * g + AFFINE[a, 3] for a, g in enumerate(_GRID))
RADIUS = np.sqrt(X**2 + Y**2 + Z**2)
VAULT = (RADIUS < OUTER) & (RADIUS > INNER) & (Z > -40)

_MAP = directions(0.025)[1].shape
SHELL = VaultShell(np.full(_MAP, OUTER), np.full(_MAP, INNER))


def ball(centre, radius):
    return (X - centre[0]) ** 2 + (Y - centre[1]) ** 2 + (Z - centre[2]) ** 2 < radius**2


HOLE = VAULT & ball(MIDDLE, 30)
OPEN = VAULT & ~HOLE
FLAP = HOLE & ball(MIDDLE, 26)
PIECE = HOLE & ball(MIDDLE, 14)
BRIDGE = VAULT & (np.abs(Y) < 1)  # one voxel wide, through the whole thickness, on two sides of the flap


def as_ct(bone, metal=None):
    values = np.where(bone, 900, -1000).astype(np.int16)
    values[60:70, 60:70, 60:70] = 40
    if metal is not None:
        values[metal] = 3000
    return Volume(values, AFFINE)


def as_labelmap(bone):
    return Volume(bone.astype(np.uint8), AFFINE)


def chosen(volume, fragments="keep"):
    segmentation = segment_bone(volume)
    mask, left_out = registration_bone(segmentation, volume)
    skull = Skull(
        "",
        Volume(mask.astype(np.float32), AFFINE),
        tuple(slice(0, n) for n in mask.shape),
        np.zeros(0),
        np.zeros((0, 3)),
        np.zeros((0, 3)),
    )
    return choose_fragments(volume, segmentation, left_out, skull, np.eye(4), SHELL, fragments)


def test_a_loose_piece_in_the_hole_of_a_ct_is_bone_and_is_reported():
    bone = OPEN | PIECE
    assert not (bone_mask(as_ct(bone))[0] & PIECE).any()  # less than 5 % of the skull
    choice = chosen(as_ct(bone))
    assert np.array_equal(choice.mask, bone)
    assert len(choice.added) == PIECE.sum()
    (fragment,) = choice.as_json()
    assert fragment["number"] == 1
    assert fragment["kept"]
    assert fragment["max_hu"] == 900
    assert fragment["volume_ml"] == pytest.approx(PIECE.sum() * SPACING**3 / 1000, abs=0.01)
    assert np.linalg.norm(np.array(fragment["centre_mm"]) - MIDDLE) < 1.5
    (warning,) = choice.warnings
    assert "loose" in warning
    assert "(R 6" in warning
    assert "--fragments ignore" in warning


@pytest.mark.parametrize("kind", [as_ct, as_labelmap])
def test_loose_bone_is_left_out_on_request_and_the_user_is_told(kind):
    choice = chosen(kind(OPEN | PIECE), "ignore")
    assert np.array_equal(choice.mask, OPEN)
    assert not choice.fragments[0].kept
    (warning,) = choice.warnings
    assert "left out" in warning
    assert "--fragments keep" in warning


def test_loose_bone_near_the_skull_is_kept_up_to_the_distance_given():
    bone = OPEN | FLAP  # the gap is 4 mm wide
    assert np.array_equal(chosen(as_ct(bone), "near:7").mask, bone)
    assert np.array_equal(chosen(as_ct(bone), "near:1").mask, OPEN)


def test_all_pieces_of_a_comminuted_flap_are_counted():
    bone = OPEN | (FLAP & (np.abs(Y) > 4) & (np.abs((X - MIDDLE[0]) * 0.6 - (Z - MIDDLE[2]) * 0.8) > 4))
    choice = chosen(as_ct(bone))
    assert np.array_equal(choice.mask, bone)
    assert [f["number"] for f in choice.as_json()] == [1, 2, 3, 4]
    assert choice.warnings[0].startswith("4 loose pieces of bone")


def test_specks_and_bone_beside_the_head_stay_out_of_a_ct():
    speck = ball(60 * SIDE, 1.0)
    rest = (RADIUS > 92) & (RADIUS < 98) & (Y < -50) & (Z > -20) & (Z < 40)
    choice = chosen(as_ct(VAULT | speck | rest))
    assert rest.sum() > 0.05 * VAULT.sum()
    assert np.array_equal(choice.mask, VAULT)
    assert [f.where for f in choice.fragments] == ["outside"]
    assert choice.warnings == ()


def test_a_headrest_in_a_segmentation_does_not_take_part_in_the_registration():
    rest = (RADIUS > 92) & (RADIUS < 98) & (Y < -50) & (Z > -20) & (Z < 40)
    volume = as_labelmap(VAULT | rest)
    registered, _ = registration_bone(segment_bone(volume), volume)
    assert np.array_equal(registered, VAULT)
    choice = chosen(volume)
    assert np.array_equal(choice.mask, VAULT | rest)
    assert len(choice.added) == 0
    assert "--roi" in choice.warnings[0]


def test_a_mandible_is_kept_and_registered_as_before():
    mandible = (np.abs(X) < 40) & (Y > 10) & (Y < 50) & (Z < -60) & (Z > -72)
    volume = as_ct(VAULT | mandible)
    registered, left_out = registration_bone(segment_bone(volume), volume)
    assert np.array_equal(registered, VAULT | mandible)
    assert not left_out
    choice = chosen(volume, "ignore")
    assert np.array_equal(choice.mask, VAULT | mandible)
    assert not choice.fragments


@pytest.mark.parametrize("kind", [as_ct, as_labelmap])
def test_a_flap_that_touches_the_skull_is_recognised_and_removed_on_request(kind):
    bone = OPEN | FLAP | (HOLE & BRIDGE)
    kept, ignored = chosen(kind(bone)), chosen(kind(bone), "ignore")
    assert np.array_equal(kept.mask, bone)
    assert [f.kind for f in kept.fragments] == ["flap"]
    assert "bone flap" in kept.warnings[0]
    assert (ignored.mask & FLAP).sum() < 0.02 * FLAP.sum()
    assert not (OPEN & ~ignored.mask).any()
    assert ignored.removed


@pytest.mark.parametrize("bone", [VAULT, OPEN, VAULT & (X < 20)], ids=["intact", "hole", "hemicraniectomy"])
def test_no_flap_is_seen_in_a_skull_without_one(bone):
    choice = chosen(as_ct(bone))
    assert not choice.fragments
    assert not choice.warnings


def test_a_titanium_mesh_is_named_and_left_out_on_request():
    mesh = (RADIUS < OUTER + 1.5) & (RADIUS > OUTER - 1.5) & ball(MIDDLE, 34)
    volume = as_ct(OPEN, metal=mesh)
    kept, ignored = chosen(volume), chosen(volume, "ignore")
    assert [f.kind for f in kept.fragments] == ["metal"]
    assert kept.mask[mesh].all()
    assert "titanium mesh" in kept.warnings[0]
    assert "--fragments ignore" in kept.warnings[0]
    assert not ignored.mask[mesh].any()
    assert not ignored.mask[HOLE].any()


def test_plates_that_hold_a_flap_are_left_out_with_it():
    plate = HOLE & BRIDGE & ~FLAP
    ignored = chosen(as_ct(OPEN | FLAP, metal=plate), "ignore")
    assert not ignored.mask[HOLE].any()


def test_a_tube_through_the_skull_is_named():
    tube = (np.sqrt(Y**2 + (Z - 40) ** 2) < 3) & (X > 20) & (X < 120)
    choice = chosen(as_ct(VAULT | tube))
    assert any("in the cranial cavity" in w and "--roi" in w for w in choice.warnings)
    assert any("outside the vault" in w for w in choice.warnings)


def test_added_bone_gives_the_fractions_and_distances_of_the_whole():
    whole = OPEN | PIECE
    part = prepare_skull("", Volume(OPEN, AFFINE))
    expected = prepare_skull("", Volume(whole, AFFINE))
    got = with_added_bone(part, np.argwhere(PIECE), Volume(OPEN, AFFINE))
    assert got.fraction.array.shape == expected.fraction.array.shape
    assert np.allclose(got.fraction.array, expected.fraction.array)
    near = np.abs(expected.distance) < 8
    assert np.abs(got.distance - expected.distance)[near].max() < 0.01
    assert np.array_equal(got.points, part.points)
    assert part.fraction.array.sum() < got.fraction.array.sum()


def test_added_bone_leaves_the_surface_of_a_ct_where_its_values_have_it():
    # Bone is blurred at its outer surface, so that its values have it elsewhere than its mask.
    outwards = np.clip((OUTER - RADIUS) / 4 + 0.5, 0, 1)
    values = (1500 * outwards * (RADIUS > INNER) * (Z > -40) * ~HOLE - 500).astype(np.int16)
    ct = Volume(values, AFFINE)
    bone = ct.with_array(values >= 300)
    part = prepare_skull("", bone, GreyLevels.of(ct, bone, 300.0))
    got = with_added_bone(part, np.argwhere(PIECE), bone)
    at = apply_affine(part.fraction.affine, np.indices(part.distance.shape).reshape(3, -1).T)
    away = np.linalg.norm(at - MIDDLE, axis=1).reshape(part.distance.shape)
    surface = (np.abs(part.distance) < 2) & (away > 25) & (away < 40)
    assert np.count_nonzero(surface) > 500
    assert np.array_equal(got.distance[surface], part.distance[surface])
    assert (got.distance[away < 8] < part.distance[away < 8]).any(), "the piece is there"


def test_the_shell_of_a_field_is_found_and_offsets_are_measured_from_it():
    grid = Grid((96, 96, 96), 2.0)
    radius = grid.coordinates().norm(dim=-1)
    shell = VaultShell.of(torch.maximum(radius - OUTER, INNER - radius), grid)
    points = np.array([[0, 0, 77.0], [90, 0, 0], [0, 0, 60], [0, 90, -60], [0, 0, -60]])
    offset, vault = shell.offset(points)
    assert offset == pytest.approx([0, 10, -14, 10, -74], abs=1.5)
    assert vault.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("text", ["", "near", "near:", "near:-1", "near:inf", "near:nan", "drop", "ignore:3"])
def test_other_ways_to_treat_loose_bone_are_refused(text):
    with pytest.raises(SkullVAEError, match="near:MM"):
        CompletionOptions(fragments=text)


def test_limits_are_read():
    assert [fragment_limit_mm(t) for t in ("keep", "ignore", "near:2.5")] == [np.inf, -1, 2.5]
