"""Features, and the draws that were matched to them, put together as a data set."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csc_array

from softmix_dist.blocks import Array
from softmix_dist.data.candidates import FeatureSource
from softmix_dist.data.counting import Matched
from softmix_dist.data.writer import DatasetWriter, new_dataset

# Counts of several samples are stored whole where a fifth of them is not zero, or they are small.
_DENSE, _SMALL = 0.2, 1 << 20


@dataclass(frozen=True)
class IngestReport:
    """What was read, matched and written.

    Attributes
    ----------
    n_candidates, n_features, n_samples, n_draws : int
        Of the data set.
    n_rows : int
        Rows of events or counts that were read.
    n_unseen : int
        Candidates without draws; they are kept.
    n_unknown_ids, n_unknown_draws : int
        Ids among the events without features, and their draws, which were dropped.
    unknown : list of str
        The most frequent of them.
    n_duplicates, n_lacking : int
        Rows of the feature table that were dropped: ids seen before, and values missing.
    columns : list of dict
        How each column became features.
    seconds : float
    """

    n_candidates: int
    n_features: int
    n_samples: int
    n_draws: int
    n_rows: int
    n_unseen: int
    n_unknown_ids: int
    n_unknown_draws: int
    unknown: list[str]
    n_duplicates: int
    n_lacking: int
    columns: list[dict[str, Any]]
    seconds: float

    def __str__(self) -> str:
        read = f"from {self.n_rows:,} rows, in {self.seconds:.1f} s"
        lines = [
            f"{self.n_candidates:,} candidates with {self.n_features} features",
            f"{self.n_unseen:,} of them without draws, which are kept",
            f"{self.n_draws:,} draws in {self.n_samples:,} samples, {read}",
        ]
        if self.n_unknown_ids:
            lines.append(
                f"dropped: {self.n_unknown_draws:,} draws of {self.n_unknown_ids:,} ids without "
                f"features, such as {', '.join(self.unknown)}"
            )
        if self.n_duplicates:
            lines.append(f"dropped: {self.n_duplicates:,} rows of features whose id came before")
        if self.n_lacking:
            lines.append(f"dropped: {self.n_lacking:,} rows of features that lack a value")
        for column in self.columns:
            if column["kind"] == "categorical":
                lines.append(
                    f"{column['name']}: {column['base']!r} is the base, columns of 0 and 1 for "
                    f"{len(column['levels'])} others"
                )
        return "\n".join(lines)

    # Python's own would be a wall of numbers in a session without HTML.
    __repr__ = __str__


def assemble(
    path: str | os.PathLike[str], source: FeatureSource, matched: Matched, n_rows: int,
    several: bool, dtype: Any, block_rows: int | None, overwrite: bool, began: float,
) -> IngestReport:  # fmt: skip
    """Write features, and the draws that were matched to them, as a data set.

    Parameters
    ----------
    path : path
        Where it appears when it is complete; or a URL.
    source : FeatureSource
    matched : Matched
    n_rows : int
        Of events or counts, for the report.
    several : bool
        Whether counts are stored by sample, (S, p).
    dtype : dtype
        Of the stored features.
    block_rows : int or None
    overwrite : bool
    began : float
        When the work began, by `time.perf_counter`.

    Returns
    -------
    IngestReport

    Raises
    ------
    StoreError
        If the path exists already or cannot be written.
    """
    n_candidates, n_samples = int(source.kept.sum()), len(matched.sample_names)
    most = int(matched.number.max(initial=0))
    kind = np.uint32 if most < 2**32 else np.uint64
    size = n_candidates * n_samples
    sparse = several and size > _SMALL and len(matched.number) < _DENSE * size
    with new_dataset(
        path, n_candidates, source.names, dtype=dtype, count_dtype=kind,
        n_samples=n_samples if several else None,
        sample_names=matched.sample_names if several else None,
        labels=True, sparse=sparse, block_rows=block_rows, overwrite=overwrite,
    ) as writer:  # fmt: skip
        _write_features(writer, source, dtype)
        samples = (
            np.zeros(len(matched.rows), np.int64) if matched.samples is None else matched.samples
        )
        table = csc_array(
            (matched.number.astype(kind), (samples, matched.rows)), shape=(n_samples, n_candidates)
        )
        if sparse:
            writer.write_sparse(table)
        else:
            _write_counts(writer, table, several)
        n_unseen = n_candidates - int(np.count_nonzero(np.diff(table.indptr)))
        report = IngestReport(
            n_candidates, len(source.names), n_samples, writer.n_draws, n_rows, n_unseen,
            matched.n_unknown_ids, matched.n_unknown_draws, matched.unknown, source.n_duplicates,
            source.n_lacking, [column.plain() for column in source.columns],
            time.perf_counter() - began,
        )  # fmt: skip
        writer.group.attrs["softmix_columns"] = report.columns
    return report


def _write_features(writer: DatasetWriter, source: FeatureSource, dtype: Any) -> None:
    labels = source.ids.filter(pa.array(source.kept)).cast(pa.string())
    waiting: list[Array] = []
    index = n_waiting = 0
    for part in source.parts(dtype):
        waiting.append(part)
        n_waiting += len(part)
        while n_waiting >= writer.block_rows:
            whole = np.concatenate(waiting)
            _write_rows(writer, index, whole[: writer.block_rows], labels)
            waiting, index = [whole[writer.block_rows :]], index + 1
            n_waiting -= writer.block_rows
    if n_waiting:
        _write_rows(writer, index, np.concatenate(waiting), labels)


def _write_rows(writer: DatasetWriter, index: int, features: Array, labels: pa.Array) -> None:
    own = labels.slice(index * writer.block_rows, len(features)).to_pylist()
    writer.write_block(index, features=features, candidate_label=np.array(own, dtype=object))


def _write_counts(writer: DatasetWriter, table: csc_array, several: bool) -> None:
    for index, first in enumerate(range(0, writer.n_candidates, writer.block_rows)):
        block = table[:, first : first + writer.block_rows].toarray()
        writer.write_block(index, counts=block if several else block[0])
