"""The finish: Newton's method on the sketch, where EM crawls."""

from __future__ import annotations

import numpy as np
import pytest
from test_search import DOUBLE, bits, counted, sample_of, spread, standardised

from softmix_dist.model import Mixture
from softmix_dist.solve import em
from softmix_dist.solve.climb import climb
from softmix_dist.solve.finish import finish
from softmix_dist.solve.information import sketched_curvature

TOL = 1e-13


def pair(gap, l2=0.0):
    """A sample of two components whose atoms are so far apart, and the truth."""
    rng = np.random.default_rng(0)
    z, _ = standardised(rng.standard_normal((1000, 2)))
    weights, atoms = np.array([0.4, 0.6]), np.array([[1.0, gap / 2], [1.0, -gap / 2]])
    e = np.exp(z @ atoms.T)
    counts = rng.multinomial(10**8, e / e.sum(axis=0) @ weights)
    return sample_of(z, counts, 2, l2=l2), Mixture(np.log(weights / e.sum(axis=0)), atoms)


def too_far(gap):
    """Atoms twice as far apart."""
    return Mixture(np.zeros(2), np.array([[0.9, gap], [1.1, -gap]]))


def assert_maximum(sample, point, objective):
    assert point.objective == pytest.approx(objective, abs=1e-12)
    assert np.abs(em.slope_at(point)).max() < 1e-6
    assert sketched_curvature(point, sample).curved


@pytest.mark.parametrize("l2", [0.0, 1e-5])
def test_near_atoms_are_told_apart_where_em_has_not_yet(l2):
    sample, _ = pair(0.5, l2)
    (best,) = climb(sample, [too_far(0.5)], 500, 1e-15, dtype=DOUBLE)
    found = finish(sample, too_far(0.5), 20, TOL)
    (crawled,) = climb(sample, [too_far(0.5)], 20, 0.0, dtype=DOUBLE)
    assert crawled.objective < best.objective - 1e-7
    assert_maximum(sample, found, best.objective)
    if not l2:
        np.testing.assert_allclose(found.mixture.atoms, [[1, 0.25], [1, -0.25]], atol=0.02)


@pytest.mark.parametrize("start", [too_far(0.5), too_far(2.0), spread(3, 2, seed=2)])
def test_the_objective_never_falls(start):
    sample, _ = pair(0.5, 1e-3)
    # Deterministic, so more steps continue fewer.
    path = np.array([finish(sample, start, steps, 0.0).objective for steps in range(12)])
    assert (np.diff(path) >= 0).all()
    assert path[-1] > path[0] + 1e-3


@pytest.mark.parametrize("tol", [1e-4, 1e-8, TOL])
def test_less_than_the_tolerance_is_left(tol, monkeypatch):
    sample, _ = pair(1.0)
    best, found = (finish(sample, too_far(1.0), 50, t) for t in (1e-15, tol))
    assert -1e-14 < best.objective - found.objective < 2 * tol
    # At a maximum nothing is tried: one evaluation, and one for the curvature.
    calls = counted(monkeypatch)
    again = finish(sample, found.mixture, 50, tol)
    assert len(calls) <= 2
    assert bits([again]) == bits([found])


@pytest.mark.parametrize(("gap", "l2"), [(1.0, 0.0), (2.0, 0.0), (2.0, 1e-2)])
@pytest.mark.parametrize("push", [1e-2, 1e-6])
def test_two_components_that_are_one_are_parted(gap, l2, push):
    sample, truth = pair(gap, l2)
    (best,) = climb(sample, [truth], 500, 1e-15, dtype=DOUBLE)
    (one,) = climb(sample, [Mixture(np.zeros(1), truth.atoms[:1])], 200, 1e-15, dtype=DOUBLE)
    # The maximum of one component is a saddle point of two.
    twice = one.mixture.atoms + push * np.array([[0.6, 0.8], [-0.2, -0.5]])
    start = Mixture(np.log([0.4, 0.6]), twice)
    (saddle,) = sample.points([start], DOUBLE)
    assert np.abs(em.slope_at(saddle)).max() < 2 * push + 2 * l2
    assert sketched_curvature(saddle, sample).lowest < -0.1
    assert saddle.objective < best.objective - 1e-3
    assert_maximum(sample, finish(sample, start, 30, TOL), best.objective)


def test_a_mixture_that_cannot_be_improved_is_left_as_it_is():
    sample, _ = pair(1.0)
    lost = Mixture(np.array([2000.0, 0.0]), np.zeros((2, 2)))
    assert finish(sample, lost, 5, TOL).objective == -np.inf
    vanished = Mixture(np.array([0.0, -60.0]), np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert bits([finish(sample, vanished, 5, TOL)]) == bits(sample.points([vanished], DOUBLE))
