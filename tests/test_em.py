"""EM on the sums of a pass: the point that they tell, the step, what is accepted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from problems import Problem, fitted, simulate

from softmix_dist.blocks import RawBlock
from softmix_dist.kernels import prepare, score, survey
from softmix_dist.model import Frame, Mixture
from softmix_dist.solve import em
from softmix_dist.solve.design import standard_coordinates
from softmix_dist.solve.point import evaluate
from softmix_dist.solve.starts import mixture_at

DOUBLE = np.dtype(np.float64)
ROUNDING = 1e-13


class Bench:
    """A problem in one block: its standard coordinates, and points of it."""

    def __init__(self, problem: Problem, l2: float = 0.0):
        self.problem, self.l2 = problem, l2
        frame = Frame.of(problem.features, problem.log_base)
        raw = RawBlock(0, problem.features, problem.counts, problem.log_base)
        self.block = prepare(raw, frame, len(problem.weights))
        self.design, findings = survey(self.block)
        assert not findings
        names = [f"x{i}" for i in range(problem.features.shape[1])]
        self.coordinates = standard_coordinates(self.design, frame, names, problem.features.dtype)

    def at(self, mixture: Mixture):
        (sums,) = score(self.block, [self.coordinates.to_frame(mixture)], DOUBLE)
        return evaluate(mixture, sums, self.coordinates, self.design.n_draws, self.l2)

    def given(self, weights, atoms):
        """Point with exactly these weights and atoms (in the features' own coordinates)."""
        inner = self.coordinates.from_features(atoms)
        near = mixture_at(weights, inner, self.coordinates)
        exact = np.log(weights) - self.at(near).log_normalisers
        return self.at(Mixture(exact, inner))

    def random(self, seed):
        rng = np.random.default_rng(seed)
        shape = self.problem.atoms.shape
        atoms = self.coordinates.to_features(rng.normal(0, 0.7, shape))
        return self.given(rng.dirichlet(np.full(shape[0], 5.0)), atoms)

    def distance(self, state):
        """Length of the proposed move of the atoms."""
        return np.linalg.norm(state.proposal.atoms - state.point.mixture.atoms)


@pytest.fixture(scope="module")
def offset_problem() -> Problem:
    """With a base measure, correlated features, and a year among them."""
    problem = simulate(300, 3, 3, 20_000, seed=4, dtype=np.float64, base=True)
    mix = np.array([[1.0, 0.5, 3.0], [0.0, 1.0, -9.0], [0.0, 0.0, 20.0]])
    features = problem.features @ mix + np.array([0.0, -3.0, 1990.0])
    return replace(problem, features=features, atoms=np.linalg.solve(mix, problem.atoms.T).T)


def test_a_point_is_what_the_oracle_says(offset_problem):
    problem, bench = offset_problem, Bench(offset_problem, l2=0.01)
    weights = np.array([0.5, 0.3, 0.2])
    point = bench.given(weights, problem.atoms)
    np.testing.assert_allclose(point.weights, weights, rtol=1e-11)
    data = problem.features, problem.counts, weights, problem.atoms, problem.log_base
    log_likelihood = reference.log_likelihood(*data)
    assert point.log_likelihood == pytest.approx(log_likelihood, abs=1e-12)
    entropies = reference.entropies(problem.features, problem.atoms, problem.log_base)
    np.testing.assert_allclose(point.entropies, entropies, atol=1e-9)
    # The penalty is theta' Sigma theta, Sigma the base-weighted covariance.
    u = np.exp(problem.log_base)
    covariance = np.cov(problem.features.T, aweights=u, ddof=0)
    norms = np.einsum("ki,ij,kj->k", problem.atoms, covariance, problem.atoms)
    assert point.objective == pytest.approx(log_likelihood - 0.005 * norms.sum(), abs=1e-11)
    # Along standard coordinates the slope is C^-1 (g - (dl/db) mean), less the penalty's.
    by_offset, by_atom = reference.gradient(*data)
    mean = np.average(problem.features, axis=0, weights=u)
    scale = bench.coordinates.frame.scale.astype(float)
    factor = bench.coordinates.factor * scale[:, None]
    np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-9, atol=1e-9)
    slope = np.linalg.solve(factor, (by_atom - by_offset[:, None] * mean).T).T
    found = point.gradient
    np.testing.assert_allclose(found[0], by_offset, atol=1e-12)
    np.testing.assert_allclose(found[1], slope - 0.01 * problem.atoms @ factor, atol=1e-10)


