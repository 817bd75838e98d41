"""`SoftmaxMixture`: its parameters, its fits, and what it refuses."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import reference
from problems import signature

from softmix_dist import SoftmaxMixture
from softmix_dist.errors import ConvergenceWarning, InputError, NotFittedError

CHANGED: dict[str, Any] = {
    "n_components": 2,
    "init": "random",
    "n_init": 4,
    "solver": "em",
    "l2": 0.01,
    "tol": 0.1,
    "max_passes": 77,
    "precision": "double",
    "random_state": 5,
    "sketch_rows": 3000,
    "standard_errors": "exact",
}


@pytest.fixture(scope="module")
def model(small) -> SoftmaxMixture:
    """Fitted to the small problem."""
    return SoftmaxMixture(2).fit(small.features, small.counts)


def clone(estimator: SoftmaxMixture) -> SoftmaxMixture:
    """What scikit-learn's `clone` does, and what it checks."""
    copy = type(estimator)(**estimator.get_params(deep=False))
    for name, value in estimator.get_params(deep=False).items():
        assert copy.get_params(deep=False)[name] is value
    return copy


# ------------------------------------------------------------------ conventions


def test_parameters_are_kept_as_they_are():
    nonsense: Any = object()
    # Nothing is judged, converted or copied before fit.
    estimator = SoftmaxMixture(nonsense, init=nonsense, tol=nonsense, random_state=nonsense)
    assert estimator.get_params()["init"] is nonsense
    assert set(vars(estimator)) == set(estimator.get_params())
    assert SoftmaxMixture(**CHANGED).get_params() == CHANGED
    assert SoftmaxMixture().set_params(**CHANGED).get_params() == CHANGED
    with pytest.raises(InputError, match="n_component'"):
        SoftmaxMixture().set_params(n_component=3)


def test_clone_has_the_parameters_but_not_the_fit(small):
    start = small.truth
    estimator = SoftmaxMixture(2, init=start, l2=0.01).fit(small.features, small.counts)
    copy = clone(estimator)
    assert copy.init is start
    assert not hasattr(copy, "weights_")
    copy.fit(small.features, small.counts)
    assert signature(copy.result_) == signature(estimator.result_)


