"""The observed information: its kernel, its derivatives, its eigenvalues, its sampling error."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
import reference
from test_sample import DOUBLE, frame, mixture, rows, sample_of, stored

from softmix_dist import curvature, kernels
from softmix_dist.curvature import information
from softmix_dist.kernels import prepare, score
from softmix_dist.model import Coordinates, Mixture
from softmix_dist.sketch import Sampling, draw
from softmix_dist.solve import em
from softmix_dist.solve.climb import climb
from softmix_dist.solve.information import Curvature, observed_information, sketched_curvature
from softmix_dist.solve.point import evaluate


def case(base=None, repeated=False, l2=0.0, seed=10, p=50):
    """A block, coordinates that are not the features' own, a point, and the oracle's objective."""
    data = x, counts, log_base = rows(p, 2, base=base, density=0.8)
    times = np.random.default_rng(3).integers(1, 5, p) if repeated else np.ones(p, int)
    block = replace(prepare(stored(data), frame(2), 2), multiplicity=times * 1.0)
    mean, factor = np.array([0.1, -0.2]), np.array([[0.6, 0.0], [0.3, 1.2]])
    coordinates = Coordinates(frame(2), mean, factor, np.log(p), np.log(p))
    m = mixture(2, 2, seed)
    (sums,) = score(block, [coordinates.to_frame(m)], DOUBLE)
    point = evaluate(m, sums, coordinates, int(times @ counts), l2)
    # A row that is repeated is one candidate of a larger base measure, drawn more often.
    z = np.linalg.solve(factor, (x - mean).T).T
    total = np.log(times) + (0.0 if log_base is None else log_base)

    def objective(at):
        weights, atoms = np.exp(at[:2]) / np.exp(at[:2]).sum(), at[2:].reshape(2, 2)
        fit = reference.log_likelihood(z, times * counts, weights, atoms, total)
        return fit - l2 / 2 * np.sum(atoms**2)

    return block, coordinates, point, objective


def information_at(block, coordinates, point):
    sums = information(block, coordinates.to_frame(point.mixture))
    return observed_information(point, sums, coordinates)


ALL = {"base": "all", "repeated": True, "l2": 0.05, "seed": 4}
CASES = [{}, {"base": "some"}, {"repeated": True}, ALL]


@pytest.mark.parametrize("options", CASES)
def test_the_slope_is_the_first_derivative(options):
    *_, point, f = case(**options)
    x = np.append(np.log(point.weights), point.mixture.atoms)
    found = [(f(x + h) - f(x - h)) / 2e-5 for h in 1e-5 * np.eye(6)]
    np.testing.assert_allclose(em.slope_at(point), found, atol=1e-9)


@pytest.mark.parametrize("options", CASES)
def test_the_information_is_minus_the_second_derivative(options):
    block, coordinates, point, f = case(**options)
    # Away from a maximum, where the means bend as well.
    assert np.abs(em.slope_at(point)).max() > 0.1
    x, h = np.append(np.log(point.weights), point.mixture.atoms), 3e-4 * np.eye(6)
    expected = [
        [(f(x + a - b) + f(x - a + b) - f(x + a + b) - f(x - a - b)) / 3.6e-7 for a in h] for b in h
    ]
    # A common shift of the log weights means nothing: its eigenvalue is convention.
    matrix, shift = information_at(block, coordinates, point), np.append(point.weights, np.zeros(4))
    np.testing.assert_allclose(matrix - np.outer(shift, shift), expected, atol=1e-6)
    found = Curvature.of(matrix, point)
    parts = (found.vectors.T @ (shift / found.unit)) ** 2
    np.testing.assert_allclose(found.values[parts > 1e-12], 1, atol=1e-9)


@pytest.mark.parametrize("options", CASES)
def test_sums_are_additive_over_slices_and_halves(options, monkeypatch):
    block, coordinates, point, _ = case(**options, p=150)
    cut = replace(block, slices=tuple(block.slices[0][i : i + 20] for i in range(0, 150, 20)))
    cut = replace(cut, observed=np.flatnonzero(cut.draws))
    m = coordinates.to_frame(point.mixture)
    halves = cut.halves()
    expected = information(block, m)
    monkeypatch.setattr(curvature, "_BUFFER", 1)
    one, other = (information(half, m) for half in halves)
    pairs = [(part, expected) for part in (information(block, m), information(cut, m), one + other)]
    whole, one, other = (score(part, [m], DOUBLE)[0] for part in (block, *halves))
    for found, wanted in [*pairs, (one + other, whole)]:
        for a, b in zip(astuple(found), astuple(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-9)


# Eigenvalues that bend downwards everywhere, or not.
ROUND = np.array([0.05, 0.2, 0.5, 0.8, 1.0, 1.3])
SADDLE = np.array([-0.3, -0.1, 0.2, 0.8, 1.0, 1.3])


def bowl(values, noise=0.0):
    """A matrix with such eigenvalues in units of the complete data, and a slope."""
    *_, point, _ = case(l2=0.1)
    rng = np.random.default_rng(0)
    unit = np.sqrt(np.append(point.weights, np.repeat(point.weights + 0.1, 2)))
    vectors, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    matrix = (vectors * values) @ vectors.T * np.outer(unit, unit)
    found = replace(Curvature.of(matrix, point), noise=np.full(6, noise))
    return matrix, found, rng.standard_normal(6) * unit


@pytest.mark.parametrize("values", [ROUND, SADDLE])
def test_the_step_is_newtons_by_the_size_of_the_bend(values):
    (matrix, found, slope), (upright, *_) = bowl(values), bowl(np.abs(values))
    for damping in (0.0, 0.7):
        step = found.solve(slope, damping)
        damped = upright @ step + damping * found.unit**2 * step
        np.testing.assert_allclose(damped, slope, rtol=1e-9)
    lowest = found.lowest * found.unit**2 * found.weakest
    np.testing.assert_allclose(matrix @ found.weakest, lowest, atol=1e-12)
    assert found.curved == (values is ROUND)
    # What bends upwards has no end of gain.
    gain = 0.5 * slope @ found.solve(slope) if found.curved else np.inf
    assert found.gain(slope) == pytest.approx(gain, rel=1e-10)


def test_noise_bounds_the_gain_and_shortens_the_step():
    _, found, slope = bowl(ROUND)
    most = [bowl(ROUND, noise)[1].most(slope) for noise in (0.0, 0.005, 0.02, 0.03)]
    assert most[0] == pytest.approx(found.gain(slope), rel=1e-12)
    assert most == sorted(set(most))
    assert most[-1] == np.inf
    vague = bowl(ROUND, 0.4)[1].solve(slope)
    assert np.linalg.norm(found.unit * vague) < np.linalg.norm(found.unit * found.solve(slope))


@pytest.mark.parametrize("values", [ROUND, SADDLE])
@pytest.mark.parametrize("radius", [1e-3, 0.3, 1e3])
def test_the_trusted_step_is_the_best_of_its_ball(values, radius):
    matrix, found, slope = bowl(values)
    step, gain, length = found.trusted(slope, radius)
    tried = np.random.default_rng(1).standard_normal((500, 6)) / found.unit
    tried *= radius / np.linalg.norm(tried * found.unit, axis=1, keepdims=True)
    tried = np.concatenate([[step], tried, 0.5 * tried, step + 0.01 * tried])
    lengths = np.linalg.norm(tried * found.unit, axis=1)
    gains = tried @ slope - 0.5 * np.sum((tried @ matrix) * tried, axis=1)
    assert length == pytest.approx(lengths[0], rel=1e-9)
    assert gain == pytest.approx(gains[0], rel=1e-6)
    assert gain > 0
    assert gains[lengths <= radius].max() <= gain * (1 + 1e-9)
    if values is ROUND and radius == 1e3:
        np.testing.assert_allclose(step, found.solve(slope), rtol=1e-9)
    else:
        assert length == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize(("values", "noise"), [(ROUND, 0.0), (SADDLE, 0.0), (ROUND, 0.4)])
def test_damping_makes_the_step_as_long_as_the_radius(values, noise):
    _, found, slope = bowl(values, noise)
    free = np.linalg.norm(found.unit * found.solve(slope))
    assert found.damping(slope, 1.01 * free) == 0
    step = found.solve(slope, found.damping(slope, 0.1 * free))
    assert np.linalg.norm(found.unit * step) == pytest.approx(0.1 * free, rel=1e-9)


def test_a_sketch_of_all_rows_has_no_noise(monkeypatch):
    monkeypatch.setattr(kernels, "_SLICE_ROWS", (16, 32))
    data = rows(200, 2, base="some")
    sample = sample_of(data, n_components=2, l2=0.02)
    (point,) = climb(sample, [mixture(2, 2)], 3, dtype=DOUBLE)
    found = sketched_curvature(point, sample)
    assert not found.noise.any()
    matrix = information_at(prepare(stored(data), frame(2), 2), sample.coordinates, point)
    expected = Curvature.of(matrix, point)
    # The point is evaluated on the sketch in single precision.
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)


def test_the_noise_is_the_error_by_the_sampling(monkeypatch):
    # Slices of 64 rows: either half has several.
    monkeypatch.setattr(kernels, "_SLICE_ROWS", (64, 64))
    data = rows(6000, 2, base="all", density=0.5)
    whole, block = sample_of(data, n_components=2), prepare(stored(data), frame(2), 2)
    (point,) = climb(whole, [mixture(2, 2)], 3, dtype=DOUBLE)
    exact, total = sketched_curvature(point, whole), float(np.logaddexp.reduce(data[2]))
    expected = Mixture(-point.log_normalisers - total, point.mixture.atoms)
    errors, noises = [], []
    for seed in range(30):
        drawn = draw(block, Sampling(seed, 900, 6000, total, int(data[1].sum()), expected))
        kept = drawn.features, drawn.draws, drawn.log_base
        found = sketched_curvature(point, sample_of(kept, drawn.chance, 2, told=True))
        # u'(H_s - H) u along the eigenvectors of the exact one, and the lowest eigenvalue's.
        fixed = (exact.vectors.T @ found.vectors) ** 2 @ found.values - exact.values
        errors.append([found.lowest - exact.lowest, np.sqrt(np.mean(fixed**2))])
        noises.append([found.noise[0], np.sqrt(np.mean(found.noise**2))])
    error, noise = (np.sqrt(np.mean(np.square(part), axis=0)) for part in (errors, noises))
    assert (error > 0.01).all()
    assert (error / 2 < noise).all()
    assert (noise < 2 * error).all()


def test_sums_that_overflowed_tell_nothing():
    # Not an error: a curvature that knows no direction, whose steps the radius bounds.
    block, coordinates, point, _ = case(p=60)
    matrix = information_at(block, coordinates, point)
    matrix[0, 0] = np.inf
    curvature = Curvature.of(matrix, point, (matrix, matrix))
    assert not curvature.curved
    slope = em.slope_at(point)
    assert curvature.gain(slope) == curvature.most(slope) == np.inf
    step, _, length = curvature.trusted(slope, 0.3)
    assert np.isfinite(step).all()
    assert length <= 0.3 * (1 + 1e-9)
