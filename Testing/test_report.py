"""The report of a training run: right numbers, every figure, a page that a browser shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from system_libraries import browser

from SkullVAELib.analysis.html_report import write_training_report
from SkullVAELib.analysis.run_analysis import RunAnalysis
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import write_volume
from SkullVAELib.training.config import read_configuration
from SkullVAELib.training.run import TrainingPlan, run_training

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {
    "curves", "latent_plane", "gamma_cranial", "gamma_facial", "generalisation", "kl_per_dimension",
    "aggregated_posterior", "rate_distortion", "latent_kinds", "prior_samples",
}  # fmt: skip
SMALL = {"grid_shape": (16, 16, 16), "channels": (8, 8, 8), "latent_size": 4, "vae_epochs": 3, "decoder_epochs": 2}


def head(radius: float) -> np.ndarray:
    """A hollow ball on a grid of 32."""
    at = np.stack(np.meshgrid(*[np.arange(32) - 15.5] * 3, indexing="ij"), -1)
    distance = np.linalg.norm(at, axis=-1)
    return (distance < radius) & (distance > radius - 3.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven hollow balls, two held out, each whole, without its top and without its front."""
    folder = tmp_path_factory.mktemp("balls")
    entries = []
    for number, radius in enumerate((10, 11, 12, 13, 14, 10.5, 13.5)):
        whole = head(radius)
        cut = {"complete": whole, "cranial": whole.copy(), "facial": whole.copy()}
        cut["cranial"][10:22, 10:22, 22:] = False
        cut["facial"][16:, 20:, :] = False
        for kind, array in cut.items():
            write_volume(Volume(array.astype(np.uint8), np.diag([5.0, 5, 5, 1])), folder / f"{number}_{kind}.nrrd")
            entry = {"complete": f"{number}_complete.nrrd", "individual": f"ball{number}", "kind": kind}
            entry["split"] = "held-out" if number >= 5 else "training"
            entries.append(entry | ({} if kind == "complete" else {"defective": f"{number}_{kind}.nrrd"}))
    (folder / "datalist.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """A run of the paper's method with two betas and a further decoder."""
    folder = tmp_path_factory.mktemp("run")
    run_training(
        TrainingPlan(data, *read_configuration("paper", SMALL), decoders=(("fast", 3),)), folder, betas=(100.0, 0.001)
    )
    return folder


@pytest.fixture(scope="module")
def report(finished) -> Path:
    return write_training_report(finished)


def test_every_figure_is_drawn_and_not_blank(report):
    assert {path.stem for path in report.parent.glob("*.png")} == FIGURES
    for name in FIGURES:
        pixels = np.asarray(Image.open(report.parent / f"{name}.png").convert("L"))
        assert min(pixels.shape) > 150
        assert pixels.std() > 5, name


def test_the_page_needs_nothing_else(report):
    page = report.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.count("<img") == len(FIGURES)
    assert "not for clinical use" in page
    assert str(report.parent) not in page


def test_held_out_stands_beside_training_for_every_decoder(report):
    results = json.loads((report.parent / "report.json").read_text(encoding="utf-8"))
    assert results["skulls"] == {"training": 15, "held_out": 6}
    assert results["held_out_individuals"] == ["ball5", "ball6"]
    assert set(results["baselines"]) == {"mean skull", "PCA-32"}
    for beta in ("100", "0.001"):
        decoders = results["betas"][beta]["decoders"]
        assert set(decoders) == {"own", "new", "fast"}
        assert decoders["fast"]["epochs"] == 3 and decoders["new"]["epochs"] == 2
        for scores in decoders.values():
            for what in ("reconstruction", "implant, gamma 0", "implant, DEV", "implant, DEV of 5 neighbours"):
                assert 0 <= scores[what]["training"] <= 1
                assert 0 <= scores[what]["held_out"] <= 1
        assert len(results["betas"][beta]["kl_per_dimension"]) == 4


def test_the_baselines_are_what_they_are_called(finished):
    analysis = RunAnalysis(finished)
    s = analysis.specimens
    chosen = [k for k in range(len(s.kinds)) if s.kinds[k] == "complete" and not s.held_out[k]]
    mean = s.bone[chosen].float().mean(0) > 0.5
    by_hand = [float(2 * (mean & s.bone[k]).sum() / (mean.sum() + s.bone[k].sum())) for k in chosen]
    scores = analysis.baselines()
    assert scores["mean skull"]["reconstruction"]["training_complete"] == pytest.approx(np.mean(by_hand), abs=1e-5)
    # Fifteen volumes have fourteen directions, so 32 components express them all.
    assert scores["PCA-32"]["reconstruction"]["training"] > 0.99


def test_a_decoder_that_knows_the_answer_scores_1(finished):
    analysis = RunAnalysis(finished)
    assert (analysis.implant_dice(analysis.specimens.complete_bone) == 1).all()
    nothing = analysis.implant_dice(analysis.specimens.bone)
    assert (nothing[analysis.select("cranial")] == 0).all()


def test_a_run_without_held_out_skulls_is_reported_as_such(data, tmp_path):
    entries = [e for e in json.loads((data / "datalist.json").read_text(encoding="utf-8")) if e["split"] == "training"]
    for entry in entries:
        del entry["split"]
    (data / "training.json").write_text(json.dumps(entries), encoding="utf-8")
    run_training(TrainingPlan(data / "training.json", *read_configuration("paper", SMALL)), tmp_path / "run")
    page = write_training_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "No skull is held out" in page


def test_an_unfinished_run_is_one_clear_line(data, finished, tmp_path):
    with pytest.raises(SkullVAEError, match="contains no training run"):
        RunAnalysis(tmp_path)
    run_training(TrainingPlan(data, *read_configuration("paper", SMALL)), tmp_path / "run", ("vae",))
    settings = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    settings["options"]["vae_epochs"] = 9
    (tmp_path / "run" / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(SkullVAEError, match="is trained to its end"):
        RunAnalysis(tmp_path / "run")


def test_report_py_reports_and_says_a_mistake_in_one_line(finished, tmp_path):
    command = [sys.executable, str(ROOT / "Training" / "report.py")]
    process = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=120, encoding="utf-8")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("report.py: ") and "Traceback" not in process.stderr
    process = subprocess.run(
        [*command, str(finished), "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        encoding="utf-8",
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "out" / "report.html").is_file()


# Asks the page itself, once all is loaded, and hands the answer over in the document.
_QUESTION = """
<script>
const wrong = [];
addEventListener("error", event => wrong.push(String(event.message || event.target)), true);
addEventListener("load", () => {
  const seen = image => image.complete && image.naturalWidth > 0 && image.getBoundingClientRect().height > 0;
  const drawn = [...document.images].filter(seen);
  const answer = {drawn: drawn.map(i => i.id), wrong, wide: document.documentElement.scrollWidth > innerWidth};
  document.body.setAttribute("data-answer", JSON.stringify(answer));
});
</script>
"""


@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")
def test_a_browser_shows_every_figure_without_an_error(report, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(report.read_text(encoding="utf-8").replace("<head>", "<head>" + _QUESTION), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=8000",
        f"--user-data-dir={tmp_path}/c",
    ]
    log = ["--enable-logging=stderr", "--dump-dom", page.as_uri()]
    process = subprocess.run([browser(), *options, *log], capture_output=True, text=True, timeout=180, encoding="utf-8")
    found = re.search(r'data-answer="([^"]*)"', process.stdout)
    assert found, process.stderr[-2000:]
    answer = json.loads(found.group(1).replace("&quot;", '"'))
    assert set(answer["drawn"]) == FIGURES
    assert answer["wrong"] == []
    assert not answer["wide"]
    assert "CONSOLE" not in process.stderr


def test_latents_of_held_out_skulls_never_enter_dev(finished):
    analysis = RunAnalysis(finished)
    running = analysis.runs[0]
    z = running.latents("mean")
    before = running.deviations(z, "cranial")[0]
    z[torch.tensor(analysis.specimens.held_out)] += 100
    assert torch.equal(running.deviations(z, "cranial")[0], before)
