"""The kernels against the oracle, row by row."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import reference

from softmix_dist import kernels
from softmix_dist.blocks import RawBlock
from softmix_dist.kernels import layout, prepare, score, slice_rows, survey
from softmix_dist.model import Frame, Mixture

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
TOLERANCE = {SINGLE: 3e-5, DOUBLE: 1e-13}


def identity(n_features, dtype=DOUBLE):
    """A frame that leaves the features as they are."""
    return Frame(np.zeros(n_features, dtype), np.ones(n_features, dtype))


def rows(p=160, n_features=3, seed=0, dtype=np.float64, base=None, density=1.0):
    """A block of rows as stored; ``base`` "some" makes candidates without draws unavailable."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((p, n_features)).astype(dtype)
    counts = (rng.poisson(20, p) * (rng.random(p) < density)).astype(np.uint32)
    log_base = None if base is None else rng.normal(0, 1, p)
    if base == "some":
        gone = rng.random(p) < 0.3
        counts[gone] = 0
        log_base[gone] = -np.inf
    return RawBlock(0, features, counts, log_base)


def mixture(n_components=3, n_features=3, seed=10, norm=1.5):
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_components, n_features))
    atoms *= norm / np.linalg.norm(atoms, axis=1, keepdims=True)
    return Mixture(rng.normal(-4, 1, n_components), atoms)


def assert_sums(found, expected, rtol):
    """Score sums equal the oracle's, relative to the largest of each kind."""
    pairs = [
        (found.log_density, expected.T, abs(expected.T)),
        (found.candidates, np.column_stack([expected.Z, expected.M]), expected.Z.max()),
        (found.draws, np.column_stack([expected.R, expected.S]), expected.N),
        (found.log_base, expected.B, max(np.abs(expected.B).max(), 1e-300)),
    ]
    for value, wanted, scale in pairs:
        wanted, scale = np.asarray(wanted, dtype=float), float(scale)
        np.testing.assert_allclose(np.asarray(value) / scale, wanted / scale, rtol=0, atol=rtol)


def oracle(raw, mixture, multiplicity=None):
    return reference.score_sums(
        raw.features, raw.counts, mixture.offsets, mixture.atoms, raw.log_base, multiplicity
    )


def score_one(block, mixture, dtype=DOUBLE):
    (found,) = score(block, [mixture], dtype)
    return found


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("base", [None, "all", "some"])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_score_sums_are_the_oracles(dtype, stored, base, density):
    raw, m = rows(dtype=stored, base=base, density=density), mixture()
    block = prepare(raw, identity(3, DOUBLE if stored is np.float64 else SINGLE), 3)
    assert (block.observed is not None) == (density < 0.25)
    assert_sums(score_one(block, m, dtype), oracle(raw, m), TOLERANCE[dtype])


@pytest.mark.parametrize("n_components", [1, 2, 7, 20])
@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_ragged_slices_add_up(monkeypatch, n_components, density, size):
    monkeypatch.setattr(kernels, "slice_rows", lambda *_: size)
    raw, m = rows(150, 2, density=density, base="all"), mixture(n_components, 2)
    block = prepare(raw, identity(2), n_components)
    assert all(x.flags[f"{layout(n_components)}_CONTIGUOUS"] for x in block.slices)
    assert_sums(score_one(block, m), oracle(raw, m), 1e-13)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_multiplicity_repeats_rows(dtype, density):
    raw, m = rows(base="some", density=density), mixture()
    times = np.random.default_rng(5).integers(0, 4, len(raw.features))
    repeated = RawBlock(
        0, *(values.repeat(times, axis=0) for values in (raw.features, raw.counts, raw.log_base))
    )
    block = replace(prepare(raw, identity(3), 3), multiplicity=times.astype(float))
    found = score_one(block, m, dtype)
    assert_sums(found, oracle(repeated, m), TOLERANCE[dtype])
    assert_sums(found, oracle(raw, m, times), TOLERANCE[dtype])


def test_fractional_multiplicity():
    raw, m = rows(base="all"), mixture()
    times = np.random.default_rng(6).uniform(0.5, 9, len(raw.features))
    block = replace(prepare(raw, identity(3), 3), multiplicity=times)
    assert_sums(score_one(block, m), oracle(raw, m, times), 1e-13)


