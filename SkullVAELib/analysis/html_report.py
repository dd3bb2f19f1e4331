"""The report of a training run: one HTML file that needs nothing else, its figures as PNG, its numbers as JSON.

The sentences are chosen by the numbers, so that a run in which something else happens is not told the paper's story.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from SkullVAELib import NOTICE
from SkullVAELib.analysis.figures import FIGURES, best_decoder, draw_all
from SkullVAELib.analysis.run_analysis import ALL_KINDS, TARGET, RunAnalysis
from SkullVAELib.core.atomic_output import publish_files

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


def write_training_report(
    folder: Path, output: Path | None = None, log: Callable[[str], None] = lambda line: None
) -> Path:
    """Analyse the run in a folder and write report.html, its figures and report.json into `output` (folder/report).

    Returns the path of the HTML file. Raises SkullVAEError when the folder holds no trained run.
    """
    analysis = RunAnalysis(folder, log)
    output = Path(folder) / "report" if output is None else output
    results = analysis.results
    log("drawing")
    pictures = {name: _png(figure) for name, figure in draw_all(analysis).items()}
    files = {f"{name}.png": picture for name, picture in pictures.items()}
    files["report.json"] = (json.dumps(_rounded(results), indent=1) + "\n").encode()
    files["report.html"] = _page(analysis, pictures).encode()
    with publish_files(output, [*(f"{name}.png" for name in FIGURES), "report.json", "report.html"]) as staging:
        for name, content in files.items():
            (staging / name).write_bytes(content)
    return output / "report.html"


def _png(figure: Figure) -> bytes:
    """A figure as PNG with 256 colours: a third of the size and no difference to the eye."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return small.getvalue()


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _page(analysis: RunAnalysis, pictures: dict[str, bytes]) -> str:
    results, runs = analysis.results, analysis.runs
    skulls, versions = results["skulls"], results["versions"]
    grid = "x".join(map(str, results["grid"]))
    code = versions["commit"][:10] if versions["commit"] else "no checkout"
    parts = [
        f"<h1>What {_list([f'β = {run.beta:g}' for run in runs])} learned</h1>",
        f'<p class="notice">{NOTICE}</p>',
        f"<p>{'The method of arXiv 2209.14783' if results['method'] == 'paper' else 'Our method'} at {grid}:"
        f" {skulls['training']} skulls to train on, {skulls['held_out']} of other individuals"
        f" ({_list(results['held_out_individuals'])}) held out. SkullVAE {versions['skullvae']}, code {code},"
        f" torch {versions['torch']}, MONAI {versions['monai']}.</p>",
        "<p>Dice is of bone, 1 at best. The Dice <em>loss</em> is on the paper's scale, 640 at worst: four skulls, two"
        " classes, weight 80. <em>Training</em> skulls were seen in training; <em>held-out</em> ones are of other"
        " individuals. The paper trained and tested on the same skulls, so it has training figures only.</p>",
    ]
    sections = (
        ("curves", "Loss curves", _of_curves, "Dice loss, and KL in nats, by epoch; dashed, dotted: new decoders."),
        ("generalisation", "Training skulls and others", _of_generalisation, "Bars: decoders. Lines: baselines."),
        (None, "Reconstruction", _reconstruction_table, ""),
        ("gamma_cranial", "z + γ·DEV: cranial defects", _of_gamma, _STRIP),
        ("gamma_facial", "z + γ·DEV: facial defects", lambda a: "", _STRIP),
        (None, "When DEV helps", _of_deviation, ""),
        (None, "Own or new decoder, raw or standardised latents", _decoder_table, ""),
        ("latent_plane", "Latents by class", _of_plane, "Large: class means. Arrows: DEV."),
        ("latent_kinds", "Posterior mean, mean + sigma, or a sample", _of_kinds, "Each VAE's own decoder."),
        ("kl_per_dimension", "KL of each latent", _of_kl, "Sorted by KL; scales differ."),
        (
            "aggregated_posterior",
            "The aggregated posterior and N(0, I)",
            _of_posterior,
            "Blue: latents. Orange: N(0, 1).",
        ),
        ("rate_distortion", "Rate and distortion", _of_rate, "Each VAE's own decoder."),
        ("prior_samples", "Skulls drawn from the prior", _of_samples, "z drawn from N(0, I), one column a draw."),
    )
    for name, title, text, caption in sections:
        if name is not None and name not in pictures:
            continue
        parts.append(f"<h2>{title}</h2>")
        if said := text(analysis):
            parts.append(said)
        if name is not None:
            data = base64.b64encode(pictures[name]).decode()
            parts.append(
                f'<figure><img id="{name}" alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>SkullVAE training report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


_STRIP = "Grey: bone as in the input. Orange: added to it. Blue: lost from it. First column: input, its gap in orange."


def _list(items: list[str]) -> str:
    """Items as a sentence has them."""
    items = [html.escape(item) for item in items]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "none"


def _paragraph(*sentences: str) -> str:
    return f"<p>{' '.join(sentence for sentence in sentences if sentence)}</p>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    first = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _of_curves(analysis: RunAnalysis) -> str:
    sentences = []
    for run in analysis.runs:
        of_run = analysis.of(run)
        loss, kl = of_run["decoders"]["own"]["final_dice_loss"], of_run["kl_nats"]
        state = " The posterior has collapsed onto the prior." if kl < 0.1 else ""
        sentences.append(f"The VAE of β = {run.beta:g} ends at {loss:.0f}, with a KL of {kl:.3g} nats.{state}")
    largest = analysis.runs[0]
    for name, scores in analysis.of(largest)["decoders"].items():
        if name != "own":
            at = scores["epoch_at_33"]
            reached = f"reaches {TARGET:.0f} in epoch {at}" if at else f"has not reached {TARGET:.0f}"
            sentences.append(
                f"On the latents of β = {largest.beta:g}, the decoder <em>{name}</em> {reached}"
                f" and ends at {scores['final_dice_loss']:.0f} after {scores['epochs']} epochs."
            )
    return _paragraph(*sentences)


def _of_generalisation(analysis: RunAnalysis) -> str:
    baselines = analysis.results["baselines"]
    mean, pca = baselines["mean skull"]["reconstruction"]["held_out"], None
    if mean is None:
        return _paragraph("No skull is held out, so nothing is known of other heads.")
    pca = baselines["PCA-32"]["reconstruction"]["held_out"]
    everything = [
        (scores["reconstruction"]["held_out"], scores["reconstruction"]["training"], f"{name} of β = {run.beta:g}")
        for run in analysis.runs
        for name, scores in analysis.of(run)["decoders"].items()
    ]
    best, trained, name = max(everything)
    worse = sum(value < mean for value, *_ in everything)
    return _paragraph(
        f"On held-out skulls the best decoder, <em>{name}</em>, reconstructs with a Dice of {best:.3f}"
        f" ({trained:.3f} on training skulls). The mean skull, which is shown nothing, has {mean:.3f},"
        f" PCA with 32 components {pca:.3f}.",
        f"{worse} of {len(everything)} decoders are worse than the mean skull there." if worse else "",
    )


def _reconstruction_table(analysis: RunAnalysis) -> str:
    columns = [(part, kind) for part in ("training", "held_out") for kind in ALL_KINDS]
    head = ["Dice of reconstructions", *(f"{part.replace('_', '-')}, {kind}" for part, kind in columns)]
    named = [(name, s["reconstruction"]) for name, s in analysis.results["baselines"].items()]
    for run in analysis.runs:
        named += [
            (f"β = {run.beta:g}, {name}", scores["reconstruction"])
            for name, scores in analysis.of(run)["decoders"].items()
        ]
    rows = [[name, *(_number(scores[f"{part}_{kind}"]) for part, kind in columns)] for name, scores in named]
    return _table(head, rows)


def _of_gamma(analysis: RunAnalysis) -> str:
    told = []
    for run in (analysis.runs[0], analysis.runs[-1])[: len(analysis.runs)]:
        decoder = best_decoder(run)
        scores = analysis.of(run)["decoders"][decoder.name]
        for part in ("training", "held_out"):
            before, after = scores["implant, gamma 0"][part], scores["implant, DEV"][part]
            if before is not None:
                told.append(
                    f"β = {run.beta:g}, <em>{decoder.name}</em>, {part.replace('_', '-')}: {before:.2f} at γ = 0,"
                    f" {after:.2f} at γ = 1."
                )
    return _paragraph("Dice of the implant, within two voxels of the gap.", *told)


def _of_deviation(analysis: RunAnalysis) -> str:
    ways = ("implant, gamma 0", "implant, DEV", "implant, DEV of 5 neighbours")
    head = ["Dice of implants", *(f"{p}, {w[9:]}" for p in ("training", "held-out") for w in ways)]
    rows = [
        [name, *(["–"] * 2), _number(s["implant"]["training"]), *(["–"] * 2), _number(s["implant"]["held_out"])]
        for name, s in analysis.results["baselines"].items()
    ]
    helps, count = 0, 0
    for run in analysis.runs:
        for name, scores in analysis.of(run)["decoders"].items():
            values = [scores[way][part] for part in ("training", "held_out") for way in ways]
            rows.append([f"β = {run.beta:g}, {name}", *map(_number, values)])
            if values[3] is not None:
                helps, count = helps + (values[4] > values[3] + 0.02), count + 1
    said = f"DEV of the class helps {helps} of {count} decoders on held-out skulls by more than 0.02. " if count else ""
    shared = (
        "All defects of a class have one place and form here, as in the paper, so one vector can stand for them."
        if analysis.results["method"] == "paper"
        else "Defects differ in place and form here, and defective skulls are decoded to complete ones already."
    )
    return _paragraph(said + shared, "A baseline's implant stands in its last columns.") + _table(head, rows)


def _decoder_table(analysis: RunAnalysis) -> str:
    head = ["decoder", "takes", "standardised", "epochs", "final loss", "33 in epoch", "training", "held-out"]
    rows = []
    for run in analysis.runs:
        for name, s in analysis.of(run)["decoders"].items():
            rows.append(
                [
                    f"β = {run.beta:g}, {name}", s["z"], "yes" if s["standardised"] else "no", str(s["epochs"]),
                    f"{s['final_dice_loss']:.1f}", str(s["epoch_at_33"] or "–"),
                    _number(s["reconstruction"]["training"]), _number(s["reconstruction"]["held_out"]),
                ]
            )  # fmt: skip
    decoders = analysis.of(analysis.runs[0])["decoders"]
    raw, fast = decoders.get("new"), decoders.get("fast")
    said = ""
    if raw and fast and not raw["standardised"] and fast["epoch_at_33"]:
        slow = raw["epoch_at_33"]
        factor = (slow or raw["epochs"]) / fast["epoch_at_33"]
        said = (
            f"With standardised latents and a learning-rate schedule the decoder of β = {analysis.runs[0].beta:g} needs"
            f" {fast['epoch_at_33']} epochs to {TARGET:.0f}; with raw latents"
            + (
                f" {slow}, {factor:.0f} times as many."
                if slow
                else f" more than {raw['epochs']}, over {factor:.0f} times."
            )
        )
    return (_paragraph(said) if said else "") + _table(head, rows)


def _of_plane(analysis: RunAnalysis) -> str:
    return _paragraph(
        *(
            f"β = {run.beta:g}: μ spreads by {analysis.of(run)['spread_of_mean']:.2g} over the training skulls"
            f" (μ + σ: {analysis.of(run)['spread_of_mean_plus_sigma']:.2g})."
            for run in analysis.runs
        )
    )


def _of_kinds(analysis: RunAnalysis) -> str:
    return _paragraph(
        "MONAI's VarAutoEncoder returns μ + σ outside training unless told otherwise: the paper's decoder was trained"
        " on it and never saw a sample."
    )


def _of_kl(analysis: RunAnalysis) -> str:
    return _paragraph("A latent is active when its posterior mean varies over the skulls by more than 0.01 (variance).")


def _of_posterior(analysis: RunAnalysis) -> str:
    return _paragraph(
        "All skulls' posteriors together should be N(0, I) for samples of the prior to be skulls. KL is that of a"
        " Gaussian of the same mean and covariance; <em>rejected</em> counts latents whose draws, one a skull, are not"
        " standard normal (Kolmogorov-Smirnov, p &lt; 0.05 after Bonferroni)."
        " A collapsed posterior fits the prior perfectly and says nothing about a skull."
    )


def _of_rate(analysis: RunAnalysis) -> str:
    return _paragraph(f"{len(analysis.runs)} values of β. What training skulls gain by more rate, others need not.")


def _of_samples(analysis: RunAnalysis) -> str:
    return _paragraph("A new decoder was trained on the posteriors of skulls alone, so N(0, I) is strange to it.")
