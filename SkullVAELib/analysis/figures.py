"""The figures of the report on a training run: those of the paper, and diagnostics that it does not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure

from SkullVAELib.analysis.diagnostics import principal_plane
from SkullVAELib.analysis.run_analysis import GAMMAS, TARGET, BetaRun, Decoder, RunAnalysis
from SkullVAELib.data.defect_kinds import CLASSES
from SkullVAELib.vae.latent import Z_KINDS

COLOURS = {"complete": "#2a9d5c", "cranial": "#d1495b", "facial": "#2e6fb7"}
MARKERS = {"complete": "v", "cranial": "o", "facial": "^"}
SERIES = ("#1f4e79", "#e07b39", "#4c956c", "#8e5572", "#b5a642", "#5c677d", "#c1121f")
TRAINING, HELD_OUT = "#1f4e79", "#e07b39"

_BONE, _ADDED, _LOST, _GROUND = (0.82, 0.80, 0.74), (0.88, 0.48, 0.22), (0.24, 0.42, 0.66), (0.07, 0.08, 0.10)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _tidy(axes) -> None:
    """Remove the upper and right spine and draw a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _beta(run: BetaRun) -> str:
    return f"β = {run.beta:g}"


def _label(decoder: Decoder) -> str:
    """Name of a decoder in a legend."""
    names = {"own": "own decoder", "new": "new decoder", "fast": "new, standardised, fast"}
    return names.get(decoder.name, f"new, {decoder.name}")


