"""The report on a training run: one self-contained HTML file, its figures as PNG, its numbers as JSON.

Sentences are chosen by the numbers, so that each run's own result is described and not that of the paper.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from SkullVAELib.analysis.figures import FIGURES, best_decoder, draw_all
from SkullVAELib.analysis.run_analysis import ALL_KINDS, TARGET, RunAnalysis
from SkullVAELib.core.atomic_output import publish_files
from SkullVAELib.core.version import NOTICE
from SkullVAELib.report.html import encode_png, format_number, html_figure, html_page, html_table

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1c2126; background: #fff; max-width: 62rem; margin: 2.5rem auto;
       padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.6rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; display: block; }
figcaption { color: #55606b; font-size: .9rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid #dfe3e8; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #1c2126; }
.scroll { overflow-x: auto; } .notice { border-left: 4px solid #c1121f; padding: .3rem .9rem; background: #fdf3f3; }
code { background: #f1f3f5; padding: .1em .3em; border-radius: 3px; }
"""


_NOTABLE = 0.02
"""Difference of two mean Dice scores from which the text mentions it."""


def write_training_report(
    folder: Path, output: Path | None = None, log: Callable[[str], None] = lambda line: None
) -> Path:
    """Evaluate a run and write the report on it.

    Parameters
    ----------
    folder : Path
        Folder of a run, of one beta or of several.
    output : Path, optional
        Folder for report.html, the figures (PNG) and report.json; default: ``folder/report``.
    log : callable
        Called with lines of progress.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    SkullVAEError
        When the folder contains no run, or no VAE trained to its end.
    """
    analysis = RunAnalysis(folder, log)
    output = Path(folder) / "report" if output is None else output
    results = analysis.results
    log("drawing figures")
    pictures = {name: _png(figure) for name, figure in draw_all(analysis).items()}
    files = {f"{name}.png": picture for name, picture in pictures.items()}
    files["report.json"] = (json.dumps(_rounded(results), indent=1) + "\n").encode()
    files["report.html"] = _page(analysis, pictures).encode()
    with publish_files(output, [*(f"{name}.png" for name in FIGURES), "report.json", "report.html"]) as staging:
        for name, content in files.items():
            (staging / name).write_bytes(content)
    return output / "report.html"


def _png(figure: Figure) -> bytes:
    """A figure as PNG with 256 colours: a third of the size without visible difference."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return encode_png(Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE))


def _rounded(value: object) -> object:
    """A JSON value with its floats to five significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _page(analysis: RunAnalysis, pictures: dict[str, bytes]) -> str:
    """The HTML document."""
    results, runs = analysis.results, analysis.runs
    skulls, versions = results["skulls"], results["versions"]
    grid = "x".join(map(str, results["grid"]))
    code = versions["commit"][:10] if versions["commit"] else "unknown"
    parts = [
        f"<h1>Training run with {_list([f'β = {run.beta:g}' for run in runs])}</h1>",
        f'<p class="notice">{NOTICE}</p>',
        f"<p>{html.escape(analysis.task.title)}, grid {grid}: {skulls['training']} training skulls and"
        f" {skulls['held_out']} held-out skulls; individuals held out: {_list(results['held_out_individuals'])}."
        f" SkullVAE {versions['skullvae']}, commit {code}, torch {versions['torch']}.</p>",
        "<p>Dice compares bone voxels and is at most 1. The Dice <em>loss</em> is on the paper's scale, whose worst"
        " value is 640 (four skulls, two classes, weight 80). <em>Held-out</em> skulls are of individuals that were not"
        " trained on. The paper trained and tested on the same skulls, so its results compare with the training"
        " skulls only.</p>",
    ]
    sections = (
        (
            "curves",
            "Loss curves",
            _curves_text,
            "Dice loss, and KL in nats, by epoch. Dashed and dotted: new decoders.",
        ),
        ("generalisation", "Training and held-out skulls", _generalisation_text, "Bars: decoders. Lines: baselines."),
        (None, "Reconstruction", _reconstruction_table, ""),
        ("gamma_cranial", "z + γ·DEV: cranial defects", _gamma_text, _STRIP),
        ("gamma_facial", "z + γ·DEV: facial defects", lambda a: "", _STRIP),
        (None, "Effect of DEV", _deviation_table, ""),
        (None, "Own and new decoders, raw and standardised latents", _decoder_table, ""),
        ("latent_plane", "Latents by class", _plane_text, "Large markers: class means. Arrows: DEV."),
        ("latent_kinds", "Posterior mean, mean + sigma, or a sample", _kinds_text, "Each VAE's own decoder."),
        ("kl_per_dimension", "KL of each latent", _kl_text, "Sorted by KL; the scales differ."),
        (
            "aggregated_posterior",
            "Aggregated posterior and N(0, I)",
            _posterior_text,
            "Blue: latents. Orange: N(0, 1).",
        ),
        ("rate_distortion", "Rate and distortion", _rate_text, "Each VAE's own decoder."),
        (
            "prior_samples",
            "Skulls sampled from the prior",
            _samples_text,
            "z from N(0, I), one column for each sample.",
        ),
    )
    for name, title, text, caption in sections:
        if name is not None and name not in pictures:
            continue
        parts.append(f"<h2>{title}</h2>")
        if paragraph := text(analysis):
            parts.append(paragraph)
        if name is not None:
            parts.append(html_figure(pictures[name], html.escape(title), caption, name))
    return html_page("SkullVAE training report", _STYLE, "\n".join(parts))


