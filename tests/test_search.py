"""The global search on the sketch: each of its steps, and the optimum that it finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from problems import simulate

from softmix_dist.model import Mixture
from softmix_dist.solve.climb import best_of, climb
from softmix_dist.solve.proposals import Proposals, highest_atoms, insert, within, without
from softmix_dist.solve.sample import Sample
from softmix_dist.solve.search import _removal_costs, search
from softmix_dist.solve.starts import mixture_at

DOUBLE = np.dtype(np.float64)
STYLES = [Proposals(), Proposals(rows=12, around=12), Proposals(cap=1.0, keep=5)]


def standardised(features, log_base=None):
    """Whitened features, and the matrix that maps atoms along."""
    x = np.asarray(features, dtype=float)
    u = None if log_base is None else np.exp(log_base)
    mean = np.average(x, axis=0, weights=u)
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(x.T, aweights=u, ddof=0)))
    return np.linalg.solve(factor, (x - mean).T).T, factor


def sample_of(z, counts, n_components=3, log_base=None, l2=0.0):
    """All rows as a sample."""
    u = np.ones(len(z)) if log_base is None else np.exp(log_base)
    share = u / u.sum()
    entropy = float(-share @ np.log(share))
    return Sample.of(
        z, u, counts.astype(float), int(counts.sum()), n_components, entropy, l2, log_base
    )


def problem(seed=0, law="gaussian", n_components=3, n_features=3, base=False, norm=2.0, l2=0.0):
    """A sample with its truth as a mixture in standard coordinates."""
    made = simulate(
        2_000, n_features, n_components, 200_000, seed=seed, law=law, base=base, norm=norm
    )
    z, factor = standardised(made.features, made.log_base)
    sample = sample_of(z, made.counts, n_components, made.log_base, l2)
    return sample, mixture_at(made.weights, made.atoms @ factor, sample.coordinates)


def spread(n_components, n_features=3, seed=0, norm=1.0):
    """Equal weights and random atoms."""
    atoms = np.random.default_rng(seed).standard_normal((n_components, n_features))
    atoms *= norm / np.linalg.norm(atoms, axis=1, keepdims=True)
    return Mixture(-0.5 * np.sum(atoms**2, axis=1), atoms)


def counted(monkeypatch):
    """Evaluations of each call that evaluates mixtures on a sample."""
    calls, evaluate = [], Sample.points

    def points(self, mixtures, dtype=np.float32):
        calls.append(len(mixtures))
        return evaluate(self, mixtures, dtype)

    monkeypatch.setattr(Sample, "points", points)
    return calls


def bits(points):
    return b"".join(
        part.tobytes() for p in points for part in (p.weights, p.mixture.atoms, p.mixture.offsets)
    )


# Short EM.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("law", "base", "l2"), [("gaussian", False, 0), ("binary", True, 1e-3)])
def test_climb_never_lowers_the_objective(law, base, l2, dtype):
    sample, _ = problem(1, law, base=base, l2=l2)
    starts = [spread(3, seed=seed) for seed in range(3)]
    # Deterministic, so more steps continue fewer.
    paths = np.array(
        [[p.objective for p in climb(sample, starts, n, 0.0, dtype=dtype)] for n in range(25)]
    )
    rounding = float(np.finfo(dtype).eps)
    assert (np.diff(paths, axis=0) >= -rounding).all()
    assert (paths[-1] > paths[0] + 1e-2).all()
    evaluated = [p.objective for p in sample.points(starts, dtype)]
    np.testing.assert_array_equal(paths[0], evaluated)


@pytest.mark.parametrize("steps", [0, 1, 7, 30])
def test_climb_evaluates_once_a_step(monkeypatch, steps):
    sample, _ = problem()
    calls = counted(monkeypatch)
    climb(sample, [spread(3), spread(2)], steps, tol=0.0)
    assert len(calls) <= steps + 1
    assert calls[0] == 2
    assert steps > 7 or calls == [2] * (steps + 1)


def test_climb_stops_at_the_tolerance(monkeypatch):
    sample, truth = problem()
    calls = counted(monkeypatch)
    objectives, lengths = [], []
    for tol in (1e-2, 1e-5, 1e-12):
        calls.clear()
        objectives.append(climb(sample, [spread(3)], 300, tol, dtype=DOUBLE)[0].objective)
        lengths.append(len(calls))
    assert lengths == sorted(set(lengths))
    assert lengths[-1] < 300
    assert objectives[0] <= objectives[1] + 1e-15
    assert objectives[1] == pytest.approx(objectives[2], abs=1e-4)


def test_climb_gives_up_below_the_bar(monkeypatch):
    sample, truth = problem()
    (best,) = climb(sample, [truth], 300, 1e-12, dtype=DOUBLE)
    calls = counted(monkeypatch)
    # Two components cannot reach three: with a bar that is soon seen.
    (free,) = climb(sample, [spread(2)], 200)
    without = len(calls)
    calls.clear()
    (stopped,) = climb(sample, [spread(2)], 200, bar=best.objective + 1)
    assert len(calls) < without
    assert stopped.objective <= free.objective + 1e-6
    # A bar that can be passed changes nothing.
    (passing,) = climb(sample, [spread(2)], 200, bar=free.objective - 1)
    assert bits([passing]) == bits([free])


def test_climbing_together_is_climbing_alone():
    sample, truth = problem(2)
    starts = [spread(3, seed=1), spread(1), truth, spread(5, seed=2)]
    together = climb(sample, starts, 30)
    alone = [climb(sample, [start], 30)[0] for start in starts]
    assert bits(together) == bits(alone)


def test_climb_leaves_a_mixture_that_cannot_be_evaluated():
    sample, _ = problem()
    lost = Mixture(np.array([2000.0, 0.0]), np.zeros((2, 3)))
    bad, good = climb(sample, [lost, spread(2)], 5)
    assert bad.objective == -np.inf
    assert np.isfinite(good.objective)
    assert best_of([bad, good]) is good
    assert best_of([good, good, bad]) is good


# New atoms.


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("law", "base"), [("gaussian", False), ("binary", True)])
def test_new_atoms_gain_what_is_said(law, base, style):
    sample, _ = problem(6, law, base=base)
    point = climb(sample, [spread(2, seed=1)], 60)[0]
    found = highest_atoms(sample, point, np.random.default_rng(0), style)
    assert 1 <= len(found) <= style.keep
    heights, _, _ = sample.tilts(
        np.array([atom for _, atom in found]), sample.density(point.mixture)
    )
    assert (heights > 1).all()
    (before,) = sample.points([point.mixture], DOUBLE)
    gains = []
    for weight, atom in found:
        assert 0 < weight < 1
        assert np.linalg.norm(atom) <= sample.coordinates.radius * (1 + 1e-12)
        (after,) = sample.points([insert(sample, point, [(weight, atom)])], DOUBLE)
        gains.append(after.log_likelihood - before.log_likelihood)
        # l((1 - w) pi + w A) - l(pi), by its definition.
        ratio = sample.component(atom).astype(float) / sample.density(point.mixture)
        expected = sample.share.astype(float) @ np.log1p(weight * (ratio - 1))
        assert gains[-1] == pytest.approx(expected, abs=2e-6)
        # Of all weights about the best one.
        grid = np.linspace(1e-3, 0.9, 400)[:, None]
        best = (np.log1p(grid * (ratio - 1)) @ sample.share.astype(float)).max()
        assert gains[-1] > 0.98 * best - 1e-6
    assert gains[0] > 1e-5
    assert gains == sorted(gains, reverse=True)
    for i, (_, atom) in enumerate(found):
        for _, other in found[:i]:
            assert np.linalg.norm(atom - other) > 0.3


def test_inserted_weights_are_as_said():
    sample, _ = problem(5)
    point = climb(sample, [spread(2, seed=1)], 20)[0]
    news = [(0.05, np.array([1.0, 0.5, 0.0])), (0.2, np.array([-1.0, 0.0, 1.0]))]
    (after,) = sample.points([insert(sample, point, news)], DOUBLE)
    np.testing.assert_allclose(after.weights[2:], [0.05, 0.2], rtol=1e-5)
    np.testing.assert_allclose(after.weights[:2], 0.75 * point.weights, rtol=1e-5)
    np.testing.assert_array_equal(after.mixture.atoms[:2], point.mixture.atoms)
    np.testing.assert_array_equal(after.mixture.atoms[2:], [atom for _, atom in news])
    # Those that are there keep 0.3 at least.
    heavy = [(0.6, news[0][1]), (0.8, news[1][1])]
    (after,) = sample.points([insert(sample, point, heavy)], DOUBLE)
    np.testing.assert_allclose(after.weights[2:], [0.3, 0.4], rtol=1e-5)
    np.testing.assert_allclose(after.weights[:2], 0.3 * point.weights, rtol=1e-5)


def test_atoms_are_cut_to_the_radius():
    atoms = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(within(atoms, 2.0), [[1.2, 1.6], [0.3, 0.4], [0, 0]], rtol=1e-15)


# Components that go.


@pytest.mark.parametrize(("law", "base"), [("gaussian", False), ("binary", True)])
def test_the_cost_of_a_removal_is_the_likelihood_lost(law, base):
    sample, truth = problem(6, law, n_components=4, base=base)
    (point,) = climb(sample, [truth], 30)
    costs = _removal_costs(sample, point)
    (whole,) = sample.points([point.mixture], DOUBLE)
    for k in range(4):
        kept = np.arange(4) != k
        (rest,) = sample.points([without(point.mixture, k)], DOUBLE)
        # Nothing else is changed: the weights of the others share what is left.
        shares = whole.weights[kept] / whole.weights[kept].sum()
        np.testing.assert_allclose(rest.weights, shares, rtol=1e-12)
        lost = whole.log_likelihood - rest.log_likelihood
        assert costs[k] == pytest.approx(lost, abs=2e-6)
    assert costs.min() > 1e-4


def test_the_cost_of_a_removal_against_the_oracle():
    rng = np.random.default_rng(3)
    z, counts = rng.standard_normal((80, 2)), rng.poisson(9, 80)
    sample = sample_of(z, counts)
    (point,) = sample.points([spread(3, 2, seed=4, norm=2.0)], DOUBLE)
    costs = _removal_costs(sample, point)
    whole = reference.log_likelihood(z, counts, point.weights, point.mixture.atoms)
    for k in range(3):
        weights = np.delete(point.weights, k) / (1 - point.weights[k])
        atoms = np.delete(point.mixture.atoms, k, axis=0)
        rest = reference.log_likelihood(z, counts, weights, atoms)
        assert costs[k] == pytest.approx(whole - rest, rel=1e-5)


# The search.

PROBLEMS = [
    pytest.param(0, "gaussian", 3, 3, False, id="gaussian 3"),
    pytest.param(1, "gaussian", 5, 4, False, id="gaussian 5"),
    pytest.param(2, "binary", 3, 5, False, id="binary 3"),
    pytest.param(3, "gaussian", 4, 4, True, id="gaussian 4, base measure"),
]


@pytest.mark.parametrize(("seed", "law", "n_components", "n_features", "base"), PROBLEMS)
def test_search_reaches_what_em_reaches_from_the_truth(seed, law, n_components, n_features, base):
    sample, truth = problem(seed, law, n_components, n_features, base)
    (reached,) = climb(sample, [truth], 2000, 1e-11, dtype=DOUBLE)
    found = search(sample, n_components, np.random.default_rng(7), 4)
    (best,) = climb(sample, [found[0].mixture], 2000, 1e-11, dtype=DOUBLE)
    assert best.mixture.n_components == n_components
    assert best.objective > reached.objective - 1e-6
    # As it was found it is there but for the last digits.
    assert found[0].objective == pytest.approx(best.objective, abs=1e-4)


def test_the_optima_found_differ_and_the_best_is_first():
    sample, _ = problem(9, n_components=5, n_features=2, norm=1.5)
    found = search(sample, 5, np.random.default_rng(1))
    objectives = [point.objective for point in found]
    assert objectives == sorted(objectives, reverse=True)
    assert all(a - b > 1e-7 for a, b in zip(objectives, objectives[1:], strict=False))


def test_the_same_seed_gives_the_same_bits():
    sample, _ = problem(1, n_components=4)
    one, two, other = (search(sample, 4, np.random.default_rng(seed), 2) for seed in (5, 5, 6))
    assert bits(one) == bits(two)
    assert bits(one) != bits(other)


def test_less_is_searched_where_the_answer_is_known(monkeypatch):
    sample, truth = problem(0)
    (known,) = climb(sample, [truth], 2000, 1e-11, dtype=DOUBLE)
    calls, lengths = counted(monkeypatch), []
    for points in ((), (known,), (known, known)):
        calls.clear()
        found = search(sample, 3, np.random.default_rng(0), known=points)
        assert found[0].objective == pytest.approx(known.objective, abs=1e-5)
        lengths.append(len(calls))
    assert lengths == sorted(set(lengths), reverse=True)
    # Three that agree on a part of the data are believed, for it is not the last word.
    part = replace(sample, chance=np.full(len(sample.z), 0.5))
    calls.clear()
    (found,) = search(part, 3, np.random.default_rng(0), known=[known] * 3)
    assert (found, calls) == (known, [])
    assert search(sample, 3, np.random.default_rng(0), known=[known] * 3)
    assert calls


@pytest.mark.parametrize("base", [False, True])
def test_one_component_is_softmax_regression(base):
    made = simulate(500, 3, 2, 50_000, seed=3, base=base)
    z, _ = standardised(made.features, made.log_base)
    sample = sample_of(z, made.counts, 1, made.log_base)
    (point,) = search(sample, 1, np.random.default_rng(0))
    log_base = np.zeros(500) if made.log_base is None else made.log_base
    shares = made.counts / made.counts.sum()
    atom = reference.softmax_regression(z, shares, log_base, np.zeros(3))
    np.testing.assert_allclose(point.mixture.atoms[0], atom, atol=2e-3)
    np.testing.assert_array_equal(point.weights, [1.0])


def test_a_penalty_is_searched_with():
    sample, truth = problem(0, l2=1e-2)
    (reached,) = climb(sample, [truth], 2000, 1e-11, dtype=DOUBLE)
    (best,) = climb(sample, [search(sample, 3, np.random.default_rng(0))[0].mixture], 500, 1e-11)
    assert best.objective > reached.objective - 1e-5


# Data that support less than what is asked for.


def assert_usable(point, n_components):
    assert 1 <= point.mixture.n_components <= n_components
    assert np.isfinite(point.objective)
    assert np.isfinite(point.mixture.atoms).all()
    assert point.weights.sum() == pytest.approx(1)
    assert (point.weights > 0).all()


@pytest.fixture(scope="module")
def cloud():
    z, _ = standardised(np.random.default_rng(0).standard_normal((500, 2)))
    return z


@pytest.mark.parametrize("n_components", [2, 3, 5])
@pytest.mark.parametrize("each", [1, 10])
def test_uniform_draws_need_one_component(cloud, n_components, each):
    sample = sample_of(cloud, np.full(500, each))
    for point in search(sample, n_components, np.random.default_rng(0)):
        assert_usable(point, n_components)
        # What rounding alone gains is no gain.
        assert point.mixture.n_components == 1
        np.testing.assert_allclose(point.mixture.atoms, 0, atol=1e-4)


@pytest.mark.parametrize("n_components", [1, 2, 4])
@pytest.mark.parametrize("n_draws", [1, 1000])
@pytest.mark.parametrize("where", ["inside", "extreme"])
def test_all_draws_on_one_candidate(cloud, n_components, n_draws, where):
    counts = np.zeros(500, int)
    counts[17 if where == "inside" else np.argmax(cloud[:, 0])] = n_draws
    sample = sample_of(cloud, counts)
    assert_usable(search(sample, n_components, np.random.default_rng(0))[0], n_components)


@pytest.mark.parametrize("n_components", [2, 3, 6])
@pytest.mark.parametrize("n_distinct", [1, 2, 3])
def test_fewer_distinct_rows_than_components(cloud, n_components, n_distinct):
    counts = np.random.default_rng(1).poisson(20, 60)
    z = cloud[np.arange(60) % n_distinct]
    sample = sample_of(z - z.mean(axis=0), counts)
    found = search(sample, n_components, np.random.default_rng(0))
    assert_usable(found[0], n_components)
    # The draws of each distinct row are all that counts: nothing does better than their shares.
    draws = np.bincount(np.arange(60) % n_distinct, counts, n_distinct)
    share, times = draws / draws.sum(), np.bincount(np.arange(60) % n_distinct)
    bound = share @ np.log(share / times) + np.log(60)
    assert found[0].log_likelihood <= bound + 1e-5


def test_components_that_repeat_each_other(cloud):
    # One component in truth: a second may gain what noise is worth, and no more.
    pi = reference.probabilities(cloud, [1.0], np.array([[1.0, 0.5]])).astype(float)
    counts = np.random.default_rng(2).multinomial(100_000, pi / pi.sum())
    sample = sample_of(cloud, counts)
    one, four = (search(sample, k, np.random.default_rng(0))[0] for k in (1, 4))
    assert_usable(four, 4)
    assert -1e-6 < four.objective - one.objective < 20 / 100_000
