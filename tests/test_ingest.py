"""From tables, matrices and AnnData to data sets: real files of each kind."""

from __future__ import annotations

import gzip
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import xarray
import zarr
from command import softmix
from engines import cluster_of
from scipy.sparse import coo_array, csr_array, save_npz

from softmix_dist import SoftmaxMixture
from softmix_dist.data import tables
from softmix_dist.data.counting import Counted
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.ingest import ingest, ingest_anndata
from softmix_dist.data.writer import write_dataset
from softmix_dist.errors import InputError, StoreError

RNG = np.random.default_rng(0)
P = 300
IDS = [f"c{i:04d}" for i in RNG.permutation(P)]
FEATURES = pd.DataFrame(
    {
        "id": IDS,
        "price": RNG.normal(5, 1, P).round(3),
        "size": RNG.integers(1, 9, P),
        "colour": RNG.choice(["red", "green", "blue"], P),
        "new": RNG.random(P) < 0.5,
    }
)
DRAWN = RNG.choice(P - 20, 5000)
EVENTS = pd.DataFrame(
    {"id": [IDS[i] for i in DRAWN], "person": RNG.choice(["ann", "bob", "cleo"], 5000)}
)
COUNTS = np.bincount(DRAWN, minlength=P)


@pytest.fixture
def write(tmp_path):
    """Write a frame as files of one kind, in several of them, and return where."""

    def to(frame, name, kind, n_files=1):
        if kind == "frame":
            return frame
        if kind == "table":
            return pa.Table.from_pandas(frame)
        folder = tmp_path / name
        folder.mkdir()
        bounds = np.linspace(0, len(frame), n_files + 1).astype(int)
        for i, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
            part = frame.iloc[first:last].reset_index(drop=True)
            path = folder / f"{i:03d}.{kind}"
            if kind == "parquet":
                part.to_parquet(path, row_group_size=40)
            elif kind in ("arrow", "feather"):
                with pa.OSFile(str(path), "wb") as file:
                    rows = pa.Table.from_pandas(part)
                    with pa.ipc.new_file(file, rows.schema) as writer:
                        writer.write_table(rows, max_chunksize=50)
            elif kind == "csv.gz":
                with gzip.open(path, "wt") as file:
                    part.to_csv(file, index=False)
            else:
                part.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
        return folder

    return to


def check(path, samples=False):
    """The data set holds what the frames say."""
    data = open_dataset(path)
    assert data.n_candidates == P
    assert data.feature_names == ["price", "size", "colour=green", "colour=red", "new"]
    features = np.concatenate([data.read_block(i).features for i in range(data.n_blocks)])
    np.testing.assert_allclose(features[:, 0], FEATURES["price"], rtol=1e-6)
    np.testing.assert_array_equal(features[:, 1], FEATURES["size"])
    np.testing.assert_array_equal(features[:, 2], FEATURES["colour"] == "green")
    np.testing.assert_array_equal(features[:, 3], FEATURES["colour"] == "red")
    np.testing.assert_array_equal(features[:, 4], FEATURES["new"])
    assert data.labels(range(P)) == IDS
    assert data.n_draws == 5000
    parts = [data.read_block(i).counts for i in range(data.n_blocks)]
    counts = np.concatenate([p.toarray() if hasattr(p, "toarray") else p for p in parts], axis=-1)
    if not samples:
        np.testing.assert_array_equal(counts, COUNTS)
        return
    assert data.sample_names == ["ann", "bob", "cleo"]
    for name, row in zip(data.sample_names, counts, strict=True):
        own = DRAWN[(EVENTS["person"] == name).to_numpy()]
        np.testing.assert_array_equal(row, np.bincount(own, minlength=P))


@pytest.mark.parametrize("n_files", [1, 7])
@pytest.mark.parametrize(
    "kind", ["parquet", "arrow", "feather", "csv", "csv.gz", "tsv", "frame", "table"]
)
def test_every_kind_of_table(tmp_path, write, kind, n_files):
    features = write(FEATURES, "features", kind, n_files)
    events = write(EVENTS, "events", kind, n_files)
    report = ingest(tmp_path / "out.zarr", features, events, block_rows=64)
    check(tmp_path / "out.zarr")
    assert report.n_rows == report.n_draws == 5000
    assert report.n_unseen == int((COUNTS == 0).sum()) >= 20
    assert report.n_unknown_ids == 0


@pytest.mark.parametrize("small", [False, True], ids=["dense", "sparse"])
def test_events_of_samples(tmp_path, write, monkeypatch, small):
    monkeypatch.setattr("softmix_dist.data.assembly._SMALL", 10 if small else 1 << 20)
    monkeypatch.setattr("softmix_dist.data.assembly._DENSE", 2.0 if small else 0.2)
    events = write(EVENTS, "events", "parquet", 3)
    ingest(tmp_path / "out.zarr", FEATURES, events, sample="person", block_rows=64)
    check(tmp_path / "out.zarr", samples=True)
    assert isinstance(zarr.open_group(tmp_path / "out.zarr")["counts"], zarr.Group) == small


@pytest.mark.parametrize("kind", ["frame", "parquet"])
def test_categories_of_pandas(tmp_path, write, monkeypatch, kind):
    # With dictionaries that differ from file to file, and from piece to piece.
    monkeypatch.setattr(tables, "_ROWS", 1000)
    features = FEATURES.astype({"id": "category", "colour": "category"})
    events = write(EVENTS.astype("category"), "events", kind, 3)
    if kind == "parquet":
        for path in events.iterdir():
            own = pd.read_parquet(path)
            own.apply(lambda column: column.cat.remove_unused_categories()).to_parquet(path)
    ingest(tmp_path / "out.zarr", features, events, sample="person", block_rows=64)
    check(tmp_path / "out.zarr", samples=True)
    ingest(tmp_path / "out.zarr", FEATURES, events, sample="person", block_rows=64, overwrite=True)
    check(tmp_path / "out.zarr", samples=True)


