"""Data sets on disk and in memory: what is written, what is read, what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray
import zarr
from broken import BROKEN, NAMES, flip, good
from mutations import forget_consolidated
from problems import fitted

from softmix_dist.data.blockwise import default_block_rows
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.data.writer import new_dataset, write_dataset
from softmix_dist.errors import InputError, SoftmixError, StoreError
from softmix_dist.kernels import prepare, survey
from softmix_dist.model import Frame


def whole(dataset):
    """Features, counts and log base of all blocks, joined."""
    blocks = [dataset.read_block(i) for i in range(dataset.n_blocks)]
    starts = [block.start for block in blocks]
    assert starts == [i * dataset.block_rows for i in range(dataset.n_blocks)]
    base = None if blocks[0].log_base is None else np.concatenate([b.log_base for b in blocks])
    return (
        np.concatenate([b.features for b in blocks]),
        np.concatenate([b.counts for b in blocks], axis=-1),
        base,
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input(name, tmp_path):
    case, path = BROKEN[name], tmp_path / "data.zarr"
    case.build(path)
    with pytest.raises(SoftmixError) as caught:
        fitted(open_dataset(path), case.n_components)
    message = str(caught.value)
    assert isinstance(caught.value, case.error)
    assert [fragment for fragment in case.fragments if fragment not in message] == []
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is type(caught.value)
    assert str(copy) == message


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "no-components"])
def test_every_problem_comes_with_a_remedy(name, tmp_path):
    case, path = BROKEN[name], tmp_path / "data.zarr"
    case.build(path)
    with pytest.raises(SoftmixError) as caught:
        fitted(open_dataset(path), case.n_components)
    first, *listed = str(caught.value).splitlines()
    # "what and where; what to do", as everywhere else.
    for problem in listed or [first]:
        remedy = problem.partition("; ")[2]
        assert remedy.split()[:1] not in ([], ["found"]), problem


def test_many_garbled_chunks_are_one_problem(tmp_path):
    # A store with thousands of chunks that fails must not fill the screen.
    path = tmp_path / "data.zarr"
    good(path)
    for chunk in range(4):
        flip(path / "features" / "c" / str(chunk) / "0")
    with pytest.raises(StoreError, match="4 in all") as caught:
        fitted(open_dataset(path), 2)
    assert len(str(caught.value).splitlines()) == 2


def test_the_sound_data_set_is_accepted(tmp_path):
    good(tmp_path / "data.zarr")
    result = fitted(open_dataset(tmp_path / "data.zarr"), 1)
    assert (result.n_candidates, result.feature_names) == (200, NAMES)


X, N = np.eye(5, 2), np.arange(5)


@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        ((X, N[:4]), ("counts", "(5,)", "(4,)")),
        ((X, np.ones((2, 4))), ("counts", "(2, 4)")),
        ((X[:, 0], N), ("features", "(p, L)", "(5,)")),
        ((X[:0], N[:0]), ("features", "(0, 2)")),
        ((X.astype(str), N), ("features", "numbers")),
        ((X, N.astype(str)), ("counts", "numbers")),
        ((X, N, np.zeros(4)), ("log_base", "(5,)", "(4,)")),
        ((X, N, None, ["a"]), ("feature names", "expected 2", "found 1")),
        ((X.astype(str), N[:4]), ("features", "numbers", "counts", "(4,)")),
    ],
)
def test_arrays_that_do_not_fit(arrays, fragments):
    with pytest.raises(InputError) as caught:
        ArrayDataset.of(*arrays)
    assert [fragment for fragment in fragments if fragment not in str(caught.value)] == []


@pytest.mark.parametrize("log_base", [np.full(5, "a"), np.zeros(5, complex)])
def test_base_in_memory_must_be_numbers(log_base):
    with pytest.raises(InputError, match="log_base"):
        ArrayDataset.of(X, N, log_base)


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("row_bytes", "sample_bytes", "rows"),
    [
        (4, 0, 65_536),
        (256, 0, 65_536),
        (257, 0, 32_768),
        (64, 1024, 16_384),
        (2**24, 0, 1),
        (2**26, 0, 1),
    ],
)
def test_default_block_rows(row_bytes, sample_bytes, rows):
    assert default_block_rows(row_bytes, sample_bytes) == rows


def test_default_block_rows_is_the_largest_power_of_two_in_bounds():
    for row_bytes in range(1, 5000, 37):
        rows = default_block_rows(row_bytes)
        assert rows & (rows - 1) == 0
        assert rows * row_bytes <= 16 << 20
        assert rows == 65_536 or 2 * rows * row_bytes > 16 << 20


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("base", [False, True])
def test_blocks_are_the_arrays_that_were_written(tmp_path, samples, base):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1001, 4)).astype(np.float32)
    counts = rng.integers(0, 9, 1001 if samples is None else (samples, 1001)).astype(np.uint16)
    log_base = rng.standard_normal(1001) if base else None
    write_dataset(tmp_path / "a", features, counts, log_base=log_base, block_rows=256)
    stored = open_dataset(tmp_path / "a")
    memory = ArrayDataset.of(features, counts, log_base, block_rows=256)
    lazy = ArrayDataset.of(
        da.from_array(features, chunks=(100, 4)),
        da.from_array(counts, chunks=77),
        None if log_base is None else da.from_array(log_base, chunks=300),
        block_rows=256,
    )
    for dataset in (stored, memory, lazy):
        assert (dataset.n_blocks, dataset.block_rows) == (4, 256)
        assert (dataset.n_candidates, dataset.n_features) == (1001, 4)
        assert dataset.n_samples == (samples or 1)
        assert dataset.dtype == np.float32
        for found, expected in zip(whole(dataset), (features, counts, log_base), strict=True):
            np.testing.assert_array_equal(found, expected)
            assert expected is None or found.dtype == expected.dtype
        part = dataset.part(2, 4)
        np.testing.assert_array_equal(part.read_block(3).features, features[768:])
        np.testing.assert_array_equal(part.part(3, 4).read_block(3).counts, counts[..., 768:])


def test_a_part_of_arrays_carries_only_its_rows():
    dataset = ArrayDataset.of(np.ones((4096, 2)), np.ones(4096), block_rows=64)
    assert len(pickle.dumps(dataset.part(3, 5))) < len(pickle.dumps(dataset)) / 20


def test_a_stored_data_set_pickles_as_handles(written, medium):
    dataset = open_dataset(written(medium))
    text = pickle.dumps(dataset.part(0, 3))
    assert len(text) < 20_000
    np.testing.assert_array_equal(pickle.loads(text).read_block(1).counts, medium.counts[512:1024])


@pytest.mark.parametrize("dtype", [np.int32, bool, np.uint8])
def test_features_in_memory_may_be_whole_numbers(dtype):
    dataset = ArrayDataset.of(np.eye(5, 2).astype(dtype), N)
    assert dataset.dtype == np.float64
    np.testing.assert_array_equal(dataset.read_block(0).features, np.eye(5, 2))


# ---------------------------------------------------------------- on disk


def test_xarray_opens_what_was_written(tmp_path):
    # Any warning is an error here.
    write_dataset(
        tmp_path / "a",
        np.eye(6, 2, dtype=np.float32),
        np.ones((2, 6), np.uint32),
        log_base=np.zeros(6),
        feature_names=["price", "size"],
        candidate_labels=list("abcdef"),
        sample_names=["first", "second"],
        block_rows=4,
    )
    with xarray.open_zarr(tmp_path / "a") as opened:
        assert opened["features"].dims == ("candidate", "feature")
        assert opened["counts"].dims == ("sample", "candidate")
        assert opened["log_base"].dims == ("candidate",)
        assert opened["candidate_label"].dims == ("candidate",)
        assert list(opened["feature"].values) == ["price", "size"]
        assert list(opened["sample"].values) == ["first", "second"]
        assert opened.attrs == {"softmix_format": 1, "n_draws": 12, "block_rows": 4}
        # No index over candidates: it would be loaded at once.
        assert "candidate" not in opened.coords
        np.testing.assert_array_equal(opened["features"].values, np.eye(6, 2))
    stored = open_dataset(tmp_path / "a")
    assert stored.labels([5, 0]) == ["f", "a"]
    assert stored.labels(slice(1, 3)) == ["b", "c"]
    assert stored.feature_names == ["price", "size"]
    assert stored.sample_names == ["first", "second"]


def test_arrays_on_disk(tmp_path):
    write_dataset(tmp_path / "a", np.eye(100, 2), N.repeat(20), block_rows=32)
    group = zarr.open_group(tmp_path / "a", mode="r")
    assert group["features"].chunks == (32, 2)
    assert group["counts"].chunks == (32,)
    assert np.isnan(group["features"].fill_value)
    assert group["counts"].dtype.kind == "u"
    assert group.metadata.consolidated_metadata is not None
    for array in (group["features"], group["counts"]):
        (codec,) = array.compressors
        assert codec.to_dict()["configuration"]["checksum"] is True


def test_data_sets_without_attributes_take_their_chunk_size(tmp_path):
    group = zarr.create_group(tmp_path / "a", zarr_format=3)
    group.create_array("features", data=np.eye(100, 2), chunks=(30, 2))
    group.create_array("counts", data=np.ones(100, np.int32), chunks=(50,))
    dataset = open_dataset(tmp_path / "a")
    assert (dataset.block_rows, dataset.n_draws) == (30, None)
    assert dataset.feature_names == ["x0", "x1"]
    assert dataset.labels([3]) == ["3"]
    assert dataset.truth() is None
    np.testing.assert_array_equal(whole(dataset)[0], np.eye(100, 2))


def test_the_truth_of_a_simulation_is_read(tmp_path):
    weights, atoms = np.array([0.25, 0.75]), np.arange(4.0).reshape(2, 2)
    with new_dataset(tmp_path / "a", 5, 2) as writer:
        writer.write_block(0, features=X.astype(np.float32), counts=N.astype(np.uint32))
        truth = writer.group.create_group("truth")
        truth.create_array("weights", data=weights, dimension_names=("component",))
        truth.create_array("atoms", data=atoms, dimension_names=("component", "feature"))
    dataset = open_dataset(tmp_path / "a")
    np.testing.assert_array_equal(dataset.truth()[0], weights)
    np.testing.assert_array_equal(dataset.truth()[1], atoms)
    with xarray.open_zarr(tmp_path / "a") as opened:
        assert set(opened.variables) == {"features", "counts"}
    with xarray.open_zarr(tmp_path / "a", group="truth") as opened:
        assert opened["atoms"].dims == ("component", "feature")


@pytest.mark.parametrize(
    ("weights", "atoms"), [(1.0, np.eye(2)), ([1.0], np.eye(2)), ([1.0], [[1]]), ([1.0], [[0.5]])]
)
def test_a_truth_of_other_shapes_is_refused(weights, atoms, tmp_path):
    write_dataset(tmp_path / "a", X, N)
    truth = zarr.open_group(tmp_path / "a", mode="r+", use_consolidated=False)
    truth.create_array("truth/weights", data=np.array(weights))
    truth.create_array("truth/atoms", data=np.array(atoms))
    forget_consolidated(tmp_path / "a")
    with pytest.raises(InputError, match=r"truth: expected weights \(K,\) and atoms \(K, 2\)"):
        open_dataset(tmp_path / "a").truth()


def test_labels_that_cannot_be_read_are_a_store_error(tmp_path):
    write_dataset(tmp_path / "a", X, N, candidate_labels=list("abcde"))
    flip(tmp_path / "a/candidate_label/c/0")
    with pytest.raises(StoreError, match="candidate_label: the chunk of these labels"):
        open_dataset(tmp_path / "a").labels([1])


def test_totals_beyond_32_bits(tmp_path):
    counts = np.full((3, 100), 4_000_000_000, dtype=np.uint32)
    write_dataset(tmp_path / "a", np.random.default_rng(0).normal(size=(100, 2)), counts)
    dataset = open_dataset(tmp_path / "a")
    assert dataset.n_draws == 1_200_000_000_000
    blocks = [dataset.read_block(i) for i in range(dataset.n_blocks)]
    frame = Frame(np.zeros(2), np.ones(2))
    assert sum(survey(prepare(b, frame, 1))[0].n_draws for b in blocks) == dataset.n_draws


# ---------------------------------------------------------------- nothing half-written


@pytest.mark.parametrize("bad", ["features", "counts"])
def test_bad_values_are_not_written(tmp_path, bad):
    arrays = {"features": np.eye(100, 2), "counts": np.ones(100)}
    arrays[bad][90] = np.nan
    with pytest.raises(InputError, match=rf"{bad}: NaN.*candidate 90"):
        write_dataset(tmp_path / "a", **arrays, block_rows=32)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_after_an_error(tmp_path):
    def interrupted():
        with new_dataset(tmp_path / "a", 100, 2, block_rows=32) as writer:
            writer.write_block(0, features=np.ones((32, 2)), counts=np.ones(32, np.uint32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_path_is_kept(tmp_path):
    path = tmp_path / "a"
    write_dataset(path, X, N)
    with pytest.raises(StoreError, match="exists already"):
        write_dataset(path, X, N + 1)
    assert open_dataset(path).n_draws == N.sum()
    write_dataset(path, X, N + 1, overwrite=True)
    assert open_dataset(path).n_draws == N.sum() + 5
    assert list(tmp_path.iterdir()) == [path]


def test_overwriting_takes_only_zarr_groups(tmp_path):
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter1.txt").write_text("years of work")
    with pytest.raises(StoreError, match="not a Zarr group"):
        write_dataset(path, X, N, overwrite=True)
    assert (path / "chapter1.txt").read_text() == "years of work"


def test_a_failed_overwrite_leaves_the_old_data_set(tmp_path):
    path = tmp_path / "a"
    write_dataset(path, X, N)
    with pytest.raises(InputError):
        write_dataset(path, X * np.nan, N, overwrite=True)
    assert open_dataset(path).n_draws == N.sum()
    assert [item.name for item in Path(tmp_path).iterdir()] == ["a"]
