"""Broken data sets, by name: how to write each, and what the error about it must say.

One list for the Python interface and for the exit codes of the command. Data sets that come
from elsewhere are written with plain Zarr; lost and garbled chunks are done to a data set of
this package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from softmix_dist.data.writer import write_dataset
from softmix_dist.errors import InputError, StoreError

ROWS, BLOCK_ROWS = 200, 64
NAMES = ["price", "size", "age"]


class Broken(NamedTuple):
    """One way to be broken.

    ``build`` writes it at a path that does not exist yet; the message contains every one of
    ``fragments`` (array, place, remedy) when ``n_components`` are fitted.
    """

    build: Callable[[Path], None]
    fragments: tuple[str, ...]
    error: type[Exception] | tuple[type[Exception], ...] = InputError
    n_components: int = 2


def sound() -> dict[str, Any]:
    """Arrays without a fault: every candidate has draws."""
    rng = np.random.default_rng(0)
    return {
        "features": rng.standard_normal((ROWS, len(NAMES))),
        "counts": rng.integers(1, 50, ROWS).astype(np.int64),
    }


def good(path: Path, **changes: Any) -> None:
    """Write a sound data set with the package, in four blocks."""
    arrays = sound() | changes
    write_dataset(
        path,
        arrays["features"].astype(np.float32),
        arrays["counts"],
        log_base=arrays.get("log_base"),
        feature_names=NAMES,
        block_rows=BLOCK_ROWS,
    )


def foreign(
    path: Path,
    omit: tuple[str, ...] = (),
    attributes: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Write a data set, sound but for the changes, with plain Zarr."""
    group = zarr.create_group(str(path), zarr_format=3, attributes=attributes or {})
    arrays = sound() | {"feature": np.array(NAMES)} | changes
    for name, values in arrays.items():
        if name in omit:
            continue
        text = values.dtype.kind == "U"
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=tuple(max(1, min(BLOCK_ROWS, size)) for size in values.shape),
            dtype=str if text else values.dtype,
        )
        if values.size:
            array[...] = values.astype(object) if text else values


def spoilt(array: str, *places: tuple[Any, Any], dtype: Any = None) -> Callable[[Path], None]:
    """Builder of a foreign data set with some values of one array replaced."""

    def build(path: Path) -> None:
        values = sound().get(array, np.zeros(ROWS))
        values = values if dtype is None else values.astype(dtype)
        for place, value in places:
            values[place] = value
        foreign(path, **{array: values})

    return build


def columns(change: Callable[[np.ndarray], None], dtype: Any = float) -> Callable[[Path], None]:
    """Builder of a foreign data set whose features are changed in place."""

    def build(path: Path) -> None:
        features = sound()["features"]
        change(features)
        foreign(path, features=features.astype(dtype))

    return build


def damaged(chunk: str, damage: Callable[[Path], None], **changes: Any) -> Callable[[Path], None]:
    """Builder of a data set of this package with one stored chunk damaged."""

    def build(path: Path) -> None:
        good(path, **changes)
        damage(path / chunk)

    return build


def flip(chunk: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)


def halve(chunk: Path) -> None:
    """Lose the second half."""
    data = chunk.read_bytes()
    chunk.write_bytes(data[: len(data) // 2])


_WITHOUT_NUMBER = {
    "shape": [2**40, ROWS],
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**40, BLOCK_ROWS]}},
    "dimension_names": ["sample", "candidate"],
}


