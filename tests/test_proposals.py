"""Atoms that a mixture lacks: what a further component would gain, and where it would be."""

from __future__ import annotations

import numpy as np
import pytest
from test_sample import CASES, DOUBLE, case, mixture, rows, sample_of, shares
from test_search import problem

from softmix_dist.model import Mixture
from softmix_dist.solve.climb import climb
from softmix_dist.solve.proposals import (
    Proposals,
    _best_weight,
    _grown,
    highest_atoms,
    insert,
    without,
)
from softmix_dist.solve.sample import Sample

# How many candidates for one more component.
MANY = 5


def candidates():
    """Atoms and offsets for small weights and large ones."""
    tried = mixture(MANY, seed=3)
    return tried.atoms, np.linspace(-6, 0, MANY)


def joined(sample, m, n_rows=10**9):
    return sample.joined(*candidates(), sample.density(m), n_rows)


# One more component.


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize(("base", "density", "weighted"), CASES)
def test_sums_of_one_more_component_are_the_oracles(base, density, weighted, stride):
    data, chance = case(base, density, weighted)
    sample, m, z = sample_of(data, chance), mixture(), data[0]
    found = joined(sample, m, len(z) // stride)
    u, q = shares(data, chance)
    old = np.exp(z @ m.atoms.T + m.offsets).sum(axis=1)
    old /= u @ old
    # Of every stride-th row.
    z, old, u, q = z[::stride], old[::stride], u[::stride], q[::stride]
    u, q = u / u.sum(), q / q.sum()
    for i, (atom, offset) in enumerate(zip(*candidates(), strict=True)):
        new = np.exp(z @ atom + offset)
        resp = new / (old + new)
        gain = q @ np.log1p(new / old) - np.log1p(u @ new)
        np.testing.assert_allclose(found.mass[i], u @ new, rtol=1e-4)
        np.testing.assert_allclose(found.means[i], (u * new) @ z / (u @ new), atol=1e-4)
        np.testing.assert_allclose(found.resp[i], q @ resp, rtol=1e-4)
        np.testing.assert_allclose(found.resp_means[i], (q * resp) @ z / (q @ resp), atol=1e-4)
        np.testing.assert_allclose(found.gains[i], gain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("base", [None, "some"])
def test_one_more_component_is_what_the_longer_mixture_says(base):
    sample, m = sample_of(rows(base=base, density=0.5)), mixture()
    found = joined(sample, m)
    (before,) = sample.points([m], DOUBLE)
    total = np.logaddexp.reduce(m.offsets + before.log_normalisers)
    for i, (atom, offset) in enumerate(zip(*candidates(), strict=True)):
        longer = Mixture(np.append(m.offsets - total, offset), np.vstack([m.atoms, atom]))
        (after,) = sample.points([longer], DOUBLE)
        gain = after.log_likelihood - before.log_likelihood
        assert found.gains[i] == pytest.approx(gain, abs=2e-6)
        assert found.mass[i] / (1 + found.mass[i]) == pytest.approx(after.weights[-1], rel=1e-4)
        assert found.resp[i] == pytest.approx(after.resp[-1], rel=1e-4)
        np.testing.assert_allclose(found.means[i], after.means[-1], atol=1e-4)
        mean = after.resp_sums[-1] / after.resp[-1]
        np.testing.assert_allclose(found.resp_means[i], mean, atol=1e-4)


def test_the_better_of_two_is_taken_candidate_by_candidate():
    sample = sample_of(rows())
    one, other = joined(sample, mixture()), joined(sample, mixture(seed=4))
    chosen = np.arange(MANY) % 2 == 1
    found = one.where(chosen, other)
    for name in ("mass", "means", "resp", "resp_means", "gains"):
        a, b, c = (getattr(part, name) for part in (found, one, other))
        np.testing.assert_array_equal(a[chosen], c[chosen])
        np.testing.assert_array_equal(a[~chosen], b[~chosen])


# Where it would be.


@pytest.mark.parametrize("law", ["gaussian", "clusters", "student"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_component_that_is_missing_is_found(law, seed):
    sample, truth = problem(seed, law)
    (truth,) = (point.mixture for point in climb(sample, [truth], 60, dtype=DOUBLE))
    for k, atom in enumerate(truth.atoms):
        (before,) = sample.points([without(truth, k)], DOUBLE)
        style, rng = Proposals(), np.random.default_rng(seed)
        found = highest_atoms(sample, before, rng, style)
        assert 1 <= len(found) <= style.keep
        assert all(np.linalg.norm(a) < sample.coordinates.radius * (1 + 1e-12) for _, a in found)
        removed = _best_weight(sample, sample.density(before.mixture), atom)[0], atom
        best, known = (
            sample.points([insert(sample, before, [new])], DOUBLE)[0] for new in (found[0], removed)
        )
        reached = best.objective - before.objective
        assert reached > 0.9 * (known.objective - before.objective)


def test_each_step_of_growth_gains():
    sample, truth = problem(1, "student")
    (point,) = sample.points([without(truth, 0)], DOUBLE)
    density = sample.density(point.mixture)
    even, paths = np.full(len(density), 1 / len(density)), []
    for growth in (0, 1, 2, 4, 10):
        rng, style = np.random.default_rng(3), Proposals(growth=growth)
        atoms, gains = _grown(sample, point, density, even, rng, style)
        assert atoms.shape == (style.grown, 3)
        assert (np.linalg.norm(atoms, axis=1) <= sample.coordinates.radius * (1 + 1e-12)).all()
        paths.append(gains)
    # Deterministic, so more steps continue fewer.
    assert (np.diff(paths, axis=0) >= 0).all()
    assert np.median(paths[-1]) > np.median(paths[0]) + 1e-2
    # The gain said is that of some weight, so no more than that of the best one.
    most = [_best_weight(sample, density, atom)[1] for atom in atoms]
    assert (paths[-1] <= np.array(most) + 1e-4).all()


def test_nothing_is_proposed_where_nothing_gains():
    sample = sample_of((rows()[0], np.full(160, 7), None))
    (flat,) = sample.points([Mixture(np.zeros(1), np.zeros((1, 3)))], DOUBLE)
    assert highest_atoms(sample, flat, np.random.default_rng(0), Proposals()) == []
    sample, truth = problem()
    (point,) = sample.points([without(truth, 0)], DOUBLE)
    rng = np.random.default_rng(0)
    assert highest_atoms(sample, point, rng, Proposals(), least=np.inf) == []


# Outliers.


def with_outliers(kind):
    """Two rows of 500 that are far from all others, and a point."""
    z, counts, _ = rows(500)
    z[[17, 300]] = 1e4 * np.array([[1.0, -0.5, 0.2], [-0.3, 1.0, 1.0]])
    counts[[17, 300]] = 50 if kind == "drawn" else 0
    log_base = np.zeros(500)
    log_base[[17, 300]] = -300 if kind == "faint" else 0
    sample = sample_of((z, counts, log_base))
    (point,) = sample.points([Mixture(np.zeros(1), np.zeros((1, 3)))], DOUBLE)
    return sample, point


@pytest.mark.parametrize("kind", ["drawn", "not drawn", "faint"])
def test_outliers_leave_usable_proposals(kind):
    sample, point = with_outliers(kind)
    with np.errstate(all="ignore"):
        found = highest_atoms(sample, point, np.random.default_rng(0), Proposals())
    assert found
    for weight, atom in found:
        assert 0 < weight < 1
        assert np.linalg.norm(atom) <= sample.coordinates.radius * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["drawn", "not drawn", "faint"])
def test_outliers_pass_without_a_warning(kind):
    sample, point = with_outliers(kind)
    for seed in range(4):
        highest_atoms(sample, point, np.random.default_rng(seed), Proposals())


def test_means_that_overflow_are_zero():
    sample, point = with_outliers("not drawn")
    # exp(88) is a number in single precision, 1e4 times that is none.
    atom = np.array([[88.0 / 1e4, 0.0, 0.0]])
    _, mean, tilted = sample.tilts(atom, sample.density(point.mixture))
    for found in (mean, tilted):
        assert np.abs(found).max() <= np.abs(sample.z).max()


def test_rows_with_draws_are_seen_however_few():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((40_000, 2))
    counts = np.zeros(len(z))
    counts[[3, 11, 17]] = 1
    sample = Sample.of(z, np.ones(len(z)), counts, 3, 1, float(np.log(len(z))))
    m = Mixture(np.zeros(1), np.zeros((1, 2)))
    found = sample.joined(z[[3, 11]], np.full(2, -3.0), sample.density(m), 6000)
    assert np.isfinite(found.gains).all()
    assert (found.resp > 0).all()
