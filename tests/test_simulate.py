"""Simulated data sets: their law, their totals, their memory, and what becomes of failures."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import xarray
import zarr

from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.simulate import FEATURE_LAWS, simulate
from softmix_dist.data.writer import DatasetWriter
from softmix_dist.errors import InputError, StoreError


def stored(path: Path) -> dict[str, Any]:
    """All arrays of a data set, the truth included."""
    group = zarr.open_group(str(path), mode="r")
    names = ("features", "counts", "truth/weights", "truth/atoms")
    return {name: np.asarray(group[name][...]) for name in names}


def simulated(path: Path, *sizes: int, **options: Any) -> dict[str, Any]:
    """Simulate, open as a user would, and read it whole."""
    simulate(path, *sizes, **options)
    open_dataset(path)
    return stored(path)


@pytest.mark.parametrize("n_samples", [None, 1, 3, 7])
def test_totals_are_exact(n_samples, tmp_path):
    data = simulated(tmp_path / "d", 500, 2, 2, 10_001, n_samples=n_samples, block_rows=128)
    counts = data["counts"]
    assert counts.shape == ((500,) if n_samples is None else (n_samples, 500))
    totals = np.atleast_2d(counts).sum(axis=1)
    assert totals.sum() == 10_001
    assert totals.max() - totals.min() <= 1
    assert open_dataset(tmp_path / "d").n_draws == 10_001


def test_more_samples_than_draws(tmp_path):
    for overdispersion in (1.0, 2.0):
        data = simulated(
            tmp_path / f"d{overdispersion}", 50, 1, 1, 2, n_samples=3, overdispersion=overdispersion
        )
        assert sorted(data["counts"].sum(axis=1)) == [0, 1, 1]


def test_the_truth_is_stored(tmp_path):
    path = tmp_path / "d"
    data = simulated(path, 100, 4, 3, 1000, norm=1.5)
    weights, atoms = data["truth/weights"], data["truth/atoms"]
    assert (weights > 0).all()
    assert (np.diff(weights) <= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1.5)
    for found, expected in zip(open_dataset(path).truth(), (weights, atoms), strict=True):
        np.testing.assert_array_equal(found, expected)
    with xarray.open_zarr(path, group="truth") as truth:
        assert truth.atoms.dims == ("component", "feature")


def test_counts_are_draws_from_the_truth(tmp_path):
    data = simulated(tmp_path / "d", 400, 2, 2, 2_000_000, dtype="float64", block_rows=64)
    probability = reference.probabilities(
        data["features"], data["truth/weights"], data["truth/atoms"]
    ).astype(float)
    expected = 2_000_000 * probability
    chi_square = ((data["counts"] - expected) ** 2 / expected).sum()
    assert abs(chi_square - 399) < 5 * np.sqrt(2 * 399)


@pytest.mark.parametrize("law", FEATURE_LAWS)
def test_features_have_mean_0_and_variance_1(law, tmp_path):
    features = simulated(tmp_path / "d", 40_000, 3, 1, 10, feature_law=law, seed=1)["features"]
    assert features.dtype == np.float32
    if law == "clusters":
        # The variance is 1 on average over the centres; here is one draw of ten of them.
        assert np.abs(features.mean(axis=0)).max() < 4 * np.sqrt(0.75 / 10)
        assert np.abs(features.var(axis=0) - 1).max() < 4 * 0.75 * np.sqrt(2 / 9)
        return
    assert np.abs(features.mean(axis=0)).max() < 5 / np.sqrt(40_000)
    squares = features.astype(float) ** 2
    allowed = 5 * squares.std(axis=0) / np.sqrt(40_000) + 1e-6
    assert (np.abs(squares.mean(axis=0) - 1) < allowed).all()
    correlations = np.corrcoef(features.T) - np.eye(3)
    assert np.abs(correlations).max() < 5 / np.sqrt(40_000)


def test_the_laws_are_what_they_are_called(tmp_path):
    laws = {
        law: simulated(tmp_path / law, 20_000, 1, 1, 10, feature_law=law)["features"][:, 0]
        for law in FEATURE_LAWS
    }
    assert set(laws["binary"]) == {-1.0, 1.0}
    assert np.abs(laws["uniform"]).max() <= np.float32(np.sqrt(3))
    fourths = {law: (values.astype(float) ** 4).mean() for law, values in laws.items()}
    assert fourths["binary"] < fourths["uniform"] < fourths["gaussian"] < fourths["student"]
    assert fourths["gaussian"] == pytest.approx(3, abs=0.4)


def test_the_same_seed_gives_the_same_data(tmp_path):
    def run(name, **options):
        settings = {"seed": 1, "block_rows": 64, "n_samples": 2, "overdispersion": 1.5}
        return simulated(tmp_path / name, 300, 2, 2, 5000, **settings | options)

    first, again, other = run("a"), run("b"), run("c", seed=2)
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
        assert not np.array_equal(other[name], values)
    # The block size belongs to the data, but the truth does not depend on it.
    coarse = run("d", block_rows=128)
    np.testing.assert_array_equal(coarse["truth/atoms"], first["truth/atoms"])
    assert coarse["counts"].sum() == 5000


@pytest.mark.parametrize("factor", [4.0, 20.0])
def test_overdispersion_inflates_the_variance(factor, tmp_path):
    n_samples, draws = 200, 2000
    data = simulated(
        tmp_path / "d", 60, 1, 1, n_samples * draws, n_samples=n_samples, overdispersion=factor
    )
    probability = reference.probabilities(
        data["features"], data["truth/weights"], data["truth/atoms"]
    ).astype(float)
    expected = draws * probability
    # Pearson's dispersion: 1 for multinomial draws, and n phi / (n + phi - 1) for these.
    dispersion = ((data["counts"] - expected) ** 2 / expected).sum() / (n_samples * 59)
    assert dispersion == pytest.approx(draws * factor / (draws + factor - 1), rel=0.08)


def test_memory_does_not_grow_with_the_candidates(tmp_path):
    def peak(n_candidates):
        tracemalloc.start()
        simulate(tmp_path / str(n_candidates), n_candidates, 2, 2, 10_000, block_rows=16_384)
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    peak(20_000)  # imports and caches
    small, large = peak(200_000), peak(800_000)
    assert large < 1.25 * small
    # One array of the features alone would be 6.4 MB.
    assert large < 6_400_000


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (
            {"n_candidates": 0, "n_features": 0, "n_components": -1, "n_draws": 0, "n_samples": 0},
            ("candidates", "features", "components", "draws", "samples"),
        ),
        (
            {"norm": -1.0, "feature_law": "cauchy", "overdispersion": 0.5},
            ("norm", "cauchy", "gaussian", "overdispersion"),
        ),
        ({"degrees_of_freedom": 2.0}, ("degrees of freedom",)),
        ({"norm": np.nan}, ("norm",)),
        ({"norm": np.inf}, ("norm",)),
        ({"overdispersion": np.nan}, ("overdispersion",)),
        ({"overdispersion": np.inf}, ("overdispersion",)),
        ({"degrees_of_freedom": np.nan, "feature_law": "student"}, ("degrees of freedom",)),
        ({"seed": -1}, ("seed",)),
        ({"n_draws": 10**19}, ("draws",)),
        ({"dtype": "int32"}, ("dtype", "int32")),
        ({"block_rows": -8}, ("block",)),
        # The variance cannot exceed that of all draws falling on one candidate.
        ({"overdispersion": 1e12}, ("overdispersion",)),
    ],
    ids=str,
)
def test_bad_arguments_are_all_named(options, fragments, tmp_path):
    sizes = {"n_candidates": 50, "n_features": 2, "n_components": 2, "n_draws": 100}
    with pytest.raises(InputError) as caught:
        simulate(tmp_path / "d", **sizes | options)
    assert [fragment for fragment in fragments if fragment not in str(caught.value)] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failure_midway_leaves_nothing(failure, tmp_path, monkeypatch):
    write_block = DatasetWriter.write_block

    def failing(self, index, **arrays):
        if "counts" in arrays and index == 2:
            raise failure
        write_block(self, index, **arrays)

    simulate(tmp_path / "old", 100, 1, 1, 10)
    before = stored(tmp_path / "old")
    monkeypatch.setattr(DatasetWriter, "write_block", failing)
    for name in ("new", "old"):
        with pytest.raises(failure):
            simulate(tmp_path / name, 100, 1, 1, 1000, block_rows=16, seed=3, overwrite=True)
    # Nor is what was there before lost.
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]
    np.testing.assert_array_equal(stored(tmp_path / "old")["features"], before["features"])


def test_what_is_there_is_replaced_only_when_told(tmp_path):
    simulate(tmp_path / "d", 100, 1, 1, 10)
    with pytest.raises(StoreError, match="exists already"):
        simulate(tmp_path / "d", 50, 1, 1, 10)
    simulate(tmp_path / "d", 50, 1, 1, 10, overwrite=True)
    assert open_dataset(tmp_path / "d").n_candidates == 50
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("three years")
    with pytest.raises(StoreError, match="not a Zarr group"):
        simulate(tmp_path / "folder", 50, 1, 1, 10, overwrite=True)
    assert (tmp_path / "folder" / "thesis.txt").exists()
