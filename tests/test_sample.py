"""The sketch on the driver, and Lindsay's gradient function, against the oracle."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import reference
from engines import local, on_cluster

from softmix_dist.blocks import RawBlock
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.kernels import prepare
from softmix_dist.lindsay import gradient_function
from softmix_dist.model import Frame, Mixture
from softmix_dist.solve.climb import climb
from softmix_dist.solve.sample import Sample

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
TOLERANCE = {SINGLE: 2e-5, DOUBLE: 1e-12}


def rows(p=160, n_features=3, seed=0, base=None, density=1.0):
    """Features, counts and log base measure; "some" makes rows without draws unavailable."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((p, n_features))
    counts = (1 + rng.poisson(20, p)) * (rng.random(p) < density)
    log_base = None if base is None else rng.normal(0.5, 1, p)
    if base == "some":
        gone = rng.random(p) < 0.3
        counts[gone], log_base[gone] = 0, -np.inf
    return z, counts, log_base


def sample_of(data, chance=1.0, n_components=3, l2=0.0, told=False):
    """Sample of rows that were kept with some chance; ``told`` says that chance as well."""
    z, counts, log_base = data
    u = np.ones(len(z)) if log_base is None else np.exp(log_base)
    n_draws = int(counts.sum())
    return Sample.of(
        z,
        u / chance,
        counts / chance,
        n_draws,
        n_components,
        np.log(len(z)),
        l2,
        log_base,
        chance if told else None,
    )


def mixture(n_components=3, n_features=3, seed=10, norm=1.5):
    """With offsets that stand for nothing in particular."""
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_components, n_features))
    atoms *= norm / np.linalg.norm(atoms, axis=1, keepdims=True)
    return Mixture(rng.normal(-2, 1, n_components), atoms)


def log_total(data):
    z, _, log_base = data
    return float(reference.log_sum_exp(list(np.zeros(len(z)) if log_base is None else log_base)))


def shares(data, chance=1.0):
    """Shares of the base measure and of the draws that the rows stand for."""
    z, counts, log_base = data
    u = (np.ones(len(z)) if log_base is None else np.exp(log_base)) / chance
    n = counts / chance
    return u / u.sum(), n / n.sum()


def softmax_of(data, atom, chance=1.0):
    """A_j of every weighted row."""
    base, _ = shares(data, chance)
    with np.errstate(divide="ignore"):
        values = reference.log_softmax(data[0], atom, np.log(base))
    return np.exp(np.array(values, dtype=float))


def oracle_tilts(data, weights, atoms, tried, chance=1.0):
    """D(theta), and the means of z under the softmax and under the reweighted one."""
    base, share = shares(data, chance)
    components = [softmax_of(data, atom, chance) for atom in atoms]
    heights, means, tilted = [], [], []
    for theta in tried:
        a = softmax_of(data, theta, chance)
        d, mean, raised = 0.0, np.zeros(len(theta)), np.zeros(len(theta))
        for j in range(len(base)):
            mean += a[j] * data[0][j]
            if share[j]:
                pi = sum(w * c[j] for w, c in zip(weights, components, strict=True))
                d += share[j] * a[j] / pi
                raised += share[j] * a[j] / pi * data[0][j]
        heights.append(d)
        means.append(mean)
        tilted.append(raised / d)
    return np.array(heights), np.array(means), np.array(tilted)


def point_of(sample, m, dtype=DOUBLE):
    (point,) = sample.points([m], dtype)
    return point


CASES = [
    pytest.param(base, density, weighted, id=f"base {base}, draws {density}, weighted {weighted}")
    for base in (None, "all", "some")
    for density in (1.0, 0.2)
    for weighted in (False, True)
]


def case(base, density, weighted):
    """Rows and the chance with which each was kept."""
    data = rows(base=base, density=density)
    rng = np.random.default_rng(9)
    return data, (rng.uniform(0.1, 1, len(data[0])) if weighted else np.ones(len(data[0])))


