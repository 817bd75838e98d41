"""Standard errors that do not trust the model: clustered over samples, scaled, penalised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
import zarr
from engines import BLOCK_ROWS, cluster_of, local, on_cluster
from problems import Problem, fitted, signature, simulate
from scipy.sparse import csc_array
from scipy.special import expit
from test_sample import frame, mixture, rows

from softmix_dist import SoftmaxMixture, covariance, kernels, passes, robust
from softmix_dist.blocks import RawBlock
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.writer import write_dataset
from softmix_dist.errors import InputError, StandardErrorWarning
from softmix_dist.kernels import prepare
from softmix_dist.model import Mixture
from softmix_dist.robust import pearson, sample_sums
from softmix_dist.summary import as_html, as_text
from softmix_dist.sums import PearsonSums

TIGHT = 1e-4
SHIFT, SCALE = np.array([2000.0, -0.5]), np.array([50.0, 0.01])


def overdispersed(n_samples, seed=1, p=300, each=2000, factor=5.0) -> Problem:
    """Dirichlet-multinomial samples, features with an offset and unlike scales."""
    plain = simulate(p, 2, 2, 100, norm=1.5, seed=seed, dtype="float64", base=True)
    rng = np.random.default_rng(seed + 100)
    parts = plain.features, *plain.truth, plain.log_base
    pi = reference.probabilities(*parts).astype(float)
    shape = ((each - 1) / (factor - 1) - 1) * pi
    rates = rng.standard_gamma(np.broadcast_to(shape, (n_samples, p)))
    counts = rng.multinomial(each, rates / rates.sum(axis=1, keepdims=True))
    features = plain.features * SCALE + SHIFT
    return replace(plain, features=features, counts=counts, atoms=plain.atoms / SCALE)


SAMPLES = overdispersed(60)


def objectives(problem, counts, l2=0.0):
    """Log-likelihood of each sample, (S,), by the logit of the first weight and the atoms.

    With l2 each draw bears its part of the penalty.
    """
    x, log_base = problem.features, problem.log_base
    u = np.ones(len(x)) if log_base is None else np.exp(log_base)
    spread = np.cov(x.T, aweights=u, ddof=0)
    table = np.atleast_2d(counts).astype(float)

    def f(at):
        share, atoms = expit(at[0]), at[1:].reshape(2, 2)
        logs = reference.log_probabilities(x, [share, 1 - share], atoms, log_base)
        penalty = l2 / 2 * np.einsum("ki,ij,kj->", atoms, spread, atoms)
        return table @ np.array(logs).astype(float) - table.sum(axis=1) * penalty

    return f


def in_weights(result):
    """Point, steps and Jacobian of weights and atoms by the logit and the atoms."""
    w, v = result.weights
    jacobian = np.zeros((6, 5))
    jacobian[:2, 0] = w * v, -w * v
    jacobian[2:, 1:] = np.eye(4)
    at = np.append(np.log(w / v), result.atoms)
    return at, 1e-3 * np.append(1, np.tile(1 / SCALE, 2)), jacobian


def assert_same(found, expected, atol=5e-4):
    errors = np.sqrt(np.diag(expected))
    unit = np.outer(errors, errors)
    np.testing.assert_allclose(found / unit, expected / unit, atol=atol)


# ------------------------------------------------------------------ kernels


@pytest.mark.parametrize("base", [None, "some"])
@pytest.mark.parametrize("sparse", [False, True])
def test_sums_of_samples_are_those_of_the_loops(base, sparse, monkeypatch):
    monkeypatch.setattr(kernels, "_SLICE_ROWS", (64, 64))
    monkeypatch.setattr(robust, "_BUFFER", 1)
    x, n, log_base = rows(150, 2, base=base, density=0.5)
    rng = np.random.default_rng(2)
    counts = np.array([rng.binomial(n, share) for share in (0.1, 0.5, 0.0, 0.9)])
    m = mixture(2, 2)
    raw = RawBlock(0, x, csc_array(counts) if sparse else counts, log_base)
    found = sample_sums(prepare(raw, frame(2), 2), raw.counts, m)
    assert found.shape == (4, 2, 3)
    for sample, sums in zip(counts, found, strict=True):
        expected = reference.score_sums(x, sample, m.offsets, m.atoms, log_base)
        np.testing.assert_allclose(sums[:, 0], expected.R.astype(float), rtol=1e-12)
        np.testing.assert_allclose(sums[:, 1:], expected.S.astype(float), rtol=1e-11, atol=1e-10)


def normalised(x, n, m, log_base):
    """The same mixture with densities that sum to 1, and its probabilities."""
    weights = reference.implied_weights(x, m.offsets, m.atoms, log_base)
    pi = reference.probabilities(x, weights, m.atoms, log_base).astype(float)
    sums = reference.score_sums(x, n, m.offsets, m.atoms, log_base)
    return Mixture(m.offsets - float(np.log(sums.Z.sum())), m.atoms), pi


@pytest.mark.parametrize("n_draws", [100, 2_000, 10**6])
@pytest.mark.parametrize("base", [None, "some"])
def test_pearson_joins_what_is_expected_too_seldom(base, n_draws, monkeypatch):
    monkeypatch.setattr(kernels, "_SLICE_ROWS", (64, 64))
    x, n, log_base = rows(150, 2, base=base, density=0.5)
    m, pi = normalised(x, n, mixture(2, 2), log_base)
    raw = RawBlock(0, x, n, log_base)
    found = pearson(prepare(raw, frame(2), 2), m, n_draws)
    cells, rest = reference.joined_cells(n, n_draws * pi, 5.0)
    assert found.n_cells == len(cells)
    assert 0 < found.n_cells < (50 if n_draws == 100 else 151)
    assert found.statistic == pytest.approx(sum((a - b) ** 2 / b for a, b in cells), rel=1e-10)
    assert (found.rest, found.rest_expected) == pytest.approx(rest, rel=1e-10)
    # Nothing is lost.
    assert found.rest + sum(n for n, _ in cells) == n.sum()


def test_the_rest_of_all_blocks_is_one_more_cell():
    parts = [PearsonSums(30.0, 12, 2.0, 3.0), PearsonSums(20.0, 13, 9.0, 4.0)]
    assert parts[0].dispersion(10) == 15
    assert (parts[0] + parts[1]).dispersion(10) == pytest.approx((50 + 16 / 7) / 16)
    assert parts[0].dispersion(12) is None


# ------------------------------------------------------------------ clustered over samples


@pytest.mark.parametrize("l2", [0.0, 0.02])
def test_clustered_is_the_sandwich_of_the_samples(l2):
    result = fitted(SAMPLES, 2, init=SAMPLES.truth, tol=TIGHT, l2=l2, standard_errors="clustered")
    assert (result.errors_from, result.warnings) == ("clustered", [])
    at, steps, jacobian = in_weights(result)
    expected = reference.sandwich(objectives(SAMPLES, SAMPLES.counts, l2), at, steps)
    assert_same(result.covariance, jacobian @ expected @ jacobian.T)
    # The counts vary five times as much as the model has it.
    plain = fitted(SAMPLES, 2, init=SAMPLES.truth, tol=TIGHT, l2=l2)
    ratio = result.covariance.diagonal() / plain.covariance.diagonal()
    assert 3 < np.median(ratio) < 8
    assert "clustered over samples (sandwich)" in as_text(result)


def test_one_more_pass_than_the_exact_ones(medium):
    counts = np.random.default_rng(0).multinomial(medium.counts, np.full(60, 1 / 60)).T
    problem = replace(medium, counts=counts)
    how = {"init": medium.truth, "sketch_rows": 1500}
    found = {
        kind: fitted(problem, 3, standard_errors=kind, **how)
        for kind in ("sketch", "exact", "scaled", "clustered")
    }
    passes = [result.n_passes for result in found.values()]
    assert np.diff(passes).tolist() == [1, 0, 1]
    # Draws that were dealt out at random do not go together.
    ratio = np.sqrt(found["clustered"].covariance.diagonal() / found["exact"].covariance.diagonal())
    assert ((ratio > 0.7) & (ratio < 1.4)).all()


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The same counts on disk, dense and sparse, in several blocks."""
    problem = overdispersed(60, p=1100)
    folder = tmp_path_factory.mktemp("samples")
    for name in ("dense", "sparse"):
        path = folder / f"{name}.zarr"
        counts = problem.counts.astype(np.uint32)
        write_dataset(
            path, problem.features, counts, log_base=problem.log_base, block_rows=BLOCK_ROWS
        )
        if name == "sparse":
            group = zarr.open_group(str(path), mode="r+", use_consolidated=False)
            del group["counts"]
            matrix = csc_array(counts)
            encoded = group.create_group("counts")
            encoded.attrs.update({"encoding-type": "csc_matrix", "shape": list(matrix.shape)})
            for part in ("data", "indices", "indptr"):
                encoded.create_array(part, data=getattr(matrix, part))
            zarr.consolidate_metadata(str(path))
    return problem, {name: open_dataset(folder / f"{name}.zarr") for name in ("dense", "sparse")}


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("kind", ["clustered", "scaled"])
@pytest.mark.parametrize("counts", ["dense", "sparse"])
def test_every_engine_has_the_same_bits(several, counts, kind, client):
    problem, datasets = several
    how = {"init": problem.truth, "sketch_rows": 500, "standard_errors": kind}
    found = []
    for engine in (local(1), local(3), local(2, streamed=True), on_cluster(client)):
        with engine as chosen:
            found.append(fitted(datasets[counts], 2, chosen, **how))
    assert len({signature(result) for result in found}) == 1
    assert len({result.dispersion for result in found}) == 1
    # Arrays in memory are added in the same order as those on disk.
    with cluster_of(3) as other, on_cluster(other, streamed=True) as engine:
        again = fitted(problem.dataset(BLOCK_ROWS), 2, engine, **how)
    if counts == "dense":
        assert signature(again) == signature(found[0])
    assert_same(again.covariance, found[0].covariance, 1e-9)


