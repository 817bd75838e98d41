"""Write data sets, whole from memory or block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from scipy.sparse import csc_array

from softmix_dist.blocks import Array, inspect, whole_total
from softmix_dist.data.blockwise import default_block_rows
from softmix_dist.data.dataset import FORMAT, MARK
from softmix_dist.data.memory import ArrayDataset, is_text
from softmix_dist.data.store import new_array, new_group, put
from softmix_dist.errors import InputError

# Numbers of a chunk of sparse counts.
_CHUNK = 1 << 20


@dataclass
class DatasetWriter:
    """An open data set that is being written; made by `new_dataset`.

    Attributes
    ----------
    group : zarr.Group
    block_rows, n_candidates : int
    n_draws : int
        Draws written so far.
    """

    group: zarr.Group
    block_rows: int
    n_candidates: int
    n_draws: int = 0

    def write_block(self, index: int, **arrays: Array | None) -> None:
        """Write one block of ``features``, ``counts``, ``log_base`` or ``candidate_label``.

        Parameters
        ----------
        index : int
            Block number.
        **arrays : array
            Rows of the block; counts are (rows,) or (S, rows).
        """
        start = index * self.block_rows
        rows = slice(start, min(start + self.block_rows, self.n_candidates))
        for name, values in arrays.items():
            if values is None:
                continue
            target: Any = self.group[name]
            target[(slice(None), rows) if values.ndim > 1 and name == "counts" else rows] = values
            if name == "counts":
                self.n_draws += whole_total(values)

    def write_sparse(self, counts: csc_array) -> None:
        """Write all counts, (S, p), as anndata encodes them."""
        group = self.group.create_group("counts")
        group.attrs.update(
            {"encoding-type": "csc_matrix", "encoding-version": "0.1.0",
             "shape": [int(size) for size in counts.shape]}
        )  # fmt: skip
        for name in ("data", "indices", "indptr"):
            values = getattr(counts, name)
            array: Any = new_array(
                group, name, values.shape, (name,), values.dtype, (min(len(values), _CHUNK),)
            )
            if len(values):
                array[...] = values
        self.n_draws += whole_total(counts.data)


@contextmanager
def new_dataset(
    path: str | os.PathLike[str],
    n_candidates: int,
    feature_names: Sequence[str] | int,
    *,
    dtype: Any = np.float32,
    count_dtype: Any = np.uint32,
    n_samples: int | None = None,
    sample_names: Sequence[str] | None = None,
    log_base: bool = False,
    labels: bool = False,
    sparse: bool = False,
    block_rows: int | None = None,
    overwrite: bool = False,
) -> Iterator[DatasetWriter]:
    """Create a data set that appears at ``path`` when the block ends without error.

    Parameters
    ----------
    path : path
    n_candidates : int
    feature_names : list of str, or their number L
    dtype, count_dtype : dtype
        Of features and counts.
    n_samples : int or None
        Number of samples S; None stores counts as one vector.
    sample_names : list of str or None
    log_base, labels : bool
        Whether these arrays are written too.
    sparse : bool
        Whether counts are written by `DatasetWriter.write_sparse`.
    block_rows : int or None
        Rows of a block; default `default_block_rows`.
    overwrite : bool

    Yields
    ------
    DatasetWriter

    Raises
    ------
    StoreError
        If the path exists already or cannot be written.
    """
    n_features = feature_names if isinstance(feature_names, int) else len(feature_names)
    sample_bytes = (n_samples or 1) * np.dtype(count_dtype).itemsize
    rows = block_rows or default_block_rows(n_features * np.dtype(dtype).itemsize, sample_bytes)
    with new_group(path, MARK, overwrite) as group:
        # Lost chunks of features read as NaN, which is seen, and never as zeros.
        new_array(
            group,
            "features",
            (n_candidates, n_features),
            ("candidate", "feature"),
            dtype,
            (min(rows, n_candidates), n_features),
            np.nan,
        )
        shape: tuple[int, ...] = (n_candidates,)
        dims: tuple[str, ...] = ("candidate",)
        chunks: tuple[int, ...] = (min(rows, n_candidates),)
        if log_base:
            new_array(group, "log_base", shape, dims, np.float64, chunks, np.nan)
        if labels:
            new_array(group, "candidate_label", shape, dims, str, chunks)
        if not isinstance(feature_names, int):
            put(group, "feature", ("feature",), [str(name) for name in feature_names])
        if sample_names is not None:
            put(group, "sample", ("sample",), [str(name) for name in sample_names])
        if n_samples is not None:
            shape, dims, chunks = (n_samples, *shape), ("sample", *dims), (n_samples, *chunks)
        if not sparse:
            new_array(group, "counts", shape, dims, count_dtype, chunks, 0)
        writer = DatasetWriter(group, rows, n_candidates)
        yield writer
        group.attrs.update({MARK: FORMAT, "n_draws": writer.n_draws, "block_rows": rows})


def write_dataset(
    path: str | os.PathLike[str],
    features: Any,
    counts: Any,
    *,
    log_base: Any = None,
    feature_names: Sequence[str] | None = None,
    candidate_labels: Sequence[str] | None = None,
    sample_names: Sequence[str] | None = None,
    block_rows: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write arrays as a data set.

    Parameters
    ----------
    path : path
    features : (p, L) array of float
    counts : (p,) or (S, p) array of int
    log_base : (p,) array, optional
    feature_names, candidate_labels, sample_names : list of str, optional
    block_rows : int, optional
    overwrite : bool
        Replace a Zarr group that is there already.

    Raises
    ------
    InputError
        If shapes, types or values do not fit; nothing is left at ``path``.
    StoreError
        If the path exists already or cannot be written.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "tiny.zarr")
    >>> write_dataset(path, np.eye(3, 2), np.array([5, 3, 1]), feature_names=["price", "size"])
    """
    source = ArrayDataset.of(features, counts, log_base, feature_names, block_rows)
    kind = source.counts.dtype
    several = source.counts.ndim == 2
    labels = None if candidate_labels is None else np.asarray(candidate_labels, dtype=object)
    wrong = [
        f"{what} {name!r} has a character that UTF-8 does not"
        for what, names in (("label", labels), ("sample", sample_names))
        for name in (() if names is None else names)
        if not is_text(name)
    ]
    if wrong:
        raise InputError(f"{wrong[0]} ({len(wrong)} in all); replace it")
    with new_dataset(
        path,
        source.n_candidates,
        source.feature_names,
        dtype=source.dtype,
        count_dtype=kind if kind.kind == "u" else np.uint64,
        n_samples=source.n_samples if several else None,
        sample_names=sample_names,
        log_base=log_base is not None,
        labels=labels is not None,
        block_rows=source.block_rows,
        overwrite=overwrite,
    ) as writer:
        for index in range(source.n_blocks):
            raw = source.read_block(index)
            if findings := inspect(raw):
                raise InputError(f"these arrays are not written:\n{findings}")
            rows = slice(raw.start, raw.start + len(raw.features))
            writer.write_block(
                index,
                features=raw.features,
                counts=raw.counts,
                log_base=raw.log_base,
                candidate_label=None if labels is None else labels[rows],
            )
