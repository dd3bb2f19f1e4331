"""An InVesalius project becomes a volume the right way round, and a broken one an error the user can mend."""

import io
import plistlib
import tarfile

import numpy as np
import pytest

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.io.invesalius import read_inv3

SPACING = [0.9, 0.8, 1.5]


def write_inv3(path, stored, extra=(), **changes):
    """Write a project around `stored` (z, y, x), with further members and changed entries of its property list."""
    entries = {"matrix": {"filename": "matrix.dat", "shape": list(stored.shape), "dtype": "int16"}, "spacing": SPACING}
    members = {"tmp1/main.plist": plistlib.dumps(entries | changes), "tmp1/matrix.dat": stored.tobytes(), **dict(extra)}
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def stored():
    return np.random.default_rng(0).integers(-1024, 3000, (4, 5, 6)).astype("<i2")


def test_axes_run_left_back_and_up(tmp_path, stored):
    volume = read_inv3(write_inv3(tmp_path / "a.inv3", stored))
    assert volume.array.dtype == np.int16 and volume.array.shape == (6, 5, 4)
    assert np.allclose(volume.affine[:3, :3], np.diag([-0.9, -0.8, 1.5]))


def test_rows_stored_bottom_up_are_turned(tmp_path, stored):
    volume = read_inv3(write_inv3(tmp_path / "a.inv3", stored))
    # The first stored row is the rearmost one: it must lie at the most negative RAS y.
    rear = np.argmin([(volume.affine @ [0, j, 0, 1])[1] for j in range(5)])
    assert np.array_equal(volume.array[:, rear, 2], stored[2, 0, :])


def test_image_is_centred_on_the_origin(tmp_path, stored):
    volume = read_inv3(write_inv3(tmp_path / "a.inv3", stored))
    assert np.allclose(volume.affine @ [2.5, 2, 1.5, 1], [0, 0, 0, 1])


def test_members_that_are_not_needed_do_no_harm(tmp_path, stored):
    outside = tmp_path / "outside"
    path = write_inv3(tmp_path / "a.inv3", stored, extra=[("../outside", b"x"), ("/tmp1/mask_0.dat", b"y")])
    read_inv3(path)
    assert not outside.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": [0.9, 0.8]},
        {"spacing": [0.9, -0.8, 1.5]},
        {"spacing": "wide"},
        {"matrix": {}},
        {"matrix": {"shape": [4, 5, 7], "dtype": "int16"}},
        {"matrix": {"shape": [4, 5, 6], "dtype": "float64"}},
        {"matrix": {"shape": [-4, -5, 6], "dtype": "int16"}},
    ],
)
def test_inconsistent_project_is_refused_by_name(tmp_path, stored, changes):
    path = write_inv3(tmp_path / "odd.inv3", stored, **changes)
    with pytest.raises(SkullVAEError, match=r"odd\.inv3"):
        read_inv3(path)


@pytest.mark.parametrize("content", [b"", b"not a tar", None])
def test_file_that_is_no_project_is_refused(tmp_path, stored, content):
    path = write_inv3(tmp_path / "whole.inv3", stored)
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(SkullVAEError, match=r"whole\.inv3"):
        read_inv3(path)


def test_damaged_property_list_is_refused(tmp_path, stored):
    path = write_inv3(
        tmp_path / "whole.inv3", stored, extra=[("tmp1/main.plist", b"<?xml version='1.0'?><plist><dict>")]
    )
    with pytest.raises(SkullVAEError, match=r"whole\.inv3"):
        read_inv3(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SkullVAEError, match="does not exist"):
        read_inv3(tmp_path / "none.inv3")