def test_nothing_is_there_before_the_fit(small, tmp_path):
    estimator = SoftmaxMixture(2)
    fitted_names = [name for name in dir(type(estimator)) if name.endswith("_") and name[0] != "_"]
    assert {"weights_", "atoms_", "log_likelihood_", "history_", "starts_"} <= set(fitted_names)
    assert not any(hasattr(estimator, name) for name in fitted_names)
    for use in (
        lambda: estimator.weights_,
        lambda: estimator.log_prob(small.features),
        lambda: estimator.responsibilities(small.features),
        lambda: estimator.score(small.features, small.counts),
        lambda: estimator.sample(3),
        lambda: estimator.goodness_of_fit(small.features, small.counts),
        lambda: estimator.elasticities(0, small.features, candidates=[1]),
        lambda: estimator.predicted_shares(small.features),
        lambda: estimator.share_changes(small.features, small.features),
        lambda: estimator.save(tmp_path / "model.zarr"),
        estimator.summary,
    ):
        with pytest.raises(NotFittedError, match="call fit"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_reprs_say_what_differs_from_the_defaults(small):
    assert repr(SoftmaxMixture()) == "SoftmaxMixture()"
    assert repr(SoftmaxMixture(3, l2=0.5)) == "SoftmaxMixture(n_components=3, l2=0.5)"
    assert repr(SoftmaxMixture(2, init=small.atoms)).startswith("SoftmaxMixture(n_components=2")


# ------------------------------------------------------------------ fit


def test_arrays_frames_and_paths_give_the_same_bits(small, model, written, client):
    features, counts = small.features, small.counts
    path = written(small, block_rows=None)
    wide = np.stack([counts // 3, counts - counts // 3])
    lazy = da.from_array(features, chunks=(100, 1)), da.from_array(counts, chunks=77)
    for data, options in (
        ((features.tolist(), counts.tolist()), {}),
        ((features, wide), {}),
        ((features, counts.astype(float)), {"n_threads": 1}),
        ((np.asfortranarray(features), counts), {}),
        (lazy, {}),
        (lazy, {"client": client}),
        ((str(path),), {}),
        ((path,), {"client": client}),
    ):
        result = SoftmaxMixture(2).fit(*data, **options).result_
        assert signature(result) == signature(model.result_)


def test_frames_keep_their_names(small, model):
    frame = pd.DataFrame(small.features, columns=["price", "size"])
    fitted = SoftmaxMixture(2).fit(frame, pd.Series(small.counts))
    assert fitted.result_.feature_names == ["price", "size"]
    assert signature(fitted.result_) == signature(model.result_)
    assert "price" in fitted.summary()
    named = SoftmaxMixture(2).fit(small.features, small.counts, feature_names=["a", "b"])
    assert named.result_.feature_names == ["a", "b"]
    mixed = pd.DataFrame({"price": small.features[:, 0], "brand": "none"})
    with pytest.raises(InputError, match="expected numbers, found dtype .* in 'brand'; make"):
        SoftmaxMixture(2).fit(mixed, small.counts)


def test_a_frame_may_hold_truth_values(small):
    frame = pd.DataFrame({"price": small.features[:, 0], "new": small.features[:, 1] > 0})
    fitted = SoftmaxMixture(1).fit(frame, small.counts)
    numbers = SoftmaxMixture(1).fit(frame.astype(float), small.counts)
    assert signature(fitted.result_) == signature(numbers.result_)
    np.testing.assert_array_equal(fitted.log_prob(frame), numbers.log_prob(frame.astype(float)))


def test_a_frame_lends_its_labels(small):
    index = [f"c{i}" for i in range(len(small.features))]
    frame = pd.DataFrame(small.features, index=index)
    fitted = SoftmaxMixture(1).fit(frame, small.counts)
    assert all(m.label == f"c{m.row}" for m in fitted.goodness_of_fit().worst)
    assert all(m.label == f"c{m.row}" for m in fitted.profile(frame, small.counts).typical[0])


def test_labels_of_counts_are_those_of_the_features(small):
    index = [f"c{i}" for i in range(len(small.features))]
    frame = pd.DataFrame(small.features, index=index)
    counts = pd.Series(small.counts, index=index)
    same = SoftmaxMixture(1).fit(frame, counts)
    assert signature(same.result_) == signature(
        SoftmaxMixture(1).fit(small.features, small.counts).result_
    )
    assert same.score(frame, counts) == same.score(frame, small.counts)
    other = counts[::-1]
    match = f"counts: .* differ, the first is {index[-1]} and not c0"
    with pytest.raises(InputError, match=match):
        SoftmaxMixture(1).fit(frame, other)
    with pytest.raises(InputError, match=match):
        same.score(frame, other)
    with pytest.raises(InputError, match="counts: its labels"):
        SoftmaxMixture(1).fit(frame, pd.DataFrame([other, other]))
    with pytest.raises(InputError, match="counts: its labels"):
        SoftmaxMixture(1).fit(frame, counts.reset_index(drop=True))
    base = pd.Series(0.0, index=index)[::-1]
    for use in (same.log_prob, same.predicted_shares):
        with pytest.raises(InputError, match="log_base: its labels"):
            use(frame, base)


def test_fitted_attributes(small, model):
    assert model.weights_.shape == (2,)
    assert model.atoms_.shape == (2, 2)
    assert model.weights_[0] >= model.weights_[1]
    assert model.weights_.sum() == pytest.approx(1, abs=1e-14)
    assert model.converged_
    assert model.distance_ < 0.01
    assert model.n_features_in_ == 2
    assert {row["method"] for row in model.starts_} == {
        "search",
        "moments",
        "tensor",
        "subspace",
    }
    assert sum(row["best"] for row in model.starts_) == 1
    assert model.history_[-1]["log_likelihood"] == model.log_likelihood_
    assert model.n_passes_ >= model.history_[-1]["pass"]
    entropies = reference.entropies(small.features, model.atoms_)
    np.testing.assert_allclose(model.effective_candidates_, np.exp(entropies), rtol=1e-10)


@pytest.mark.parametrize("l2", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_one_component_always_converges(seed, l2):
    # A concave problem, also where there is hardly anything to find.
    rng = np.random.default_rng(seed)
    features, counts = rng.standard_normal((500, 2)), rng.integers(0, 50, 500)
    assert SoftmaxMixture(1, l2=l2).fit(features, counts).converged_


def test_the_same_seed_gives_the_same_bits(small):
    def run(seed):
        fitted = SoftmaxMixture(
            2, init="random", solver="em", random_state=seed, n_init=2, max_passes=3
        )
        with pytest.warns(ConvergenceWarning, match="max_passes=3"):
            return signature(fitted.fit(small.features, small.counts).result_)

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_unavailable_candidates_are_as_good_as_absent(small):
    there = small.features[:, 0] < 1.0
    base = np.where(there, 0.3, -np.inf)
    counts = np.where(there, small.counts, 0)
    fitted = SoftmaxMixture(2).fit(small.features, counts, log_base=base)
    fewer = SoftmaxMixture(2).fit(small.features[there], counts[there])
    assert fitted.log_likelihood_ == pytest.approx(fewer.log_likelihood_, abs=1e-8)
    log_prob = fitted.log_prob(small.features, base)
    assert (log_prob[~there] == -np.inf).all()
    np.testing.assert_allclose(log_prob[there], fitted.log_prob(small.features[there]), atol=1e-12)
    assert fitted.score(small.features, counts, base) == pytest.approx(fitted.log_likelihood_)
    assert fitted.sample(10_000, random_state=0)[~there].sum() == 0
    resp = fitted.responsibilities(small.features, base)
    np.testing.assert_allclose(resp.sum(axis=1), 1, rtol=1e-14)


def test_large_offsets_cost_nothing(small, model):
    shifted = small.features + [1e5, -2e6]
    fitted = SoftmaxMixture(2).fit(shifted, small.counts)
    assert fitted.log_likelihood_ == pytest.approx(model.log_likelihood_, abs=1e-8)
    expected = model.log_prob(small.features)
    np.testing.assert_allclose(model.log_prob(shifted), expected, atol=1e-8)
    np.testing.assert_allclose(fitted.log_prob(shifted), fitted.log_prob(small.features), atol=1e-8)


# ------------------------------------------------------------------ what it refuses
def test_settings_out_of_range_are_all_named(small):
    wrong = SoftmaxMixture(0, n_init=0, tol=-1, l2=-1, max_passes=0, solver="x", precision="half")
    with pytest.raises(InputError) as caught:
        wrong.fit(small.features, small.counts)
    names = ("n_components", "n_init", "tol", "l2", "max_passes", "solver", "precision")
    assert [name for name in names if name not in str(caught.value)] == []


@pytest.mark.parametrize(
    "setting",
    [
        {"n_components": 2.0},
        {"n_components": True},
        {"tol": None},
        {"tol": np.nan},
        {"l2": np.inf},
        {"l2": "0"},
        {"max_passes": 1e3},
        {"init": "kmeans"},
        {"init": None},
        {"random_state": -1},
        {"random_state": "seed"},
    ],
    ids=str,
)
def test_a_setting_that_is_no_such_thing_is_named(setting, small):
    with pytest.raises(InputError, match=next(iter(setting))):
        SoftmaxMixture(**{"n_components": 2, **setting}).fit(small.features, small.counts)


@pytest.mark.parametrize(
    "start",
    [
        np.zeros((3, 2)),
        np.zeros(2),
        [[0.0, 1.0], [0.0, np.nan]],
        [[0.0, 1.0], [0.0]],
        ([0.5, 0.4], np.eye(2)),
        ([1.0, 0.0], np.eye(2)),
        ([1.5, -0.5], np.eye(2)),
        ([1.0], np.eye(2)),
        ([0.5, 0.5], "atoms"),
    ],
    ids=str,
)
def test_starts_that_do_not_fit_are_refused(start, small):
    with pytest.raises(InputError, match="init: "):
        SoftmaxMixture(2, init=start).fit(small.features, small.counts)


def test_data_that_are_no_data_are_refused(small, written):
    for arguments, fragment in (
        ((small.features,), "counts are missing"),
        ((written(small), small.counts), "pass the path alone"),
        ((small.features[:, 0], small.counts), "features: expected shape"),
        ((small.features, small.counts[1:]), "counts: expected shape"),
        ((None, small.counts), "features"),
    ):
        with pytest.raises(InputError, match=fragment):
            SoftmaxMixture(2).fit(*arguments)


def test_a_pipeline_of_scikit_learn_ends_in_it(small):
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    wide = 5 * small.features + 1
    pipeline = make_pipeline(StandardScaler(), SoftmaxMixture(2)).fit(wide, small.counts)
    alone = SoftmaxMixture(2).fit(small.features, small.counts)
    np.testing.assert_allclose(pipeline.score(wide, small.counts), alone.log_likelihood_, rtol=1e-7)
    assert not hasattr(clone(pipeline)[-1], "result_")