_STRIP = "Grey: bone as in the input. Orange: added bone. Blue: lost bone. First column: input, missing bone in orange."


def _list(items: list[str]) -> str:
    """Items joined by commas and "and", as HTML."""
    items = [html.escape(item) for item in items]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "none"


def _paragraph(*sentences: str) -> str:
    return f"<p>{' '.join(sentence for sentence in sentences if sentence)}</p>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table that scrolls sideways where it is wider than the page."""
    return f'<div class="scroll">{html_table(head, rows)}</div>'


def _number(value: float | None, digits: int = 3) -> str:
    return format_number(value, digits, "–")


def _curves_text(analysis: RunAnalysis) -> str:
    sentences = []
    for run in analysis.runs:
        of_run = analysis.results_of(run)
        loss, kl = of_run["decoders"]["own"]["final_dice_loss"], of_run["kl_nats"]
        state = " Its posterior has collapsed to the prior." if kl < 0.1 else ""
        sentences.append(
            f"The VAE of β = {run.beta:g} ends at a Dice loss of {loss:.0f} and a KL of {kl:.3g} nats.{state}"
        )
    largest = analysis.runs[0]
    for name, scores in analysis.results_of(largest)["decoders"].items():
        if name != "own":
            at = scores["epoch_at_33"]
            reached = f"reaches {TARGET:.0f} in epoch {at}" if at else f"does not reach {TARGET:.0f}"
            sentences.append(
                f"On the latents of β = {largest.beta:g}, the decoder <em>{name}</em> {reached}"
                f" and ends at {scores['final_dice_loss']:.0f} (epochs: {scores['epochs']})."
            )
    return _paragraph(*sentences)


def _generalisation_text(analysis: RunAnalysis) -> str:
    baselines = analysis.results["baselines"]
    mean, mean_trained = (baselines["mean skull"]["reconstruction"][side] for side in ("held_out", "training"))
    if mean is None:
        return _paragraph("No skull is held out, so generalisation to other individuals cannot be measured.")
    pca = baselines["PCA-32"]["reconstruction"]["held_out"]
    everything = [
        (scores["reconstruction"]["held_out"], scores["reconstruction"]["training"], f"{name} of β = {run.beta:g}")
        for run in analysis.runs
        for name, scores in analysis.results_of(run)["decoders"].items()
    ]
    best, trained, name = max(everything)
    worse = [trained for held, trained, _ in everything if held < mean]
    memorise = sum(trained > mean_trained for trained in worse)
    return _paragraph(
        f"The best decoder on held-out skulls, <em>{name}</em>, reconstructs them with a Dice of {best:.3f}, and"
        f" training skulls with {trained:.3f}{', so it overfits' if trained > best + _NOTABLE else ''}."
        f" On held-out skulls the mean skull, which uses no input, has {mean:.3f}, and PCA with 32 components"
        f" {pca:.3f}.",
        f"{len(worse)} of {len(everything)} decoders are worse than the mean skull there." if worse else "",
        f"{memorise} of these {len(worse)} are better than it on training skulls, which they memorise."
        if memorise
        else "",
    )


def _reconstruction_table(analysis: RunAnalysis) -> str:
    columns = [(part, kind) for part in ("training", "held_out") for kind in ALL_KINDS]
    head = ["Dice of reconstructions", *(f"{part.replace('_', '-')}, {kind}" for part, kind in columns)]
    named = [(name, s["reconstruction"]) for name, s in analysis.results["baselines"].items()]
    for run in analysis.runs:
        named += [
            (f"β = {run.beta:g}, {name}", scores["reconstruction"])
            for name, scores in analysis.results_of(run)["decoders"].items()
        ]
    rows = [[name, *(_number(scores[f"{part}_{kind}"]) for part, kind in columns)] for name, scores in named]
    return _table(head, rows)


