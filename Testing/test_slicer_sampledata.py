"""Both samples have the right voxels and position in the scene; a download is verified, and complete or absent."""

from __future__ import annotations

import hashlib
import io
import os
import plistlib
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
from SkullVAEModule import sampledata  # noqa: E402
from SkullVAEModule.completion import childEnvironment  # noqa: E402
from SkullVAEModule.librarypath import shippedModel  # noqa: E402
from SkullVAEModule.segments import readInput  # noqa: E402
from slicer_scenes import exported, nodeIDs  # noqa: E402

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402
from SkullVAELib.io.images import read_volume  # noqa: E402
from SkullVAELib.io.invesalius import read_inv3  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def project(tmp_path) -> Path:
    """A small InVesalius project."""
    voxels = np.random.default_rng(90).integers(-1000, 2000, (5, 6, 7)).astype("<i2")
    main = {"matrix": {"shape": list(voxels.shape), "dtype": "int16"}, "spacing": [0.5, 0.75, 1.5]}
    path = tmp_path / "sample.inv3"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("main.plist", plistlib.dumps(main)), ("matrix.dat", voxels.tobytes())):
            member = tarfile.TarInfo(f"x/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_patient_is_added_as_a_volume_at_its_position(project, tmp_path):
    fractions = []
    node = sampledata.loadPatient(project.as_uri(), sha256(project), tmp_path / "cache", fractions.append)
    expected = read_inv3(project)
    source = readInput(node)
    assert np.array_equal(source.array, expected.array)
    assert source.array.dtype == np.int16
    np.testing.assert_allclose(source.affine, expected.affine)
    assert fractions[-1] == 1
    # The second time nothing is downloaded.
    cached = tmp_path / "cache" / "Cranium.inv3"
    assert sha256(cached) == sha256(project)
    again = sampledata.loadPatient("file:///nowhere", sha256(project), tmp_path / "cache")
    assert again is not node
    assert again.GetName() != node.GetName()


def test_damaged_download_leaves_nothing(project, tmp_path):
    before = nodeIDs()
    with pytest.raises(SkullVAEError, match="damaged"):
        sampledata.loadPatient(project.as_uri(), "0" * 64, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert nodeIDs() == before


def test_damaged_file_in_the_cache_is_downloaded_again(project, tmp_path):
    target = tmp_path / "cache" / "Cranium.inv3"
    target.parent.mkdir()
    target.write_bytes(b"cut short")
    assert sampledata.downloadFile(project.as_uri(), target, sha256(project)) == target
    assert sha256(target) == sha256(project)


def test_address_that_does_not_respond_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(SkullVAEError, match=r"cannot be downloaded.*generated sample"):
        sampledata.loadPatient((tmp_path / "missing").as_uri(), "0" * 64, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


SAMPLE = """
    import sys
    import numpy as np
    from SkullVAELib.geometry.volume import Volume
    from SkullVAELib.io.images import write_volume
    command, _, path = sys.argv[1:]
    assert command == "sample"
    if "bad" in __file__:
        print("The disk is full. Free some space.", file=sys.stderr)
        sys.exit(2)
    voxels = (np.random.default_rng(91).random((6, 7, 8)) < 0.4).astype(np.uint8)
    write_volume(Volume(voxels, np.diag([-1.5, -2, 1, 1.0])), path)
"""


def sampleCommand(tmp_path, name: str) -> list[str]:
    (tmp_path / name).write_text(textwrap.dedent(SAMPLE), encoding="utf-8")
    return [sys.executable, str(tmp_path / name)]


def test_generated_skull_is_added_as_a_segment_at_its_position(tmp_path):
    waits = []
    node = sampledata.loadGenerated(sampleCommand(tmp_path, "sample.py"), lambda: waits.append(1))
    voxels = (np.random.default_rng(91).random((6, 7, 8)) < 0.4).astype(np.uint8)
    grid = np.diag([-1.5, -2, 1, 1.0])
    assert np.array_equal(exported(node, "skull", grid, voxels.shape), voxels)
    source = readInput(node, "skull")
    assert np.array_equal(source.array, voxels)
    np.testing.assert_allclose(source.affine, grid)
    assert waits


def test_sample_that_cannot_be_generated_shows_the_message_of_the_library(tmp_path):
    before = nodeIDs()
    with pytest.raises(SkullVAEError, match=r"^The disk is full\. Free some space\.$"):
        sampledata.loadGenerated(sampleCommand(tmp_path, "bad.py"), lambda: None)
    assert nodeIDs() == before


def test_both_samples_are_registered_once():
    for _ in range(2):
        sampledata.registerSampleData()
    patient, generated = slicer.modules.sampleDataSources["SkullVAE"]
    assert patient.checksums == ["SHA256:" + sampledata.PATIENT_SHA256]
    assert sampledata.PATIENT_URL.startswith("https://")
    assert "22dfef43c05bdb20f50a5e05579324af3eb12ec4" in patient.uris[0]
    assert callable(patient.customDownloader) and callable(generated.customDownloader)


@pytest.mark.skipif(shippedModel() is None, reason="the shipped model file is missing")
def test_generated_skull_is_that_of_the_command_line(tmp_path):
    node = sampledata.loadGenerated(onWait=lambda: None)
    path = tmp_path / "sample.nrrd"
    command = [sys.executable, "-m", "SkullVAELib", "sample", "-o", str(path)]
    subprocess.run(command, check=True, env={**os.environ, **childEnvironment()})
    volume = read_volume(path)
    assert np.array_equal(exported(node, "skull", volume.affine, volume.array.shape), volume.array)
    assert slicer.mrmlScene.IsNodePresent(node)