@pytest.mark.parametrize("multiplicity", [False, True])
def test_mostly_zero_counts_give_the_sums_of_the_dense_path(multiplicity):
    raw, m = rows(3000, density=0.05, base="all"), mixture()
    block = prepare(raw, identity(3), 3)
    if multiplicity:
        block = replace(block, multiplicity=np.random.default_rng(7).uniform(0.5, 9, 3000))
    sparse, dense = score_one(block, m), score_one(replace(block, observed=None), m)
    for name, value in vars(sparse).items():
        np.testing.assert_allclose(value, getattr(dense, name), rtol=1e-12)
    np.testing.assert_array_equal(sparse.candidates, dense.candidates)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_mixtures_in_one_sweep_have_the_bits_of_each_alone(dtype, density):
    raw = rows(9_001, 7, dtype=np.float32, density=density, base="all")
    mixtures = [mixture(k, 7, seed=k) for k in (3, 1, 16, 3)]
    # Another seed for the last, whose exponents need the guarded path.
    mixtures[-1] = replace(mixtures[-1], offsets=np.array([-900.0, -901.0, -950.0]))
    block = prepare(raw, identity(7, SINGLE), 3)
    for together, m in zip(score(block, mixtures, dtype), mixtures, strict=True):
        alone = score_one(block, m, dtype)
        for name, value in vars(alone).items():
            assert np.asarray(value).tobytes() == np.asarray(getattr(together, name)).tobytes()


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_lambda_underflows_where_there_are_draws(dtype, density):
    raw, m = rows(density=density), mixture()
    # exp(-800) is zero in both precisions.
    low = Mixture(m.offsets - 800, m.atoms)
    found, expected = score_one(prepare(raw, identity(3), 3), low, dtype), oracle(raw, low)
    np.testing.assert_allclose(found.log_density, float(expected.T), rtol=1e-13)
    np.testing.assert_allclose(found.draws[:, 0], expected.R.astype(float), rtol=1e-12)
    np.testing.assert_allclose(found.draws[:, 1:], expected.S.astype(float), rtol=0, atol=1e-9)


@pytest.mark.parametrize("multiplicity", [False, True])
def test_one_far_row_with_draws_keeps_all_digits(multiplicity):
    raw, m = rows(base="all"), mixture()
    raw.features[17] *= -2000 * np.sign(raw.features[17] @ m.atoms.sum(0))
    raw.counts[17] = 3
    times = np.random.default_rng(8).uniform(0.5, 9, len(raw.features)) if multiplicity else None
    block = replace(prepare(raw, identity(3), 3), multiplicity=times)
    found, expected = score_one(block, m), oracle(raw, m, times)
    np.testing.assert_allclose(found.log_density, float(expected.T), rtol=1e-13)
    np.testing.assert_allclose(found.draws[:, 0], expected.R.astype(float), rtol=1e-11)


def test_underflow_where_there_are_no_draws_is_nothing():
    raw, m = rows(), mixture()
    # Far below, for every component.
    raw.features[17] = np.linalg.solve(m.atoms, np.full(3, -1000.0))
    raw.counts[17] = 0
    found = score_one(prepare(raw, identity(3), 3), m)
    assert_sums(found, oracle(raw, m), 1e-12)


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_overflow_of_single_precision_is_rescued(density):
    raw, m = rows(dtype=np.float32, density=density), mixture()
    high = Mixture(m.offsets + 120, m.atoms)
    found = score_one(prepare(raw, identity(3, SINGLE), 3), high, SINGLE)
    assert_sums(found, oracle(raw, high), 1e-12)


def test_lambda_alone_overflows_in_single_precision():
    # At the first row each exponential is finite, and so is its sum over rows; lambda is not.
    raw = RawBlock(0, np.array([[0.5], [-50.0]]), np.array([5, 3], np.uint32))
    near = np.log(float(np.finfo(np.float32).max)) - 0.7
    m = Mixture(np.array([near, near]), np.array([[1.0], [1.1]]))
    found = score_one(prepare(raw, identity(1), 2), m, SINGLE)
    assert_sums(found, oracle(raw, m), 1e-6)


def test_overflow_of_double_precision_is_infinite_and_the_rest_stands():
    raw, m = rows(), mixture()
    high = Mixture(m.offsets + np.array([0.0, 900.0, 0.0]), m.atoms)
    found, expected = score_one(prepare(raw, identity(3), 3), high), oracle(raw, high)
    assert np.isinf(found.candidates[1]).all()
    np.testing.assert_allclose(found.candidates[0, 0], float(expected.Z[0]), rtol=1e-13)
    np.testing.assert_allclose(found.log_density, float(expected.T), rtol=1e-13)
    np.testing.assert_allclose(found.draws[1, 0], float(expected.R[1]), rtol=1e-12)


