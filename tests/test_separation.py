"""Maxima at infinity are told, with component and feature; hard fits are not taken for them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from problems import Problem, fitted, simulate
from test_sample import frame, mixture, rows, stored

from softmix_dist import kernels
from softmix_dist.curvature import extent
from softmix_dist.errors import ConvergenceWarning
from softmix_dist.kernels import prepare
from softmix_dist.model import Mixture
from softmix_dist.solve.point import Point
from softmix_dist.solve.separation import Suspect, running_off
from softmix_dist.sums import Extent

ATOM = np.array([1.0, -0.5])


def problem_of(x, pi, n_draws, seed=0) -> Problem:
    counts = np.random.default_rng(seed).multinomial(n_draws, pi / pi.sum())
    return Problem(x, counts, np.ones(1), np.zeros((1, x.shape[1])))


def design(p=3000, seed=0):
    """Two Gaussian features, and what their utilities weigh."""
    z = np.random.default_rng(seed).standard_normal((p, 2))
    return z, np.exp(z @ ATOM)


def separated(problem, n_components=1, **settings):
    """The one warning that says it, and the fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fitted(problem, n_components, **{"max_passes": 60} | settings)
    assert not result.converged
    (told,) = (text for text in result.warnings if "separation" in text)
    assert "the maximum lies at infinity" in told
    assert "use l2 > 0" in told
    assert result.n_passes < 60
    return told, result


@pytest.mark.parametrize("solver", ["auto", "em"])
@pytest.mark.parametrize(("n_draws", "sketch_rows"), [(10_000, None), (10**9, None), (10**5, 800)])
def test_a_feature_that_all_draws_have(solver, n_draws, sketch_rows):
    z, u = design()
    has = np.random.default_rng(1).random(len(z)) < 0.4
    # Correlated with another feature, which is not to blame.
    x = np.column_stack([z[:, 0] + has, has, z[:, 1]])
    problem = problem_of(x, u * has, n_draws)
    told, _ = separated(problem, solver=solver, sketch_rows=sketch_rows)
    assert "component 0 (weight 1) sit at the largest values of feature 'x1'" in told


@pytest.mark.parametrize("n_draws", [10_000, 10**9])
@pytest.mark.parametrize("sketch_rows", [None, 800])
def test_a_rare_category_that_was_never_drawn(n_draws, sketch_rows):
    z, u = design()
    rare = np.arange(len(z)) % 500 == 3
    problem = problem_of(np.column_stack([z, rare]), u * ~rare, n_draws)
    told, result = separated(problem, sketch_rows=sketch_rows)
    assert "smallest values of feature 'x2'" in told
    # Elsewhere the estimate is what it should be.
    np.testing.assert_allclose(result.atoms[0, :2], ATOM, atol=0.05)


def test_a_combination_of_features():
    z, u = design()
    kind = np.random.default_rng(1).integers(0, 3, len(z))
    # Candidates have one of two features or none; draws never none.
    x = np.column_stack([z, kind == 1, kind == 2])
    told, _ = separated(problem_of(x, u * (kind > 0), 10_000))
    assert "the extreme of a combination of features led by 'x" in told


def test_all_draws_on_one_candidate():
    z, _ = design()
    counts = np.zeros(len(z), int)
    counts[np.argmax(z @ ATOM)] = 5000
    told, _ = separated(Problem(z, counts, np.ones(1), np.zeros((1, 2))))
    assert "component 0" in told


@pytest.mark.parametrize("sketch_rows", [None, 1000])
def test_of_several_components_the_heaviest_is_named(sketch_rows):
    z, u = design()
    v = np.exp(z @ -ATOM)
    has = np.random.default_rng(1).random(len(z)) < 0.5
    pi = (0.7 * u / (u @ has) + 0.3 * v / (v @ has)) * has
    problem = problem_of(np.column_stack([z, has]), pi, 100_000)
    told, result = separated(problem, 2, sketch_rows=sketch_rows)
    assert "component 0 (weight 0.7) sit at the largest values of feature 'x2'" in told
    np.testing.assert_allclose(result.weights, [0.7, 0.3], atol=0.02)


@pytest.mark.parametrize("sketch_rows", [None, 1000])
def test_one_component_on_an_outlier(sketch_rows):
    z, u = design()
    z[17] = -8, 8
    # Nothing else is drawn on that side.
    pi = 0.7 * u**3 / np.sum(u**3)
    pi[17] += 0.3
    told, result = separated(problem_of(z, pi, 10_000), 2, sketch_rows=sketch_rows)
    assert "component 1 (weight 0.3) sit at the extreme of a combination" in told
    np.testing.assert_allclose(result.atoms[0], 3 * ATOM, atol=0.2)


@pytest.mark.parametrize("solver", ["auto", "em"])
def test_a_penalty_keeps_it_finite(solver):
    z, u = design()
    has = np.random.default_rng(1).random(len(z)) < 0.4
    problem = problem_of(np.column_stack([z, has]), u * has, 10_000)
    result = fitted(problem, 1, solver=solver, l2=1e-4)
    assert result.converged
    assert result.warnings == []


