"""The sketch: whose uniforms, whose rows, and what its weighted sums estimate."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import reference
from engines import cluster_of, local, on_cluster
from hypothesis import given, strategies
from problems import simulate
from scipy.stats import kstest

from softmix_dist import sketch
from softmix_dist.blocks import RawBlock
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.engine.cluster import ClusterEngine
from softmix_dist.kernels import prepare
from softmix_dist.model import Frame, Mixture
from softmix_dist.sketch import Sampling, SketchRows, draw, uniforms

BLOCK_ROWS = 256


def rows(p=700, n_features=2, seed=0, base=None, density=0.6):
    """Rows as stored; ``base`` "some" makes candidates without draws unavailable."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((p, n_features))
    counts = (rng.poisson(4, p) * rng.integers(1, 30, p) * (rng.random(p) < density)).astype(int)
    log_base = None if base is None else rng.normal(0, 1, p)
    if base == "some":
        log_base[(rng.random(p) < 0.5) & (counts == 0)] = -np.inf
    return RawBlock(0, features, counts, log_base)


def exact_mixture(raw, n_components=2, norm=1.5, seed=4):
    """Weights, atoms, and their mixture with exact normalisers."""
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_components, raw.features.shape[1]))
    atoms *= norm / np.linalg.norm(atoms, axis=1, keepdims=True)
    weights = rng.dirichlet(np.full(n_components, 3.0))
    offsets = [
        float(np.log(w) - reference.log_sum_exp(reference.logits(raw.features, a, raw.log_base)))
        for w, a in zip(weights, atoms, strict=True)
    ]
    return weights, Mixture(np.array(offsets), atoms)


def log_total(raw):
    """Log of the total base measure."""
    if raw.log_base is None:
        return float(np.log(len(raw.counts)))
    return float(reference.log_sum_exp(list(raw.log_base)))


def sampling_of(raw, n_rows, seed=3, normalised=None):
    """Sampling of all rows; ``normalised`` has e^b_k = 1 / Z_k."""
    return Sampling(seed, n_rows, len(raw.counts), log_total(raw), raw.counts.sum(), normalised)


def softmaxes_only(weights, mixture):
    """The same atoms with offsets -log Z_k: what `Sampling.mixture` holds."""
    return Mixture(mixture.offsets - np.log(weights), mixture.atoms)


def block_of(raw, block_rows=None, start=0):
    stop = len(raw.counts) if block_rows is None else start + block_rows
    log_base = None if raw.log_base is None else raw.log_base[start:stop]
    part = RawBlock(start, raw.features[start:stop], raw.counts[start:stop], log_base)
    n_features = raw.features.shape[1]
    return prepare(part, Frame(np.zeros(n_features), np.ones(n_features)), 3)


def oracle(raw, n_rows, atoms=None):
    """Chance of every row, one after the other, as METHOD.md section 5 writes it."""
    p = len(raw.counts)
    u = np.ones(p) if raw.log_base is None else np.exp(raw.log_base)
    columns = [] if atoms is None else [
        np.exp(np.array(reference.log_softmax(raw.features, atom, raw.log_base), dtype=float))
        for atom in atoms
    ]  # fmt: skip
    found = []
    for j in range(p):
        share_u, share_q = u[j] / u.sum(), raw.counts[j] / raw.counts.sum()
        if atoms is None:
            share = share_u / 2 + share_q / 2
        else:
            share = share_u / 4 + share_q / 4 + np.mean([a[j] for a in columns]) / 2
        found.append(min(1.0, n_rows * share))
    return np.array(found)


def dataset_of(raw, block_rows):
    return ArrayDataset.of(raw.features, raw.counts, raw.log_base, block_rows=block_rows)


def sketch_on(engine, raw, sampling, block_rows=BLOCK_ROWS):
    """The sketch of a data set, by one pass of an engine."""
    n_features = raw.features.shape[1]
    frame = Frame(np.zeros(n_features), np.ones(n_features))
    engine.load(dataset_of(raw, block_rows), partial(prepare, frame=frame, n_components=3), 10_000)
    return engine.reduce(partial(draw, sampling=sampling))