def curves(analysis: RunAnalysis) -> Figure:
    """Dice loss and KL over epochs: every VAE, and new decoders, which the paper's figure starts at the VAE's end."""
    figure = _figure(10, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    for number, run in enumerate(analysis.runs):
        colour = SERIES[number % len(SERIES)]
        vae = run.log["vae"]
        left.plot(vae.epoch, vae.dice_loss, color=colour, label=f"{_beta(run)}, VAE")
        right.plot(vae.epoch, np.maximum(vae.kl_nats, 1e-6), color=colour, label=_beta(run))
        styles = {"new": "--", "fast": ":", "standardised": "-."}
        for name, decoder in run.decoders.items():
            if name in styles and run in (analysis.runs[0], analysis.runs[-1]):
                log = run.log[decoder.stage]
                start = vae.epoch[-1] if analysis.task.decoders_after_vae else 0
                text = f"{_beta(run)}, {_label(decoder)}"
                left.plot(start + log.epoch, log.dice_loss, color=colour, linestyle=styles[name], label=text)
    left.axhline(TARGET, color="black", linewidth=0.6, alpha=0.6)
    left.text(left.get_xlim()[1], TARGET, " 33", va="center", fontsize=8)
    left.axvline(analysis.runs[0].log["vae"].epoch[-1], color="black", linewidth=0.6, linestyle=":")
    left.set(xlabel="epoch", ylabel="Dice loss (of 640)", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="KL, nats", yscale="log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7.5, frameon=False)
    for axes in (left, right):
        _tidy(axes)
    return figure


def latent_plane(analysis: RunAnalysis) -> Figure:
    """Latents by class in the plane of their principal directions, with class means and DEV (a figure of the paper).

    Held-out skulls are hollow markers.
    """
    shown = _extremes(analysis)
    figure = _figure(5.2 * len(shown), 4.4)
    for axes, run in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        training, held = analysis.select(None, False), analysis.select(None, True)
        inside, outside, share = principal_plane(run.mu[training].numpy(), run.mu[held].numpy())
        means = {}
        for kind, colour in COLOURS.items():
            style = {"marker": MARKERS[kind], "s": 20, "edgecolors": colour, "linewidths": 0.8}
            of_kind = analysis.kinds[training] == kind
            axes.scatter(*inside[of_kind].T, facecolors=colour, alpha=0.75, label=kind, **style)
            if len(held):
                axes.scatter(*outside[analysis.kinds[held] == kind].T, facecolors="none", **style)
            if of_kind.any():
                means[kind] = inside[of_kind].mean(0)
                axes.scatter(*means[kind], s=150, color=colour, edgecolors="black", zorder=3, marker=MARKERS[kind])
        for kind in CLASSES:
            if kind in means and "complete" in means:
                axes.annotate(
                    "", means["complete"], means[kind], arrowprops={"arrowstyle": "->", "linewidth": 1.4}, zorder=4
                )
        axes.set_title(f"{_beta(run)}: {100 * share.sum():.0f} % of the variance", fontsize=10)
        axes.set(xlabel="first principal direction of μ", ylabel="second")
        _tidy(axes)
    axes.legend(fontsize=8, frameon=True, title="hollow: held out", title_fontsize=8)
    return figure


def _extremes(analysis: RunAnalysis) -> list[BetaRun]:
    """The runs of the largest and of the smallest beta."""
    return analysis.runs if len(analysis.runs) < 2 else [analysis.runs[0], analysis.runs[-1]]


def best_decoder(run: BetaRun) -> Decoder:
    """The decoder with the lowest final Dice loss on the training skulls, which pictures are made with."""
    return min(run.decoders.values(), key=lambda d: run.log[d.stage].dice_loss[-1])


def section(bone: torch.Tensor, before: torch.Tensor, where: tuple[int, int]) -> np.ndarray:
    """Picture of a slice of a completed skull: bone in grey, added bone in orange, lost bone in blue.

    Parameters
    ----------
    bone, before : torch.Tensor
        (X, Y, Z) bool, the completed skull and the skull as given.
    where : tuple of int
        Axis and index of the slice.

    Returns
    -------
    numpy.ndarray
        (H, W, 3) RGB 0..1, the head upright.
    """
    axis, index = where
    now, then = (volume.select(axis, index).numpy().T[::-1] for volume in (bone, before))
    image = np.empty((*now.shape, 3))
    image[:] = _GROUND
    image[now & then], image[now & ~then], image[~now & then] = _BONE, _ADDED, _LOST
    return image


def _aspect(analysis: RunAnalysis, axis: int) -> float:
    """Height of a voxel divided by its width in a slice across an axis; the paper's grid has flat voxels."""
    voxel = analysis.task.voxel_mm
    across = 1 if axis == 0 else 0
    return float(voxel[2] / voxel[across])


def gamma_strip(analysis: RunAnalysis, kind: str) -> Figure | None:
    """z + gamma * DEV for a training and a held-out skull, at the largest and smallest beta (a figure of the paper)."""
    sides = [(name, analysis.select(kind, held)) for name, held in (("training", False), ("held out", True))]
    skulls = [(name, int(chosen[0])) for name, chosen in sides if len(chosen)]
    if not skulls:
        return None
    rows = [(run, best_decoder(run), name, index) for run in _extremes(analysis) for name, index in skulls]
    columns = len(GAMMAS) + 1
    figure = _figure(1.75 * columns, 1.6 * len(rows))
    grid = np.atleast_2d(figure.subplots(len(rows), columns))
    for line, (run, decoder, name, index) in zip(grid, rows, strict=True):
        before, missing = analysis.specimens.bone[index], analysis.missing[index]
        axis = 0
        where = axis, int(missing.sum((1, 2)).argmax())
        z = run.inference_latents(decoder)
        dev = run.deviations(z, kind)[index]
        line[0].imshow(section(analysis.specimens.complete_bone[index], before, where))
        line[0].set_title("input, gap orange", fontsize=8)
        for axes, gamma in zip(line[1:], GAMMAS, strict=True):
            image = section(run.bone(decoder, (z[index] + gamma * dev)[None])[0], before, where)
            axes.imshow(image)
            axes.set_title(f"γ = {gamma:g}", fontsize=8)
        line[0].set_ylabel(f"{_beta(run)}\n{_label(decoder)}\n{name}", fontsize=7)
        for axes in line:
            _picture(axes, _aspect(analysis, axis))
    return figure


def _picture(axes, aspect: float) -> None:
    """Turn axes into a picture without frame and ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect(aspect)
    for spine in axes.spines.values():
        spine.set_visible(False)


def generalisation(analysis: RunAnalysis) -> Figure:
    """Dice of reconstructions and of implants, training and held-out skulls side by side, the baselines as lines."""
    results = analysis.results
    bars = [
        (f"{'β=' + beta}\n{name}", scores)
        for beta, of_beta in results["betas"].items()
        for name, scores in of_beta["decoders"].items()
    ]
    figure = _figure(10, 6)
    for axes, what, baseline in zip(
        figure.subplots(2, 1, sharex=True),
        ("reconstruction", "implant, DEV"),
        ("reconstruction", "implant"),
        strict=True,
    ):
        place = np.arange(len(bars))
        for shift, part, colour in ((-0.2, "training", TRAINING), (0.2, "held_out", HELD_OUT)):
            values = [scores[what][part] if scores[what][part] is not None else np.nan for _, scores in bars]
            axes.bar(place + shift, values, 0.38, color=colour, label=part.replace("_", " "))
            for x, value in zip(place + shift, values, strict=True):
                if np.isfinite(value):
                    axes.text(x, value + 0.01, f"{value:.2f}", ha="center", fontsize=6.5)
        for (name, scores), style in zip(results["baselines"].items(), ("-", "--"), strict=True):
            if scores[baseline]["held_out"] is not None:
                text = f"{name}, held out: {scores[baseline]['held_out']:.2f}"
                axes.axhline(scores[baseline]["held_out"], color="black", linewidth=1, linestyle=style, label=text)
        axes.set(ylim=(0, 1.08), ylabel="Dice")
        axes.set_title({"reconstruction": "reconstruction", "implant, DEV": "implant by z + DEV"}[what], fontsize=10)
        axes.set_xticks(place, [name for name, _ in bars], fontsize=7, rotation=40, ha="right")
        axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        _tidy(axes)
    return figure


def kl_bars(analysis: RunAnalysis) -> Figure:
    """KL of every latent for each beta, largest first, with the number of active units."""
    figure = _figure(10, 1.1 + 1.25 * -(-len(analysis.runs) // 3))
    grid = figure.subplots(-(-len(analysis.runs) // 3), min(3, len(analysis.runs)), squeeze=False).ravel()
    for axes, run in zip(grid, analysis.runs, strict=False):
        of_beta = analysis.results_of(run)
        kl = sorted(of_beta["kl_per_dimension"], reverse=True)
        axes.bar(np.arange(len(kl)), kl, color=SERIES[0])
        title = f"{_beta(run)}: {of_beta['kl_nats']:.3g} nats, {of_beta['active_units']} of {len(kl)} active"
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        _tidy(axes)
    for axes in grid[len(analysis.runs) :]:
        axes.set_visible(False)
    figure.supxlabel("latent, by its KL", fontsize=8)
    figure.supylabel("KL, nats", fontsize=8)
    return figure


def posterior_against_prior(analysis: RunAnalysis) -> Figure:
    """The mixture of the training skulls' posteriors, latent by latent, beside the standard normal."""
    figure = _figure(10, 2.6)
    line = np.linspace(-4, 4, 200)
    for axes, run in zip(np.atleast_1d(figure.subplots(1, len(analysis.runs))), analysis.runs, strict=True):
        (mu, logvar), of_run = run.training_posteriors, run.aggregated
        reach = max(4.0, float((np.abs(of_run.mean) + 3 * of_run.std).max()))
        grid = torch.linspace(-reach, reach, 241, dtype=torch.float64)
        for latent in range(mu.shape[1]):
            deviation = (0.5 * logvar[:, latent].double()).exp().clamp(min=reach / 120)
            density = torch.exp(-0.5 * ((grid[:, None] - mu[:, latent].double()) / deviation) ** 2) / deviation
            axes.plot(grid, density.mean(1) / np.sqrt(2 * np.pi), color=SERIES[0], alpha=0.25, linewidth=0.7)
        axes.plot(line, np.exp(-0.5 * line**2) / np.sqrt(2 * np.pi), color=HELD_OUT, linewidth=1.6)
        text = f"{_beta(run)}\nKL to N(0, I) {of_run.kl_nats:.3g}\n{of_run.rejected} of {mu.shape[1]} rejected"
        axes.set_title(text, fontsize=8)
        axes.set(yticks=[], ylim=(0, None), xlim=(-reach, reach))
        axes.tick_params(labelsize=7)
        _tidy(axes)
    return figure


def rate_distortion(analysis: RunAnalysis) -> Figure:
    """1 - Dice over KL for every beta, of training and held-out skulls."""
    figure = _figure(5.2, 3.6)
    axes = figure.subplots()
    betas = analysis.results["betas"]
    rate = [max(of_beta["kl_nats"], 1e-3) for of_beta in betas.values()]
    for part, colour in (("training", TRAINING), ("held_out", HELD_OUT)):
        distortion = [of_beta["decoders"]["own"]["reconstruction"][part] for of_beta in betas.values()]
        if None not in distortion:
            axes.plot(rate, 1 - np.array(distortion), "o-", color=colour, label=part.replace("_", " "))
    labels: dict[float, list[str]] = {}  # collapsed posteriors all have the smallest rate: one label for all
    for name, x in zip(betas, rate, strict=True):
        labels.setdefault(x, []).append(name)
    for x, names in labels.items():
        y = 1 - betas[names[0]]["decoders"]["own"]["reconstruction"]["training"]
        axes.annotate(f"β = {', '.join(names)}", (x, y), textcoords="offset points", xytext=(5, -13), fontsize=7.5)
    axes.margins(x=0.18)
    baseline = analysis.results["baselines"]["mean skull"]["reconstruction"]["held_out"]
    if baseline is not None:
        axes.axhline(1 - baseline, color="black", linewidth=0.8, label="mean skull, held out")
    axes.set(xscale="log", xlabel="rate: KL, nats a skull", ylabel="distortion: 1 - Dice", ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    _tidy(axes)
    return figure


def latent_kinds(analysis: RunAnalysis) -> Figure:
    """Dice of reconstructions by the VAE's own decoder of mu, mu + sigma or a sample, for every beta."""
    figure = _figure(6.4, 3.2)
    axes = figure.subplots()
    betas = analysis.results["betas"]
    place = np.arange(len(betas))
    for number, kind in enumerate(Z_KINDS):
        for part, alpha in (("training", 1.0), ("held_out", 0.45)):
            values = [of_beta["own_decoder_given"][kind][part] for of_beta in betas.values()]
            if None not in values:
                shift = (number - 1) * 0.27 + (0.06 if part == "held_out" else -0.06)
                text = f"z = {kind}" if part == "training" else None
                axes.bar(place + shift, values, 0.12, color=SERIES[number], alpha=alpha, label=text)
    axes.set_xticks(place, [f"β = {name}" for name in betas], fontsize=8)
    axes.set(ylim=(0, 1), ylabel="Dice (pale: held out)")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _tidy(axes)
    return figure


def prior_samples(analysis: RunAnalysis, count: int = 6, seed: int = 1) -> Figure:
    """Skulls decoded from N(0, I) by each VAE's own decoder and by the best new one, which was not trained on it."""
    rows = []
    for run in analysis.runs:
        rows.append((run, run.decoders["own"]))
        other = best_decoder(run)
        if other.name != "own" and run in _extremes(analysis):
            rows.append((run, other))
    figure = _figure(1.5 * count + 1, 1.25 * len(rows))
    noise = torch.randn(count, analysis.task.latent_size, generator=torch.Generator().manual_seed(seed))
    middle = analysis.specimens.bone.shape[1] // 2
    for line, (run, decoder) in zip(np.atleast_2d(figure.subplots(len(rows), count)), rows, strict=True):
        for axes, bone in zip(line, run.bone(decoder, noise), strict=True):
            axes.imshow(section(bone, bone, (0, middle - 3)))
            _picture(axes, _aspect(analysis, 0))
        line[0].set_ylabel(f"{_beta(run)}\n{_label(decoder)}", fontsize=7)
    return figure


FIGURES: dict[str, Callable[[RunAnalysis], Figure | None]] = {
    "curves": curves,
    "latent_plane": latent_plane,
    "gamma_cranial": lambda analysis: gamma_strip(analysis, "cranial"),
    "gamma_facial": lambda analysis: gamma_strip(analysis, "facial"),
    "generalisation": generalisation,
    "kl_per_dimension": kl_bars,
    "aggregated_posterior": posterior_against_prior,
    "rate_distortion": rate_distortion,
    "latent_kinds": latent_kinds,
    "prior_samples": prior_samples,
}
"""Every figure by its file name without ending."""


def draw_all(analysis: RunAnalysis) -> dict[str, Figure]:
    """The figures that a run has skulls for, by file name without ending."""
    figures = {name: draw(analysis) for name, draw in FIGURES.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}
