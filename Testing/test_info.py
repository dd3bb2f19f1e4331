"""Claims about `skullvae info` and `skullvae mesh`."""

from __future__ import annotations

import builtins
import hashlib
import json

import numpy as np
import pytest
import trimesh
from mesh_check import faults

from SkullVAELib import NOTICE, __version__
from SkullVAELib.cli import main as cli
from SkullVAELib.cli.info import as_text, information
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import write_volume


def test_info_names_versions_machine_and_the_model(model_path, capsys):
    assert cli.main(["info", "--json", "--model", str(model_path)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["software"] == f"SkullVAE {__version__}"
    assert content["packages"]["numpy"] == np.__version__
    assert content["missing"] == []
    assert content["devices"][0]["name"] == "cpu"
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["memory_gib"] > 0.5
    assert content["temporary_folder"]["free_gib"] > 0
    assert content["model"]["loads"] is True
    assert content["model"]["sha256"] == hashlib.sha256(model_path.read_bytes()).hexdigest()
    assert content["model"]["bytes"] == model_path.stat().st_size


def test_info_for_people_has_the_same(model_path, capsys):
    assert cli.main(["info", "--model", str(model_path)]) == 0
    text = capsys.readouterr().out
    assert hashlib.sha256(model_path.read_bytes()).hexdigest() in text
    assert NOTICE in text
    assert "Model loads    yes" in text


def test_a_model_that_cannot_be_used_is_said_with_its_hash_and_exit_2(tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"PK\x03\x04 a renamed archive")
    assert cli.main(["info", "--json", "--model", str(path)]) == 2
    out, err = capsys.readouterr()
    model = json.loads(out)["model"]
    assert model["loads"] is False
    assert err == model["error"] + "\n", "one line, as of every other command"
    assert "not a readable model file" in model["error"]
    assert model["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert cli.main(["info", "--model", str(tmp_path / "none.safetensors")]) == 2
    assert "does not exist" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["torch", "safetensors"])
def test_a_missing_package_is_named_and_is_no_failure(missing, monkeypatch):
    import importlib
    import sys

    real_import, real_module = builtins.__import__, importlib.import_module

    def without(name, *rest):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)
        return real_import(name, *rest)

    def module(name, *rest):
        if name == missing:
            raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)
        return real_module(name, *rest)

    for name in ("vae.checkpoint", "vae.networks", "vae.paper_networks"):
        monkeypatch.delitem(sys.modules, f"SkullVAELib.{name}", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib, "import_module", module)
    content = information()
    assert content["missing"] == [missing]
    assert content["model"]["loads"] is None
    assert missing in content["model"]["error"]
    assert f"{missing:<15}missing" in as_text(content)


def labelmap(affine: np.ndarray) -> Volume:
    """An edited plate: a bent sheet three voxels thick, with a notch."""
    i, j, k = np.indices((40, 36, 30))
    array = (np.abs(np.sqrt((i - 20) ** 2 + (j - 18) ** 2 + (k + 20) ** 2) - 40) < 1.6) & (np.abs(i - 20) < 14)
    array[:8, 15:20] = False
    return Volume(array.astype(np.uint8), affine)


OBLIQUE = np.array([[-0.9, 0.3, 0, 10], [0.3, 0.9, 0, -20], [0, 0, 1.2, 5], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("suffix", ["stl", "obj", "ply"])
def test_the_mesh_of_a_labelmap_is_closed_in_lps_mm_and_as_large(tmp_path, suffix):
    volume = labelmap(OBLIQUE)
    write_volume(volume, tmp_path / "plate.nrrd")
    assert cli.main(["mesh", str(tmp_path / "plate.nrrd"), "-o", str(tmp_path / f"plate.{suffix}")]) == 0
    mesh = trimesh.load(tmp_path / f"plate.{suffix}", process=True)
    assert faults(mesh) == []
    assert mesh.volume / 1000 == pytest.approx(volume.array.sum() * volume.voxel_ml, rel=0.02)
    points = np.argwhere(volume.array) @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]
    lps = np.stack([points.min(0), points.max(0)]) * [-1, -1, 1]
    assert np.allclose(mesh.bounds, np.sort(lps, axis=0), atol=1.2)


def test_the_mesh_reports_progress_and_refuses_what_is_no_label(tmp_path, capfd):
    write_volume(labelmap(np.eye(4)), tmp_path / "plate.nii.gz")
    arguments = ["mesh", str(tmp_path / "plate.nii.gz"), "-o", str(tmp_path / "a.ply"), "--progress", "json"]
    assert cli.main(arguments) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert lines[-1] == {"stage": "done", "fraction": 1.0}
    assert all(set(line) == {"stage", "fraction"} for line in lines)
    two = labelmap(np.eye(4))
    write_volume(two.with_array(two.array * np.where(np.indices(two.array.shape)[0] > 20, 2, 1)), tmp_path / "two.nrrd")
    write_volume(two.with_array(np.zeros_like(two.array)), tmp_path / "none.nrrd")
    for name, cause in (("two", "one label"), ("none", "no voxel")):
        assert cli.main(["mesh", str(tmp_path / f"{name}.nrrd"), "-o", str(tmp_path / "b.stl")]) == 2
        assert cause in capfd.readouterr().err
    assert not (tmp_path / "b.stl").exists()