def assert_bits(found, expected):
    for name, value in vars(expected).items():
        assert getattr(found, name).tobytes() == value.tobytes(), name


def assert_same_rows(found, expected):
    """The same rows and values, chances up to the rounding of a matrix product."""
    for name in ("rows", "features", "log_base", "draws"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    np.testing.assert_allclose(found.chance, expected.chance, rtol=1e-12)


# Uniforms.


@given(
    seed=strategies.integers(0, 2**63 - 1),
    start=strategies.integers(0, 10**12),
    n=strategies.integers(0, 40),
    skip=strategies.integers(0, 9),
)
def test_uniforms_are_a_function_of_seed_and_row(seed, start, n, skip):
    whole = uniforms(seed, start, n + skip)
    assert whole.shape == (n + skip,)
    np.testing.assert_array_equal(uniforms(seed, start + skip, n), whole[skip:])
    np.testing.assert_array_equal(uniforms(seed, start, n), whole[:n])
    one_by_one = [uniforms(seed, start + i, 1)[0] for i in range(n + skip)]
    np.testing.assert_array_equal(one_by_one, whole)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("start", [0, 3, 10**11 + 1])
def test_uniforms_are_uniform_and_independent(seed, start):
    n = 20_000
    u = uniforms(seed, start, n)
    assert 0 <= u.min() < 1e-3 < 0.999 < u.max() < 1
    assert kstest(u, "uniform").pvalue > 1e-3
    # Of rows nearby, and of other seeds: five standard errors of a correlation.
    others = [u[:-lag] for lag in (1, 2, 3, 4, 5)] + [
        uniforms(seed ^ bit, start, n) for bit in (1, 2)
    ]
    for other in others:
        assert abs(np.corrcoef(u[n - len(other) :], other)[0, 1]) < 5 / np.sqrt(n)


# Which rows, and with which chance.


@pytest.mark.parametrize("base", [None, "all", "some"])
@pytest.mark.parametrize("redraw", [False, True])
def test_chances_are_the_oracles(base, redraw):
    raw = rows(base=base)
    weights, mixture = exact_mixture(raw)
    expected = oracle(raw, 200, mixture.atoms if redraw else None)
    normalised = softmaxes_only(weights, mixture) if redraw else None
    found = draw(block_of(raw), sampling_of(raw, 200, normalised=normalised))
    kept = np.flatnonzero(uniforms(3, 0, len(raw.counts)) < expected)
    np.testing.assert_array_equal(found.rows, kept)
    assert 100 < len(kept) < 300
    np.testing.assert_allclose(found.chance, expected[kept], rtol=1e-12)
    np.testing.assert_array_equal(found.features, raw.features[kept])
    np.testing.assert_array_equal(found.draws, raw.counts[kept])
    wanted = np.zeros(len(kept)) if base is None else raw.log_base[kept]
    np.testing.assert_array_equal(found.log_base, wanted)
    assert (expected > 0.99).any()


@pytest.mark.parametrize("redraw", [False, True])
def test_rows_that_are_not_available_are_never_kept(redraw):
    raw = rows(base="some", density=0.3)
    gone = raw.log_base == -np.inf
    assert 100 < gone.sum() < 400
    weights, mixture = exact_mixture(raw)
    normalised = softmaxes_only(weights, mixture) if redraw else None
    for n_rows in (30, 300, 699, 700, 10**6):
        for seed in range(10):
            found = draw(block_of(raw), sampling_of(raw, n_rows, seed, normalised))
            assert not gone[found.rows].any()
            assert (found.chance > 0).all()


@pytest.mark.parametrize("base", [None, "all", "some"])
@pytest.mark.parametrize("n_rows", [700, 701, 10**9])
def test_a_sketch_as_large_as_the_data_is_the_data(base, n_rows):
    raw = rows(base=base)
    found = draw(block_of(raw), sampling_of(raw, n_rows))
    available = np.ones(700, bool) if base is None else raw.log_base > -np.inf
    np.testing.assert_array_equal(found.rows, np.flatnonzero(available))
    np.testing.assert_array_equal(found.chance, 1.0)
    np.testing.assert_array_equal(found.draws, raw.counts[available])


def test_one_row_less_is_a_sample():
    raw = rows()
    found = draw(block_of(raw), sampling_of(raw, 699))
    assert 300 < len(found.rows) < 699
    assert found.chance.min() < 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slices_and_precision_of_a_block(dtype):
    # Enough rows for several slices, the last one ragged.
    problem = simulate(20_011, 3, 2, 50_000, seed=3, dtype=dtype)
    raw = RawBlock(0, problem.features, problem.counts)
    block = prepare(raw, Frame(np.zeros(3, dtype), np.ones(3, dtype)), 3)
    assert len(block.slices) > 2
    found = draw(block, sampling_of(raw, 500))
    assert 300 < len(found.rows) < 700
    assert found.features.dtype == dtype
    np.testing.assert_array_equal(found.features, problem.features[found.rows])


# The same sketch however the data are held.


@pytest.fixture(scope="module")
def candidates():
    """Twenty blocks of 256 rows, the last one ragged; some candidates not available."""
    return rows(5_037, 3, seed=6, base="some")


@pytest.fixture(scope="module", params=["first", "redraw"])
def sampling(request, candidates):
    weights, mixture = exact_mixture(candidates, 3)
    normalised = softmaxes_only(weights, mixture) if request.param == "redraw" else None
    return sampling_of(candidates, 800, 11, normalised)


@pytest.fixture(scope="module")
def expected(candidates, sampling):
    with local(1) as engine:
        found = sketch_on(engine, candidates, sampling)
    assert 600 < len(found.rows) < 900
    assert (np.diff(found.rows) > 0).all()
    return found


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("memory", [None, 1])
def test_threads(candidates, sampling, expected, n_threads, memory):
    with local(n_threads, memory) as engine:
        assert_bits(sketch_on(engine, candidates, sampling), expected)


@pytest.mark.parametrize("streamed", [False, True])
def test_cluster(candidates, sampling, expected, client, streamed):
    with on_cluster(client, streamed) as engine:
        assert_bits(sketch_on(engine, candidates, sampling), expected)


def test_one_worker(candidates, sampling, expected):
    with cluster_of(1) as one:
        engine = ClusterEngine(one)
        assert_bits(sketch_on(engine, candidates, sampling), expected)
        engine.close()


@pytest.mark.parametrize("block_rows", [1, 64, 512, 4096, 8192])
def test_blocks_of_another_size(candidates, sampling, expected, block_rows):
    if block_rows == 1:
        # Odd starts: blocks of 1 to 7 rows, joined by hand.
        edges = np.cumsum(np.random.default_rng(0).integers(1, 8, 5_037))
        edges = [0, *edges[edges < 5_037].tolist(), 5_037]
        found = draw(block_of(candidates, edges[1]), sampling)
        for start, stop in zip(edges[1:], edges[2:], strict=False):
            found += draw(block_of(candidates, stop - start, start), sampling)
    else:
        with local(2) as engine:
            found = sketch_on(engine, candidates, sampling, block_rows)
    assert_same_rows(found, expected)


def test_another_seed_is_another_sketch(candidates, sampling, expected):
    with local(1) as engine:
        other = sketch_on(engine, candidates, sampling_of(candidates, 800, 12, sampling.mixture))
    assert not np.array_equal(other.rows, expected.rows)


# What its sums estimate.


@pytest.mark.parametrize("redraw", [False, True])
def test_weighted_sums_are_unbiased(redraw):
    """Means over seeds against exact sums, bounded by the variance of Poisson sampling."""
    n_seeds, n_rows = 400, 60
    raw = rows(400, 2, seed=8, base="some")
    weights, mixture = exact_mixture(raw)
    chance = oracle(raw, n_rows, mixture.atoms if redraw else None)
    normalised = softmaxes_only(weights, mixture) if redraw else None
    u, q = np.exp(raw.log_base), raw.counts / raw.counts.sum()
    values = np.column_stack([np.ones(400), raw.features, np.exp(raw.features @ mixture.atoms.T)])
    terms = np.column_stack([u[:, None] * values, q[:, None] * values])
    # A row adds y / c with chance c: its variance is y^2 (1 - c) / c.
    left = np.divide(1 - chance, chance, out=np.zeros(400), where=chance > 0)
    deviation = np.sqrt(left @ terms**2)
    block = block_of(raw)
    sums, sizes = np.zeros((n_seeds, terms.shape[1])), np.zeros(n_seeds)
    for seed in range(n_seeds):
        found = draw(block, sampling_of(raw, n_rows, seed, normalised))
        sums[seed] = (terms[found.rows] / found.chance[:, None]).sum(axis=0)
        sizes[seed] = len(found.rows)
    scaled = (sums - terms.sum(axis=0)) / deviation
    # Ten sums: five standard errors for the means, and for the variances about that.
    np.testing.assert_array_less(np.abs(scaled.mean(axis=0)), 5 / np.sqrt(n_seeds))
    np.testing.assert_allclose((scaled**2).mean(axis=0), 1, atol=0.5)
    # Rows: sum of c, which is at most n_rows, with variance sum of c (1 - c).
    assert chance.sum() <= n_rows
    spread = np.sqrt(chance @ (1 - chance))
    assert abs(sizes.mean() - chance.sum()) < 5 * spread / np.sqrt(n_seeds)
    assert sizes.max() < n_rows + 6 * spread


@pytest.mark.parametrize("base", [None, "some"])
@pytest.mark.parametrize("redraw", [False, True])
def test_no_more_rows_than_asked_for_are_expected(monkeypatch, base, redraw):
    raw = rows(200, base=base)
    weights, mixture = exact_mixture(raw)
    normalised = softmaxes_only(weights, mixture) if redraw else None
    # Every row with any chance is kept, so that the chances can be added.
    monkeypatch.setattr(sketch, "uniforms", lambda seed, start, n, stream: np.zeros(n))
    for n_rows in (1, 2, 10, 50, 199, 200, 1000):
        found = draw(block_of(raw), sampling_of(raw, n_rows, normalised=normalised))
        available = 200 if base is None else np.count_nonzero(raw.log_base > -np.inf)
        assert len(found.rows) == available
        assert found.chance.sum() <= n_rows * (1 + 1e-12)
        assert found.chance.max() <= 1


# Joining.


def test_joining_is_associative_and_keeps_the_order():
    raw = rows(base="all")
    sampling = sampling_of(raw, 300)
    a, b, c = (
        draw(block_of(raw, n, start), sampling) for start, n in ((0, 301), (301, 1), (302, 398))
    )
    assert_bits((a + b) + c, a + (b + c))
    assert_bits(a + b + c, draw(block_of(raw), sampling))
    assert isinstance(a + b, SketchRows)


def test_blocks_without_rows_join_as_nothing():
    raw = rows()
    sampling = sampling_of(raw, 300)
    some = draw(block_of(raw, 300), sampling)
    # Without base measure, so unavailable rows need one: a block with none of them kept.
    far = RawBlock(300, raw.features[300:], 0 * raw.counts[300:], np.full(400, -np.inf))
    none = draw(prepare(far, Frame(np.zeros(2), np.ones(2)), 3), sampling)
    assert len(none.rows) == 0
    assert none.features.shape == (0, 2)
    assert_bits(some + none, some)
    assert_bits(none + some, some)