# Points.


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize(("base", "density"), [(None, 1.0), (None, 0.1), ("all", 0.5), ("some", 1)])
def test_a_sample_of_everything_is_the_data(base, density, dtype):
    data = rows(base=base, density=density)
    z, counts, log_base = data
    m, tolerance = mixture(), TOLERANCE[dtype]
    point = point_of(sample_of(data), m, dtype)
    weights = reference.implied_weights(z, m.offsets, m.atoms, log_base).astype(float)
    np.testing.assert_allclose(point.weights, weights, atol=tolerance)
    # Up to the total base measure, which the sample has as 1.
    exact = reference.log_likelihood(z, counts, weights, m.atoms, log_base)
    assert point.log_likelihood - log_total(data) == pytest.approx(exact, abs=tolerance)
    assert point.objective == point.log_likelihood
    normalisers = [
        float(reference.log_sum_exp(reference.logits(z, atom, log_base))) for atom in m.atoms
    ]
    np.testing.assert_allclose(point.log_normalisers + log_total(data), normalisers, atol=tolerance)
    by_offset, by_atom = reference.gradient(z, counts, weights, m.atoms, log_base)
    np.testing.assert_allclose(point.gradient[0], by_offset, atol=tolerance)
    np.testing.assert_allclose(point.gradient[1], by_atom, atol=tolerance)
    entropies = reference.entropies(z, m.atoms, log_base)
    np.testing.assert_allclose(point.entropies + log_total(data), entropies, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize(("base", "density", "weighted"), CASES)
def test_weighted_rows_are_the_oracles(base, density, weighted, dtype):
    data, chance = case(base, density, weighted)
    z, counts, log_base = data
    m, tolerance = mixture(), TOLERANCE[dtype]
    point = point_of(sample_of(data, chance), m, dtype)
    sums = reference.score_sums(z, counts, m.offsets, m.atoms, log_base, 1 / chance)
    mass = sums.Z.sum()
    u = np.ones(len(z)) if log_base is None else np.exp(log_base)
    exact = float(sums.T / sums.N - np.log(mass) + np.log((u / chance).sum()))
    assert point.log_likelihood == pytest.approx(exact, abs=tolerance)
    np.testing.assert_allclose(point.weights, (sums.Z / mass).astype(float), atol=tolerance)
    by_offset, by_atom = sums.R / sums.N - sums.Z / mass, sums.S / sums.N - sums.M / mass
    np.testing.assert_allclose(point.gradient[0], by_offset.astype(float), atol=tolerance)
    np.testing.assert_allclose(point.gradient[1], by_atom.astype(float), atol=tolerance)


def test_the_penalty_is_in_the_objective_and_its_slope():
    data, m = rows(), mixture()
    free, penalised = point_of(sample_of(data), m), point_of(sample_of(data, l2=0.3), m)
    assert penalised.log_likelihood == free.log_likelihood
    assert penalised.objective == pytest.approx(free.objective - 0.15 * 3 * 1.5**2, abs=1e-14)
    np.testing.assert_allclose(penalised.gradient[1], free.gradient[1] - 0.3 * m.atoms, atol=1e-14)
    np.testing.assert_array_equal(penalised.gradient[0], free.gradient[0])


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_mixtures_together_have_the_bits_of_each_alone(dtype):
    sample = sample_of(rows(5000, base="all", density=0.3))
    mixtures = [mixture(k, seed=k) for k in (3, 1, 7)]
    for together, m in zip(sample.points(mixtures, dtype), mixtures, strict=True):
        alone = point_of(sample, m, dtype)
        assert together.objective == alone.objective
        assert together.means.tobytes() == alone.means.tobytes()


# Density and one component.


@pytest.mark.parametrize(("base", "density", "weighted"), CASES)
def test_density_is_that_of_the_mixture(base, density, weighted):
    data, chance = case(base, density, weighted)
    sample, m = sample_of(data, chance), mixture()
    found = sample.density(m)
    measure, _ = shares(data, chance)
    assert found.astype(float) @ measure == pytest.approx(1, abs=1e-5)
    weights = point_of(sample, m).weights
    expected = sum(
        w * softmax_of(data, atom, chance) for w, atom in zip(weights, m.atoms, strict=True)
    )
    there = measure > 0
    np.testing.assert_allclose(found[there], expected[there] / measure[there], rtol=1e-4)
    # A common shift of the offsets means nothing.
    shifted = sample.density(replace(m, offsets=m.offsets + 5))
    np.testing.assert_allclose(shifted, found, rtol=1e-5)


@pytest.mark.parametrize(("base", "density", "weighted"), CASES)
def test_one_component_is_a_softmax(base, density, weighted):
    data, chance = case(base, density, weighted)
    found = sample_of(data, chance).component(mixture().atoms[0])
    measure, _ = shares(data, chance)
    expected = softmax_of(data, mixture().atoms[0], chance)
    np.testing.assert_allclose(found * measure, expected, rtol=1e-4, atol=1e-9)


def test_a_far_atom_does_not_overflow():
    data = rows()
    far = np.array([200.0, 0.0, 0.0])
    sample = sample_of(data)
    found = sample.component(far)
    measure, _ = shares(data)
    assert found @ measure == pytest.approx(1, abs=1e-5)
    assert np.argmax(found) == np.argmax(data[0][:, 0])


# Lindsay's gradient function on the sample.


@pytest.mark.parametrize(("base", "density", "weighted"), CASES)
def test_tilts_are_the_oracles(base, density, weighted):
    data, chance = case(base, density, weighted)
    sample, m, tried = sample_of(data, chance), mixture(), mixture(5, seed=3).atoms
    weights = point_of(sample, m).weights
    found = sample.tilts(tried, sample.density(m))
    expected = oracle_tilts(data, weights, m.atoms, tried, chance)
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=2e-4, atol=2e-5)


