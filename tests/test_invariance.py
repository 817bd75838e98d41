"""What must not change the result of a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import Problem, fitted, signature, simulate


def assert_same(result, other, atol=1e-5):
    """The same maximum, up to a small part of what the data can tell."""
    assert result.converged
    assert other.converged
    np.testing.assert_allclose(result.weights, other.weights, atol=atol)
    np.testing.assert_allclose(result.standard_atoms, other.standard_atoms, atol=atol)
    np.testing.assert_allclose(result.effective_candidates, other.effective_candidates, rtol=atol)


@pytest.fixture(scope="module")
def varied() -> Problem:
    return simulate(2500, 3, 2, 300_000, seed=11, dtype=np.float64, base=True)


@pytest.fixture(scope="module")
def varied_fit(varied):
    return fitted(varied, 2, init=varied.truth, tol=1e-4)


def test_order_of_candidates(varied, varied_fit):
    order = np.random.default_rng(0).permutation(2500)
    moved = replace(
        varied,
        features=varied.features[order],
        counts=varied.counts[order],
        log_base=varied.log_base[order],
    )
    result = fitted(moved, 2, init=varied.truth, tol=1e-4)
    assert_same(result, varied_fit)
    np.testing.assert_allclose(result.atoms, varied_fit.atoms, atol=1e-5)


def test_order_of_components(varied, varied_fit):
    swapped = varied.weights[::-1], varied.atoms[::-1]
    result = fitted(varied, 2, init=swapped, tol=1e-4)
    assert_same(result, varied_fit)
    np.testing.assert_allclose(result.atoms, varied_fit.atoms, atol=1e-5)


def test_shifted_features(varied, varied_fit):
    moved = replace(varied, features=varied.features + np.array([1990.0, -3e5, 0.5]))
    result = fitted(moved, 2, init=varied.truth, tol=1e-4)
    assert_same(result, varied_fit)
    np.testing.assert_allclose(result.atoms, varied_fit.atoms, atol=1e-5)
    assert result.log_likelihood == pytest.approx(varied_fit.log_likelihood, abs=1e-11)


def test_recombined_features(varied, varied_fit):
    mix = np.array([[2.0, 1.0, 0.0], [-300.0, 40.0, 0.3], [0.0, 1e-3, 1e-3]])
    atoms = np.linalg.solve(mix, varied.atoms.T).T
    moved = replace(varied, features=varied.features @ mix)
    result = fitted(moved, 2, init=(varied.weights, atoms), tol=1e-4)
    assert result.log_likelihood == pytest.approx(varied_fit.log_likelihood, abs=1e-11)
    np.testing.assert_allclose(result.weights, varied_fit.weights, atol=1e-5)
    np.testing.assert_allclose(result.atoms @ mix.T, varied_fit.atoms, atol=1e-5)
    # Distances, radii and penalties mean the same.
    gram, expected = (fit.standard_atoms @ fit.standard_atoms.T for fit in (result, varied_fit))
    np.testing.assert_allclose(gram, expected, atol=1e-4)


@pytest.mark.parametrize("level", [3.7, -800.0, 800.0])
def test_scaled_base_measure(varied, varied_fit, level):
    moved = replace(varied, log_base=varied.log_base + level)
    result = fitted(moved, 2, init=varied.truth, tol=1e-4)
    assert_same(result, varied_fit)
    assert result.log_likelihood == pytest.approx(varied_fit.log_likelihood, abs=1e-11)


def test_samples_are_summed(varied):
    rng = np.random.default_rng(1)
    first = rng.binomial(varied.counts, 0.3)
    second = rng.binomial(varied.counts - first, 0.5)
    samples = np.stack([first, second, varied.counts - first - second])
    whole = fitted(varied, 2, n_init=3)
    split = fitted(replace(varied, counts=samples), 2, n_init=3)
    assert signature(split) == signature(whole)


@pytest.mark.parametrize("front", [False, True])
def test_unavailable_candidates_change_nothing(small, front):
    rng = np.random.default_rng(2)
    gone = 1000.0 * rng.standard_normal((700, 2))
    parts = [
        (small.features, gone),
        (small.counts, np.zeros(700, np.uint32)),
        (np.zeros(600), np.full(700, -np.inf)),
    ]
    step = -1 if front else 1
    features, counts, log_base = (np.concatenate(pair[::step]) for pair in parts)
    padded = replace(small, features=features, counts=counts, log_base=log_base)
    result = fitted(padded, 2, init=small.truth, tol=1e-4)
    expected = fitted(small, 2, init=small.truth, tol=1e-4)
    assert_same(result, expected)
    np.testing.assert_allclose(result.atoms, expected.atoms, atol=1e-5)


def test_stored_precision_of_the_same_numbers(medium):
    wide = replace(medium, features=medium.features.astype(np.float64))
    result, expected = (fitted(p, 3, init=medium.truth, tol=1e-4) for p in (wide, medium))
    assert_same(result, expected)
    assert result.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-11)


def test_base_measure_stands_for_repeated_candidates(small):
    times = np.random.default_rng(3).integers(1, 4, 600)
    rng = np.random.default_rng(4)
    shared = [
        rng.multinomial(n, np.full(m, 1 / m)) for n, m in zip(small.counts, times, strict=True)
    ]
    repeated = replace(
        small, features=small.features.repeat(times, axis=0), counts=np.concatenate(shared)
    )
    based = replace(small, log_base=np.log(times))
    result, expected = (fitted(p, 2, init=small.truth, tol=1e-4) for p in (based, repeated))
    np.testing.assert_allclose(result.weights, expected.weights, atol=1e-5)
    np.testing.assert_allclose(result.atoms, expected.atoms, atol=1e-5)
    np.testing.assert_allclose(result.standard_atoms, expected.standard_atoms, atol=1e-5)


def test_the_seed_decides_the_bits_and_not_the_maximum(medium):
    first, again, other = (fitted(medium, 3, n_init=5, random_state=seed) for seed in (0, 0, 1))
    assert signature(first) == signature(again)
    assert signature(first) != signature(other)
    assert other.log_likelihood == pytest.approx(first.log_likelihood, abs=1e-8)
