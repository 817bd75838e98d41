"""Warm starts: what every method gives, what it costs, where it is the same, what it refuses."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from engines import local, on_cluster
from problems import Problem, assert_never_falls, fitted, signature, simulate

from softmix_dist import sketching
from softmix_dist.engine import LocalEngine
from softmix_dist.errors import InputError, SoftmixWarning, WarmStartWarning
from softmix_dist.fit import Settings, fit
from softmix_dist.results import INITS

METHODS = ("moments", "tensor", "subspace", "search")
BLOCK_ROWS = 256
SKETCH = 800


def quietly(data, n_components, **settings):
    """A fit whose own warnings are no matter; those of NumPy still are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SoftmixWarning)
        return fitted(data, n_components, **settings)


def told(problem, n_components, **settings):
    """A fit and the progress that it told."""
    rows, engine = [], LocalEngine(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SoftmixWarning)
        result = fit(problem.dataset(512), Settings(n_components, **settings), engine, rows.append)
    engine.close()
    return result, rows


def starts_signature(result):
    """What the report says of the starts, but for the time they took."""
    return [
        {name: value for name, value in row.items() if not name.endswith("seconds")}
        for row in result.starts
    ]


def assert_sane(result, n_components):
    assert 1 <= len(result.weights) <= n_components
    assert result.weights.sum() == pytest.approx(1)
    assert (result.weights > 0).all()
    assert np.isfinite(result.atoms).all()
    assert np.isfinite(result.log_likelihood)
    assert [row["best"] for row in result.starts].count(True) == 1


def with_counts(features, counts):
    return Problem(features, np.asarray(counts), np.ones(1), np.zeros((1, features.shape[1])))


@pytest.fixture(scope="module")
def dataset(medium):
    return medium.dataset(BLOCK_ROWS)


# What a start is.


@pytest.mark.parametrize("sketch_rows", [None, SKETCH])
@pytest.mark.parametrize("init", [*METHODS, "random", "given"])
def test_every_method_gives_a_fit_with_its_row(medium, init, sketch_rows):
    given = medium.truth if init == "given" else init
    result = quietly(medium, 3, init=given, sketch_rows=sketch_rows, n_init=3)
    assert_sane(result, 3)
    assert_never_falls(result)
    assert result.converged
    assert {row["method"] for row in result.starts} == {init}
    if init not in ("random", "search"):
        assert len(result.starts) == 1
    for row in result.starts:
        assert row["notes"] == [] or init in ("moments", "tensor", "subspace")
        if init != "given":
            assert np.isfinite(row["sketch_log_likelihood"])
            # The second sketch is drawn where the first is not the whole data.
            looks = 1 if sketch_rows is None else 2
            assert row["start_passes"] == looks + (init in ("moments", "tensor"))
            assert row["start_seconds"] > 0
        else:
            assert row["sketch_log_likelihood"] is None
            assert row["start_passes"] == 0
    # Of the whole data the sketch knows the likelihood, of a sample about.
    (best,) = (row for row in result.starts if row["best"])
    if init != "given":
        near = 1e-6 if sketch_rows is None else 0.3
        assert abs(best["sketch_log_likelihood"] - result.log_likelihood) < near
        first = result.history[0]["log_likelihood"]
        assert first > result.log_likelihood - (1e-6 if sketch_rows is None else 0.05)


@pytest.mark.parametrize("sketch_rows", [None, SKETCH])
def test_auto_reports_the_four_methods(medium, sketch_rows):
    result = fitted(medium, 3, init="auto", sketch_rows=sketch_rows)
    assert_sane(result, 3)
    assert result.converged
    assert {row["method"] for row in result.starts} == set(METHODS)
    for method in METHODS[:3]:
        assert [row["method"] for row in result.starts].count(method) == 1
    # Those that go on first, by their likelihood; the others say why not.
    behind = [row["stopped"] == "behind on the sketch" for row in result.starts]
    assert behind == sorted(behind)
    for which in (False, True):
        found = [
            row["sketch_log_likelihood"]
            for row, late in zip(result.starts, behind, strict=True)
            if late == which
        ]
        assert found == sorted(found, reverse=True)
    assert result.starts[0]["log_likelihood"] is not None
    for row in result.starts:
        assert row["start_passes"] == (1 if sketch_rows is None else 2)
        assert (row["log_likelihood"] is None) == (row["stopped"] == "behind on the sketch")
    reached = [row["log_likelihood"] for row in result.starts if row["log_likelihood"]]
    assert max(reached) <= result.log_likelihood + 1e-12