def test_coordinates_there_and_back(offset_problem):
    coordinates = Bench(offset_problem).coordinates
    atoms = np.random.default_rng(0).normal(size=(4, 3))
    back = coordinates.to_features(coordinates.from_features(atoms))
    np.testing.assert_allclose(back, atoms, rtol=1e-12)


def test_the_first_step_is_the_textbook_one(offset_problem):
    bench = Bench(offset_problem)
    point = bench.random(0)
    state = em.start(point, em.EMSettings())
    assert state.point is point
    # theta + (S / R - m) in standard coordinates; the weights are the mean responsibilities.
    expected = point.mixture.atoms + point.resp_sums / point.resp[:, None] - point.means
    np.testing.assert_allclose(state.proposal.atoms, expected, rtol=1e-12)
    log_weights = state.proposal.offsets + state.predicted
    np.testing.assert_allclose(np.exp(log_weights), point.resp, rtol=1e-12)


def test_the_first_order_step_is_the_gradient(offset_problem):
    bench = Bench(offset_problem)
    point = bench.random(0)
    settings = em.EMSettings(first_order=True, step=0.3)
    state = em.start(point, settings)
    ascent = point.resp_sums - point.resp[:, None] * point.means
    np.testing.assert_allclose(state.proposal.atoms, point.mixture.atoms + 0.3 * ascent, rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("l2", [0.0, 0.02])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_objective_never_falls(offset_problem, seed, l2, first_order):
    bench, settings = Bench(offset_problem, l2), em.EMSettings(first_order)
    state = em.start(bench.random(seed), settings)
    began = state.point.objective
    for _ in range(40):
        evaluated = bench.at(state.proposal)
        new = em.advance(state, evaluated, settings, ROUNDING)
        if new.point is evaluated:
            assert evaluated.objective >= state.point.objective - ROUNDING
        else:
            assert new.point is state.point
        state = new
    assert state.point.objective > began


@pytest.mark.parametrize("first_order", [False, True])
def test_a_fall_is_rejected_and_the_step_shortened(offset_problem, first_order):
    bench, settings = Bench(offset_problem), em.EMSettings(first_order)
    state = em.start(bench.random(1), settings)
    for _ in range(5):
        evaluated = bench.at(state.proposal)
        fallen = replace(evaluated, objective=state.point.objective - 1.0)
        new = em.advance(state, fallen, settings, ROUNDING)
        assert new.point is state.point
        assert bench.distance(new) < bench.distance(state)
        state = new
    # A short step along an ascent direction is taken.
    evaluated = bench.at(state.proposal)
    assert em.advance(state, evaluated, settings, ROUNDING).point is evaluated


def test_a_normaliser_far_from_its_prediction_is_rejected(offset_problem):
    bench, settings = Bench(offset_problem), em.EMSettings()
    state = em.start(bench.random(2), settings)
    evaluated = bench.at(state.proposal)
    risen = replace(
        evaluated,
        objective=state.point.objective + 1.0,
        log_normalisers=state.predicted + 2 * em.MAX_SURPRISE,
    )
    assert em.surprise(risen, state.predicted) == pytest.approx(2 * em.MAX_SURPRISE)
    assert em.advance(state, risen, settings, ROUNDING).point is state.point


def test_a_step_that_overflows_is_rejected_until_nothing_is_left(offset_problem):
    bench, settings = Bench(offset_problem), em.EMSettings()
    state = em.start(bench.random(3), settings)
    lost = np.full(3, np.nan)
    for _ in range(200):
        evaluated = replace(
            state.point,
            mixture=state.proposal,
            log_likelihood=-np.inf,
            objective=-np.inf,
            weights=lost,
            log_normalisers=lost,
        )
        state = em.advance(state, evaluated, settings, ROUNDING)
        assert np.isfinite(state.proposal.atoms).all()
        if state.stuck:
            break
    assert state.stuck


@pytest.mark.parametrize("shift", [-5000.0, 5000.0])
@pytest.mark.parametrize("which", [[0], [0, 1, 2]])
def test_sums_out_of_range_are_a_likelihood_of_minus_infinity(offset_problem, shift, which):
    bench = Bench(offset_problem)
    mixture = bench.random(5).mixture
    offsets = mixture.offsets.copy()
    offsets[which] += shift
    point = bench.at(replace(mixture, offsets=offsets))
    assert point.log_likelihood == -np.inf
    assert point.objective == -np.inf
    assert em.surprise(point, np.zeros(3)) == np.inf


def test_dropping_a_component_leaves_the_others(offset_problem):
    bench, settings = Bench(offset_problem), em.EMSettings()
    state = em.start(bench.random(4), settings)
    kept = em.drop_components(state, np.array([True, False, True]), settings)
    assert kept.proposal.n_components == 2
    np.testing.assert_allclose(kept.point.weights.sum(), 1)
    np.testing.assert_array_equal(kept.point.mixture.atoms, state.point.mixture.atoms[[0, 2]])
    for part in (kept.point.log_normalisers, kept.point.resp, kept.point.entropies):
        assert len(part) == 2
    evaluated = bench.at(kept.proposal)
    assert np.isfinite(evaluated.objective)
    assert em.surprise(evaluated, kept.predicted) < em.MAX_SURPRISE


# ---------------------------------------------------------------- the fixed point


@pytest.mark.parametrize("base", [False, True])
def test_one_pass_and_two_pass_em_have_the_same_fixed_point(base):
    problem = simulate(400, 2, 2, 100_000, seed=5, dtype=np.float64, base=base)
    data = problem.features, problem.counts
    weights, atoms, _ = reference.two_pass_em(*data, *problem.truth, problem.log_base)
    # 1. Nothing moves where the textbook ends.
    point = Bench(problem).given(weights, atoms)
    assert max(np.abs(part).max() for part in point.gradient) < 1e-9
    state = em.start(point, em.EMSettings())
    np.testing.assert_allclose(state.proposal.atoms, point.mixture.atoms, atol=1e-8)
    np.testing.assert_allclose(state.predicted, point.log_normalisers, atol=1e-8)
    # 2. The loop ends there, too.
    result = fitted(problem, 2, init=problem.truth, solver="em", tol=1e-5)
    assert result.converged
    order = np.argsort(-weights)
    np.testing.assert_allclose(result.weights, weights[order], atol=1e-6)
    np.testing.assert_allclose(result.atoms, atoms[order], atol=1e-6)
    at_textbook = reference.log_likelihood(*data, weights, atoms, problem.log_base)
    at_result = reference.log_likelihood(*data, result.weights, result.atoms, problem.log_base)
    assert at_result == pytest.approx(at_textbook, abs=1e-13)
    # 3. The textbook does not move from where the loop ended.
    again = reference.two_pass_em(*data, result.weights, result.atoms, problem.log_base)
    np.testing.assert_allclose(again[1], result.atoms, atol=1e-6)


def test_mostly_zero_counts_have_the_same_fixed_point():
    problem = simulate(4000, 2, 2, 3000, seed=6)
    weights, atoms, _ = reference.two_pass_em(problem.features, problem.counts, *problem.truth)
    result = fitted(problem, 2, init=problem.truth, tol=1e-5)
    order = np.argsort(-weights)
    np.testing.assert_allclose(result.weights, weights[order], atol=1e-5)
    np.testing.assert_allclose(result.atoms, atoms[order], atol=1e-5)


def test_first_order_em_reaches_the_same_maximum(small):
    quick = fitted(small, 2, n_init=3, tol=1e-3)
    slow = fitted(small, 2, n_init=3, tol=1e-2, solver="em-first-order", max_passes=3000)
    assert quick.converged
    assert slow.converged
    assert {row["step"].split()[0] for row in slow.history} <= {"start", "em", "information"}
    # A hundredth of a standard error is a gap of tol^2 / 2N.
    assert slow.log_likelihood == pytest.approx(quick.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(slow.atoms, quick.atoms, atol=1e-3)