def _spoil_metadata(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    # The copy in the root would hide it.
    root = path.parent.parent / "zarr.json"
    told = json.loads(root.read_text())
    del told["consolidated_metadata"]
    root.write_text(json.dumps(told))


def few_observed(path: Path) -> None:
    counts = np.zeros(ROWS, np.int64)
    counts[[3, 77, 150]] = 9
    foreign(path, counts=counts)


def several(path: Path) -> None:
    arrays = sound()
    arrays["features"][[70, 71, 150], 1] = np.nan
    arrays["features"][5, 2] = np.inf
    arrays["counts"][120] = -4
    foreign(path, log_base=np.where(np.arange(ROWS) == 130, -np.inf, 0.0), **arrays)


def constant(features: np.ndarray) -> None:
    features[:, 1] = 0.1


def offset_constant(features: np.ndarray) -> None:
    features[:, 2] = 1999


def collinear(features: np.ndarray) -> None:
    features[:, 2] = 3 * features[:, 0] - features[:, 1] + 7


def both(features: np.ndarray) -> None:
    features[:, 0] = -3
    features[:, 2] = 2 * features[:, 1]


BROKEN: dict[str, Broken] = {
    # values
    "nan-features": Broken(
        spoilt("features", ((70, 1), np.nan)),
        ("features", "NaN", "candidate 70", "column 1", "impute"),
    ),
    "infinite-features": Broken(
        spoilt("features", ((199, 2), -np.inf), ((150, 0), np.inf)),
        ("features", "infinite", "candidate 150", "column 0", "2 in all", "impute"),
    ),
    "negative-counts": Broken(
        spoilt("counts", (120, -4)), ("counts", "negative", "candidate 120", "-4", "0, 1, 2")
    ),
    "fractional-counts": Broken(
        spoilt("counts", (64, 2.5), dtype=float),
        ("counts", "fractional", "candidate 64", "2.5", "0, 1, 2"),
    ),
    "nan-counts": Broken(
        spoilt("counts", (1, np.nan), dtype=float), ("counts", "NaN", "candidate 1", "0, 1, 2")
    ),
    "negative-counts-of-a-sample": Broken(
        lambda path: foreign(
            path, counts=np.stack([sound()["counts"], np.where(np.arange(ROWS) == 90, -1, 2)])
        ),
        ("counts", "negative", "candidate 90", "sample 1", "-1"),
    ),
    "all-zero-counts": Broken(
        lambda path: foreign(path, counts=np.zeros(ROWS, np.uint32)),
        ("counts", "no draws", "add the observed draws"),
    ),
    "base-minus-infinity-with-draws": Broken(
        spoilt("log_base", (130, -np.inf)),
        ("log_base", "-inf", "candidate 130", "draws", "make the candidate available"),
    ),
    "nan-base": Broken(
        spoilt("log_base", (10, np.nan)), ("log_base", "NaN", "candidate 10", "logarithm")
    ),
    "features-beyond-the-range-of-numbers": Broken(
        columns(lambda features: np.multiply(features[:, 1], 1e300, out=features[:, 1])),
        ("feature 'size'", "out of range", "express it in another unit"),
    ),
    "several-problems": Broken(
        several,
        (
            "features: NaN (first at candidate 70, feature column 1",
            "3 in all",
            "features: infinite value (first at candidate 5, feature column 2",
            "counts: negative value (first at candidate 120",
            "log_base: -inf",
            "candidate 130",
        ),
    ),
    # columns
    "constant-column": Broken(columns(constant), ("'size'", "constant", "drop")),
    "constant-column-single": Broken(columns(constant, np.float32), ("'size'", "constant", "drop")),
    "constant-year": Broken(columns(offset_constant), ("'age'", "constant", "drop")),
    "collinear-columns": Broken(
        columns(collinear), ("'age'", "collinear", "3 x 'price'", "-1 x 'size'", "drop")
    ),
    "collinear-columns-single": Broken(
        columns(collinear, np.float32), ("'age'", "collinear", "'price'", "'size'", "drop")
    ),
    "constant-and-collinear": Broken(
        columns(both), ("'price'", "constant", "'age'", "collinear", "2 x 'size'")
    ),
    # shapes, types, attributes
    "lengths-differ": Broken(
        lambda path: foreign(path, counts=np.ones(ROWS - 1, np.uint32)),
        ("counts", "199", "features", "200"),
    ),
    "base-length-differs": Broken(
        lambda path: foreign(path, log_base=np.zeros(ROWS + 1)),
        ("log_base", "201", "features", "200"),
    ),
    "missing-features": Broken(
        lambda path: foreign(path, omit=("features",)), ("features", "missing", "counts")
    ),
    "missing-counts": Broken(
        lambda path: foreign(path, omit=("counts",)), ("counts", "missing", "features")
    ),
    "empty-group": Broken(
        lambda path: foreign(path, omit=("features", "counts", "feature")),
        ("features", "counts", "missing"),
    ),
    "no-candidates": Broken(
        lambda path: foreign(path, features=np.ones((0, 3)), counts=np.ones(0, np.uint32)),
        ("features", "(0, 3)"),
    ),
    "text-features": Broken(
        lambda path: foreign(path, features=np.full((ROWS, 3), "abc")), ("features", "float")
    ),
    "text-counts": Broken(
        lambda path: foreign(path, counts=np.full(ROWS, "12")), ("counts", "numbers")
    ),
    "text-base": Broken(
        lambda path: foreign(path, log_base=np.full(ROWS, "0.5")), ("log_base", "float")
    ),
    "features-of-one-dimension": Broken(
        lambda path: foreign(path, features=np.ones(ROWS)), ("features", "dimensions", "found 1")
    ),
    "unknown-format": Broken(
        lambda path: foreign(path, attributes={"softmix_format": 99}),
        ("softmix_format", "expected 1", "99"),
    ),
    "bad-attributes": Broken(
        lambda path: foreign(path, attributes={"block_rows": -5, "n_draws": "many"}),
        ("block_rows", "-5", "n_draws", "'many'"),
    ),
    "total-mismatch": Broken(
        lambda path: foreign(path, attributes={"softmix_format": 1, "n_draws": 7}),
        ("counts", "total", f"{sound()['counts'].sum()}", "n_draws", "7", "write the counts again"),
        (InputError, StoreError),
    ),
    # chunks
    "lost-chunk-of-features": Broken(
        damaged("features/c/1/0", Path.unlink),
        ("features", "candidate 64", "chunk is missing", "write it again"),
        StoreError,
    ),
    "lost-first-chunk-of-features": Broken(
        damaged("features/c/0/0", Path.unlink),
        ("features", "candidate 0", "chunk is missing", "write it again"),
        StoreError,
    ),
    "lost-chunk-of-counts": Broken(
        damaged("counts/c/3", Path.unlink),
        ("counts", "lost chunk", "n_draws", "write the counts again"),
        (InputError, StoreError),
    ),
    "lost-chunk-of-base": Broken(
        damaged("log_base/c/2", Path.unlink, log_base=np.zeros(ROWS)),
        ("log_base", "candidate 128", "chunk is missing", "write it again"),
        StoreError,
    ),
    "garbled-chunk-of-features": Broken(
        damaged("features/c/1/0", flip),
        ("features", "candidates 64 to 127", "cannot be read", "write it again"),
        StoreError,
    ),
    "garbled-first-chunk-of-features": Broken(
        damaged("features/c/0/0", flip),
        ("features", "candidates 0 to 63", "cannot be read", "write it again"),
        StoreError,
    ),
    "garbled-chunk-of-counts": Broken(
        damaged("counts/c/3", flip),
        ("counts", "candidates 192 to 199", "cannot be read", "write it again"),
        StoreError,
    ),
    "short-chunk-of-features": Broken(
        damaged("features/c/2/0", halve),
        ("features", "candidates 128 to 191", "cannot be read", "write it again"),
        StoreError,
    ),
    "garbled-metadata-of-counts": Broken(
        damaged("counts/zarr.json", lambda path: _spoil_metadata(path, data_type="numbers")),
        ("counts", "cannot be opened", "write it again"),
        StoreError,
    ),
    "lost-metadata-of-an-array": Broken(
        damaged("features/zarr.json", lambda path: _spoil_metadata(path, shape="wide")),
        ("features", "cannot be opened", "write it again"),
        StoreError,
    ),
    "samples-without-number": Broken(
        damaged("counts/zarr.json", lambda path: _spoil_metadata(path, **_WITHOUT_NUMBER)),
        ("1,099,511,627,776 samples", "more than can be named", "write the data set again"),
    ),
    "labels-of-other-candidates": Broken(
        lambda path: foreign(path, candidate_label=np.array(["a", "b"])),
        ("candidate_label", "(2,)", "one label a candidate"),
    ),
    "garbled-metadata": Broken(
        damaged("zarr.json", halve), ("is not a Zarr group", "data.zarr"), StoreError
    ),
    # paths
    "does-not-exist": Broken(
        lambda path: None, ("does not exist", "data.zarr", "give the path"), StoreError
    ),
    "a-text-file": Broken(
        lambda path: path.write_text("price,size\n1,2\n") and None,
        ("is not a Zarr group", "data.zarr", "give the path"),
        StoreError,
    ),
    "a-plain-directory": Broken(
        lambda path: path.mkdir(), ("is not a Zarr group", "data.zarr"), StoreError
    ),
    "an-array-not-a-group": Broken(
        lambda path: zarr.create_array(str(path), data=np.ones(3)) and None,
        ("is not a Zarr group", "data.zarr"),
        StoreError,
    ),
    # the number of components
    "no-components": Broken(good, ("n_components", "at least 1", "found 0"), n_components=0),
    "more-components-than-candidates-observed": Broken(
        few_observed, ("n_components", "4", "3 distinct candidates", "fewer"), n_components=4
    ),
}
