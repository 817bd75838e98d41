"""Models on disk, and on their way to other processes."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from mutations import forget_consolidated
from problems import signature

from softmix_dist import SoftmaxMixture
from softmix_dist.errors import InputError, StoreError


@pytest.fixture(scope="module")
def model(small) -> SoftmaxMixture:
    """Fitted to the small problem."""
    return SoftmaxMixture(2).fit(small.features, small.counts)


def test_a_model_survives_the_disk(small, model, tmp_path):
    path = tmp_path / "model.zarr"
    model.save(path)
    loaded = SoftmaxMixture.load(path)
    assert loaded.get_params() == model.get_params()
    before, after = asdict(model.result_), asdict(loaded.result_)
    assert set(after) == set(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert loaded.history_ == model.history_
    assert loaded.starts_ == model.starts_
    assert loaded.summary() == model.summary()
    np.testing.assert_array_equal(loaded.log_prob(small.features), model.log_prob(small.features))
    with pytest.raises(InputError, match="pass features"):
        loaded.sample(3)
    loaded.fit(small.features, small.counts)
    assert signature(loaded.result_) == signature(model.result_)


def test_xarray_opens_a_model(model, tmp_path):
    path = tmp_path / "model.zarr"
    model.save(path)
    with xarray.open_zarr(path) as stored:
        assert stored.atoms.dims == ("component", "feature")
        assert stored.feature.values.tolist() == ["x0", "x1"]
        np.testing.assert_array_equal(stored.weights, model.weights_)
    with xarray.open_zarr(path, group="history") as history:
        assert history.objective.values.tolist() == [row["objective"] for row in model.history_]


def test_standard_errors_and_where_the_data_came_from_are_kept(small, model, tmp_path):
    path = tmp_path / "model.zarr"
    model.save(path)
    with xarray.open_zarr(path) as stored:
        for name, values in model.standard_errors_.items():
            np.testing.assert_array_equal(stored[f"standard_errors_{name}"], values)
        data = stored.attrs["data"]
    assert data["name"] == "arrays in memory"
    assert (data["candidates"], data["features"]) == small.features.shape
    other = small.counts.copy()
    other[0] += 1
    SoftmaxMixture(2).fit(small.features, other).save(tmp_path / "other.zarr")
    assert zarr.open_group(tmp_path / "other.zarr").attrs["data"] != data
    # It stays with the model.
    SoftmaxMixture.load(path).save(tmp_path / "again.zarr")
    assert zarr.open_group(tmp_path / "again.zarr").attrs["data"] == data


def test_a_model_becomes_a_data_set_of_xarray(model):
    found = model.to_xarray()
    assert found.atoms.dims == ("component", "feature")
    assert found.feature.values.tolist() == ["x0", "x1"]
    np.testing.assert_array_equal(found.atoms, model.atoms_)
    np.testing.assert_array_equal(found.standard_errors_atoms, model.standard_errors_["atoms"])
    np.testing.assert_array_equal(found.covariance, model.covariance_)
    assert found.attrs["converged"]
    bare = SoftmaxMixture(2, standard_errors="none")
    bare.result_ = replace(model.result_, covariance=None, errors_from="none")
    assert set(bare.to_xarray()) == {"weights", "atoms", "effective_candidates"}


def test_numpy_scalars_as_settings_can_be_saved(small, tmp_path):
    settings: Any = {"n_components": np.int64(2), "l2": np.float32(0.01), "n_init": np.int32(3)}
    path = tmp_path / "model.zarr"
    SoftmaxMixture(**settings).fit(small.features, small.counts).save(path)
    assert SoftmaxMixture.load(path).n_init == 3


def test_saving_replaces_only_when_told(model, tmp_path):
    path = tmp_path / "model.zarr"
    model.save(path)
    with pytest.raises(StoreError, match="exists already"):
        model.save(path)
    model.save(path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.zarr"]


def test_what_is_no_model_is_not_loaded(model, written, small, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        SoftmaxMixture.load(tmp_path / "nothing.zarr")
    with pytest.raises(InputError, match="is not a fitted model"):
        SoftmaxMixture.load(written(small))
    path = tmp_path / "model.zarr"
    model.save(path)
    zarr.open_group(str(path), mode="r+").attrs["softmix_model"] = 99
    with pytest.raises(InputError, match="99"):
        SoftmaxMixture.load(path)
    model.save(path, overwrite=True)
    (path / "atoms" / "c" / "0" / "0").write_bytes(b"garbled")
    with pytest.raises(StoreError, match="atoms"):
        SoftmaxMixture.load(path)


def test_a_fitted_model_can_be_pickled(small, model):
    copy = pickle.loads(pickle.dumps(model))
    assert signature(copy.result_) == signature(model.result_)
    np.testing.assert_array_equal(copy.log_prob(small.features), model.log_prob(small.features))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("starts", []), ("starts", [{"method": "search"}]), ("gap", {"gain": 1.0}),
        ("kurtosis", []), ("n_draws", "many"), ("log_likelihood", [1]), ("warnings", [None]),
        ("settings", 7), ("distance", "far"), ("converged", None),
    ],
)  # fmt: skip
def test_attributes_of_other_types_are_refused_by_name(name, value, model, tmp_path):
    model.save(tmp_path / "model.zarr")
    zarr.open_group(tmp_path / "model.zarr", mode="r+").attrs[name] = value
    with pytest.raises(InputError, match=f"- attribute {name}: expected .*, found "):
        SoftmaxMixture.load(tmp_path / "model.zarr")


@pytest.mark.parametrize("settings", [{"n_components": 0}, {"n_components": 2, "init": [1]}])
def test_settings_that_no_fit_has_are_refused(settings, model, tmp_path):
    model.save(tmp_path / "model.zarr")
    zarr.open_group(tmp_path / "model.zarr", mode="r+").attrs["settings"] = settings
    with pytest.raises(InputError, match="n_components|init"):
        SoftmaxMixture.load(tmp_path / "model.zarr")


@pytest.mark.parametrize("name", ["weights", "atoms"])
def test_a_lost_chunk_of_a_model_is_not_taken_for_zeros(name, model, tmp_path):
    model.save(tmp_path / "model.zarr")
    shutil.rmtree(tmp_path / "model.zarr" / name / "c")
    with pytest.raises(InputError, match=f"- {name}: "):
        SoftmaxMixture.load(tmp_path / "model.zarr")


@pytest.mark.parametrize("values", [np.ones(3), np.ones((2, 9)), np.full((2, 2), np.inf)])
def test_atoms_of_other_shapes_are_refused(values, model, tmp_path):
    model.save(tmp_path / "model.zarr")
    group = zarr.open_group(tmp_path / "model.zarr", mode="r+", use_consolidated=False)
    del group.attrs["gap"]
    group.create_array("atoms", data=values, overwrite=True)
    forget_consolidated(tmp_path / "model.zarr")
    with pytest.raises(InputError, match=r"\n- "):
        SoftmaxMixture.load(tmp_path / "model.zarr")