def test_what_the_last_pass_says_is_kept_apart_from_running_out():
    z, u = design()
    has = np.random.default_rng(1).random(len(z)) < 0.4
    problem = problem_of(np.column_stack([z, has]), u * has, 10_000)
    with pytest.warns(ConvergenceWarning, match="max_passes=2 ran out"):
        fitted(problem, 1, init="random", max_passes=2)


# Slow, nearly flat, condensed or far out, but with a maximum.
HARD = [
    ("gaussian", 4, 3, 46, 3.0),
    ("gaussian", 2, 4, 48, 2.5),
    ("clusters", 4, 3, 41, 1.7),
    ("clusters", 2, 3, 45, 2.5),
    ("binary", 6, 2, 43, 1.7),
    ("student", 4, 3, 47, 1.7),
    ("student", 2, 2, 54, 2.5),
]


@pytest.mark.parametrize("sketch_rows", [None, 1000])
@pytest.mark.parametrize(("law", "n_features", "n_components", "seed", "norm"), HARD)
def test_hard_fits_are_not_taken_for_separated(
    law, n_features, n_components, seed, norm, sketch_rows
):
    n_draws = 10 ** (4 + (seed - 40) % 3)
    problem = simulate(3000, n_features, n_components, n_draws, law=law, seed=seed, norm=norm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fitted(
            problem, n_components, init=problem.truth, max_passes=100, sketch_rows=sketch_rows
        )
    assert not any("separation" in text for text in result.warnings)


def test_components_that_coincide_are_not_separated():
    z, u = design()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fitted(problem_of(z, u, 2_000), 2, init=([0.5, 0.5], [ATOM, ATOM + 0.1]))
    assert not any("separation" in text for text in result.warnings)


def test_an_atom_on_few_candidates_has_a_maximum_where_they_differ():
    problem = simulate(5_037, 2, 1, 100_000, norm=5.0, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fitted(problem, 1)
    assert result.effective_candidates[0] < 25
    assert result.converged


def at(mean, drawn, resp=1.0):
    """A point of one component and one feature, as far as separation looks at it."""
    one, nothing = np.ones(1), np.zeros(1)
    return Point(
        mixture=Mixture(nothing, np.ones((1, 1))),
        weights=one,
        log_normalisers=nothing,
        log_likelihood=-1.0,
        objective=-1.0,
        resp=resp * one,
        resp_sums=np.array([[resp * drawn]]),
        means=np.array([[mean]]),
        entropies=nothing,
        l2=0.0,
    )


@pytest.mark.parametrize(
    ("point", "n_draws", "told"),
    [
        (at(1 - 1e-7, 1.0), 10**4, True),
        # Five draws are expected off the extreme: the maximum may be near.
        (at(1 - 1e-7, 1.0), 10**8, False),
        # The slope points inwards, or nowhere.
        (at(1 - 1e-7, 1 - 2e-7), 10**4, False),
        (at(1 - 1e-7, 1 - 1e-7), 10**4, False),
        # Nearer than rounding tells.
        (at(1.0, 1 - 1e-15), 10**4, True),
        # A component without draws is something else.
        (at(1 - 1e-7, 1.0, 1e-5), 10**4, False),
    ],
)
def test_it_takes_no_draws_off_the_extreme_and_a_slope_outwards(point, n_draws, told):
    suspect = Suspect(0, np.ones(1))
    found = running_off(point, [suspect], Extent(-np.ones(1), np.ones(1)), n_draws)
    assert found == (suspect if told else None)


# ------------------------------------------------------------------ how far directions reach


@pytest.mark.parametrize("base", [None, "all", "some"])
def test_the_extent_is_that_of_the_available_candidates(base, monkeypatch):
    monkeypatch.setattr(kernels, "_SLICE_ROWS", (64, 64))
    data = x, _, log_base = rows(200, 3, base=base)
    ways = mixture(4, 3)
    block = prepare(stored(data), frame(3), 3)
    found = extent(block, ways)
    there = x if log_base is None else x[log_base > -np.inf]
    utilities = there @ ways.atoms.T + ways.offsets
    np.testing.assert_allclose(found.low, utilities.min(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.high, utilities.max(axis=0), rtol=1e-12)
    halves = [extent(half, ways) for half in block.halves()]
    joined = halves[0] + halves[1]
    np.testing.assert_array_equal([joined.low, joined.high], [found.low, found.high])


def test_a_block_without_available_candidates_reaches_nowhere():
    data = x, n, _ = rows(20, 2)
    block = prepare(stored((x, 0 * n, np.full(20, -np.inf))), frame(2), 2)
    ways = mixture(2, 2)
    one, other = extent(block, ways), extent(prepare(stored(data), frame(2), 2), ways)
    joined = one + other
    np.testing.assert_array_equal([joined.low, joined.high], [other.low, other.high])
