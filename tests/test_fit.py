"""The loop: the maximum that it finds, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from problems import Problem, assert_never_falls, fitted, simulate
from scipy.optimize import minimize

from softmix_dist.engine import LocalEngine
from softmix_dist.errors import CondensedComponentWarning, InputError
from softmix_dist.fit import Settings, fit


def oracle(problem: Problem, result) -> float:
    return reference.log_likelihood(
        problem.features, problem.counts, result.weights, result.atoms, problem.log_base
    )


@pytest.mark.parametrize("seed", range(3))
def test_random_starts_reach_what_em_reaches_from_the_truth(seed):
    problem = simulate(20_000, 5, 3, 1_000_000, seed=seed)
    data = problem.features, problem.counts
    from_truth = fitted(problem.dataset(), 3, init=problem.truth, solver="em")
    result = fitted(problem.dataset(), 3, n_init=20)
    assert from_truth.converged
    assert result.converged
    assert abs(result.log_likelihood - from_truth.log_likelihood) < 1e-8
    # By the oracle's EM and the oracle's likelihood as well.
    weights, atoms, _ = reference.two_pass_em(*data, *problem.truth, tolerance=1e-7)
    best = reference.log_likelihood(*data, weights, atoms)
    found = oracle(problem, result)
    assert abs(found - best) < 1e-8
    assert result.log_likelihood == pytest.approx(found, abs=1e-12)
    assert oracle(problem, from_truth) == pytest.approx(from_truth.log_likelihood, abs=1e-12)
    assert_never_falls(result)
    assert_never_falls(from_truth)


def test_a_result_is_what_the_oracle_says(medium):
    result = fitted(medium, 3, n_init=4)
    assert result.converged
    assert result.distance < 0.01
    assert list(result.weights) == sorted(result.weights, reverse=True)
    assert result.weights.sum() == pytest.approx(1, abs=1e-14)
    assert result.log_likelihood == pytest.approx(oracle(medium, result), abs=1e-12)
    assert result.objective == result.log_likelihood
    entropies = reference.entropies(medium.features, result.atoms)
    np.testing.assert_allclose(result.effective_candidates, np.exp(entropies), rtol=1e-9)
    covariance = np.cov(medium.features.astype(float).T, ddof=0)
    norms = np.einsum("ki,ij,kj->k", result.atoms, covariance, result.atoms)
    np.testing.assert_allclose((result.standard_atoms**2).sum(axis=1), norms, rtol=1e-9)
    assert (result.n_draws, result.n_candidates) == (medium.counts.sum(), 5037)
    assert result.history[-1]["log_likelihood"] == result.log_likelihood
    assert result.history[-1]["precision"] == "float64"
    assert [row["best"] for row in result.starts].count(True) == 1
    (best,) = (row for row in result.starts if row["best"])
    assert best["log_likelihood"] == result.log_likelihood
    reached = [row["log_likelihood"] for row in result.starts if row["log_likelihood"]]
    assert max(reached) == result.log_likelihood


@pytest.mark.parametrize("draws", [300, 50_000, 10_000_000])
def test_one_component_is_softmax_regression(draws):
    problem = simulate(500, 3, 1, draws, seed=8, norm=1.5, dtype=np.float64, base=True)
    x, q = problem.features, problem.counts / problem.counts.sum()

    def loss(theta):
        logits = x @ theta + problem.log_base
        top = logits.max()
        a = np.exp(logits - top)
        return np.log(a.sum()) + top - q @ logits, (a / a.sum() - q) @ x

    best = minimize(loss, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-10})
    result = fitted(problem, 1, tol=1e-4)
    assert result.converged
    np.testing.assert_array_equal(result.weights, [1.0])
    np.testing.assert_allclose(result.atoms[0], best.x, atol=1e-6)
    assert result.log_likelihood == pytest.approx(-best.fun, abs=1e-12)


@pytest.mark.parametrize("l2", [1e-4, 1e-3, 1e-2])
def test_the_penalised_gradient_vanishes(medium, l2):
    result = fitted(medium, 3, n_init=3, l2=l2, tol=1e-4)
    assert result.converged
    covariance = np.cov(medium.features.astype(float).T, ddof=0)
    by_offset, by_atom = reference.gradient(
        medium.features, medium.counts, result.weights, result.atoms
    )
    # Slopes of a ten-thousandth of a standard error, 1 / sqrt(N) each.
    small = 1e-3 / np.sqrt(result.n_draws)
    np.testing.assert_allclose(by_offset, 0, atol=small)
    np.testing.assert_allclose(by_atom - l2 * result.atoms @ covariance, 0, atol=small)
    penalty = l2 / 2 * (result.standard_atoms**2).sum()
    assert result.objective == pytest.approx(result.log_likelihood - penalty, abs=1e-13)
    assert_never_falls(result)


def test_a_larger_penalty_gives_shorter_atoms(medium):
    fits = [fitted(medium, 3, init=medium.truth, l2=l2) for l2 in (0.0, 1e-3, 1e-1)]
    norms = [np.sum(fit.standard_atoms**2) for fit in fits]
    assert norms == sorted(norms, reverse=True)
    likelihoods = [fit.log_likelihood for fit in fits]
    assert likelihoods == sorted(likelihoods, reverse=True)


def test_a_condensed_component_is_named():
    rng = np.random.default_rng(5)
    features = rng.standard_normal((3000, 2))
    atoms = np.array([[0.5, 0.0], [0.0, 8.0]])
    pi = reference.probabilities(features, [0.8, 0.2], atoms).astype(float)
    counts = rng.multinomial(500_000, pi / pi.sum())
    problem = Problem(features, counts, np.array([0.8, 0.2]), atoms)
    with pytest.warns(CondensedComponentWarning, match=r"component 1 .*l2 > 0"):
        result = fitted(problem, 2, n_init=5)
    assert result.converged
    assert result.effective_candidates[1] < 10 < result.effective_candidates[0]
    assert len(result.warnings) == 1


def test_progress_is_told_after_every_pass(medium):
    rows = []
    engine = LocalEngine(2)
    result = fit(medium.dataset(512), Settings(3, n_init=2), engine, rows.append)
    engine.close()
    assert [row["phase"] for row in rows].count("survey") == 1
    assert rows[0]["n_draws"] == result.n_draws
    told = ["pass"] * (len(rows) - 3)
    assert [row["phase"] for row in rows[1:]] == ["starts", *told, "end"]
    passes = [row["pass"] for row in rows[2:-1]]
    assert passes == sorted(set(passes))
    # Passes that only verify are not told.
    assert len(rows) - 1 <= result.n_passes
    assert rows[-2]["log_likelihood"] == result.log_likelihood
    assert rows[-1]["distance"] == result.distance


def test_settings_are_checked_all_at_once():
    wrong = Settings(
        n_components=0,
        init="magic",
        n_init=0,
        solver="newton-raphson",
        l2=-1,
        tol=0.0,
        max_passes=0,
        precision="half",
        sketch_rows=3,
        standard_errors="bootstrap",
    )
    with pytest.raises(InputError) as caught:
        wrong.check()
    lines = str(caught.value).splitlines()[1:]
    names = {line.removeprefix("- ").split(":")[0] for line in lines}
    assert names == set(vars(wrong)) - {"random_state"}


@pytest.mark.parametrize("value", [1.5, "3", None, True, -2])
def test_the_number_of_components_is_a_whole_number(value):
    with pytest.raises(InputError, match="n_components"):
        Settings(value).check()


@pytest.mark.parametrize(
    ("init", "fragment"),
    [
        (np.zeros((2, 2)), "(3, 3)"),
        ((np.ones(3) / 3, np.zeros((3, 2))), "(3, 3)"),
        ((np.ones(2) / 2, np.zeros((3, 3))), "3 weights"),
        ((np.ones(3), np.zeros((3, 3))), "sum 1"),
        ((np.array([0.5, 0.5, 0.0]), np.zeros((3, 3))), "positive"),
        (np.full((3, 3), np.nan), "finite"),
    ],
)
def test_a_given_start_must_fit(medium, init, fragment):
    with pytest.raises(InputError) as caught:
        fitted(medium, 3, init=init)
    assert fragment in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_point_of_single_precision_is_judged_again_before_steps_from_it_are_rejected(seed):
    # Components on hardly any candidates: where the passes turn to float64 the first step fails.
    problem = simulate(3000, 2, 4, 1_000_000, seed=seed, law="student")
    rows = fitted(problem, 4, init=problem.truth, max_passes=40).history
    at = [row["step"] for row in rows].index("again")
    assert rows[at - 1]["step"].endswith("rejected")
    # Two passes are those of the survey and of the sketch.
    result = fitted(problem, 4, init=problem.truth, max_passes=rows[at]["pass"] - 2)
    assert result.history[-1]["step"] == "again"
    assert result.log_likelihood == pytest.approx(oracle(problem, result), abs=1e-12)
    assert_never_falls(result)