def _gamma_text(analysis: RunAnalysis) -> str:
    sentences = []
    for run in (analysis.runs[0], analysis.runs[-1])[: len(analysis.runs)]:
        decoder = best_decoder(run)
        scores = analysis.results_of(run)["decoders"][decoder.name]
        for part in ("training", "held_out"):
            before, after = scores["implant, gamma 0"][part], scores["implant, DEV"][part]
            if before is not None:
                sentences.append(
                    f"β = {run.beta:g}, <em>{decoder.name}</em>, {part.replace('_', '-')}: {before:.2f} at γ = 0,"
                    f" {after:.2f} at γ = 1."
                )
    return _paragraph("Dice of the implant, within two voxels of the missing bone.", *sentences)


def _deviation_table(analysis: RunAnalysis) -> str:
    ways = ("implant, gamma 0", "implant, DEV", "implant, DEV of 5 neighbours")
    head = ["Dice of implants", *(f"{p}, {w[9:]}" for p in ("training", "held-out") for w in ways)]
    rows = [
        [name, *(["–"] * 2), _number(s["implant"]["training"]), *(["–"] * 2), _number(s["implant"]["held_out"])]
        for name, s in analysis.results["baselines"].items()
    ]
    helps, count = 0, 0
    for run in analysis.runs:
        for name, scores in analysis.results_of(run)["decoders"].items():
            values = [scores[way][part] for part in ("training", "held_out") for way in ways]
            rows.append([f"β = {run.beta:g}, {name}", *map(_number, values)])
            if values[3] is not None:
                helps, count = helps + (values[4] > values[3] + _NOTABLE), count + 1
    effect = (
        f"DEV of the class raises the Dice on held-out skulls by more than {_NOTABLE} for {helps} of {count} decoders."
        if count
        else ""
    )
    remark = "The Dice of a baseline's implants is in its last column of each group."
    return _paragraph(effect, analysis.task.defects, remark) + _table(head, rows)


def _decoder_table(analysis: RunAnalysis) -> str:
    head = ["decoder", "takes", "standardised", "epochs", "final loss", "33 in epoch", "training", "held-out"]
    rows = []
    for run in analysis.runs:
        for name, s in analysis.results_of(run)["decoders"].items():
            rows.append(
                [
                    f"β = {run.beta:g}, {name}", s["z"], "yes" if s["standardised"] else "no", str(s["epochs"]),
                    f"{s['final_dice_loss']:.1f}", str(s["epoch_at_33"] or "–"),
                    _number(s["reconstruction"]["training"]), _number(s["reconstruction"]["held_out"]),
                ]
            )  # fmt: skip
    decoders = analysis.results_of(analysis.runs[0])["decoders"]
    raw, fast = decoders.get("new"), decoders.get("fast")
    comparison = ""
    if raw and fast and not raw["standardised"] and fast["epoch_at_33"]:
        slow = raw["epoch_at_33"]
        factor = (slow or raw["epochs"]) / fast["epoch_at_33"]
        comparison = (
            f"On the latents of β = {analysis.runs[0].beta:g}, the decoder with standardised latents and a"
            f" learning-rate schedule reaches {TARGET:.0f} in {fast['epoch_at_33']} epochs; with raw"
            " latents a decoder needs"
            + (
                f" {slow}, {factor:.0f} times as many."
                if slow
                else f" more than {raw['epochs']}, over {factor:.0f} times as many."
            )
        )
    return (_paragraph(comparison) if comparison else "") + _table(head, rows)


def _plane_text(analysis: RunAnalysis) -> str:
    return _paragraph(
        *(
            f"β = {run.beta:g}: the standard deviation of μ across training skulls, averaged over latents, is"
            f" {analysis.results_of(run)['spread_of_mean']:.2g}"
            f" (of μ + σ: {analysis.results_of(run)['spread_of_mean_plus_sigma']:.2g})."
            for run in analysis.runs
        )
    )


def _kinds_text(analysis: RunAnalysis) -> str:
    return _paragraph(
        "By default MONAI's VarAutoEncoder returns μ + σ outside training. The paper's decoder was trained on this"
        " latent code and never on a sample."
    )


def _kl_text(analysis: RunAnalysis) -> str:
    return _paragraph("A latent is active when the variance of its posterior mean over the skulls is above 0.01.")


def _posterior_text(analysis: RunAnalysis) -> str:
    return _paragraph(
        "Samples of the prior can only be skulls if the mixture of all posteriors is close to N(0, I). KL is that of"
        " the Gaussian with the same mean and covariance; <em>rejected</em> counts latents whose draws, one for each"
        " skull, are not standard normal (Kolmogorov-Smirnov, p &lt; 0.05 after Bonferroni's correction)."
        " A collapsed posterior equals the prior and carries no information about a skull."
    )


def _rate_text(analysis: RunAnalysis) -> str:
    return _paragraph(
        f"{len(analysis.runs)} values of β. A higher rate can lower the distortion of training skulls alone."
    )


def _samples_text(analysis: RunAnalysis) -> str:
    return _paragraph("A new decoder was trained on posteriors of skulls only, not on samples of N(0, I).")
