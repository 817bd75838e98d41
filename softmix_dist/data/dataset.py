"""Data sets: features and counts of candidates, read block by block.

On disk a data set is a Zarr v3 group that ``xarray.open_zarr`` opens as it stands:
``features`` (candidate, feature), ``counts`` (candidate) or (sample, candidate),
optionally ``log_base`` (candidate) and labels.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from typing import Any, NamedTuple, Protocol

import numpy as np
import zarr

from softmix_dist.blocks import Array, Finding, Findings, RawBlock
from softmix_dist.data.objects import is_url
from softmix_dist.data.sparse import SparseCounts
from softmix_dist.data.store import (
    ChunkError,
    absolute,
    arrays_of,
    member,
    names_of,
    open_group,
    read,
)
from softmix_dist.errors import InputError, StoreError

FORMAT = 1
MARK = "softmix_format"
_ARRAYS = ("features", "counts", "log_base", "candidate_label", "feature", "sample")
_BLOCK_ROWS = 65_536
_BLOCK_BYTES = 16 << 20
# Features, and samples, at most.
_MOST_NAMES = 10_000_000
# Blocks read while another one is worked on: from a disk, and from an object store, which takes
# long to begin an answer and gives several at once.
_READS_AHEAD, _REMOTE_READS_AHEAD = 1, 4


def is_text(name: Any) -> bool:
    """Whether a name can be stored: half of a surrogate pair cannot."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def default_block_rows(row_bytes: int, sample_bytes: int = 0) -> int:
    """Rows of a block: the largest power of two up to 65 536 with 16 MB of features or counts.

    Parameters
    ----------
    row_bytes, sample_bytes : int
        Bytes of the features, and of the counts in all samples, of one candidate.
    """
    rows = min(_BLOCK_ROWS, _BLOCK_BYTES // max(row_bytes, sample_bytes, 1))
    return 1 << max(rows, 1).bit_length() - 1


class Dataset(Protocol):
    """What the loop needs of a data set, wherever it is stored."""

    @property
    def name(self) -> str:
        """Path, or what else tells people which data set it is."""
        ...

    @property
    def n_candidates(self) -> int:
        """Number of candidates p."""
        ...

    @property
    def n_features(self) -> int:
        """Number of features L."""
        ...

    @property
    def n_samples(self) -> int:
        """Number of samples S."""
        ...

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored features."""
        ...

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, L of them."""
        ...

    @property
    def n_draws(self) -> int | None:
        """Total of the counts that the writer recorded."""
        ...

    @property
    def n_blocks(self) -> int:
        """Number of blocks, ceil(n_candidates / block_rows)."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes of a block as it is stored, when it was read."""
        ...

    @property
    def reads_ahead(self) -> int:
        """Blocks worth reading while another one is computed on; 0 in memory."""
        ...

    def read_block(self, index: int) -> RawBlock:
        """Read one block as it is stored."""
        ...

    def part(self, start: int, stop: int) -> Dataset:
        """Return what is needed to read the blocks from ``start`` to ``stop`` elsewhere."""
        ...

    def labels(self, rows: Sequence[int] | slice) -> list[str]:
        """Labels of candidates, or their row numbers where there are none."""
        ...


class _Blocks:
    """The arithmetic of blocks that every data set shares."""

    n_candidates: int
    block_rows: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks, ceil(n_candidates / block_rows)."""
        return -(-self.n_candidates // self.block_rows)

    def _block_bytes(self, *arrays: Any) -> int:
        stored = sum(array.nbytes for array in arrays if array is not None)
        return -(-stored * min(self.block_rows, self.n_candidates) // self.n_candidates)

    def _repr_html_(self: Any) -> str:
        told = {
            "candidates": f"{self.n_candidates:,} in {self.n_blocks:,} blocks",
            "features": f"{self.n_features} of {self.dtype}: {', '.join(self.feature_names[:10])}"
            + (", ..." if self.n_features > 10 else ""),
            "samples": f"{self.n_samples:,}",
            "draws": "not counted yet" if self.n_draws is None else f"{self.n_draws:,}",
        }
        rows = "".join(f"<tr><th>{k}</th><td>{escape(v)}</td></tr>" for k, v in told.items())
        return f"<div><p>data set {escape(self.name)}</p><table>{rows}</table></div>"

    def _rows(self, index: int) -> slice:
        start = index * self.block_rows
        return slice(start, min(start + self.block_rows, self.n_candidates))


class _Opened(NamedTuple):
    """A group that is open, what is in it, and what is wrong with its sparse counts."""

    group: zarr.Group
    members: dict[str, Any]
    problems: list[str]


@lru_cache(maxsize=16)
def _opened(path: str, token: str) -> _Opened:
    """Open a group once in each process; the token tells it from what was at its path before."""
    group = open_group(path, "data set")
    members: dict[str, Any] = arrays_of(group, _ARRAYS)
    problems = []
    if isinstance(sparse := member(group, "counts"), zarr.Group):
        try:
            members["counts"] = SparseCounts.of(sparse)
        except InputError as error:
            problems.append(str(error))
    return _Opened(group, members, problems)


@dataclass(frozen=True)
class ZarrDataset(_Blocks):
    """A data set in a Zarr group; opened by `open_dataset`.

    Pickles as its path, which another process opens again: with its own credentials, where it
    is the URL of an object store.

    Attributes
    ----------
    name : str
        Its path as it was given.
    path : str
        From the root, or a URL.
    token : str
        Another one each time a data set is opened.
    n_candidates, n_features, n_samples, block_rows : int
    dtype : dtype
        Of the features.
    feature_names, sample_names : list of str
    n_draws : int or None
        The total that the writer recorded.
    """

    name: str
    path: str
    token: str
    n_candidates: int
    n_features: int
    n_samples: int
    block_rows: int
    dtype: np.dtype[Any]
    feature_names: list[str]
    sample_names: list[str]
    n_draws: int | None

    @property
    def _arrays(self) -> dict[str, Any]:
        arrays = _opened(self.path, self.token).members
        if getattr(arrays.get("features"), "shape", None) != (self.n_candidates, self.n_features):
            raise StoreError(f"{self.name!r} is not what it was when it was opened; open it again")
        return arrays

    @property
    def block_bytes(self) -> int:
        """Bytes of a block as it is stored, when it was read."""
        arrays = (self._arrays.get(name) for name in ("features", "counts", "log_base"))
        return self._block_bytes(*arrays)

    @property
    def reads_ahead(self) -> int:
        """Blocks worth reading while another one is computed on."""
        return _REMOTE_READS_AHEAD if is_url(self.path) else _READS_AHEAD

    def read_block(self, index: int) -> RawBlock:
        """Read one block; chunks that cannot be read become its findings.

        Raises
        ------
        StoreError
            If the store itself fails.
        """
        rows, arrays = self._rows(index), self._arrays
        place = f"candidates {rows.start} to {rows.stop - 1}"
        values: dict[str, Any] = {}
        for name in ("features", "counts", "log_base"):
            array = arrays.get(name)
            try:
                if isinstance(array, SparseCounts):
                    values[name] = array.read(rows, place)
                elif array is not None:
                    several = name == "counts" and array.ndim == 2
                    values[name] = read(array, (slice(None), rows) if several else rows, place)
            except (ChunkError, InputError) as error:
                found = Finding(
                    name,
                    "the chunk cannot be read",
                    "write it again",
                    1,
                    rows.start,
                    f"{place}: {error.__cause__ or error}",
                    isinstance(error, ChunkError),
                )
                empty = np.empty((0, self.n_features), self.dtype)
                nothing = np.empty(0, np.uint8)
                return RawBlock(rows.start, empty, nothing, None, Findings((found,)))
        return RawBlock(rows.start, values["features"], values["counts"], values.get("log_base"))

    def part(self, start: int, stop: int) -> ZarrDataset:
        """Return the data set itself: its path travels, data do not."""
        return self

    def labels(self, rows: Sequence[int] | slice) -> list[str]:
        """Labels of candidates, or their row numbers where there are none."""
        array = self._arrays.get("candidate_label")
        if array is None:
            numbers = range(self.n_candidates)
            return [str(i) for i in (numbers[rows] if isinstance(rows, slice) else rows)]
        chosen = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return [str(label) for label in read(array, chosen, "these labels")]

    def truth(self) -> tuple[Array, Array] | None:
        """Weights (K,) and atoms (K, L) that the simulator wrote, if it did.

        Raises
        ------
        StoreError, InputError
            If they cannot be read, or are of other shapes.
        """
        group = member(_opened(self.path, self.token).group, "truth")
        if not isinstance(group, zarr.Group):
            return None
        arrays = arrays_of(group, ("weights", "atoms"))
        if len(arrays) < 2:
            return None
        weights, atoms = (read(arrays[name], ..., "the truth") for name in ("weights", "atoms"))
        numbers = weights.dtype.kind == atoms.dtype.kind == "f"
        if not numbers or weights.ndim != 1 or atoms.shape != (len(weights), self.n_features):
            raise InputError(
                f"truth: expected weights (K,) and atoms (K, {self.n_features}), found "
                f"{weights.dtype} {weights.shape} and {atoms.dtype} {atoms.shape}; write it again"
            )
        return weights, atoms


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
    group, members, encoding = _opened(where, token)
    problems = list(encoding)
    version = group.attrs.get(MARK)
    if version is not None and version != FORMAT:
        problems.append(
            f"attribute softmix_format: expected {FORMAT}, found {version!r}; upgrade "
            "softmix-dist or write the data set again"
        )
    for name in ("features", "counts"):
        if name not in members and not (name == "counts" and encoding):
            problems.append(
                f"{name}: missing array (found {names_of(group) or 'no arrays'}); "
                "write it, see the format in the README"
            )
    arrays = {n: a for n, a in members.items() if n in ("features", "counts", "log_base")}
    ndims = {"features": (2,), "counts": (1, 2), "log_base": (1,)}
    kinds = {"features": "f", "counts": "uif", "log_base": "f"}
    for name, array in arrays.items():
        if array.dtype.kind not in kinds[name]:
            expected = "numbers" if name == "counts" else "float16, float32 or float64"
            problems.append(f"{name}: expected {expected}, found dtype {array.dtype}; convert it")
        if array.ndim not in ndims[name]:
            problems.append(
                f"{name}: expected {' or '.join(map(str, ndims[name]))} dimensions, found "
                f"{array.ndim}; reshape it"
            )
        elif "features" in arrays and arrays["features"].ndim == 2:
            n_candidates = arrays["features"].shape[0]
            if array.shape[0 if name == "features" else -1] != n_candidates:
                problems.append(
                    f"{name}: {array.shape[-1]} candidates, but features has {n_candidates}; "
                    "write one entry a candidate"
                )
    labels = members.get("candidate_label")
    if labels is not None and labels.shape != getattr(arrays.get("features"), "shape", (0,))[:1]:
        problems.append(
            f"candidate_label: found shape {labels.shape}; write one label a candidate, or none"
        )
    block_rows = group.attrs.get("block_rows")
    if block_rows is not None and not (isinstance(block_rows, int) and block_rows > 0):
        problems.append(
            f"attribute block_rows: expected a positive integer, found {block_rows!r}; "
            "remove or correct it"
        )
    n_draws = group.attrs.get("n_draws")
    if n_draws is not None and not (isinstance(n_draws, int) and n_draws >= 0):
        problems.append(
            f"attribute n_draws: expected an integer, found {n_draws!r}; remove or correct it"
        )
    if not problems and 0 in arrays["features"].shape:
        problems.append(
            f"features: no values, shape {arrays['features'].shape}; write some candidates"
        )
    if not problems:
        # Metadata may say any size: names would fill the memory before a value is read.
        sizes = {"features": arrays["features"].shape[1]}
        sizes["samples"] = arrays["counts"].shape[0] if arrays["counts"].ndim == 2 else 1
        problems += [
            f"{size:,} {name}: more than can be named, {_MOST_NAMES:,}; write the data set again"
            for name, size in sizes.items()
            if size > _MOST_NAMES
        ]
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
        block_rows=int(block_rows or features.chunks[0]),  # type: ignore[arg-type]
        dtype=np.dtype(features.dtype).newbyteorder("="),
        feature_names=_names(members.get("feature"), "x", features.shape[1]),
        sample_names=_names(members.get("sample"), "sample ", n_samples),
        n_draws=n_draws,  # type: ignore[arg-type]
    )


def _names(array: Any, prefix: str, size: int) -> list[str]:
    if array is None or array.shape != (size,):
        return [f"{prefix}{i}" for i in range(size)]
    return [str(name) for name in read(array, slice(None), "all names")]


def default_names(n_features: int) -> list[str]:
    """Names of features that have none of their own."""
    return [f"x{i}" for i in range(n_features)]


@dataclass(frozen=True)
class ArrayDataset(_Blocks):
    """A data set in memory: NumPy arrays, or Dask arrays that are computed block by block.

    Attributes
    ----------
    features : (p, L) array
    counts : (p,) or (S, p) array
    log_base : (p,) array or None
    feature_names : list of str
    first_row : int
        Row number of the first row held here, for a part of a data set.
    candidate_labels : pandas.Index or None
        Of a frame of features.
    """

    features: Any
    counts: Any
    log_base: Any
    feature_names: list[str]
    n_candidates: int
    n_features: int
    n_samples: int
    block_rows: int
    dtype: np.dtype[Any]
    first_row: int = 0
    name: str = "arrays in memory"
    n_draws: int | None = None
    candidate_labels: Any = None

    @classmethod
    def of(
        cls,
        features: Any,
        counts: Any,
        log_base: Any = None,
        feature_names: Sequence[str] | None = None,
        block_rows: int | None = None,
    ) -> ArrayDataset:
        """Wrap arrays after checking what can be seen without reading their values.

        Raises
        ------
        InputError
            If shapes or types are not those of a data set; lists every problem.
        """
        if feature_names is None and hasattr(features, "columns"):
            feature_names = [str(column) for column in features.columns]
        if features is None or counts is None:
            raise InputError("features and counts are both needed: pass fit(features, counts)")
        problems = [
            problem
            for name, values in (("counts", counts), ("log_base", log_base))
            if (problem := _unaligned(features, name, values))
        ]
        given, labels = features, _labels(features, "index")
        if hasattr(features, "dtypes") and not hasattr(features, "compute"):
            features = _whole(features)
        try:
            features, counts, log_base = (
                values if values is None or hasattr(values, "compute") else np.asarray(values)
                for values in (features, counts, log_base)
            )
        except ValueError as error:
            raise InputError(f"features, counts and log_base must be arrays: {error}") from error
        if features.ndim != 2 or 0 in features.shape:
            problems.append(f"features: expected shape (p, L), found {features.shape}")
        if features.dtype.kind not in "fiub":
            problems.append(f"features: expected numbers, found {_not_numbers(given, features)}")
        if counts.dtype.kind not in "fiub":
            problems.append(f"counts: expected numbers, found dtype {counts.dtype}")
        size = features.shape[0] if features.ndim else 0
        if counts.ndim not in (1, 2) or counts.shape[-1] != size:
            problems.append(
                f"counts: expected shape ({size},) or (S, {size}), found {counts.shape}"
            )
        if log_base is not None and log_base.dtype.kind not in "fi":
            problems.append(f"log_base: expected numbers, found dtype {log_base.dtype}")
        if log_base is not None and log_base.shape != (size,):
            problems.append(f"log_base: expected shape ({size},), found {log_base.shape}")
        width = features.shape[1] if features.ndim == 2 else 0
        names = default_names(width)
        if feature_names is not None:
            names = [str(name) for name in feature_names]
        problems += [
            f"feature names: {name!r} has a character that UTF-8 does not; replace it"
            for name in names
            if not is_text(name)
        ]
        if features.ndim == 2 and len(names) != features.shape[1]:
            problems.append(f"feature names: expected {features.shape[1]}, found {len(names)}")
        if problems:
            raise InputError("these arrays cannot be fitted:\n- " + "\n- ".join(problems))
        dtype = features.dtype.newbyteorder("=") if features.dtype.kind == "f" else np.dtype(float)
        n_samples = 1 if counts.ndim == 1 else counts.shape[0]
        rows = default_block_rows(
            features.shape[1] * dtype.itemsize, n_samples * counts.dtype.itemsize
        )
        return cls(
            features,
            counts,
            log_base,
            names,
            size,
            features.shape[1],
            n_samples,
            block_rows or rows,
            dtype,
            candidate_labels=labels,
        )

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, when it was copied or computed."""
        return self._block_bytes(self.features, self.counts, self.log_base)

    @property
    def reads_ahead(self) -> int:
        """None: arrays are at hand, and Dask arrays computed where they are needed."""
        return 0

    def read_block(self, index: int) -> RawBlock:
        """Copy or compute one block."""
        rows = self._rows(index)
        here = slice(rows.start - self.first_row, rows.stop - self.first_row)
        features, counts, log_base = (
            None if values is None else _compute(values[..., here] if column else values[here])
            for values, column in ((self.features, 0), (self.counts, 1), (self.log_base, 0))
        )
        return RawBlock(rows.start, features.astype(self.dtype, copy=False), counts, log_base)  # type: ignore[union-attr]

    def part(self, start: int, stop: int) -> ArrayDataset:
        """Return the rows of the blocks from ``start`` to ``stop``."""
        rows = slice(start * self.block_rows, stop * self.block_rows)
        here = slice(rows.start - self.first_row, rows.stop - self.first_row)
        return replace(
            self,
            features=self.features[here],
            counts=self.counts[..., here],
            log_base=None if self.log_base is None else self.log_base[here],
            first_row=rows.start,
            # A part is read elsewhere, and labels are asked of the whole.
            candidate_labels=None,
        )

    def labels(self, rows: Sequence[int] | slice) -> list[str]:
        """Labels of a frame's index; row numbers of arrays, which carry none."""
        if self.candidate_labels is not None:
            return [str(label) for label in self.candidate_labels[rows]]
        numbers = range(self.n_candidates)
        return [str(i) for i in (numbers[rows] if isinstance(rows, slice) else rows)]


def _whole(frame: Any) -> Any:
    """One array of a frame, with its columns of truth values as 0 and 1.

    Beside columns of numbers pandas would make them an array of objects.
    """
    kinds = {getattr(dtype, "kind", "O") for dtype in frame.dtypes}
    return frame.astype(float) if "b" in kinds and kinds <= {*"fiub"} else frame


def _not_numbers(given: Any, features: Any) -> str:
    """Say what features are that are no numbers, and of a frame in which columns."""
    found = f"dtype {features.dtype}"
    if not hasattr(given, "dtypes") or hasattr(given, "compute"):
        return found
    names = [
        repr(str(name))
        for name, dtype in zip(given.columns, given.dtypes, strict=True)
        if getattr(dtype, "kind", "O") not in "fiub"
    ]
    if not names:
        return f"{found}; convert the frame, .astype(float)"
    first = ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
    return (
        f"{found} in {first}; make columns of 0 and 1 of text, as "
        "pandas.get_dummies(frame, drop_first=True) does, or see softmix_dist.ingest"
    )


def _unaligned(features: Any, name: str, values: Any) -> str | None:
    """Say where labels of candidates are not those of a frame of features, in its order."""
    wanted, there = _labels(features, "index"), _labels(values, "columns", "index")
    if wanted is None or there is None or not hasattr(features, "columns") or wanted.equals(there):
        return None
    first = ""
    if len(there) == len(wanted):
        differ = np.flatnonzero(np.asarray(there != wanted))
        if not len(differ):
            return None
        i = int(differ[0])
        first = f" ({len(differ):,} differ, the first is {there[i]} and not {wanted[i]})"
    return (
        f"{name}: its labels are not those of the features in their order{first}; reindex it by "
        "them, with fill_value=0 for counts, or pass its values alone, .to_numpy()"
    )


def _labels(values: Any, *names: str) -> Any:
    """Labels of a pandas object; lists have a method of that name, Dask would compute them."""
    found = next((getattr(values, name) for name in names if hasattr(values, name)), None)
    return found if hasattr(found, "equals") and not hasattr(found, "compute") else None


def _compute(values: Any) -> Array:
    # Inside a task of a cluster a nested computation must not wait for the cluster.
    if hasattr(values, "compute"):
        values = values.compute(scheduler="synchronous")
    return np.asarray(values)


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