def refused(counts, match, **settings):
    problem = replace(SAMPLES, counts=counts)
    with local(1) as engine:
        engine.reduce = None
        with pytest.raises(InputError, match=match):
            fitted(problem, 2, engine, standard_errors="clustered", **settings)


@pytest.mark.parametrize("counts", [SAMPLES.counts[0], SAMPLES.counts[:1]])
def test_one_sample_is_refused_before_any_pass(counts):
    refused(counts, r"several samples, \(S, p\), found 1 sample")


def test_too_many_samples_are_refused_before_any_pass(monkeypatch):
    monkeypatch.setattr(covariance, "_MOST_SUMS", 359)
    refused(SAMPLES.counts, "60 samples are 360 numbers, at most 359")


@pytest.mark.parametrize(
    ("n_samples", "match"),
    [(2, "2 samples for 5 parameters"), (5, "5 samples for 5"), (6, "fewer than 50"), (49, "49")],
)
def test_few_samples_are_warned_of(n_samples, match):
    counts = np.array([part.sum(axis=0) for part in np.array_split(SAMPLES.counts, n_samples)])
    with pytest.warns(StandardErrorWarning, match=match):
        result = fitted(
            replace(SAMPLES, counts=counts), 2, init=SAMPLES.truth, standard_errors="clustered"
        )
    assert len(result.warnings) == 1
    assert np.isfinite(result.covariance).all()
    # As many directions are without error as samples are missing.
    errors = np.sqrt(result.covariance.diagonal())
    rank = np.linalg.matrix_rank(result.covariance / np.outer(errors, errors), tol=1e-9)
    assert rank == min(n_samples - 1, 5)


