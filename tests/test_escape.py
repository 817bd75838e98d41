"""Ways out of optima that are nearly the best: when they are looked for, and that they lead up."""

from __future__ import annotations

import numpy as np
import pytest
from test_finish import pair
from test_search import DOUBLE, bits, problem

from softmix_dist.model import Mixture
from softmix_dist.solve import escape as escapes
from softmix_dist.solve.escape import doubtful, escape
from softmix_dist.solve.finish import newton_steps, polish
from softmix_dist.solve.information import sketched_curvature
from softmix_dist.solve.proposals import regrown

PLENTY = 1e12
# Law, components, features, norm and seed of problems with a trap, see `trapped`.
TRAPS = [("binary", 4, 4, 2.0, 2), ("student", 3, 4, 2.5, 2), ("student", 4, 3, 2.0, 4)]


def trapped(law, n_components, n_features, norm, seed):
    """A sample, the optimum near the truth, and a lower one: its smallest component went far."""
    sample, truth = problem(seed, law, n_components, n_features, norm=norm)
    best = polish(sample, truth, PLENTY)
    k = int(np.argmin(best.entropies))
    atoms = best.mixture.atoms.copy()
    push = np.random.default_rng(seed).standard_normal(n_features)
    push -= push @ atoms[k] / (atoms[k] @ atoms[k]) * atoms[k]
    atoms[k] = 1.5 * atoms[k] + 3 * push / np.linalg.norm(push)
    (there,) = sample.points([Mixture(np.full(n_components, -30.0), atoms)], DOUBLE)
    begin = Mixture(np.log(best.weights) - there.log_normalisers, atoms)
    return sample, best, polish(sample, begin, PLENTY)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_component_on_the_wrong_side_is_brought_back(trap):
    sample, best, low = trapped(*trap)
    assert low.objective < best.objective - 5e-6
    # A search may miss: where the trap is flat, last bits of BLAS decide with which seeds it does.
    for seed in range(4):
        found = escape(sample, low, np.random.default_rng(seed), PLENTY)
        assert found.objective >= low.objective
        if found.objective > best.objective - 1e-7:
            break
    assert found.objective > best.objective - 1e-7
    (again,) = sample.points([found.mixture], DOUBLE)
    assert again.objective == pytest.approx(found.objective, abs=1e-13)


@pytest.mark.parametrize("way", ["_relaxed", "_regrown"])
def test_each_way_leads_out_of_some_trap(way, monkeypatch):
    other = {"_relaxed": ("_MOST", 0), "_regrown": ("_PENALTIES", ())}[way]
    monkeypatch.setattr(escapes, *other)
    gains = []
    for trap in TRAPS:
        sample, _, low = trapped(*trap)
        found = escape(sample, low, np.random.default_rng(0), PLENTY)
        gains.append(found.objective - low.objective)
    assert min(gains) >= 0
    assert max(gains) > 5e-6


def test_the_same_seed_gives_the_same_bits():
    sample, _, low = trapped(*TRAPS[0])
    first, second = (escape(sample, low, np.random.default_rng(5), PLENTY) for _ in range(2))
    assert bits([first]) == bits([second])


@pytest.mark.parametrize(("gap", "doubted"), [(2.0, 0), (0.1, 2)])
def test_components_are_in_doubt_where_the_draws_hardly_tell_them_apart(gap, doubted):
    sample, truth = pair(gap)
    point = polish(sample, truth, PLENTY)
    found = doubtful(sample, point)
    assert len(found) == doubted
    # Against the variances themselves, in units of the complete data.
    curvature = sketched_curvature(point, sample)
    scaled = curvature.vectors @ np.diag(1 / curvature.values) @ curvature.vectors.T
    assert (np.diag(scaled).max() > 1e3) == bool(doubted)


def test_nothing_is_tried_without_a_doubt_or_without_the_work():
    sample, truth = pair(2.0)
    point = polish(sample, truth, PLENTY)
    assert escape(sample, point, np.random.default_rng(0), PLENTY) is point
    sample, _, low = trapped(*TRAPS[0])
    little = 3.0 * len(sample.z) * low.mixture.n_coefficients**2
    assert newton_steps(sample, low.mixture.n_components, little) == 3
    assert escape(sample, low, np.random.default_rng(0), little) is low


def test_a_component_grown_anew_is_another_and_draws_keep_their_total():
    sample, truth = problem(1, "student", 4, 3)
    point = polish(sample, truth, PLENTY)
    begins = regrown(sample, point, 2, np.random.default_rng(0), 24, 5)
    assert 1 <= len(begins) <= 3
    for begin in begins:
        np.testing.assert_array_equal(begin.atoms[:3], np.delete(point.mixture.atoms, 2, axis=0))
        assert np.linalg.norm(begin.atoms[3] - point.mixture.atoms[2]) > 0.3
        assert np.linalg.norm(begin.atoms[3]) <= sample.coordinates.radius * (1 + 1e-6)
        (there,) = sample.points([begin], DOUBLE)
        assert there.weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(
            there.weights[:3] / there.weights[:3].sum(),
            np.delete(point.weights, 2) / np.delete(point.weights, 2).sum(),
            rtol=1e-4,
        )


def test_a_penalised_sample_is_not_relaxed_further():
    sample, truth = problem(2, "binary", 4, 4, l2=1e-3)
    point = polish(sample, truth, PLENTY)
    found = escape(sample, point, np.random.default_rng(0), PLENTY)
    assert found.objective >= point.objective
    assert found.l2 == sample.l2
