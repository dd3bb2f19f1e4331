"""Claims that hold for any input: volumes on any grid, any labels, any noise, any bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SkullVAELib.cli import main as cli
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Stages
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import SUFFIXES, read_volume, write_volume
from SkullVAELib.registration.bone import bone_mask

RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}

KINDS = st.sampled_from([np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])


@st.composite
def grids(draw, least_mm: float = 0.1, most_mm: float = 10) -> np.ndarray:
    """(4, 4) affine of rectangular boxes: any orientation, handedness, voxel size and place."""
    angles = draw(arrays(float, 3, elements=st.floats(-180, 180)))
    mirror = np.diag(draw(st.sampled_from([(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])))
    axes = np.eye(3)[list(draw(st.permutations(range(3))))]
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ mirror @ axes
    affine[:3, :3] = rotation * draw(arrays(float, 3, elements=st.floats(least_mm, most_mm)))
    affine[:3, 3] = draw(arrays(float, 3, elements=st.floats(-1000, 1000)))
    return affine


@st.composite
def volumes(draw) -> Volume:
    """Any finite voxels on any grid."""
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6))
    kind = np.dtype(draw(KINDS))
    values = st.floats(width=kind.itemsize * 8, allow_nan=False, allow_infinity=False) if kind.kind == "f" else None
    return Volume(draw(arrays(kind, shape, elements=values)), draw(grids()))


@settings(**RELAXED, max_examples=100)
@given(volume=volumes(), suffix=st.sampled_from(SUFFIXES))
def test_what_is_written_is_read_again(volume, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"volume{suffix}"
        write_volume(volume, path)
        again = read_volume(path)
        assert sorted(part.name.partition(".")[0] for part in Path(folder).iterdir())[0] == "volume"
    assert again.array.dtype == volume.array.dtype
    assert np.array_equal(again.array, volume.array)
    corners = np.array([[0, 0, 0, 1], [*np.array(volume.array.shape) - 1, 1]]).T
    assert np.allclose(again.affine @ corners, volume.affine @ corners, atol=1e-2)  # NIfTI keeps 32-bit numbers


@settings(**RELAXED, max_examples=200)
@given(volume=volumes(), threshold=st.none() | st.floats())
def test_bone_is_some_voxels_and_not_all_or_one_sentence(volume, threshold):
    try:
        mask, result = bone_mask(volume, threshold)
    except SkullVAEError:
        return
    assert mask.dtype == bool
    assert mask.shape == volume.array.shape
    assert 0 < mask.sum() < mask.size
    assert result["bone_voxels"] == mask.sum()
    if result["kind"] == "labelmap":
        assert np.array_equal(mask, volume.array != 0)
    else:
        assert (volume.array[mask] >= result["threshold_hu"]).all()


@st.composite
def heads(draw) -> Volume:
    """Blobs, shells and noise of a head's size, and nothing like a head."""
    seed = draw(st.integers(0, 2**32 - 1))
    shape = draw(st.tuples(*[st.integers(8, 24)] * 3))
    noise = np.random.default_rng(seed).normal(size=shape)
    field = ndimage.gaussian_filter(noise, draw(st.sampled_from([0, 1, 3, 6])))
    bone = field > np.quantile(field, draw(st.floats(0.3, 0.98)))
    if draw(st.booleans()):
        bone ^= ndimage.binary_erosion(bone)
    values = draw(st.sampled_from([(0, 1, np.uint8), (0, 7, np.int16), (-1000, 1200, np.int16)]))
    return Volume(np.where(bone, values[1], values[0]).astype(values[2]), draw(grids(2, 9)))


@pytest.fixture(scope="module")
def tiny_model(canonical_run):
    from SkullVAELib.vae.checkpoint import load_model

    return load_model(canonical_run.folder / "model.safetensors")


@settings(**RELAXED, max_examples=4)
@given(head=heads())
def test_any_blob_is_completed_as_promised_or_refused_in_one_sentence(tiny_model, head):
    try:
        done = complete(head, tiny_model, CompletionOptions(device="cpu"), Stages({}))
    except SkullVAEError:
        return
    bone, completed, implant = done.bone.array, done.completed.array, done.implant.array
    assert completed.shape == implant.shape == head.array.shape
    assert all(np.array_equal(part.affine, head.affine) for part in (done.bone, done.completed, done.implant))
    assert not (implant & bone).any()
    assert np.array_equal(completed, bone | implant)
    assert implant.any() == done.found


BEGINNINGS = {
    ".nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n",
    ".nhdr": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: ",
    ".nii": b"\\\x01\0\0",
    ".nii.gz": b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
    ".mha": b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\n",
    ".mhd": b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = ",
}


@settings(**RELAXED, max_examples=100)
@given(suffix=st.sampled_from(SUFFIXES), content=st.binary(max_size=600), begun=st.booleans(), mesh=st.booleans())
def test_any_bytes_give_exit_code_2_and_one_line(capfd, suffix, content, begun, mesh):
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / f"head{suffix}", Path(folder) / "out.stl"
        path.write_bytes((BEGINNINGS[suffix] if begun else b"") + content)
        capfd.readouterr()
        code = cli.main(["mesh" if mesh else "complete", str(path), "-o", str(out)])
        assert [left.name for left in Path(folder).iterdir()] == [path.name]
    said = capfd.readouterr()
    assert code == 2
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "Unexpected" not in said.err
