"""Data sets: features and counts of candidates, read block by block.

On disk a data set is a Zarr v3 group that ``xarray.open_zarr`` opens as it stands:
``features`` (candidate, feature), ``counts`` (candidate) or (sample, candidate),
optionally ``log_base`` (candidate) and labels.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr

from softmix_dist.data.blockwise import Dataset, default_names
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.data.store import absolute, names_of, read
from softmix_dist.data.stored import ZarrDataset, opened
from softmix_dist.errors import InputError

FORMAT = 1
MARK = "softmix_format"
_NDIMS = {"features": (2,), "counts": (1, 2), "log_base": (1,)}
_KINDS = {"features": "f", "counts": "uif", "log_base": "f"}
# Features, and samples, at most.
_MOST_NAMES = 10_000_000


def open_dataset(path: str | os.PathLike[str]) -> ZarrDataset:
    """Open a data set and check everything that can be seen without reading its values.

    Parameters
    ----------
    path : path
        Of a Zarr group, see the format in the README; or the URL of an object store.

    Returns
    -------
    ZarrDataset

    Raises
    ------
    StoreError
        If there is no Zarr group at ``path``.
    InputError
        If it is not a data set; the message lists every problem.

    Examples
    --------
    >>> write_dataset("opened.zarr", features, counts, feature_names=["price", "time"])
    >>> data = open_dataset("opened.zarr")
    >>> data.n_candidates, data.feature_names
    (2000, ['price', 'time'])
    """
    where, token = absolute(path), uuid.uuid4().hex
    group, members, encoding = opened(where, token)
    arrays = {n: a for n, a in members.items() if n in ("features", "counts", "log_base")}
    problems = [
        *encoding,
        *_of_another_format(group),
        *_missing(group, members, encoded=bool(encoding)),
        *_misshapen(arrays, members.get("candidate_label")),
        *_wrong_attributes(group),
    ]
    # Only of what is there, and is what it should be.
    problems = problems or _wrong_sizes(arrays["features"].shape, arrays["counts"].shape)
    if problems:
        raise InputError(
            f"{str(path)!r} is not a data set that can be fitted:\n- " + "\n- ".join(problems)
        )
    features, counts = arrays["features"], arrays["counts"]
    n_samples = 1 if counts.ndim == 1 else counts.shape[0]
    return ZarrDataset(
        name=str(path),
        path=where,
        token=token,
        n_candidates=features.shape[0],
        n_features=features.shape[1],
        n_samples=n_samples,
        block_rows=int(group.attrs.get("block_rows") or features.chunks[0]),  # type: ignore[arg-type]
        dtype=np.dtype(features.dtype).newbyteorder("="),
        feature_names=_names(members.get("feature"), "x", features.shape[1]),
        sample_names=_names(members.get("sample"), "sample ", n_samples),
        n_draws=group.attrs.get("n_draws"),  # type: ignore[arg-type]
    )


def as_dataset(
    data: Any,
    counts: Any = None,
    log_base: Any = None,
    feature_names: Sequence[str] | None = None,
) -> Dataset:
    """Make a data set of a path, a data set, or arrays in memory.

    Raises
    ------
    InputError, StoreError
        If it is none of these, or not as it should be.
    """
    if isinstance(data, str | os.PathLike):
        if counts is not None or log_base is not None:
            raise InputError("a data set on disk holds its own counts; pass the path alone")
        return open_dataset(data)
    if hasattr(data, "read_block"):
        return data
    if counts is None:
        raise InputError("counts are missing: pass fit(features, counts) or the path of a data set")
    return ArrayDataset.of(data, counts, log_base, feature_names)


def _of_another_format(group: zarr.Group) -> list[str]:
    version = group.attrs.get(MARK)
    if version is None or version == FORMAT:
        return []
    found = f"expected {FORMAT}, found {version!r}"
    return [f"attribute {MARK}: {found}; upgrade softmix-dist or write the data set again"]


def _missing(group: zarr.Group, members: dict[str, Any], encoded: bool) -> list[str]:
    """Say which arrays are not there; of encoded counts it was said what is wrong."""
    return [
        f"{name}: missing array (found {names_of(group) or 'no arrays'}); "
        "write it, see the format in the README"
        for name in ("features", "counts")
        if name not in members and not (name == "counts" and encoded)
    ]


def _misshapen(arrays: dict[str, Any], labels: Any) -> list[str]:
    """Say which arrays are of other types or shapes than those of a data set."""
    problems = []
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS[name]:
            expected = "numbers" if name == "counts" else "float16, float32 or float64"
            problems.append(f"{name}: expected {expected}, found dtype {array.dtype}; convert it")
        if array.ndim not in _NDIMS[name]:
            problems.append(
                f"{name}: expected {' or '.join(map(str, _NDIMS[name]))} dimensions, found "
                f"{array.ndim}; reshape it"
            )
        elif "features" in arrays and arrays["features"].ndim == 2:
            n_candidates = arrays["features"].shape[0]
            if array.shape[0 if name == "features" else -1] != n_candidates:
                problems.append(
                    f"{name}: {array.shape[-1]} candidates, but features has {n_candidates}; "
                    "write one entry a candidate"
                )
    if labels is not None and labels.shape != getattr(arrays.get("features"), "shape", (0,))[:1]:
        problems.append(
            f"candidate_label: found shape {labels.shape}; write one label a candidate, or none"
        )
    return problems


def _wrong_attributes(group: zarr.Group) -> list[str]:
    problems = []
    block_rows, n_draws = (group.attrs.get(name) for name in ("block_rows", "n_draws"))
    if block_rows is not None and not (isinstance(block_rows, int) and block_rows > 0):
        problems.append(
            f"attribute block_rows: expected a positive integer, found {block_rows!r}; "
            "remove or correct it"
        )
    if n_draws is not None and not (isinstance(n_draws, int) and n_draws >= 0):
        problems.append(
            f"attribute n_draws: expected an integer, found {n_draws!r}; remove or correct it"
        )
    return problems


def _wrong_sizes(features: tuple[int, ...], counts: tuple[int, ...]) -> list[str]:
    """Say what is wrong with the shapes of features and counts that fit each other."""
    if 0 in features:
        return [f"features: no values, shape {features}; write some candidates"]
    # Metadata may say any size: names would fill the memory before a value is read.
    sizes = {"features": features[1], "samples": counts[0] if len(counts) == 2 else 1}
    return [
        f"{size:,} {name}: more than can be named, {_MOST_NAMES:,}; write the data set again"
        for name, size in sizes.items()
        if size > _MOST_NAMES
    ]


def _names(array: Any, prefix: str, size: int) -> list[str]:
    if array is None or array.shape != (size,):
        return default_names(size, prefix)
    return [str(name) for name in read(array, slice(None), "all names")]