@pytest.mark.parametrize(
    ("init", "base"), [("auto", True), ("search", False), ("tensor", True), ("subspace", False)]
)
def test_a_start_from_a_sample_reaches_what_em_reaches_from_the_truth(init, base):
    problem = simulate(6_000, 3, 3, 300_000, seed=4, base=base)
    from_truth = fitted(problem, 3, init=problem.truth)
    result = quietly(problem, 3, init=init, sketch_rows=1500)
    assert result.converged
    assert result.log_likelihood > from_truth.log_likelihood - 1e-8


def test_methods_have_names_that_settings_know():
    assert set(INITS) == {"auto", "random", *METHODS}


@pytest.mark.parametrize("init", INITS)
def test_one_component_has_one_start(medium, init):
    result, rows = told(medium, 1, init=init)
    assert result.converged
    assert len(result.starts) == 1
    assert next(row for row in rows if row["phase"] == "pass")["pass"] == 3


# What it costs.


@pytest.mark.parametrize(
    ("init", "before"),
    [("random", 3), ("auto", 3), ("search", 3), ("subspace", 3), ("moments", 4), ("tensor", 4)],
)
def test_passes_before_the_finish(medium, init, before):
    result, rows = told(medium, 3, init=init, sketch_rows=SKETCH, n_init=2)
    first = next(row for row in rows if row["phase"] == "pass")
    assert first["pass"] == before + 1
    assert [row["phase"] for row in rows[:3]] == ["survey", "starts", "pass"]
    assert result.history[0]["pass"] == before + 1
    assert result.n_passes >= before + len(result.history)


def test_passes_that_are_counted_are_those_that_the_engine_makes(medium):
    class Counting(LocalEngine):
        n = 0

        def reduce(self, kernel):
            self.n += 1
            return super().reduce(kernel)

    for init in ("auto", "tensor", "random"):
        engine = Counting(2)
        result = fit(medium.dataset(512), Settings(3, init=init, sketch_rows=SKETCH), engine)
        engine.close()
        assert result.n_passes == engine.n


def test_the_sketch_is_as_large_as_asked_for(medium):
    for asked in (100, SKETCH, 3000):
        _, rows = told(medium, 3, init="subspace", sketch_rows=asked)
        (starts,) = (row for row in rows if row["phase"] == "starts")
        assert 0.3 * asked < starts["sketch_rows"] < asked + 6 * np.sqrt(asked)
    for asked in (5037, 10**7, None):
        _, rows = told(medium, 3, init="subspace", sketch_rows=asked)
        (starts,) = (row for row in rows if row["phase"] == "starts")
        assert starts["sketch_rows"] == 5037


# Where it is the same.


@pytest.fixture(scope="module", params=["auto", "moments", "tensor"])
def init(request):
    return request.param


@pytest.fixture(scope="module")
def expected(dataset, init):
    with local(1) as engine:
        return quietly(dataset, 3, init=init, sketch_rows=SKETCH, engine=engine)


@pytest.mark.parametrize("where", ["2 threads", "streamed", "cluster"])
def test_the_same_seed_gives_the_same_bits(dataset, init, expected, client, where):
    engines = {
        "2 threads": lambda: local(2),
        "streamed": lambda: local(2, 1),
        "cluster": lambda: on_cluster(client),
    }
    with engines[where]() as engine:
        result = quietly(dataset, 3, init=init, sketch_rows=SKETCH, engine=engine)
    assert signature(result) == signature(expected)
    assert starts_signature(result) == starts_signature(expected)