def test_counts_are_added_up(tmp_path, write):
    # Every id twice.
    halves = COUNTS // 2
    counts = pd.DataFrame({"key": IDS * 2, "n": np.concatenate([halves, COUNTS - halves])})
    ingest(tmp_path / "out.zarr", FEATURES, counts=counts, event_id="key", count_column="n")
    check(tmp_path / "out.zarr")


def test_a_series_of_counts_goes_by_its_index(tmp_path):
    ingest(tmp_path / "out.zarr", FEATURES, counts=EVENTS["id"].value_counts())
    check(tmp_path / "out.zarr")
    both = EVENTS[["person", "id"]].value_counts()
    ingest(tmp_path / "two.zarr", FEATURES, counts=both, sample="person")
    check(tmp_path / "two.zarr", samples=True)
    matrix = FEATURES[["price", "size"]].to_numpy()
    ingest(tmp_path / "rows.zarr", matrix, counts=pd.Series(DRAWN).value_counts())
    np.testing.assert_array_equal(open_dataset(tmp_path / "rows.zarr").read_block(0).counts, COUNTS)


def test_a_dask_cluster_counts(tmp_path, write, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS", 500)
    events = write(EVENTS, "events", "parquet", 5)
    with cluster_of(2) as client:
        ingest(tmp_path / "out.zarr", FEATURES, events, sample="person", client=client)
        assert not client.who_has()
    check(tmp_path / "out.zarr", samples=True)


def test_what_is_written_is_fitted_and_opened(tmp_path):
    ingest(tmp_path / "out.zarr", FEATURES, EVENTS)
    model = SoftmaxMixture(1).fit(tmp_path / "out.zarr", n_threads=1)
    assert model.converged_
    with xarray.open_zarr(tmp_path / "out.zarr") as opened:
        assert list(opened["feature"].values[:2]) == ["price", "size"]
        assert opened.attrs["softmix_columns"][2] == {
            "name": "colour", "kind": "categorical", "base": "blue", "levels": ["green", "red"],
        }  # fmt: skip


def test_types_of_other_libraries(tmp_path):
    features = pa.Table.from_pandas(FEATURES)
    price = features["price"].cast(pa.decimal128(12, 3))
    features = features.set_column(1, "price", price)
    for text in (pa.large_string(), pa.string_view()):
        events = pa.table({"id": pa.array(EVENTS["id"]).cast(text)})
        ingest(tmp_path / "out.zarr", features, events, block_rows=64, overwrite=True)
        check(tmp_path / "out.zarr")


def test_columns_are_chosen_and_bases_named(tmp_path):
    ingest(
        tmp_path / "out.zarr", FEATURES, EVENTS, columns=["size", "colour"], categorical=["size"],
        bases={"colour": "red", "size": "3"},
    )  # fmt: skip
    names = open_dataset(tmp_path / "out.zarr").feature_names
    assert names == [f"size={i}" for i in (1, 2, 4, 5, 6, 7, 8)] + ["colour=blue", "colour=green"]


@pytest.mark.parametrize("kind", ["npy", "zarr", "array"])
def test_matrices(tmp_path, kind):
    values = FEATURES[["price", "size"]].to_numpy()
    features = values
    if kind == "npy":
        features = tmp_path / "features.npy"
        np.save(features, values)
    elif kind == "zarr":
        features = tmp_path / "features.zarr"
        zarr.create_array(str(features), data=values)
    counts = pd.DataFrame({"id": np.arange(P), "count": COUNTS})
    ingest(tmp_path / "out.zarr", features, counts=counts, dtype=np.float64)
    block = open_dataset(tmp_path / "out.zarr").read_block(0)
    np.testing.assert_array_equal(block.features, values)
    np.testing.assert_array_equal(block.counts, COUNTS)


@pytest.mark.parametrize("kind", ["npz", "sparse", "dense"])
def test_matrices_of_counts(tmp_path, kind):
    table = RNG.poisson(0.3, (4, P))
    counts = table
    if kind != "dense":
        counts = csr_array(table)
    if kind == "npz":
        counts = tmp_path / "counts.npz"
        save_npz(counts, csr_array(table))
    report = ingest(tmp_path / "out.zarr", FEATURES, counts=counts)
    data = open_dataset(tmp_path / "out.zarr")
    np.testing.assert_array_equal(data.read_block(0).counts, table)
    assert report.n_draws == table.sum()


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("kind", ["object", "h5ad", "zarr"])
@pytest.mark.parametrize("varm", [None, "X_pca"])
def test_anndata(tmp_path, kind, varm):
    anndata = pytest.importorskip("anndata")
    table = RNG.poisson(0.3, (4, P))
    data = anndata.AnnData(
        csr_array(table).astype(np.float32),
        obs=pd.DataFrame(index=["a", "b", "c", "d"]),
        var=FEATURES.drop(columns="id").set_index(pd.Index(IDS)),
        varm={"X_pca": FEATURES[["price", "size"]].to_numpy()},
    )
    if kind == "h5ad":
        data.write_h5ad(tmp_path / "data.h5ad")
        data = tmp_path / "data.h5ad"
    elif kind == "zarr":
        data.write_zarr(tmp_path / "data.zarr")
        data = str(tmp_path / "data.zarr")
    ingest_anndata(tmp_path / "out.zarr", data, varm=varm)
    found = open_dataset(tmp_path / "out.zarr")
    np.testing.assert_array_equal(found.read_block(0).counts, table)
    assert found.sample_names == ["a", "b", "c", "d"]
    assert found.labels([0, 7]) == [IDS[0], IDS[7]]
    names = ["X_pca0", "X_pca1"] if varm else ["price", "size", "colour=green", "colour=red", "new"]
    assert found.feature_names == names


def test_anndata_that_lacks_something(tmp_path):
    anndata = pytest.importorskip("anndata")
    data = anndata.AnnData(np.ones((2, 3), np.float32))
    with pytest.raises(InputError, match="no varm 'X_pca'; there are"):
        ingest_anndata(tmp_path / "x", data, varm="X_pca")
    (tmp_path / "bad.h5ad").write_bytes(b"no")
    with pytest.raises(InputError, match="bad.h5ad: cannot be read as AnnData"):
        ingest_anndata(tmp_path / "x", tmp_path / "bad.h5ad")


def test_rows_of_a_matrix_that_lack_a_value(tmp_path):
    values = np.arange(8.0).reshape(4, 2)
    values[1, 0], values[3] = np.nan, np.inf
    counts = np.array([[1, 2, 3, 0]])
    refused("3 values are not finite, the first in row 1, 'x0'; row 3, 'x0'; row 3, 'x1'",
            tmp_path / "x", values, counts=counts)  # fmt: skip
    policies = {"missing": "drop", "unknown": "drop"}
    report = ingest(tmp_path / "x", values, counts=counts, **policies)
    assert (report.n_lacking, report.n_unknown_draws, report.n_draws) == (2, 2, 4)
    assert features_in(tmp_path / "x") == (["x0", "x1"], [[0, 1], [4, 5]])
    assert open_dataset(tmp_path / "x").labels([0, 1]) == ["0", "2"]
    ingest(tmp_path / "y", values, pd.DataFrame({"id": [0, 2, 2]}), missing="drop")
    assert open_dataset(tmp_path / "y").read_block(0).counts.tolist() == [1, 2]
    far = np.array([[1.0, 2.0], [1.0, 1e300]])
    refused("float32 cannot hold, the first in row 1, 'x1'", tmp_path / "z", far,
            counts=np.ones((1, 2)))  # fmt: skip


@pytest.mark.parametrize("options", [
    {"columns": ["a"]}, {"categorical": ["a"]}, {"bases": {"a": "b"}}, {"like": Path("a.zarr")},
    {"sample": "shop"}, {"event_id": "key"},
])  # fmt: skip
def test_options_that_a_matrix_has_not(tmp_path, options):
    (name,) = options
    refused(f"{name}: .* matrix", tmp_path / "x", np.eye(3), counts=np.ones((1, 3)), **options)


def test_names_of_samples_are_of_a_matrix(tmp_path):
    refused("sample_names: a table has none", tmp_path / "x", FEATURES, EVENTS, sample_names=["a"])


def test_anndata_whose_variables_have_one_name(tmp_path):
    anndata = pytest.importorskip("anndata")
    var = pd.DataFrame(index=["a", "b", "b"])
    with pytest.warns(UserWarning, match="not unique"):
        data = anndata.AnnData(np.ones((2, 3), np.float32), var=var, varm={"P": np.eye(3, 2)})
    with pytest.raises(InputError, match=r"1 rows have an id that came before \(b"):
        ingest_anndata(tmp_path / "x", data, varm="P")
    ingest_anndata(tmp_path / "x", data, varm="P", duplicates="drop", unknown="drop")
    assert open_dataset(tmp_path / "x").labels([0, 1]) == ["a", "b"]


def test_anndata_with_ids_of_its_own(tmp_path):
    anndata = pytest.importorskip("anndata")
    var = pd.DataFrame({"id": [5, 6, 7], "kind": pd.Categorical([1, 2, 1])}, index=list("abc"))
    data = anndata.AnnData(np.ones((2, 3), np.float32), var=var)
    ingest_anndata(tmp_path / "x", data)
    assert features_in(tmp_path / "x") == (["id", "kind=2"], [[5, 0], [6, 1], [7, 0]])
    assert open_dataset(tmp_path / "x").labels(range(3)) == ["a", "b", "c"]
    with pytest.raises(InputError, match="there is no counts, sample"):
        ingest_anndata(tmp_path / "y", data, counts=3, sample="shop")


# ------------------------------------------------------------------ what does not go together


def refused(match, *args, error=InputError, **options):
    with pytest.raises(error, match=match) as caught:
        ingest(*args, **options)
    return str(caught.value)


def test_events_without_features(tmp_path):
    features = FEATURES[~FEATURES["id"].isin(IDS[:3])]
    lost = int(COUNTS[:3].sum())
    message = refused(
        f"{lost} draws are of 3 ids without features", tmp_path / "x", features, EVENTS
    )
    top = IDS[int(np.argmax(COUNTS[:3]))]
    assert f"such as {top}," in message
    assert not (tmp_path / "x").exists()
    report = ingest(tmp_path / "x", features, EVENTS, unknown="drop")
    assert (report.n_unknown_ids, report.n_unknown_draws) == (3, lost)
    assert report.unknown[0] == top
    assert report.n_draws == open_dataset(tmp_path / "x").n_draws == 5000 - lost
    assert f"{lost} draws of 3 ids without features, such as {top}," in str(report)


def test_a_candidate_twice(tmp_path):
    twice = pd.concat([FEATURES, FEATURES.iloc[[5, 9]].assign(price=99.0)], ignore_index=True)
    message = refused("2 rows have an id that came before", tmp_path / "x", twice, EVENTS)
    assert IDS[5] in message
    report = ingest(tmp_path / "x", twice, EVENTS, duplicates="drop")
    assert report.n_duplicates == 2
    check(tmp_path / "x")


def test_of_a_candidate_twice_the_row_that_has_values_is_kept(tmp_path):
    lacking = FEATURES.iloc[[5]].assign(price=np.nan)
    twice = pd.concat([lacking, FEATURES, FEATURES.iloc[[5]].assign(price=99.0)])
    refused("2 rows have an id", tmp_path / "x", twice, EVENTS, missing="drop")
    report = ingest(tmp_path / "x", twice, EVENTS, duplicates="drop", missing="drop")
    assert (report.n_duplicates, report.n_lacking, report.n_candidates) == (1, 1, P)
    check(tmp_path / "x")


@pytest.mark.parametrize("kind", [np.uint64, np.float64])
def test_numbers_of_draws_that_would_wrap(tmp_path, kind):
    many = pd.DataFrame({"id": IDS[:1] * 2, "n": np.full(2, 2**63, kind)})
    refused(r"below 2\^53", tmp_path / "x", FEATURES, counts=many, count_column="n")


def test_sums_that_would_wrap(tmp_path):
    many = pd.DataFrame({"id": IDS[:1] * 2050, "n": np.full(2050, 2**53 - 1)})
    refused(r"add up to 2\^63", tmp_path / "x", FEATURES, counts=many, count_column="n")


def test_values_that_are_missing(tmp_path):
    broken = FEATURES.copy()
    broken["colour"] = broken["colour"].astype(object)
    broken.loc[[3, 8], "price"] = np.nan
    broken.loc[4, "price"] = np.inf
    broken.loc[8, "colour"] = None
    message = refused("features lack values", tmp_path / "x", broken, EVENTS)
    assert f"column 'price': 3 rows, the first have ids {IDS[3]}, {IDS[4]}, {IDS[8]}" in message
    assert f"column 'colour': 1 rows, the first have ids {IDS[8]}" in message
    report = ingest(tmp_path / "x", broken, EVENTS, missing="drop", unknown="drop")
    assert report.n_lacking == 3
    assert report.n_candidates == P - 3
    assert report.n_unknown_draws == COUNTS[[3, 4, 8]].sum()
    assert open_dataset(tmp_path / "x").labels([3]) == [IDS[5]]


def test_ids_of_different_types(tmp_path, write):
    numbers = EVENTS.assign(id=np.arange(5000) % 7)
    refused("ids are .*string in the feature table and int64 among the events", tmp_path / "x",
            FEATURES, numbers)  # fmt: skip
    # Files that tell no types are read as the others say.
    features = FEATURES.assign(id=np.arange(P))
    events = write(pd.DataFrame({"id": DRAWN}), "events", "csv")
    ingest(tmp_path / "x", features, events)
    np.testing.assert_array_equal(open_dataset(tmp_path / "x").read_block(0).counts, COUNTS)
    small = pd.DataFrame({"id": DRAWN.astype(np.int16)})
    ingest(tmp_path / "x", features, small, overwrite=True)
    np.testing.assert_array_equal(open_dataset(tmp_path / "x").read_block(0).counts, COUNTS)


def test_ids_of_csv_keep_their_zeros(tmp_path, write):
    ids = [f"{i:05d}" for i in range(P)]
    features = FEATURES.assign(id=ids)
    events = write(pd.DataFrame({"id": [ids[i] for i in DRAWN]}), "events", "csv")
    ingest(tmp_path / "x", features, events)
    np.testing.assert_array_equal(open_dataset(tmp_path / "x").read_block(0).counts, COUNTS)


def test_ids_of_two_csv_files_are_text(tmp_path, write):
    ids = ["7", "007", *[f"{i:05d}" for i in range(P - 2)]]
    features = write(FEATURES.assign(id=ids), "features", "csv", 2)
    events = write(pd.DataFrame({"id": [ids[i] for i in DRAWN]}), "events", "csv", 2)
    ingest(tmp_path / "x", features, events)
    found = open_dataset(tmp_path / "x")
    assert found.labels([0, 1, 2]) == ["7", "007", "00000"]
    np.testing.assert_array_equal(found.read_block(0).counts, COUNTS)
    # Numbers, where the events say so.
    numbers = write(FEATURES.assign(id=np.arange(P)), "numbers", "csv")
    ingest(tmp_path / "y", numbers, pd.DataFrame({"id": DRAWN}))
    np.testing.assert_array_equal(open_dataset(tmp_path / "y").read_block(0).counts, COUNTS)


def test_files_that_differ(tmp_path, write):
    folder = write(EVENTS, "events", "parquet", 3)
    EVENTS.assign(id=np.arange(5000)).to_parquet(folder / "003.parquet")
    message = refused("the files have different columns", tmp_path / "x", FEATURES, folder)
    assert "003.parquet: column 'id' is int64, in" in message
    EVENTS[["person"]].to_parquet(folder / "003.parquet")
    refused("003.parquet has no column 'id'", tmp_path / "x", FEATURES, folder)
    twice = pa.table([["a"], ["b"]], names=["id", "id"])
    pyarrow.parquet.write_table(twice, folder / "003.parquet")
    refused("events: several columns are called 'id'", tmp_path / "x", FEATURES, folder)


def files_of(tmp_path, *contents):
    """CSV files, one for each text."""
    paths = [tmp_path / f"{len(list(tmp_path.iterdir()))}-{i}.csv" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content.replace(" ", "\n") + "\n")
    return paths


def features_in(path):
    """Names and values of the features of a data set."""
    data = open_dataset(path)
    return data.feature_names, data.read_block(0).features.tolist()


def test_samples_and_categories_of_csv_are_text(tmp_path):
    features = files_of(tmp_path, "id,zip,z a,07,1 b,A1,2", "id,zip,z c,07,3 d,7,4")
    events = files_of(tmp_path, "id,shop a,1 b,007 b,7", "id,shop c,A d,2")
    ingest(tmp_path / "x", features, events, sample="shop", categorical=["zip"])
    data = open_dataset(tmp_path / "x")
    assert data.sample_names == ["007", "1", "2", "7", "A"]
    assert features_in(tmp_path / "x") == (
        ["zip=7", "zip=A1", "z"],
        [[0, 0, 1], [0, 1, 2], [0, 0, 3], [1, 0, 4]],
    )
    # What is a category must be said where a file alone would not tell.
    message = refused("the files have different columns", tmp_path / "y", features, events)
    assert f"{features[1]}: column 'zip' is double, in {features[0]} string" in message
    assert "(categorical)" in message


def test_numbers_of_csv_are_of_one_type(tmp_path):
    features = files_of(tmp_path, "id,z,k", "id,z,k a,1, b,2,", "id,z,k c,0.5,3 d,4,5")
    counts = files_of(tmp_path, "id,count a,1", "id,count b,2.0")
    ingest(tmp_path / "x", features, counts=counts, columns=["z"])
    assert features_in(tmp_path / "x") == (["z"], [[1], [2], [0.5], [4]])
    ingest(tmp_path / "y", features, counts=counts, missing="drop", unknown="drop")
    assert features_in(tmp_path / "y") == (["z", "k"], [[0.5, 3], [4, 5]])
    words = files_of(tmp_path, "id,count a,1", "id,count b,x")
    refused("column 'count' is string, in .* double", tmp_path / "z", features, counts=words)


def test_a_fraction_after_a_megabyte_of_whole_numbers(tmp_path):
    rows = " ".join(f"i{i},{i}" for i in range(150_000))
    (features,) = files_of(tmp_path, f"id,z {rows} last,1.5")
    ingest(tmp_path / "x", features, pd.DataFrame({"id": ["last"]}), block_rows=200_000)
    assert open_dataset(tmp_path / "x").read_block(0).features[-1] == 1.5
    (features,) = files_of(tmp_path, f"id,z {rows} last,much")
    refused("invalid value 'much'.*first rows.*categorical", tmp_path / "y", features, EVENTS)


SMALL = pa.table({"id": [1, 2, 3, 4], "z": [0.5, 1.5, 2.5, 3.5]})
ONCE = pd.DataFrame({"id": [1, 2]})


@pytest.mark.parametrize(("column", "names", "values"), [
    (pa.array([True, False, True, True]), ["k=true"], [1, 0, 1, 1]),
    (pa.array([7, 10, 7, 10]), ["k=7"], [1, 0, 1, 0]),
    (pa.array([7, 10, 7, 10]).dictionary_encode(), ["k=7"], [1, 0, 1, 0]),
    (pa.array([1.5, 2.0, 1.5, 2.0]).dictionary_encode(), ["k=2"], [0, 1, 0, 1]),
    (pa.array([True, False, True, True]).dictionary_encode(), ["k=true"], [1, 0, 1, 1]),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["table", "parquet"])
def test_categories_that_are_not_text(tmp_path, column, names, values, kind):
    features, categorical = SMALL.append_column("k", column), ["k"]
    if pa.types.is_dictionary(column.type):
        categorical = []
    if kind == "parquet":
        pyarrow.parquet.write_table(features, tmp_path / "features.parquet")
        features = tmp_path / "features.parquet"
    ingest(tmp_path / "x", features, ONCE, columns=["k"], categorical=categorical)
    assert features_in(tmp_path / "x") == (names, [[value] for value in values])
    ingest(tmp_path / "y", features, ONCE, like=tmp_path / "x")
    assert features_in(tmp_path / "y") == (names, [[value] for value in values])


def test_levels_are_those_of_the_rows_that_are_kept(tmp_path):
    features = pd.DataFrame({
        "id": [1, 2, 3, 4, 4],
        "k": ["a", "b", "c", "b", "d"],
        "z": [np.nan, 1, 2, 3, 4],
    })  # fmt: skip
    policies = {"missing": "drop", "duplicates": "drop", "unknown": "drop"}
    ingest(tmp_path / "x", features, ONCE, **policies)
    assert features_in(tmp_path / "x") == (["k=c", "z"], [[0, 1], [1, 2], [0, 3]])
    refused("no level 'a'; there are 'b', 'c'", tmp_path / "y", features, ONCE,
            bases={"k": "a"}, **policies)  # fmt: skip
    # Nor are levels strange that nobody keeps.
    strange = features.assign(k=["pink", "b", "c", "b", "grey"])
    ingest(tmp_path / "y", strange, ONCE, like=tmp_path / "x", **policies)
    assert features_in(tmp_path / "y") == features_in(tmp_path / "x")


def test_whole_numbers_that_floats_round(tmp_path):
    ingest(tmp_path / "x", SMALL.append_column("k", pa.array([2**53 + 1, 2, 3, 4])), ONCE)
    assert features_in(tmp_path / "x")[1][0] == [0.5, 2**53]


def test_columns_that_nobody_uses_may_differ(tmp_path, write):
    events = write(EVENTS, "events", "parquet", 2)
    EVENTS.iloc[:0].assign(person=1.5).to_parquet(events / "002.parquet")
    EVENTS[["id"]].iloc[:0].to_parquet(events / "003.parquet")
    ingest(tmp_path / "x", FEATURES, events)
    check(tmp_path / "x")
    refused("003.parquet has no column 'person'", tmp_path / "y", FEATURES, events, sample="person")


def test_a_column_without_values_in_one_file(tmp_path, write):
    features = write(FEATURES, "features", "parquet", 2)
    FEATURES.iloc[:0].assign(colour=None).to_parquet(features / "-.parquet")
    ingest(tmp_path / "x", features, EVENTS)
    check(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nothing of the kind" * 100])
def test_files_that_are_damaged(tmp_path, content):
    path = tmp_path / "events.parquet"
    path.write_bytes(content)
    refused("events.parquet: cannot be read", tmp_path / "x", FEATURES, path)


def test_files_that_are_damaged_in_the_middle(tmp_path):
    path = tmp_path / "events.parquet"
    EVENTS.to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    refused("events.parquet: cannot be read", tmp_path / "x", FEATURES, path)
    assert not list(tmp_path.glob("*x*"))


def test_tables_that_hold_nothing(tmp_path, write):
    empty = EVENTS.iloc[:0]
    refused("events: no rows", tmp_path / "x", FEATURES, write(empty, "events", "parquet"))
    refused("features: no rows", tmp_path / "x", FEATURES.iloc[:0], EVENTS)
    pyarrow.parquet.ParquetWriter(
        tmp_path / "no.parquet", pa.schema([("id", pa.string()), ("z", pa.float64())])
    ).close()
    refused("events: no rows", tmp_path / "x", FEATURES, tmp_path / "no.parquet")
    refused("features: no rows", tmp_path / "x", tmp_path / "no.parquet", EVENTS)
    refused("features: no rows", tmp_path / "x", files_of(tmp_path, "id,z"), EVENTS)
    (tmp_path / "none").mkdir()
    refused("no files", tmp_path / "x", FEATURES, tmp_path / "none", error=StoreError)
    refused("cannot be opened", tmp_path / "x", FEATURES, tmp_path / "no.csv", error=StoreError)


@pytest.mark.parametrize(("changes", "match"), [
    ({"events": None}, "give either events.*found neither"),
    ({"counts": EVENTS}, "give either events.*found both"),
    ({"unknown": "keep"}, "unknown: expected 'error' or 'drop', found 'keep'"),
    ({"id": "key", "event_id": "id"}, "features: no column 'key'; there are 'id', 'price'"),
    ({"id": "key", "event_id": "id"}, "name the column of ids of the features: id"),
    ({"event_id": "key"}, "events: no column 'key'.*name the column of ids of the events: event"),
    ({"sample": "shop"}, "events: no column 'shop'"),
    ({"columns": []}, "no column beside the id"),
    ({"categorical": ["price"]}, "column 'price' has fractions"),
    ({"bases": {"colour": "pink"}}, "no level 'pink'; there are 'blue', 'green', 'red'"),
    ({"bases": {"price": "1"}}, "base of 'price': not a categorical column"),
    ({"features": FEATURES.assign(day=pd.Timestamp("2020-01-01"))}, "column 'day' has type timest"),
    ({"features": FEATURES.assign(one="x")}, "column 'one' has one level alone"),
    ({"features": FEATURES.assign(far=1e300)}, "column 'far' has values that float32 cannot hold"),
    ({"columns": ["id", "size"]}, "columns: expected features, each once and without the id 'id'"),
    ({"columns": ["size", "size"]}, "columns: expected features, each once"),
    ({"columns": "size"}, "columns: expected a list of columns, found 'size'"),
    ({"categorical": ["id"]}, "categorical: not among the features: 'id'"),
    ({"sample": "id"}, "columns of their own for ids, samples and counts, found 'id', 'id'"),
    ({"like": "a", "columns": ["size"]}, "like takes columns"),
    ({"events": EVENTS["id"]}, "events: expected paths, a pandas frame or an Arrow table, found S"),
    ({"events": 5}, "events: expected paths, a pandas frame or an Arrow table, found int"),
    ({"features": FEATURES.assign(id=[1, *IDS[1:]])}, "features: not a table .*int.* id "),
    ({"features": pd.concat([FEATURES, FEATURES["size"]], axis=1)}, "Duplicate column.*'size'"),
    ({"features": pa.table([[1], [2], [3]], names=["id", "z", "z"])}, "several columns are called"),
    ({"events": EVENTS.assign(id=[None] + list(EVENTS["id"][1:]))}, "1 rows of 5000 have no value"),
    ({"features": FEATURES.assign(id=[None, *IDS[1:]])}, "1 rows have no id"),
])  # fmt: skip
def test_what_is_refused(tmp_path, changes, match):
    given = {"features": FEATURES, "events": EVENTS} | changes
    refused(match, tmp_path / "x", **given)
    assert not (tmp_path / "x").exists()


def test_new_candidates_become_features_like_the_old_ones(tmp_path):
    ingest(tmp_path / "old", FEATURES, EVENTS, bases={"colour": "red"})
    new = FEATURES[FEATURES["colour"] != "green"][["new", "colour", "id", "size", "price"]]
    nothing = pd.DataFrame({"id": new["id"][:1], "count": [1]})
    ingest(tmp_path / "new", new, counts=nothing, like=tmp_path / "old")
    names = open_dataset(tmp_path / "old").feature_names
    assert open_dataset(tmp_path / "new").feature_names == names
    assert names[2:4] == ["colour=blue", "colour=green"]
    strange = FEATURES.assign(colour=["pink", "pink", "grey"] + ["red"] * (P - 3))
    message = refused("categories that were not seen before", tmp_path / "x", strange, EVENTS,
                      like=tmp_path / "old")  # fmt: skip
    assert "column 'colour': 3 rows have levels that are not known, 'grey', 'pink'" in message
    refused("no column 'size'", tmp_path / "x", FEATURES.drop(columns="size"), EVENTS,
            like=tmp_path / "old")  # fmt: skip
    refused("text in 'size', which were numbers", tmp_path / "x",
            FEATURES.assign(size=FEATURES["size"].astype(str)), EVENTS,
            like=tmp_path / "old")  # fmt: skip
    write_dataset(tmp_path / "plain", np.eye(3), np.ones(3, int))
    refused("was not ingested", tmp_path / "x", FEATURES, EVENTS, like=tmp_path / "plain")


def test_thousands_of_files(tmp_path):
    folder = tmp_path / "events"
    folder.mkdir()
    for i in range(2000):
        rows = pa.table({"id": [IDS[j] for j in DRAWN[5 * i % 5000 : 5 * i % 5000 + 5]]})
        pyarrow.parquet.write_table(rows, folder / f"{i}.parquet")
    report = ingest(tmp_path / "out.zarr", FEATURES, folder)
    assert report.n_draws == 10_000
    found = open_dataset(tmp_path / "out.zarr").read_block(0)
    np.testing.assert_array_equal(found.counts, 2 * COUNTS)


def test_columns_of_ids_are_no_categories(tmp_path, monkeypatch):
    monkeypatch.setattr("softmix_dist.data.encoding._MOST_LEVELS", 100)
    features = FEATURES.assign(name=[f"name {i}" for i in range(P)])
    refused("column 'name' has more than 100 levels", tmp_path / "x", features, EVENTS)


@pytest.mark.parametrize(("values", "match"), [
    ([1, -2, 3], "1 of them are not, the first is -2"),
    ([1.0, 2.5, 3.0], "1 of them are not, the first is 2.5"),
    ([1.0, None, 3.0], "1 values are missing"),
    (["1", "2", "3"], "they are of type"),
])  # fmt: skip
def test_counts_that_are_none(tmp_path, values, match):
    counts = pa.table({"id": IDS[:3], "count": values})
    refused(match, tmp_path / "x", FEATURES, counts=counts)


def test_counts_of_nothing_are_no_draws(tmp_path):
    counts = pd.DataFrame({"id": [1, 2, 9, 3], "shop": list("abca"), "count": [5, 0, 0, 0]})
    report = ingest(tmp_path / "x", SMALL, counts=counts)
    assert (report.n_unseen, report.n_rows, report.n_unknown_ids) == (3, 4, 0)
    ingest(tmp_path / "y", SMALL, counts=counts, sample="shop")
    data = open_dataset(tmp_path / "y")
    assert data.sample_names == ["a", "b", "c"]
    np.testing.assert_array_equal(data.read_block(0).counts.sum(axis=0), [5, 0, 0, 0])
    zeros = csr_array((np.array([1, 0, 2]), (np.zeros(3, int), np.arange(3))), shape=(1, 4))
    assert ingest(tmp_path / "z", SMALL, counts=zeros).n_unseen == 2
    assert zeros.nnz == 3


def test_counts_that_no_integer_holds(tmp_path):
    for value in (1e20, np.inf):
        table = pd.DataFrame({"id": [1, 2], "count": [1, value]})
        refused("1 of them are not, the first is", tmp_path / "x", SMALL, counts=table)
        matrix = np.array([[1, 2, 3, value]])
        refused(r"1 are not, the first is \S+ in row 0, column 3", tmp_path / "x", SMALL,
                counts=matrix)  # fmt: skip


def test_matrices_that_do_not_fit(tmp_path):
    refused("counts have 5 columns, features 300 rows", tmp_path / "x", FEATURES,
            counts=coo_array(np.ones((2, 5), int)))  # fmt: skip
    refused("numbers of draws", tmp_path / "x", FEATURES, counts=-np.ones((2, P), int))
    (tmp_path / "bad.npz").write_bytes(b"no")
    refused("not a sparse matrix", tmp_path / "x", FEATURES, counts=tmp_path / "bad.npz")
    (tmp_path / "bad.npy").write_bytes(b"no")
    refused("cannot be read as a NumPy array", tmp_path / "x", tmp_path / "bad.npy", EVENTS)
    values = np.ones((P, 2))
    values[7, 1] = np.nan
    refused("not finite", tmp_path / "x", values, counts=np.ones((1, P), int))


def test_a_data_set_is_no_matrix(tmp_path):
    ingest(tmp_path / "old.zarr", FEATURES, EVENTS)
    message = refused("old.zarr is a data set already with candidate_label, feature",
                      tmp_path / "x", tmp_path / "old.zarr", EVENTS)  # fmt: skip
    assert "old.zarr/features, whose row numbers" in message
    rows = pd.DataFrame({"id": DRAWN})
    ingest(tmp_path / "x", tmp_path / "old.zarr" / "features", rows)
    np.testing.assert_array_equal(open_dataset(tmp_path / "x").read_block(0).counts, COUNTS)


def test_an_ingest_that_breaks_off_leaves_what_was_there(tmp_path, monkeypatch):
    ingest(tmp_path / "x", FEATURES, EVENTS)

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("softmix_dist.data.assembly._write_counts", fails)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "x", FEATURES, EVENTS, overwrite=True)
    check(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    refused("exists already", tmp_path / "x", FEATURES, EVENTS, error=StoreError)


def test_a_piece_travels_without_the_others(monkeypatch):
    monkeypatch.setattr(tables, "_ROWS", 1000)
    frame = pd.DataFrame({"id": np.arange(100_000), "k": pd.Categorical(np.arange(100_000) % 3)})
    part = tables.open_table(frame, "features").using(["id", "k"]).part(2, 3)
    content = pickle.dumps(part)
    assert len(content) < 30_000
    (rows,) = pickle.loads(content).read_block(2).batches(["id", "k"])
    assert rows["id"].to_pylist() == list(range(2000, 3000))
    assert rows["k"].to_pylist() == [i % 3 for i in range(2000, 3000)]


@pytest.mark.parametrize("kind", ["int64", "string", "dictionary"])
def test_counts_travel_without_what_they_are_cut_from(kind):
    # Arrow's sums come in slices of 32 768 rows, of which each would take all rows along.
    ids = pa.array(np.arange(200_000))
    if kind != "int64":
        ids = ids.cast(pa.string())
    if kind == "dictionary":
        ids = ids.dictionary_encode()
    number = pa.array(np.ones(len(ids), np.uint64))
    counted = Counted(pa.table({"id": ids, "number": number}), len(ids))
    if kind != "dictionary":
        counted = counted + counted
        assert counted.table["id"].num_chunks > 1
    content = pickle.dumps(counted, protocol=5)
    assert len(content) < 1.1 * counted.table.nbytes + 10_000
    again = pickle.loads(content)
    assert again.table.equals(counted.table)
    assert again.n_rows == counted.n_rows


def test_paths_are_those_of_every_folder(tmp_path, write, monkeypatch):
    write(EVENTS, "events", "csv", 2)
    monkeypatch.chdir(tmp_path)
    opened = [
        tables.open_table(where, "events")
        for where in ("events", "events/*.csv", ["events/000.csv", Path("events/001.csv")])
    ]
    monkeypatch.chdir("/")
    for table in opened:
        blocks = [table.using(["id"]).read_block(i) for i in range(2)]
        assert sum(len(rows) for block in blocks for rows in block.batches(["id"])) == 5000


def test_pieces_hold_about_as_many_rows(tmp_path, write, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS", 100)
    table = tables.open_table(write(EVENTS, "events", "parquet", 7), "events")
    rows = [sum(len(b) for b in table.read_block(i).batches(["id"])) for i in range(table.n_blocks)]
    assert sum(rows) == 5000
    assert max(rows) <= 100
    assert min(rows[:-1]) >= 40


# ------------------------------------------------------------------ the command


def test_the_command(tmp_path, write):
    features = write(FEATURES, "features", "csv", 2)
    events = write(EVENTS, "events", "parquet", 3)
    told = softmix("ingest", tmp_path / "out.zarr", "--features", features, "--events", events,
                   "--sample", "person", "--base", "colour=blue", "--json")  # fmt: skip
    report = json.loads(told.stdout)
    assert report["n_draws"] == 5000
    assert report["n_samples"] == 3
    check(tmp_path / "out.zarr", samples=True)
    assert "data set written to" in told.stderr
    softmix("check", tmp_path / "out.zarr")
    softmix("fit", tmp_path / "out.zarr", "-k", 1, "-q")


def test_the_command_takes_several_files_and_chooses_columns(tmp_path, write):
    features = write(FEATURES, "features", "parquet", 2)
    counts = pd.DataFrame({"key": IDS, "n": COUNTS})
    paths = sorted(features.iterdir())
    told = softmix(
        "ingest", tmp_path / "out.zarr", "--features", paths[0], "--features", paths[1],
        "--counts", write(counts, "counts", "csv"), "--event-id", "key", "--count-column", "n",
        "--columns", "price,size", "--categorical", "size",
    )  # fmt: skip
    assert "size: '1' is the base, columns of 0 and 1 for 7 others" in told.stdout
    assert open_dataset(tmp_path / "out.zarr").n_features == 8


@pytest.mark.parametrize(("options", "code", "match"), [
    ([], 2, "give --features and either --events or --counts"),
    (["--events", "{events}", "--anndata", "a.h5ad"], 2, "or --anndata"),
    (["--events", "{events}", "--varm", "X"], 2, "are of --anndata"),
    (["--events", "{events}", "--base", "colour"], 2, "expected COLUMN=LEVEL"),
    (["--events", "{events}", "--columns", "weight"], 65, "no column 'weight'"),
    (["--events", "no.parquet"], 65, "no.parquet: cannot be opened"),
])  # fmt: skip
def test_the_command_refuses(tmp_path, write, options, code, match):
    events = write(EVENTS, "events", "parquet")
    features = write(FEATURES, "features", "parquet")
    options = [option.format(events=events) for option in options]
    told = softmix("ingest", tmp_path / "x", "--features", features, *options, code=code)
    assert match in told.stderr
    assert not (tmp_path / "x").exists()


def test_without_pyarrow_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "softmix_dist.data.ingest", None)
    told = softmix("ingest", tmp_path / "x", "--features", "a", "--events", "b", code=2)
    assert "pip install 'softmix-dist[ingest]'" in told.stderr


def test_the_command_refuses_options_that_anndata_has_not(tmp_path):
    told = softmix("ingest", tmp_path / "x", "--anndata", "a.h5ad", "--sample", "shop", code=2)
    assert "--event-id and --sample are of --events and --counts" in told.stderr


def test_the_command_takes_anndata(tmp_path):
    anndata = pytest.importorskip("anndata")
    table = RNG.poisson(0.3, (4, P)).astype(np.float32)
    var = FEATURES.drop(columns="id").set_index(pd.Index(IDS))
    anndata.AnnData(csr_array(table), var=var).write_h5ad(tmp_path / "data.h5ad")
    softmix("ingest", tmp_path / "out.zarr", "--anndata", tmp_path / "data.h5ad")
    assert open_dataset(tmp_path / "out.zarr").n_samples == 4
