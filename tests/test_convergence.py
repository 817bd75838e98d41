"""When a fit stops, and what it may then say."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import reference
from problems import Problem, assert_never_falls, fitted, simulate

from softmix_dist.errors import (
    CondensedComponentWarning,
    ConvergenceWarning,
    NumericalError,
    WarmStartWarning,
)


def true_distance(problem: Problem, result) -> float:
    """Distance to the maximum in standard errors, by a much tighter fit from there."""
    tight = fitted(
        problem,
        len(result.weights),
        init=(result.weights, result.atoms),
        tol=1e-5,
        precision="double",
        max_passes=3000,
    )
    assert tight.converged
    gap = max(tight.log_likelihood - result.log_likelihood, 0.0)
    return float(np.sqrt(2 * result.n_draws * gap))


@pytest.mark.parametrize("tol", [0.1, 0.01])
@pytest.mark.parametrize("seed", range(4))
def test_converged_means_close_to_the_maximum(seed, tol):
    problem = simulate(3000, 3, 3, 10 ** (4 + seed % 3), seed=20 + seed, norm=1.7)
    result = fitted(problem, 3, init=problem.truth, tol=tol, max_passes=2000)
    assert result.converged
    assert result.distance < tol
    assert true_distance(problem, result) < 3 * tol
    assert_never_falls(result)


# Problems with slow directions, on which estimates from the last gains alone are far too low.
@pytest.mark.filterwarnings("ignore:not converged", "ignore:component", "ignore:no standard")
@pytest.mark.parametrize(
    ("law", "n_features", "n_components", "seed", "tol"),
    [
        ("gaussian", 4, 3, 46, 0.1),
        ("gaussian", 4, 3, 48, 0.1),
        ("clusters", 4, 3, 41, 0.1),
        ("clusters", 4, 3, 45, 0.01),
        ("binary", 6, 2, 43, 0.01),
        ("binary", 6, 2, 58, 0.01),
        ("student", 4, 3, 47, 0.01),
        ("student", 4, 3, 54, 0.01),
    ],
)
def test_converged_is_not_said_early(law, n_features, n_components, seed, tol):
    n_draws = 10 ** (4 + (seed - 40) % 3)
    problem = simulate(3000, n_features, n_components, n_draws, law=law, seed=seed, norm=1.7)
    result = fitted(problem, n_components, init=problem.truth, tol=tol, max_passes=2000)
    # To stop without converging would be honest, too.
    assert not result.converged or true_distance(problem, result) < 3 * tol


# A Newton step from a refuted claim is refused here: the fit must go on by other steps.
@pytest.mark.parametrize(
    ("law", "n_features", "n_components", "seed", "tol"),
    [("gaussian", 4, 3, 46, 0.3), ("binary", 6, 2, 43, 0.1)],
)
def test_a_refuted_claim_does_not_hold_up_the_fit(law, n_features, n_components, seed, tol):
    n_draws = 10 ** (4 + (seed - 40) % 3)
    problem = simulate(3000, n_features, n_components, n_draws, law=law, seed=seed, norm=1.7)
    result = fitted(problem, n_components, init=problem.truth, tol=tol, max_passes=400)
    assert result.converged
    assert true_distance(problem, result) < 3 * tol
    # No proposal is made twice from one point.
    rows = [(row["step"], row["objective"]) for row in result.history]
    refused = [row for row in rows if row[0] == "newton rejected"]
    assert len(refused) == len(set(refused))


def test_a_hardly_separated_mixture_is_not_called_converged_early():
    # Two atoms half a unit apart: EM alone would creep.
    rng = np.random.default_rng(3)
    features = rng.standard_normal((4000, 2))
    atoms = np.array([[0.2, 0.0], [0.7, 0.0]])
    pi = reference.probabilities(features, [0.5, 0.5], atoms).astype(float)
    counts = rng.multinomial(1_000_000, pi / pi.sum())
    problem = Problem(features, counts, np.array([0.5, 0.5]), atoms)
    result = fitted(problem, 2, n_init=5, max_passes=3000)
    assert result.converged
    assert true_distance(problem, result) < 0.03


@pytest.mark.parametrize("max_passes", [1, 3, 6])
def test_running_out_of_passes_is_not_convergence(medium, max_passes):
    with pytest.warns(ConvergenceWarning, match=f"max_passes={max_passes} ran out"):
        result = fitted(medium, 3, init="random", solver="em", max_passes=max_passes)
    assert not result.converged
    assert result.distance > 0.01
    assert any("not converged" in text for text in result.warnings)
    # The survey is a pass, too.
    assert result.n_passes == max_passes + 1


def test_a_fit_restarted_where_it_ended_converges(medium):
    result = fitted(medium, 3, n_init=4)
    again = fitted(medium, 3, init=(result.weights, result.atoms))
    assert again.converged
    assert again.log_likelihood == pytest.approx(result.log_likelihood, abs=1e-9)


@pytest.mark.parametrize("n_draws", [3000, 3_000_000, 3_000_000_000, 3_000_000_000_000])
def test_a_fit_that_starts_at_its_maximum_converges(n_draws):
    # All counts equal: the maximum is theta = 0, which the start is almost exactly.
    features = np.random.default_rng(0).standard_normal((300, 2))
    counts = np.full(300, n_draws // 300, dtype=np.uint64)
    result = fitted(Problem(features, counts, np.ones(1), np.zeros((1, 2))), 1)
    assert result.converged
    np.testing.assert_allclose(result.atoms, 0, atol=0.02 / np.sqrt(n_draws) + 1e-12)
    assert_never_falls(result)


def test_single_precision_is_never_called_converged(medium):
    with pytest.warns(ConvergenceWarning, match="single precision"):
        result = fitted(medium, 3, init=medium.truth, precision="single")
    assert not result.converged
    assert {row["precision"] for row in result.history} == {"float32"}
    double = fitted(medium, 3, init=medium.truth, precision="double")
    assert {row["precision"] for row in double.history} == {"float64"}
    assert abs(result.log_likelihood - double.log_likelihood) < 1e-5


@pytest.mark.parametrize("solver", ["em", "em-first-order"])
@pytest.mark.parametrize("precision", ["auto", "single", "double"])
def test_the_objective_never_falls_along_a_history(medium, solver, precision):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = fitted(
            medium, 3, n_init=4, solver=solver, precision=precision, max_passes=60, l2=1e-3
        )
    assert_never_falls(result)


def test_half_of_the_starts_go_on_after_ten_passes():
    problem = simulate(3000, 4, 4, 300_000, seed=9)
    with pytest.warns(ConvergenceWarning):
        result = fitted(problem, 4, init="random", n_init=16, solver="em", max_passes=15, tol=1e-6)
    behind = [row["stopped"] == "behind" for row in result.starts]
    assert behind.count(True) == 8
    worst = min(row["objective"] for row, out in zip(result.starts, behind, strict=True) if not out)
    for row, out in zip(result.starts, behind, strict=True):
        assert row["passes"] <= 10 if out else row["passes"] > 10
        assert row["objective"] <= worst or not out


@pytest.mark.parametrize("norm", [8, 30, 80, 1000])
@pytest.mark.parametrize("outlier", [False, True])
def test_a_start_far_outside_is_moved_or_refused(medium, outlier, norm):
    # Softmaxes on single candidates, with normalisers far above or below any prediction.
    features = medium.features.copy()
    if outlier:
        features[4000] = 1e4, -1e4, 1e4
    deviation = features.astype(float).std(axis=0)
    with warnings.catch_warnings():
        for kind in (ConvergenceWarning, CondensedComponentWarning, WarmStartWarning):
            warnings.simplefilter("ignore", kind)
        try:
            result = fitted(
                replace(medium, features=features),
                3,
                init=norm * np.diag([1.0, -1.0, 1.0]) / deviation,
                max_passes=60,
            )
        except NumericalError:
            return
    assert np.isfinite(result.log_likelihood)
    assert_never_falls(result)