def test_without_information_nothing_is_clustered_or_scaled():
    x = np.random.default_rng(5).standard_normal((400, 1))
    start = [[0.5], [0.5]]
    pi = reference.probabilities(x, [0.5, 0.5], start).astype(float)
    counts = np.random.default_rng(7).multinomial(400, pi / pi.sum(), 50)
    for kind in ("clustered", "scaled"):
        model = SoftmaxMixture(2, init=start, solver="em", max_passes=30, standard_errors=kind)
        with pytest.warns(UserWarning, match="converged|singular"):
            model.fit(x, counts)
        assert np.isnan(model.covariance_).all()
        assert model.result_.errors_from == kind
        assert "singular" in model.summary()


# ------------------------------------------------------------------ dispersion


def test_dispersion_is_pearsons_statistic_over_its_degrees_of_freedom():
    how = {"init": SAMPLES.truth, "tol": TIGHT}
    plain, result = (
        fitted(SAMPLES, 2, standard_errors=kind, **how) for kind in ("sketch", "scaled")
    )
    assert (plain.dispersion, result.errors_from) == (None, "scaled")
    n = SAMPLES.counts.sum(axis=0)
    parts = SAMPLES.features, result.weights, result.atoms, SAMPLES.log_base
    expected = n.sum() * reference.probabilities(*parts).astype(float)
    assert expected.min() > 5
    exact = np.sum((n - expected) ** 2 / expected) / (300 - 1 - 5)
    assert result.dispersion == pytest.approx(exact, rel=1e-6)
    assert 4 < result.dispersion < 6
    np.testing.assert_allclose(result.covariance, result.dispersion * plain.covariance, rtol=1e-12)
    for told in (as_text(result), as_html(result)):
        assert f"root of the dispersion {exact:.4g} (Pearson)" in told


