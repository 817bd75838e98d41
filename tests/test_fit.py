"""The loop: the maximum it finds, when it stops, and what must not change the result."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import reference
from problems import Problem, fitted, signature, simulate
from scipy.optimize import minimize

from softmix_dist.errors import (
    CondensedComponentWarning,
    ConvergenceWarning,
    InputError,
    NumericalError,
    WarmStartWarning,
)
from softmix_dist.fit import Settings


def oracle(problem: Problem, result) -> float:
    return reference.log_likelihood(
        problem.features, problem.counts, result.weights, result.atoms, problem.log_base
    )


def assert_same(result, other, atol=1e-5):
    """The same maximum, up to a small part of what the data can tell."""
    assert result.converged
    assert other.converged
    np.testing.assert_allclose(result.weights, other.weights, atol=atol)
    np.testing.assert_allclose(result.standard_atoms, other.standard_atoms, atol=atol)
    np.testing.assert_allclose(result.effective_candidates, other.effective_candidates, rtol=atol)


def assert_never_falls(result):
    rows = result.history
    assert len(rows) > 1
    for before, after in zip(rows, rows[1:], strict=False):
        assert after["objective"] >= before["objective"] - after["rounding"]
        if "rejected" not in after["step"]:
            size = max(abs(row["log_likelihood"]) for row in (before, after))
            assert 0 < after["rounding"] < 1e-6 * (1 + size)


# ---------------------------------------------------------------- the maximum


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
    for fit in (result, from_truth):
        assert_never_falls(fit)


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
    assert max(row["log_likelihood"] for row in result.starts) == result.log_likelihood


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


# ---------------------------------------------------------------- when it stops


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
@pytest.mark.filterwarnings("ignore:not converged", "ignore:component")
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
        result = fitted(medium, 3, n_init=4, max_passes=max_passes)
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
        result = fitted(problem, 4, n_init=16, max_passes=15, tol=1e-6)
    behind = [row["stopped"] == "behind" for row in result.starts]
    assert behind.count(True) == 8
    worst = min(row["objective"] for row, out in zip(result.starts, behind, strict=True) if not out)
    for row, out in zip(result.starts, behind, strict=True):
        assert row["passes"] <= 10 if out else row["passes"] > 10
        assert row["objective"] <= worst or not out


# ---------------------------------------------------------------- what changes nothing


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


# ---------------------------------------------------------------- what is said


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
    from softmix_dist.engine import LocalEngine
    from softmix_dist.fit import fit

    rows = []
    engine = LocalEngine(2)
    result = fit(medium.dataset(512), Settings(3, n_init=2), engine, rows.append)
    engine.close()
    assert [row["phase"] for row in rows].count("survey") == 1
    assert rows[0]["n_draws"] == result.n_draws
    assert len(rows) == result.n_passes
    assert rows[-1]["log_likelihood"] == result.log_likelihood


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