@pytest.mark.parametrize("block_rows", [64, 8192])
def test_blocks_of_another_size_give_the_same_starts(medium, init, expected, block_rows):
    result = quietly(medium.dataset(block_rows), 3, init=init, sketch_rows=SKETCH)
    best, wanted = result.starts[0], expected.starts[0]
    # Each search may end elsewhere by the rounding of single precision, the best does not.
    assert best["sketch_log_likelihood"] == pytest.approx(wanted["sketch_log_likelihood"], abs=1e-7)
    assert result.history[0]["log_likelihood"] == pytest.approx(
        expected.history[0]["log_likelihood"], abs=1e-6
    )
    assert result.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(result.atoms, expected.atoms, atol=1e-3)


def test_another_seed_is_another_sketch(dataset, expected, init):
    result = quietly(dataset, 3, init=init, sketch_rows=SKETCH, random_state=1)
    assert result.starts[0]["sketch_log_likelihood"] != expected.starts[0]["sketch_log_likelihood"]


def test_no_seed_is_a_new_one_each_time(dataset):
    one, two = (
        quietly(dataset, 3, init="subspace", sketch_rows=SKETCH, random_state=None)
        for _ in range(2)
    )
    assert one.starts[0]["sketch_log_likelihood"] != two.starts[0]["sketch_log_likelihood"]


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, 2**130])
def test_any_seed_that_settings_accept_is_one(dataset, seed):
    settings = {"init": "subspace", "sketch_rows": SKETCH, "random_state": seed}
    try:
        Settings(3, **settings).check()
    except InputError:
        return
    assert_sane(quietly(dataset, 3, **settings), 3)


# What it refuses.


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        (np.zeros((2, 3)), "(3, 3)"),
        (np.zeros(9), "(3, 3)"),
        ([[1.0, 2.0], [3.0]], "numbers"),
        ((np.ones(2) / 2, np.zeros((3, 3))), "3 weights"),
        ((np.ones(3), np.zeros((3, 3))), "sum 1"),
        ((np.array([0.7, 0.4, -0.1]), np.zeros((3, 3))), "positive"),
        ((np.array([1.0, 0.0, 0.0]), np.zeros((3, 3))), "positive"),
        ((np.array([np.nan, 0.5, 0.5]), np.zeros((3, 3))), "positive"),
        (np.full((3, 3), np.inf), "finite"),
    ],
)
def test_a_given_start_must_fit(medium, given, fragment):
    with pytest.raises(InputError, match="init") as caught:
        fitted(medium, 3, init=given)
    assert fragment in str(caught.value)


@pytest.mark.parametrize("name", ["magic", "", "AUTO", "kmeans", "mom"])
def test_an_unknown_name_lists_the_known(medium, name):
    with pytest.raises(InputError, match="init: expected one of auto, search") as caught:
        fitted(medium, 3, init=name)
    assert all(known in str(caught.value) for known in INITS)


@pytest.mark.parametrize("rows", [0, 99, -5, 800.0, "800", True])
def test_a_sketch_too_small_is_refused(medium, rows):
    with pytest.raises(InputError, match="sketch_rows: expected at least 100"):
        fitted(medium, 3, sketch_rows=rows)


@pytest.mark.parametrize("init", ["auto", "search", "tensor"])
def test_a_sketch_larger_than_memory_is_refused(monkeypatch, medium, init):
    monkeypatch.setattr(sketching, "memory_limit", lambda: 1_000_000)
    with pytest.raises(InputError, match="sketch_rows: 5000 rows of 3 features") as caught:
        fitted(medium, 3, init=init, sketch_rows=5000)
    assert "use fewer" in str(caught.value)
    # What fits is taken, and what needs no sketch does not ask.
    assert_sane(quietly(medium, 3, init=init, sketch_rows=500), 3)
    assert_sane(quietly(medium, 3, init="random", solver="em", sketch_rows=5000), 3)


def test_memory_is_that_of_the_rows_there_are(monkeypatch, medium):
    monkeypatch.setattr(sketching, "memory_limit", lambda: 10_000_000)
    assert_sane(quietly(medium, 3, init="search", sketch_rows=10**9), 3)


# What it warns of.