@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_large_offsets_lose_no_digits(stored):
    rng = np.random.default_rng(3)
    p = 300
    features = np.column_stack(
        [
            rng.integers(1880, 2026, p),
            1e6 + 10 * rng.standard_normal(p),
            -7e4 + rng.integers(0, 100, p) / 4,
            1e-5 * rng.standard_normal(p),
        ]
    ).astype(stored)
    atoms = rng.standard_normal((2, 4)) / features.astype(float).std(axis=0)
    weights = np.array([0.7, 0.3])
    raw = RawBlock(0, features, rng.poisson(5, p).astype(np.uint32))
    expected = reference.log_likelihood(features, raw.counts, weights, atoms)
    frame = Frame.of(features)
    inner = atoms * frame.scale.astype(float)
    centred = (features.astype(np.longdouble) - frame.centre) / frame.scale
    offsets = [
        float(np.log(weight) - reference.log_sum_exp(reference.logits(centred, atom)))
        for weight, atom in zip(weights, inner, strict=True)
    ]
    block = prepare(raw, frame, 2)
    found = score_one(block, Mixture(np.array(offsets), inner))
    # Taking centre and scale out of the stored numbers rounds nothing.
    np.testing.assert_array_equal(
        np.concatenate(block.slices)[:, 1:].astype(np.longdouble), centred
    )
    n_draws = int(raw.counts.sum())
    log_likelihood = found.log_density / n_draws - np.log(found.candidates[:, 0].sum())
    assert log_likelihood == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_no_array_of_all_candidates_by_components(guarded, density):
    p, n_components, n_features = 65_536, 48, 4
    raw = rows(p, n_features, density=density)
    m = mixture(n_components, n_features)
    if guarded:
        m = Mixture(m.offsets - 800, m.atoms)
    block = prepare(raw, identity(n_features), n_components)
    per_slice = slice_rows(n_features + 1, n_components) * n_components * 8
    tracemalloc.start()
    try:
        score(block, [m], DOUBLE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A few buffers of a slice, a few vectors; p x K numbers would be 25 MB.
    assert peak < 7 * per_slice + 6 * p * 8
    assert peak < 0.6 * p * n_components * 8


@pytest.mark.parametrize("base", [False, True])
def test_survey_is_the_mean_and_covariance(base):
    raw = rows(5000, 4, dtype=np.float32, base="some" if base else None, density=0.3)
    frame = Frame(np.zeros(4, np.float32), np.float32([2, 1, 4, 0.5]), 0.25)
    design, findings = survey(prepare(raw, frame, 3))
    assert not findings
    x = raw.features.astype(float) / frame.scale
    log_u = np.zeros(len(x)) if raw.log_base is None else raw.log_base - 0.25
    u = np.exp(log_u)
    mean, total = np.average(x, axis=0, weights=u), u.sum()
    np.testing.assert_allclose(design.gram[0, 0], total, rtol=1e-12)
    np.testing.assert_allclose(design.gram[0, 1:] / total, mean, atol=1e-13)
    covariance = design.gram[1:, 1:] / total - np.outer(mean, mean)
    np.testing.assert_allclose(covariance, np.cov(x.T, aweights=u, ddof=0), atol=1e-12)
    np.testing.assert_allclose(design.draws, raw.counts @ np.insert(x, 0, 1, axis=1), rtol=1e-12)
    seen = u > 0
    np.testing.assert_allclose(design.log_base, u[seen] @ log_u[seen], atol=1e-9)
    exact = design.n_draws, design.n_observed, design.n_candidates
    assert exact == (raw.counts.sum(), np.count_nonzero(raw.counts), 5000)


def test_samples_add_without_overflow():
    counts = np.full((3, 4), 4_000_000_000, dtype=np.uint32)
    block = prepare(RawBlock(0, np.eye(4, 2), counts), identity(2), 2)
    np.testing.assert_array_equal(block.draws, np.full(4, 12e9))
    assert survey(block)[0].n_draws == 48_000_000_000


@pytest.mark.parametrize("base", [None, "some"])
def test_gradient_is_the_slope_of_the_oracles_likelihood(base):
    raw, m = rows(90, 2, base=base), mixture(2, 2)
    found = score_one(prepare(raw, identity(2), 2), m)
    n_draws = int(raw.counts.sum())
    weights = found.candidates[:, 0] / found.candidates[:, 0].sum()
    means = found.candidates[:, 1:] / found.candidates[:, :1]
    by_offset = found.draws[:, 0] / n_draws - weights
    by_atom = found.draws[:, 1:] / n_draws - weights[:, None] * means

    def likelihood(values):
        offsets, atoms = values[:2], values[2:].reshape(2, 2)
        alpha = reference.implied_weights(raw.features, offsets, atoms, raw.log_base)
        return reference.log_likelihood(raw.features, raw.counts, alpha, atoms, raw.log_base)

    at, step = np.concatenate([m.offsets, m.atoms.ravel()]), 1e-4
    slopes = [
        (likelihood(at + step * e) - likelihood(at - step * e)) / (2 * step) for e in np.eye(6)
    ]
    np.testing.assert_allclose([*by_offset, *by_atom.ravel()], slopes, atol=2e-8)
    exact = reference.gradient(raw.features, raw.counts, weights, m.atoms, raw.log_base)
    np.testing.assert_allclose(by_offset, exact[0], atol=1e-13)
    np.testing.assert_allclose(by_atom, exact[1], atol=1e-13)


@pytest.mark.parametrize("n_components", [3, 8])
@pytest.mark.parametrize("rows", [20_000, 17_000])
def test_spent_memory_is_used_again_where_it_fits(n_components, rows):
    rng = np.random.default_rng(0)
    one, two = (
        RawBlock(0, rng.standard_normal((n, 3)).astype(np.float32), np.ones(n, np.uint32))
        for n in (20_000, rows)
    )
    spent = prepare(one, identity(3, SINGLE), n_components)
    again = prepare(two, identity(3, SINGLE), n_components, spent)
    fresh = prepare(two, identity(3, SINGLE), n_components)
    assert np.shares_memory(again.slices[0], spent.slices[0])
    for a, b in zip(again.slices, fresh.slices, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.strides == b.strides