def test_the_difference_of_the_means_is_the_slope_of_log_d():
    data = rows(base="all", density=0.5)
    sample, m, tried = sample_of(data), mixture(), mixture(4, seed=3).atoms
    weights = point_of(sample, m).weights
    _, mean, tilted = sample.tilts(tried, sample.density(m))
    step = 1e-4
    slopes = np.empty_like(tried)
    for i, e in enumerate(step * np.eye(3)):
        up, _, _ = oracle_tilts(data, weights, m.atoms, tried + e)
        down, _, _ = oracle_tilts(data, weights, m.atoms, tried - e)
        slopes[:, i] = (np.log(up) - np.log(down)) / (2 * step)
    np.testing.assert_allclose(tilted - mean, slopes, atol=1e-4)


@pytest.mark.parametrize(("base", "density", "weighted"), CASES)
def test_d_is_one_in_the_mean_over_components(base, density, weighted):
    data, chance = case(base, density, weighted)
    sample, m = sample_of(data, chance), mixture()
    heights, _, _ = sample.tilts(m.atoms, sample.density(m))
    assert point_of(sample, m).weights @ heights == pytest.approx(1, abs=2e-5)
    assert np.abs(heights - 1).max() > 1e-2


def test_d_is_one_at_every_atom_of_a_maximum():
    # Two components that explain the draws; every likelihood is flat at its maximum.
    rng = np.random.default_rng(1)
    z, atoms = rng.standard_normal((500, 2)), np.array([[1.5, 0.0], [-0.5, 1.4]])
    pi = reference.probabilities(z, [0.6, 0.4], atoms).astype(float)
    data = z, rng.multinomial(100_000, pi / pi.sum()), None
    sample = sample_of(data, n_components=2)
    (best,) = climb(sample, [Mixture(np.zeros(2), atoms)], 500, 1e-15, dtype=DOUBLE)
    assert np.abs(best.gradient[1]).max() < 1e-6
    heights, mean, tilted = sample.tilts(best.mixture.atoms, sample.density(best.mixture))
    np.testing.assert_allclose(heights, 1, atol=1e-5)
    np.testing.assert_allclose(tilted, mean, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_part_of_the_rows_is_enough(stride):
    p = 6001
    data = rows(p, 2, base="all")
    sample, m, tried = sample_of(data), mixture(2, 2), mixture(4, 2, seed=3).atoms
    density = sample.density(m)
    # Fewer rows than that, and every stride-th of them.
    found = sample.tilts(tried, density, p // stride)
    taken = slice(None, None, stride)
    base, share = shares(data)
    e, z = np.exp(tried @ data[0][taken].T), data[0][taken]
    plain, raised = e * base[taken], e * (share / density)[taken]
    np.testing.assert_allclose(found[0], raised.sum(axis=1) / plain.sum(axis=1), rtol=1e-4)
    means = [part @ z / part.sum(axis=1, keepdims=True) for part in (plain, raised)]
    np.testing.assert_allclose(found[1], means[0], atol=1e-4)
    np.testing.assert_allclose(found[2], means[1], atol=1e-4)


# What sampling adds.


def test_noise_is_the_spread_over_sketches():
    p, n_rows, n_seeds = 600, 150, 200
    data = rows(p, 2, base="all", density=0.5)
    z, counts, log_base = data
    base, share = shares(data)
    chance = np.minimum(1, n_rows * (base / 2 + share / 2))
    a, b = mixture(2, 2), mixture(2, 2, seed=3)
    rng = np.random.default_rng(7)
    differences, noises = [], []
    for _ in range(n_seeds):
        kept = rng.random(p) < chance
        part = sample_of((z[kept], counts[kept], log_base[kept]), chance[kept], told=True)
        here, there = part.points([a, b], DOUBLE)
        differences.append(here.log_likelihood - there.log_likelihood)
        noises.append(part.noise(a, b))
    # A standard deviation from 200 values is known to five per cent.
    assert np.mean(noises) == pytest.approx(np.std(differences), rel=0.25)
    # About unbiased: the ratio's bias is of second order.
    here, there = sample_of(data).points([a, b], DOUBLE)
    exact = here.log_likelihood - there.log_likelihood
    error = np.std(differences) / np.sqrt(n_seeds)
    assert abs(np.mean(differences) - exact) < 5 * error + np.var(differences)


def test_all_of_the_data_have_no_noise():
    sample = sample_of(rows(base="all"))
    assert sample.noise(mixture(), mixture(seed=3)) == 0


# Lindsay's gradient function by blocks.


def oracle_gradient_sums(data, m, tried, times=None):
    """Both sums of every atom, one row and one exponential after the other."""
    z, counts, log_base = data
    candidates, draws = np.zeros((2, tried.n_components), reference.Number)
    for j in range(len(z)):
        w = 1.0 if times is None else times[j]
        u = 1.0 if log_base is None else np.exp(log_base[j])
        own = [b + reference.dot(z[j], atom) for b, atom in zip(m.offsets, m.atoms, strict=True)]
        log_density = reference.log_sum_exp(own)
        for i, (c, theta) in enumerate(zip(tried.offsets, tried.atoms, strict=True)):
            exponent = c + reference.dot(z[j], theta)
            candidates[i] += w * u * np.exp(exponent)
            if counts[j]:
                draws[i] += w * counts[j] * np.exp(exponent - log_density)
    return candidates.astype(float), draws.astype(float)


def stored(data, start=0, stop=None):
    z, counts, log_base = data
    part = slice(start, stop)
    base = None if log_base is None else log_base[part]
    return RawBlock(start, z[part], counts[part].astype(np.uint32), base)


def frame(n_features=3):
    return Frame(np.zeros(n_features), np.ones(n_features))


def assert_gradient_sums(found, expected, rtol=1e-12):
    np.testing.assert_allclose(found.candidates, expected[0], rtol=rtol)
    np.testing.assert_allclose(found.draws, expected[1], rtol=rtol)


@pytest.mark.parametrize("base", [None, "all", "some"])
@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize("repeated", [False, True])
def test_gradient_sums_are_the_oracles(base, density, repeated):
    data = rows(base=base, density=density)
    times = np.random.default_rng(5).uniform(0.5, 9, 160) if repeated else None
    block = replace(prepare(stored(data), frame(), 3), multiplicity=times)
    m, tried = mixture(), mixture(5, seed=3)
    expected = oracle_gradient_sums(data, m, tried, times)
    assert_gradient_sums(gradient_function(block, m, tried), expected)


@pytest.mark.parametrize("base", [None, "some"])
def test_gradient_sums_are_d(base):
    data = rows(base=base)
    z, counts, log_base = data
    m, tried = mixture(), mixture(5, seed=3)
    sums = gradient_function(prepare(stored(data), frame(), 3), m, tried)
    weights = reference.implied_weights(z, m.offsets, m.atoms, log_base).astype(float)
    mass = np.exp(m.offsets + [
        float(reference.log_sum_exp(reference.logits(z, atom, log_base))) for atom in m.atoms
    ]).sum()  # fmt: skip
    heights = sums.draws / sums.candidates * mass / counts.sum()
    expected, _, _ = oracle_tilts(data, weights, m.atoms, tried.atoms)
    np.testing.assert_allclose(heights, expected, rtol=1e-11)


@pytest.mark.parametrize("base", [None, "some"])
def test_gradient_sums_of_blocks_add_up(base):
    data = rows(base=base)
    m, tried = mixture(), mixture(5, seed=3)
    edges = [0, 1, 50, 114, 160]
    parts = [
        gradient_function(prepare(stored(data, a, b), frame(), 3), m, tried)
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    assert_gradient_sums(
        parts[0] + parts[1] + parts[2] + parts[3], oracle_gradient_sums(data, m, tried)
    )


def test_gradient_sums_on_every_engine(client):
    data = rows(1000, base="some", density=0.5)
    m, tried = mixture(), mixture(5, seed=3)
    dataset = ArrayDataset.of(*data, block_rows=64)
    found = []
    for engine in (local(1), local(3), local(2, 1), on_cluster(client)):
        with engine as chosen:
            chosen.load(dataset, partial(prepare, frame=frame(), n_components=3), 10_000)
            sums = chosen.reduce(partial(gradient_function, mixture=m, atoms=tried))
        found.append(sums.candidates.tobytes() + sums.draws.tobytes())
    assert len(set(found)) == 1
    assert_gradient_sums(sums, oracle_gradient_sums(data, m, tried))


def test_a_density_that_underflows_leaves_the_gradient_function_as_it_is():
    data, m = rows(), mixture()
    block, tried = prepare(stored(data), frame(), 3), mixture(5, seed=3)
    usual = gradient_function(block, m, tried)
    # exp(-800) is zero: the mixture and the atoms stand for what they stood for.
    low = replace(m, offsets=m.offsets - 800), replace(tried, offsets=tried.offsets - 800)
    found = gradient_function(block, low[0], low[1])
    np.testing.assert_allclose(found.draws, usual.draws, rtol=1e-10)