def test_tensor_with_more_components_than_features():
    problem = simulate(2_000, 2, 4, 200_000, seed=5)
    with pytest.warns(WarmStartWarning, match=r"init='tensor': .*2 .*4 components") as caught:
        result = fitted(problem, 4, init="tensor", max_passes=30, tol=10.0)
    assert_sane(result, 4)
    (start,) = result.starts
    assert start["notes"]
    assert all(note in str(caught[0].message) for note in start["notes"])
    assert str(caught[0].message) in result.warnings


def test_auto_does_not_warn_of_a_method_that_lost():
    problem = simulate(2_000, 2, 4, 200_000, seed=5)
    result = fitted(problem, 4, init="auto")
    assert any(row["notes"] for row in result.starts)
    assert result.warnings == []


# Data that support less than what is asked for.


@pytest.mark.parametrize("init", INITS)
def test_two_identical_components(init):
    made = simulate(1_500, 2, 1, 100_000, seed=3)
    one = fitted(made, 1)
    result = quietly(made, 2, init=init, sketch_rows=200, max_passes=30, n_init=2)
    assert_sane(result, 2)
    # The second gains what noise is worth, or nothing.
    short = 1e-9 if result.converged else 1e-3
    assert -short < result.log_likelihood - one.log_likelihood < 20 / 100_000


def uniform(rng):
    return with_counts(rng.standard_normal((500, 2)), np.full(500, 10))


def binary(rng):
    # Four distinct rows of features for five components.
    return with_counts((rng.random((500, 2)) < 0.4).astype(float), rng.poisson(5, 500))


def few_draws(rng):
    return with_counts(rng.standard_normal((500, 2)), np.eye(500, dtype=int)[:6].sum(axis=0))


def few_candidates(rng):
    return with_counts(rng.standard_normal((7, 2)), np.array([5, 3, 9, 1, 7, 2, 4]))


def one_feature(rng):
    return with_counts(rng.standard_normal((400, 1)), rng.poisson(3, 400))


def extreme(rng):
    """Nearly all draws on an outermost candidate, so that one component runs off."""
    features = rng.standard_normal((500, 2))
    counts = np.zeros(500, int)
    order = np.argsort(features[:, 0])
    counts[order[-1]], counts[[order[0], *range(17, 21)]] = 10**5, 1
    return with_counts(features, counts)


def outlier(rng):
    features = rng.standard_normal((500, 2))
    features[3] *= 1e4
    return with_counts(features, rng.poisson(5, 500))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(
    "make", [uniform, binary, few_draws, few_candidates, one_feature, extreme, outlier]
)
def test_more_components_than_the_data_support(make, init):
    problem = make(np.random.default_rng(0))
    result = quietly(problem, 5, init=init, max_passes=8, n_init=2)
    assert_sane(result, 5)


@pytest.mark.parametrize("init", INITS)
def test_draws_that_are_not_of_the_sketch_alone(init):
    # Far more observed candidates than rows, and one draw each.
    rng = np.random.default_rng(1)
    problem = with_counts(rng.standard_normal((4_000, 3)), np.ones(4_000, int))
    result = quietly(problem, 3, init=init, sketch_rows=100, max_passes=8, n_init=2)
    assert_sane(result, 3)


def test_components_without_a_place_are_named():
    # No atom gains anything where the draws follow the base measure.
    problem = uniform(np.random.default_rng(0))
    with pytest.warns(WarmStartWarning, match="no place for 2 of 3 components"):
        result = fitted(problem, 3, init="search")
    assert len(result.weights) == 1
    assert result.converged


def test_candidates_that_are_not_available(medium):
    gone = (medium.counts == 0) | (np.arange(5037) % 7 == 0)
    counts = np.where(gone, 0, medium.counts)
    problem = replace(medium, counts=counts, log_base=np.where(gone, -np.inf, 0.3))
    dropped = Problem(medium.features[~gone], counts[~gone], medium.weights, medium.atoms)
    for sketch_rows in (None, SKETCH):
        result = quietly(problem, 3, init="auto", sketch_rows=sketch_rows, n_init=2)
        expected = quietly(dropped, 3, init="subspace")
        assert result.converged
        assert result.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-8)
