"""Claims about the uncertainty: its draws have the rim's kernel, bone makes them small, and its band is written."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration import Table, TrueSurface, by_individual, fit
from prepared import without_rim_correction
from scipy.spatial import cKDTree

from SkullVAELib.completion.gaussian_process import Observations, _kernel, along_vault, regress
from SkullVAELib.completion.options import GaussianProcessOptions
from SkullVAELib.completion.uncertainty import _FEATURES, AMPLITUDES, Amplitudes, FourierFeatures
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.report.result_files import RunResult


@pytest.fixture(scope="module")
def uncertainty(completion):
    return completion.uncertainty


@pytest.fixture(scope="module")
def outcome(completion, sample):
    options = ImplantOptions.parse()
    return RunResult.of(completion, options, ("stl",), "head.nrrd", "m.safetensors").with_implant()


def test_draws_have_the_kernel_of_the_rim_correction():
    options = GaussianProcessOptions()
    rng = np.random.default_rng(0)
    points = along_vault(rng.standard_normal((30, 3)) * 80)
    draws = []
    for _ in range(300):  # a few waves each, so many that their mean is the kernel
        waves = FourierFeatures(options, rng)
        draws.append(waves.at(points) @ rng.standard_normal((_FEATURES, 20)))
    drawn = np.hstack(draws)
    covariance = drawn @ drawn.T / drawn.shape[1]
    assert np.abs(covariance - _kernel(points, points, options)).max() < 0.1


def test_the_tables_are_surest_where_bone_is_near(uncertainty, completion):
    patient = completion.patient
    inside = apply_affine(
        patient.registered.alignment @ patient.registered.skull.fraction.affine, np.argwhere(patient.defects.masks[0])
    )
    bone = patient.rim.points.numpy()
    away = cKDTree(bone).query(inside)[0]
    spread = patient.registered.grid.sample(uncertainty.deviation, torch.tensor(inside).float()).numpy()
    near, far = away < np.percentile(away, 20), away > np.percentile(away, 80)
    for table in (0, 1):
        assert spread[far, table].mean() > 1.2 * spread[near, table].mean()
        assert spread[:, table].min() > AMPLITUDES.rough_mm[table]


def test_the_same_seed_draws_the_same_and_another_one_does_not(uncertainty):
    first, again, other = (uncertainty.draws(1, seed) for seed in (2, 2, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_true_surface_of_a_generated_skull_lies_within_the_band(uncertainty, completion, sample):
    """Not how often exactly: that is measured on real skulls. But most of it must, and a band of nothing holds none."""
    matrix = completion.patient.registered.alignment
    surface = TrueSurface.of(sample.whole, sample.bone.array != 0, sample.truth, matrix)
    table = torch.tensor(surface.outer | surface.inner)
    at, away = surface.points[table], surface.normals[table]
    error = completion.proposal.warped.field(at).abs().numpy()
    assert (error < uncertainty.band_mm(at, away)).mean() > 0.8
    assert (error < 0.05).mean() < 0.5


def test_a_patient_whose_bone_deviates_more_from_the_mean_skull_has_a_wider_band(uncertainty):
    doubled = [replace(regression, weights=2 * regression.weights) for regression in uncertainty.regressions]
    other = replace(uncertainty, regressions=doubled)
    for table in (0, 1):
        own, larger = (u.regressions[table].own_variances for u in (uncertainty, other))
        assert np.allclose(larger, 4 * np.array(own))
        near = uncertainty.rim.near
        assert (other.deviation[table][near] > uncertainty.deviation[table][near]).all()


def test_the_variances_of_a_patient_are_those_of_the_residuals():
    rng = np.random.default_rng(0)
    points = along_vault(rng.standard_normal((400, 3)) * 80)
    options = GaussianProcessOptions()
    covariance = _kernel(points, points, options)
    smooth = np.linalg.cholesky(covariance + 1e-6 * np.eye(400)) @ rng.standard_normal(400)
    observations = Observations(np.arange(400), covariance, covariance)
    for rough in (0.1, 0.6):
        residual = 2 * smooth + rough * rng.standard_normal(400)
        own, alone = regress(observations, residual, np.full(400, 30.0), options).own_variances
        centred = residual - np.median(residual)
        assert own == pytest.approx((1.4826 * np.median(np.abs(centred))) ** 2, rel=0.05)
        assert rough**2 < alone < own


def test_fitted_amplitudes_cover_nine_points_of_ten_of_people_who_differ():
    truth = Amplitudes((0.4, 0.5), (0.9, 1.1), 0.02, (0.1, 0.2), (0.8, 0.9))
    rng = np.random.default_rng(0)
    tables = []
    for number in range(16):
        own, rough = rng.uniform(0.1, 2.0), rng.uniform(0.02, 0.3)
        parts = np.array([rng.uniform(0, 1, 400), rng.uniform(0, 900, 400), np.full(400, own), np.full(400, rough)])
        for table in (0, 1):
            error = np.sqrt(truth.variance(parts, table)) * rng.standard_normal(400)
            tables.append(Table(f"head{number}", table, error, parts))
    coverage = [row["coverage"] for row in by_individual(tables, fit(tables)).values()]
    assert np.mean(coverage) == pytest.approx(0.9, abs=0.02)
    assert min(coverage) > 0.8
    assert max(coverage) < 0.98


def test_the_part_is_written_with_its_uncertainty(outcome, tmp_path):
    outcome.write_uncertainty(tmp_path)
    head = (tmp_path / "implant_uncertainty.ply").read_bytes()[:800]
    assert b"property float uncertainty" in head
    assert b"nine times of ten" in head
    figures = outcome.with_uncertainty().report["uncertainty"]
    json.dumps(figures)
    assert 0.5 < figures["median_mm"] < figures["most_mm"] < 8


def test_without_a_rim_correction_none_is_told(completion, sample, tmp_path):
    plain = without_rim_correction(completion.patient).completion()
    assert (plain.implant.array ^ completion.implant.array).any()
    plain = replace(
        completion,
        implant=plain.implant,
        completed=plain.completed,
        proposal=plain.proposal,
        patient=plain.patient,
        implant_whole=plain.implant_whole,
    )
    bare = RunResult.of(plain, ImplantOptions.parse(), ("stl",), "head.nrrd", "m.safetensors").with_implant()
    assert "uncertainty" not in bare.with_uncertainty().report
    bare.write_uncertainty(tmp_path)
    assert not list(tmp_path.iterdir())
