"""Extremes: a right answer, by another computation, or an error that says what is wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import reference
from broken import foreign
from engines import local, on_cluster
from problems import Problem, fitted, signature, simulate
from scipy.optimize import minimize

from softmix_dist import SoftmaxMixture
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.data.writer import write_dataset
from softmix_dist.errors import (
    CondensedComponentWarning,
    ConvergenceWarning,
    InputError,
    StandardErrorWarning,
)

ATOM = np.array([1.0, -0.5])
# Fits end this near the maximum, in standard errors; compared with twice that.
TOL = 1e-3


def regression(features, counts, log_base=None, l2=0.0):
    """A softmax regression by a general minimiser of its exact objective: atom, objective."""
    x = np.asarray(features, dtype=np.float64)
    base = np.zeros(len(x)) if log_base is None else np.asarray(log_base, dtype=np.float64)
    shares = counts / np.sum(counts)
    # In its own standard coordinates, for the minimiser's sake and for the penalty.
    u = np.exp(base) / np.exp(base).sum()
    factor = np.linalg.cholesky((x - u @ x).T @ ((x - u @ x) * u[:, None]))
    z = np.linalg.solve(factor, (x - u @ x).T).T

    def loss(eta):
        logits = z @ eta + base
        top = logits.max()
        log_a = logits - top - np.log(np.exp(logits - top).sum())
        drawn = shares > 0
        value = -shares[drawn] @ log_a[drawn] + l2 / 2 * eta @ eta
        return value, -(shares - np.exp(log_a)) @ z + l2 * eta

    start = np.zeros(x.shape[1])
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-12})
    return np.linalg.solve(factor.T, found.x), -found.fun


def random_counts(features, n_draws, log_base=None, seed=1):
    logits = np.asarray(features, dtype=float) @ ATOM + (0 if log_base is None else log_base)
    pi = np.exp(logits - logits.max())
    return np.random.default_rng(seed).multinomial(n_draws, pi / pi.sum())


def gaussian(p=300, seed=0):
    return np.random.default_rng(seed).standard_normal((p, 2))


def fit(features, counts, n_components=1, *, log_base=None, **settings):
    """Fit, and ask for all that a user asks for: there is no NaN but what a warning names."""
    how = {"tol": TOL, **settings}
    model = SoftmaxMixture(n_components, **how)
    model.fit(features, counts, log_base=log_base, n_threads=2)
    result = model.result_
    for values in (result.weights, result.atoms, result.log_likelihood, result.distance):
        assert result.distance == np.inf or np.isfinite(values).all()
    if any("no standard errors" in text for text in result.warnings):
        assert not np.isfinite(result.covariance).all()
    else:
        assert np.isfinite(result.covariance).all()
    score = model.score(features, counts, log_base)
    assert score == pytest.approx(result.log_likelihood, abs=1e-11)
    assert np.exp(model.log_prob(features, log_base)).sum() == pytest.approx(1, abs=1e-11)
    assert str(model.goodness_of_fit())
    assert model.summary()
    assert model._repr_html_()
    assert model.sample(100, random_state=0).sum() == 100
    return model


def assert_regression(model, features, counts, log_base=None):
    """One component is where the minimiser ends, in standard errors."""
    atom, value = regression(features, counts, log_base, model.l2)
    assert model.converged_
    gap = TOL**2 / (2 * model.result_.n_draws) + 1e-11
    assert model.result_.objective == pytest.approx(value, rel=0, abs=gap)
    off = np.abs(model.atoms_[0] - atom)
    # What the minimiser leaves is a millionth of the atom.
    assert (off <= 2 * TOL * model.standard_errors_["atoms"][0] + 1e-6 * np.abs(atom)).all()


# ------------------------------------------------------------------ few of something


def test_two_candidates():
    model = fit([[0.0], [1.0]], [30, 70])
    assert model.atoms_[0, 0] == pytest.approx(np.log(70 / 30), abs=1e-4)
    assert model.standard_errors_["atoms"][0, 0] == pytest.approx(1 / np.sqrt(21), rel=1e-3)
    assert model.log_likelihood_ == pytest.approx(0.3 * np.log(0.3) + 0.7 * np.log(0.7), abs=1e-8)


def test_two_candidates_do_not_tell_two_components_apart():
    with (
        pytest.warns(ConvergenceWarning, match="flat"),
        pytest.warns(StandardErrorWarning, match="do not tell apart"),
    ):
        model = fit([[0.0], [1.0]], [30, 70], 2)
    np.testing.assert_allclose(np.exp(model.log_prob([[0.0], [1.0]])), [0.3, 0.7], atol=1e-6)


@pytest.mark.parametrize("features", [[[0.3]], [[0.3, 2.0]]])
def test_one_candidate(features):
    with pytest.raises(InputError, match="'x0' is constant over the candidates"):
        fit(features, [30])


@pytest.mark.parametrize("where", ["threads", "cluster"])
@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_component_is_a_softmax_regression(seed, base, where, client):
    problem = simulate(700, 4, 1, 20_000, seed=seed, dtype=np.float64, base=base)
    atom, value = regression(problem.features, problem.counts, problem.log_base)
    with local(2) if where == "threads" else on_cluster(client) as engine:
        result = fitted(problem.dataset(256), 1, engine, tol=TOL, standard_errors="exact")
    assert result.converged
    assert result.log_likelihood == pytest.approx(value, abs=1e-10)
    off = np.abs(result.atoms[0] - atom) / result.standard_errors["atoms"][0]
    assert (off < 2 * TOL).all()


def test_one_component_with_a_penalty():
    x = gaussian()
    counts = random_counts(x, 5000)
    assert_regression(fit(x, counts, l2=0.05), x, counts)


def test_one_feature():
    problem = simulate(200, 1, 2, 10**6, norm=1.5, seed=3, dtype=np.float64)
    truth = np.array([0.6, 0.4]), np.array([[1.5], [-1.5]])
    pi = reference.probabilities(problem.features, *truth).astype(float)
    counts = np.random.default_rng(4).multinomial(10**6, pi / pi.sum())
    model = fit(problem.features, counts, 2)
    weights, atoms, _ = reference.two_pass_em(problem.features, counts, *truth, tolerance=1e-8)
    assert model.converged_
    errors = model.standard_errors_
    assert (np.abs(model.weights_ - weights) < 0.01 * errors["weights"]).all()
    assert (np.abs(model.atoms_ - atoms) < 0.01 * errors["atoms"]).all()


def test_more_features_than_candidates():
    x = np.random.default_rng(0).standard_normal((4, 6))
    with pytest.raises(InputError) as caught:
        fit(x, [3, 4, 5, 6])
    assert re.findall(r"feature '(x\d)' is collinear", str(caught.value)) == ["x3", "x4", "x5"]


def test_as_many_features_as_there_can_be_give_the_shares_themselves():
    x = np.random.default_rng(0).standard_normal((7, 6))
    counts = np.arange(3, 10)
    model = fit(x, counts)
    np.testing.assert_allclose(np.exp(model.log_prob(x)), counts / counts.sum(), atol=1e-5)


def test_one_draw():
    x, counts = gaussian(), np.zeros(300, int)
    counts[3] = 1
    model = fit(x, counts)
    assert_regression(model, x, counts)
    # Of an exponential family: its mean is that of the draws.
    np.testing.assert_allclose(np.exp(model.log_prob(x)) @ x, x[3], atol=2e-3)
    with pytest.raises(InputError, match="2 components, but only 1 distinct candidates"):
        fit(x, counts, 2)


def test_one_candidate_with_all_draws():
    x, counts = gaussian(), np.zeros(300, int)
    counts[np.argmin(np.linalg.norm(x - [0.5, -0.5], axis=1))] = 1_000_000
    assert_regression(fit(x, counts), x, counts)
    # Where it is extreme there is no maximum, but a penalised one.
    counts = np.zeros(300, int)
    counts[np.argmax(x[:, 0])] = 1000
    with (
        pytest.warns(ConvergenceWarning, match="separation"),
        pytest.warns(CondensedComponentWarning),
        pytest.warns(StandardErrorWarning),
    ):
        fit(x, counts)
    with pytest.warns(CondensedComponentWarning):
        model = fit(x, counts, l2=0.01)
    assert_regression(model, x, counts)


def test_all_counts_are_equal():
    x, counts = gaussian(), np.full(300, 7)
    model = fit(x, counts)
    assert model.converged_
    assert (np.abs(model.atoms_) < TOL * model.standard_errors_["atoms"]).all()
    assert model.log_likelihood_ == pytest.approx(-np.log(300), abs=1e-13)


@pytest.mark.parametrize("init", ["auto", "random"])
@pytest.mark.parametrize("n_components", [2, 3])
def test_components_that_equal_counts_do_not_need(init, n_components):
    x = gaussian()
    with pytest.warns(ConvergenceWarning, match="flat"), pytest.warns(StandardErrorWarning):
        model = fit(x, np.full(300, 7), n_components, init=init)
    np.testing.assert_allclose(model.log_prob(x), -np.log(300), atol=1e-5)


def test_atoms_that_coincide():
    # Counts that one component explains but for their rounding.
    x = gaussian()
    counts = np.rint(1e6 * np.exp(x @ ATOM) / np.exp(x @ ATOM).sum()).astype(int)
    one = fit(x, counts)
    with pytest.warns(ConvergenceWarning, match="flat"), pytest.warns(StandardErrorWarning):
        model = fit(x, counts, 2, init=([0.5, 0.5], [ATOM, ATOM]))
    # A thousandth, as the draws tell: no more than one standard error of all probabilities.
    np.testing.assert_allclose(model.log_prob(x), one.log_prob(x), rtol=0, atol=1e-3)
    assert 0 <= 1e6 * (model.log_likelihood_ - one.log_likelihood_) < 0.01


def test_atoms_that_coincide_at_a_saddle():
    # Two components fit these counts better, but from here none of them knows where to go.
    x = gaussian()
    counts = random_counts(x, 100_000)
    start = [0.5, 0.5], [ATOM, ATOM]
    with pytest.warns(CondensedComponentWarning):
        best = fit(x, counts, 2, init=start)
    one = fit(x, counts)
    assert best.log_likelihood_ > one.log_likelihood_
    with (
        pytest.warns(ConvergenceWarning, match="not converged"),
        pytest.warns(StandardErrorWarning),
    ):
        stays = fit(x, counts, 2, init=start, solver="em", max_passes=30)
    assert stays.log_likelihood_ == pytest.approx(one.log_likelihood_, abs=1e-10)


# ------------------------------------------------------------------ large counts


def large(kind, size):
    x = gaussian(2000)
    logits = x @ ATOM
    pi = np.exp(logits) / np.exp(logits).sum()
    return x, np.maximum(np.floor(pi / pi.max() * size), 1).astype(kind)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("u4", 2**32 - 1), ("u8", 2**32), ("i8", 2**32 + 1), ("u8", 2**52 + 1), ("f8", 2**52 + 1)],
)
def test_large_counts(kind, size, tmp_path):
    x, counts = large(kind, size)
    exact = sum(int(n) for n in counts)
    assert exact > 2**32 * (2**20 if size > 2**50 else 1)
    model = fit(x, counts, tol=0.01)
    assert model.result_.n_draws == exact
    np.testing.assert_allclose(model.atoms_[0], regression(x, counts)[0], atol=1e-6)
    # On disk, where the total is compared with what was written, by every command.
    write_dataset(tmp_path / "data.zarr", x, counts, block_rows=512)
    data = open_dataset(tmp_path / "data.zarr")
    assert data.n_draws == exact
    again = SoftmaxMixture(1).fit(data, n_threads=2)
    assert again.result_.n_draws == exact
    assert again.goodness_of_fit() is not None
    again.predict(data, tmp_path / "predictions.zarr")


@pytest.mark.parametrize("n_samples", [None, 3])
def test_totals_of_a_block_beyond_64_bits(n_samples, tmp_path):
    x = gaussian(4096)
    counts = np.full(4096, 2**53 - 1, np.uint64)
    if n_samples:
        counts = np.stack([counts - 2, *np.ones((2, 4096), np.uint64)])
    model = fit(x, counts)
    assert model.result_.n_draws == 4096 * (2**53 - 1) > 2**64
    np.testing.assert_allclose(model.atoms_, 0, atol=1e-9)
    write_dataset(tmp_path / "data.zarr", x, counts, block_rows=4096)
    assert open_dataset(tmp_path / "data.zarr").n_draws == 4096 * (2**53 - 1)


@pytest.mark.parametrize(
    "counts",
    [
        np.full(300, 2**63, np.uint64),
        np.full(300, 2**53 + 1, np.int64),
        np.full(300, 1e30),
        np.full((3, 300), 2**52, np.uint64),
        np.full((2, 300), 2**63, np.uint64),
    ],
)
def test_counts_that_are_not_exact(counts, tmp_path):
    for use in (fit, lambda *arrays: write_dataset(tmp_path / "data.zarr", *arrays)):
        with pytest.raises(InputError, match=r"2\^53 draws or more .*candidate 0.* 300 in all"):
            use(gaussian(), counts)


# ------------------------------------------------------------------ units and precision


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("units", [(1e-8, 1e-8), (1e8, 1e8), (1e-8, 1e8), (1e-30, 1e30)])
def test_units(units, dtype):
    x = gaussian()
    counts = random_counts(x, 100_000)
    moved = (x * units).astype(dtype)
    model = fit(moved, counts)
    atom, _ = regression(moved.astype(np.float64) / units, counts)
    found = model.atoms_[0] * units
    assert (np.abs(found - atom) < 2 * TOL * model.standard_errors_["atoms"][0] * units).all()


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e150, 1e300, 1e308])
def test_units_out_of_range(size):
    x = gaussian() / 4
    counts = random_counts(x, 1000)
    with pytest.raises(InputError, match="feature 'x1' .* out of range.*express it in another"):
        fit(x * [1, size], counts)


def test_an_outlier_out_of_range():
    x = gaussian()
    x[299, 0] = 1e300
    with pytest.raises(InputError, match="feature 'x0' .* out of range"):
        fitted(ArrayDataset.of(x, np.ones(300, int), block_rows=64), 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_years(dtype):
    # Whole years and small prices, so that every type holds them exactly.
    rng = np.random.default_rng(5)
    years = rng.integers(1990, 2021, 3000)
    x = np.column_stack([years, rng.integers(-8, 9, 3000)]).astype(dtype)
    near = np.column_stack([years - 2005, x[:, 1]]).astype(float)
    counts = random_counts(near * [0.1, 0.1], 200_000)
    model = fit(x, counts, standard_errors="exact")
    assert_regression(model, near, counts)


def test_offsets_far_larger_than_the_spread():
    x = gaussian()
    counts = random_counts(x, 100_000)
    moved = x + [1e8, -1e8]
    # What a double leaves of the values at that distance is what is fitted.
    assert_regression(fit(moved, counts), moved - [1e8, -1e8], counts)


@pytest.mark.parametrize("size", [1.0, 15_000.0, 1e-4])
def test_half_precision(size):
    x = (gaussian(seed=2) * size).astype(np.float16)
    counts = random_counts(x.astype(float) / size, 100_000)
    assert_regression(fit(x, counts), x.astype(float), counts)


def test_half_precision_that_overflowed():
    with np.errstate(over="ignore"):
        x = (gaussian() * 60_000).astype(np.float16)
    with pytest.raises(InputError, match="features: infinite value"):
        fit(x, np.ones(300, int))


# ------------------------------------------------------------------ storage


@pytest.mark.parametrize("where", ["threads", "cluster"])
@pytest.mark.parametrize("block_rows", [64, 256, 2048])
def test_one_row_in_the_last_block(block_rows, where, client):
    problem = simulate(2049, 2, 2, 100_000, seed=6, dtype=np.float64, base=True)
    data = problem.dataset(block_rows)
    assert len(data.read_block(data.n_blocks - 1).features) == 1
    with local(2) if where == "threads" else on_cluster(client) as engine:
        result = fitted(data, 2, engine, init=problem.truth, tol=TOL)
        # Counts in the last row alone: nothing of it is lost.
        counts = np.zeros(2049, np.uint32)
        counts[-1] = 9
        last = fitted(problem.dataset(block_rows, counts=counts), 1, engine, l2=0.1)
    assert result.converged
    where_it_ends = problem.features, problem.counts, result.weights, result.atoms
    value = reference.log_likelihood(*where_it_ends, problem.log_base)
    assert result.log_likelihood == pytest.approx(value, abs=1e-12)
    # The slope in standard errors, by the covariance of the atoms.
    _, slope = reference.gradient(*where_it_ends, problem.log_base)
    errors = result.standard_errors["atoms"]
    assert (np.abs(slope) * errors * np.sqrt(result.n_draws) < 10 * TOL).all()
    atom, _ = regression(problem.features, counts, problem.log_base, 0.1)
    np.testing.assert_allclose(last.atoms[0], atom, atol=1e-2)


@pytest.mark.parametrize(
    ("features", "counts"), [(">f8", ">i8"), (">f4", ">u4"), (">f2", ">u2"), ("<f8", ">f8")]
)
def test_other_byte_orders(features, counts, tmp_path):
    x = gaussian()
    n = random_counts(x, 20_000)
    base = np.random.default_rng(3).standard_normal(300)
    here = Problem(x.astype(features[1:]), n.astype(counts[1:]), np.ones(1), np.zeros((1, 2)), base)
    there = replace(
        here,
        features=here.features.astype(features),
        counts=here.counts.astype(counts),
        log_base=base.astype(">f8"),
    )
    expected = signature(fitted(here, 2, l2=0.01))
    assert signature(fitted(there, 2, l2=0.01)) == expected
    path = tmp_path / "data.zarr"
    arrays = {"features": there.features, "counts": there.counts, "log_base": there.log_base}
    foreign(path, omit=("feature",), attributes={"block_rows": 512}, **arrays)
    assert signature(fitted(open_dataset(path), 2, l2=0.01)) == expected
    model = SoftmaxMixture(2, l2=0.01).fit(there.features, there.counts, log_base=there.log_base)
    assert model.score(there.features, there.counts, there.log_base) == pytest.approx(
        model.log_likelihood_, abs=1e-11
    )


def test_thousands_of_samples(tmp_path):
    x = gaussian(70)
    rng = np.random.default_rng(8)
    logits = x @ ATOM
    rates = 100 * np.exp(logits) / np.exp(logits).sum()
    samples = rng.poisson(rates, (5000, 70)).astype(np.uint16)
    merged = samples.sum(axis=0, dtype=np.uint64)
    path = tmp_path / "data.zarr"
    write_dataset(path, x, samples, block_rows=16)
    whole = ArrayDataset.of(x, merged, block_rows=16)
    assert signature(fitted(open_dataset(path), 2, l2=1e-3)) == signature(fitted(whole, 2, l2=1e-3))
    # Poisson samples are what the model says: their scatter says what the information says.
    model = fit(x, samples, standard_errors="clustered")
    assert_regression(model, x, merged)
    plain = fit(x, merged).standard_errors_["atoms"]
    np.testing.assert_allclose(model.standard_errors_["atoms"], plain, rtol=0.1)


def test_what_is_not_available_may_be_anywhere():
    years = np.round(8 * gaussian()) + [1990.0, 5.0]
    counts = random_counts((years - [1990, 5]) / 10, 50_000)
    expected = fit(years, counts)
    for far in (1e30, 1e300, np.finfo(float).max):
        x = np.concatenate([[[far, -far]], years, [[-far, far]]])
        base = np.concatenate([[-np.inf], np.zeros(300), [-np.inf]])
        model = fit(x, np.concatenate([[0], counts, [0]]), log_base=base)
        np.testing.assert_allclose(model.atoms_, expected.atoms_, rtol=1e-9)
        np.testing.assert_allclose(
            model.log_prob(x, base)[1:-1], expected.log_prob(years), rtol=1e-9
        )


def test_labels(tmp_path):
    x = gaussian(200)
    counts = random_counts(x, 50_000)
    names = ["naïveté", "値段" * 2000]
    labels = ["x" * 100_000, "", '\n\t"<b>\0é', "😀", "عربى"] + [f"row {i}" for i in range(195)]
    path = tmp_path / "донные é.zarr"
    write_dataset(path, x, counts, feature_names=names, candidate_labels=labels, block_rows=64)
    data = open_dataset(path)
    assert data.feature_names == names
    assert data.labels(slice(0, 200)) == labels
    model = SoftmaxMixture(1).fit(data, n_threads=2)
    assert_regression(model, x, counts)
    assert names[0] in model.summary()
    worst = model.goodness_of_fit(n_worst=200)
    assert "😀" in str(worst)
    assert "<b>" not in worst._repr_html_()
    model.save(tmp_path / "модель.zarr")
    assert SoftmaxMixture.load(tmp_path / "модель.zarr").result_.feature_names == names
    model.predict(data, tmp_path / "предсказания.zarr")


def test_text_that_cannot_be_stored(tmp_path):
    x, counts, half = gaussian(3), np.ones(3, int), "\ud83d"
    for words in (
        {"candidate_labels": ["a", half, "b"]},
        {"feature_names": ["a", half]},
        {"sample_names": [half], "counts": counts[None]},
    ):
        with pytest.raises(InputError, match=r"'\\ud83d' has a character that UTF-8 does not"):
            write_dataset(tmp_path / "data.zarr", x, **{"counts": counts} | words)
        assert not list(tmp_path.iterdir())


def test_names_that_are_numbers():
    x = gaussian()
    model = SoftmaxMixture(1).fit(x, random_counts(x, 1000), feature_names=[2019, 2020])
    assert model.result_.feature_names == ["2019", "2020"]
