"""Goodness of fit: residuals, perplexity between its bounds, worst-fitting candidates."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
import reference
import xarray
from hypothesis import given
from hypothesis import strategies as st
from problems import simulate

from softmix_dist import SoftmaxMixture, write_dataset
from softmix_dist.errors import InputError
from softmix_dist.residuals import Worst, deviance_residuals, pearson_residuals

NAMES = [f"<b>{i}</b>" for i in range(1500)]


@pytest.fixture(scope="module")
def problem():
    found = simulate(1500, 2, 2, 4_000, seed=5, dtype="float64", base=True)
    # One candidate is not there; two fit badly.
    found.log_base[7], found.counts[7] = -np.inf, 0
    found.counts[[11, 1200]] += np.array([60, 25], np.uint32)
    return found


@pytest.fixture(scope="module")
def model(problem):
    return SoftmaxMixture(2).fit(problem.features, problem.counts, log_base=problem.log_base)


@pytest.fixture
def path(problem, written):
    return written(problem, candidate_labels=NAMES)


@pytest.fixture(scope="module")
def expected(problem, model):
    pi = reference.probabilities(
        problem.features, model.weights_, model.atoms_, problem.log_base
    ).astype(float)
    return problem.counts.sum() * pi


# ------------------------------------------------------------------ residuals


@given(st.integers(0, 2**40), st.floats(-600, 40), st.sampled_from([0.0, 1e-12, -1e-9, 1e-4, -0.4]))
def test_deviance_residuals_keep_their_digits(n, log_mu, near):
    if n and near:
        log_mu = np.log(n) + near
    found = deviance_residuals(np.array([float(n)]), np.array([log_mu]))[0]
    big = np.longdouble
    mu, draws = np.exp(big(log_mu)), big(n)
    # The distance in logs by log1p in extended precision, where it is small.
    log_ratio = np.log1p((draws - mu) / mu) if n else big(0)
    unit = draws * log_ratio - (draws - mu)
    exact = float(np.sign(draws - mu) * np.sqrt(2 * max(unit, big(0))))
    # Rounding of mu itself, relative 1e-14, moves the residual by that times its root.
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-7 + 1e-13 * float(np.sqrt(mu)))


def test_residuals_of_what_cannot_be_chosen_are_zero():
    draws, log_expected = np.array([0.0, 0.0, 3.0]), np.array([-np.inf, -1000.0, np.log(3.0)])
    for residuals in (pearson_residuals, deviance_residuals):
        np.testing.assert_allclose(residuals(draws, log_expected), 0, atol=1e-15)
    # Drawn where hardly anything was expected: large, not infinite.
    for residuals in (pearson_residuals, deviance_residuals):
        assert np.isfinite(residuals(np.array([1.0]), np.array([-1000.0]))).all()


rows = st.lists(st.integers(0, 4), min_size=0, max_size=6)


@given(st.lists(rows, min_size=1, max_size=6), st.integers(0, 5))
def test_the_worst_merge_in_any_grouping(parts, most):
    starts = np.cumsum([0, *map(len, parts)])
    blocks = [
        Worst.of(
            most,
            np.array(part, float),
            np.arange(start, start + len(part)),
            *[np.ones(len(part))] * 4,
        )
        for part, start in zip(parts, starts, strict=False)
    ]
    sizes = np.concatenate([np.array(part, float) for part in parts])
    order = np.argsort(-sizes, kind="stable")[:most]
    left = functools.reduce(lambda a, b: a + b, blocks)
    right = functools.reduce(lambda a, b: b + a, reversed(blocks))
    for merged in (left, right):
        np.testing.assert_array_equal(merged.rows, order)


# ------------------------------------------------------------------ measures


def test_measures_are_their_definitions(problem, model, expected):
    found = model.goodness_of_fit(
        problem.features, problem.counts, log_base=problem.log_base, n_worst=20
    )
    n, mu = problem.counts.astype(float), expected
    total, there = n.sum(), mu > 0
    seen = n > 0
    assert (found.n_candidates, found.n_available, found.n_observed) == (1500, 1499, seen.sum())
    assert found.n_draws == total
    assert found.log_likelihood == pytest.approx(model.log_likelihood_, abs=1e-12)
    assert found.perplexity == pytest.approx(np.exp(-model.log_likelihood_))
    q = n[seen] / total
    assert found.saturated == pytest.approx(q @ np.log(q), abs=1e-13)
    base = np.exp(problem.log_base)
    assert found.null == pytest.approx(q @ np.log(base[seen] / base.sum()), abs=1e-13)
    assert found.entropy_bound < found.perplexity < found.null_perplexity
    assert found.pearson == pytest.approx(((n - mu)[there] ** 2 / mu[there]).sum())
    # The residuals add up to the deviance because their totals agree.
    gap = 2 * total * (found.saturated - found.log_likelihood)
    assert found.deviance == pytest.approx(gap, rel=1e-10)
    assert found.degrees_of_freedom == 1499 - 1 - 5
    scaled = SoftmaxMixture(2, init=(model.weights_, model.atoms_), standard_errors="scaled")
    scaled.fit(problem.features, problem.counts, log_base=problem.log_base)
    assert found.dispersion == pytest.approx(scaled.result_.dispersion, rel=1e-4)
    assert found.deviance_explained == pytest.approx(
        1 - found.deviance / (2 * total * (found.saturated - found.null))
    )


@pytest.mark.parametrize("by", ["deviance", "pearson"])
def test_the_worst_are_those_with_the_largest_residuals(by, problem, model, expected, path):
    n, mu = problem.counts.astype(float), expected
    log_mu = np.log(mu, where=mu > 0, out=np.full_like(mu, -np.inf))
    residuals = {"deviance": deviance_residuals, "pearson": pearson_residuals}[by](n, log_mu)
    order = np.argsort(-np.abs(residuals), kind="stable")[:12]
    found = model.goodness_of_fit(path, n_worst=12, by=by)
    assert [misfit.row for misfit in found.worst] == order.tolist()
    assert [misfit.label for misfit in found.worst] == [NAMES[row] for row in order]
    assert {11, 1200} <= {misfit.row for misfit in found.worst[:5]} or by == "pearson"
    np.testing.assert_allclose([getattr(m, by) for m in found.worst], residuals[order], rtol=1e-9)
    np.testing.assert_allclose([m.expected for m in found.worst], mu[order], rtol=1e-10)
    assert [m.observed for m in found.worst] == n[order].tolist()


def test_a_saturated_model_fits_perfectly():
    # As many components as candidates have no room to be wrong: here one of one.
    features = np.array([[0.0], [1.0]])
    model = SoftmaxMixture(1).fit(features, [30, 10])
    found = model.goodness_of_fit()
    assert found.deviance == pytest.approx(0, abs=1e-5)
    assert found.perplexity == pytest.approx(found.entropy_bound)
    assert found.deviance_explained == pytest.approx(1)
    assert found.degrees_of_freedom == 0
    assert np.isnan(found.dispersion)


def test_threads_and_workers_give_the_same_bits(model, path, client, tmp_path):
    told = [
        model.goodness_of_fit(path, n_threads=1),
        model.goodness_of_fit(path, n_threads=3),
        model.goodness_of_fit(path, client=client),
        model.predict(path, tmp_path / "threads.zarr", n_threads=2),
        model.predict(path, tmp_path / "workers.zarr", client=client),
    ]
    for one, other in itertools.pairwise(told):
        assert one == other
    with (
        xarray.open_zarr(tmp_path / "threads.zarr") as a,
        xarray.open_zarr(tmp_path / "workers.zarr") as b,
    ):
        assert a.identical(b)
        assert set(a) == {"log_prob", "responsibilities", "pearson_residuals", "deviance_residuals"}
        assert a.deviance_residuals.dims == ("candidate",)
        assert float((a.pearson_residuals**2).sum()) == pytest.approx(told[0].pearson)
        assert float((a.deviance_residuals**2).sum()) == pytest.approx(told[0].deviance)


def test_candidates_without_draws_have_no_residuals(problem, model, tmp_path):
    data = tmp_path / "data.zarr"
    write_dataset(data, problem.features, 0 * problem.counts, log_base=problem.log_base)
    assert model.predict(data, tmp_path / "predictions.zarr") is None
    with xarray.open_zarr(tmp_path / "predictions.zarr") as stored:
        assert set(stored) == {"log_prob", "responsibilities"}
    with pytest.raises(InputError, match="no draws"):
        model.goodness_of_fit(data)


def test_the_data_of_the_fit_are_the_default(problem, model, tmp_path):
    given = model.goodness_of_fit(problem.features, problem.counts, log_base=problem.log_base)
    assert model.goodness_of_fit() == given
    # Samples are added up.
    wide = np.stack([problem.counts // 3, problem.counts - problem.counts // 3])
    assert model.goodness_of_fit(problem.features, wide, log_base=problem.log_base) == given
    model.save(tmp_path / "model.zarr")
    with pytest.raises(InputError, match="pass data"):
        SoftmaxMixture.load(tmp_path / "model.zarr").goodness_of_fit()


@pytest.mark.parametrize(
    ("use", "fragment"),
    [
        (lambda m, x, n: m.goodness_of_fit(x), "counts are missing"),
        (lambda m, x, n: m.goodness_of_fit(x[:, :1], n), "features: expected"),
        (
            lambda m, x, n: m.goodness_of_fit(pd.DataFrame(x).assign(extra=0.0), n),
            "has the features 0, 1",
        ),
        (lambda m, x, n: m.goodness_of_fit(x, n[1:]), "counts: expected"),
        (lambda m, x, n: m.goodness_of_fit(x, -n.astype(int)), "counts: negative"),
        (lambda m, x, n: m.goodness_of_fit(x, n, n_worst=-1), "n_worst: "),
        (lambda m, x, n: m.goodness_of_fit(x, n, n_worst=True), "n_worst: "),
        (lambda m, x, n: m.goodness_of_fit(x, n, by="raw"), "by: expected one of deviance"),
        (lambda m, x, n: m.predict("nowhere", "at all", by="raw"), "by: "),
    ],
)
def test_what_cannot_be_measured_is_refused(use, fragment, problem, model):
    with pytest.raises(InputError, match=fragment):
        use(model, problem.features, problem.counts)


def test_lost_counts_are_noticed(problem, model, path):
    import zarr

    zarr.open_group(str(path), mode="r+", use_consolidated=False).attrs["n_draws"] = 1
    with pytest.raises(InputError, match="attribute n_draws says 1"):
        model.goodness_of_fit(path)


# ------------------------------------------------------------------ tables


def test_the_table_tells_every_number(model, path):
    found = model.goodness_of_fit(path, n_worst=3)
    text, html = str(found), found._repr_html_()
    for told in (f"{found.perplexity:,.2f}", f"{found.entropy_bound:,.2f}", "1,493 degrees"):
        assert told in text
        assert told in html
    assert found.worst[0].label in text
    assert "<b>" not in html
    assert html.count("&lt;b&gt;") == 3
    assert "worst" not in str(model.goodness_of_fit(path, n_worst=0))
    told = found.to_dict()
    assert told["perplexity"] == found.perplexity
    assert told["worst"][0]["label"] == found.worst[0].label


def test_without_an_available_candidate_there_is_no_fit(problem, model, tmp_path):
    path = tmp_path / "nothing.zarr"
    nothing = np.full(len(problem.features), -np.inf)
    write_dataset(path, problem.features, np.zeros(len(nothing), np.uint8), log_base=nothing)
    with pytest.raises(InputError, match="no candidate is available"):
        model.predict(path, tmp_path / "out.zarr")