@pytest.mark.parametrize("n_draws", [3_000, 100_000])
def test_multinomial_counts_have_the_dispersion_one(n_draws):
    # At 3 000 draws most candidates expect less than one.
    problem = simulate(5_037, 3, 2, n_draws, seed=2, norm=1.5)
    result = fitted(problem, 2, init=problem.truth, standard_errors="scaled")
    assert result.dispersion == pytest.approx(1, abs=0.12)


def test_one_surprising_draw_is_not_overdispersion():
    problem = simulate(5_037, 1, 1, 50_000, seed=2, norm=4.0)
    counts = problem.counts.copy()
    counts[np.argmin(problem.features @ problem.atoms[0])] += 1
    found = [
        fitted(replace(problem, counts=n), 1, init=problem.truth, standard_errors="scaled")
        for n in (problem.counts, counts)
    ]
    assert found[1].dispersion == pytest.approx(found[0].dispersion, rel=0.02)


def test_too_few_draws_have_no_dispersion():
    problem = simulate(600, 2, 2, 28, seed=1, norm=1.0, dtype="float64")
    with pytest.warns(UserWarning, match="dispersion cannot be estimated|converged"):
        result = fitted(problem, 2, init=problem.truth, l2=0.5, standard_errors="scaled")
    assert result.dispersion is None
    assert np.isnan(result.covariance).all()
    assert any("no more cells" in text for text in result.warnings)
    assert "dispersion not known" in as_text(result)


def test_the_disk_keeps_the_dispersion(tmp_path):
    model = SoftmaxMixture(2, init=SAMPLES.truth, standard_errors="scaled")
    model.fit(SAMPLES.features, SAMPLES.counts, log_base=SAMPLES.log_base)
    model.save(tmp_path / "model.zarr")
    loaded = SoftmaxMixture.load(tmp_path / "model.zarr")
    assert loaded.result_.dispersion == model.result_.dispersion
    assert loaded.summary() == model.summary()


# ------------------------------------------------------------------ penalised


@pytest.mark.parametrize("kind", ["sketch", "exact", "scaled"])
@pytest.mark.parametrize("l2", [0.002, 0.2])
def test_a_penalised_estimate_has_the_sandwich_of_its_bias(l2, kind):
    result = fitted(SAMPLES, 2, init=SAMPLES.truth, tol=TIGHT, l2=l2, standard_errors=kind)
    at, steps, jacobian = in_weights(result)

    def f(penalty):
        each = objectives(SAMPLES, SAMPLES.counts.sum(axis=0), penalty)
        return lambda x: each(x)[0]

    information, penalised = (
        -reference.second_derivatives(f(penalty), at, steps) for penalty in (0.0, l2)
    )
    bread = np.linalg.inv(penalised)
    expected = jacobian @ bread @ information @ bread @ jacobian.T
    assert_same(result.covariance / (result.dispersion or 1), expected)
    told = as_text(result, l2)
    assert "biased towards 0" in told
    assert "biased" not in as_text(result)


def test_what_only_the_penalty_identifies_has_no_negative_variance():
    # Two components that coincide: the likelihood is flat or bends upwards between them.
    problem = simulate(500, 2, 1, 20_000, norm=1.0, seed=3, dtype="float64")
    atoms = problem.atoms[0] + np.array([[0.3, 0], [-0.3, 0]])
    result = fitted(problem, 2, init=([0.5, 0.5], atoms), l2=0.05)
    assert result.covariance is not None
    assert (np.linalg.eigvalsh(result.covariance) > -1e-12).all()


def test_a_sketch_that_knows_too_little_is_doubted(monkeypatch):
    # Too many coefficients for one pass of all data, few enough for a matrix of the sketch.
    monkeypatch.setattr(passes, "_LARGEST_INFORMATION", 4)
    monkeypatch.setattr(covariance, "known_well", lambda curvature: False)
    problem = simulate(2000, 3, 2, 10**6)
    options = {"init": problem.truth, "sketch_rows": 500, "max_passes": 100}
    with pytest.warns(UserWarning, match="knows some directions poorly"):
        result = fitted(problem, 2, **options)
    assert result.errors_from == "sketch"
