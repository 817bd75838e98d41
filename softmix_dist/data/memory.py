"""Data sets of arrays in memory, and what is wrong with arrays as data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softmix_dist.blocks import Array, RawBlock
from softmix_dist.data.blockwise import Blockwise, default_block_rows, default_names
from softmix_dist.errors import InputError


@dataclass(frozen=True)
class ArrayDataset(Blockwise):
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
        problems += _misshapen(features, counts, log_base, given)
        width = features.shape[1] if features.ndim == 2 else 0
        names = default_names(width)
        if feature_names is not None:
            names = [str(name) for name in feature_names]
        problems += [
            f"feature names: {name!r} has a character that UTF-8 does not; replace it"
            for name in names
            if not is_text(name)
        ]
        if features.ndim == 2 and len(names) != width:
            problems.append(f"feature names: expected {width}, found {len(names)}")
        if problems:
            raise InputError("these arrays cannot be fitted:\n- " + "\n- ".join(problems))
        dtype = features.dtype.newbyteorder("=") if features.dtype.kind == "f" else np.dtype(float)
        n_samples = 1 if counts.ndim == 1 else counts.shape[0]
        rows = default_block_rows(width * dtype.itemsize, n_samples * counts.dtype.itemsize)
        return cls(
            features,
            counts,
            log_base,
            names,
            features.shape[0],
            width,
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
        return self._row_numbers(rows)


def _misshapen(features: Any, counts: Any, log_base: Any, given: Any) -> list[str]:
    """Say which arrays are of other types or shapes than those of a data set.

    ``given`` is what the features were made of.
    """
    problems = []
    if features.ndim != 2 or 0 in features.shape:
        problems.append(f"features: expected shape (p, L), found {features.shape}")
    if features.dtype.kind not in "fiub":
        problems.append(f"features: expected numbers, found {_not_numbers(given, features)}")
    if counts.dtype.kind not in "fiub":
        problems.append(f"counts: expected numbers, found dtype {counts.dtype}")
    size = features.shape[0] if features.ndim else 0
    if counts.ndim not in (1, 2) or counts.shape[-1] != size:
        problems.append(f"counts: expected shape ({size},) or (S, {size}), found {counts.shape}")
    if log_base is not None and log_base.dtype.kind not in "fi":
        problems.append(f"log_base: expected numbers, found dtype {log_base.dtype}")
    if log_base is not None and log_base.shape != (size,):
        problems.append(f"log_base: expected shape ({size},), found {log_base.shape}")
    return problems


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
    if wanted is None or there is None or not hasattr(features, "columns"):
        return None
    differ = differing(wanted, there)
    if not differ.size:
        return None
    first = ""
    if len(there) == len(wanted):
        i = int(differ[0])
        first = f" ({len(differ):,} differ, the first is {there[i]} and not {wanted[i]})"
    return (
        f"{name}: its labels are not those of the features in their order{first}; reindex it by "
        "them, with fill_value=0 for counts, or pass its values alone, .to_numpy()"
    )


def differing(labels: Any, others: Any) -> Array:
    """Places where two pandas indexes differ; types of text may."""
    if labels.equals(others):
        return np.empty(0, int)
    if len(labels) != len(others):
        return np.arange(max(len(labels), len(others)))
    return np.flatnonzero(np.asarray(labels != others))


def _labels(values: Any, *names: str) -> Any:
    """Labels of a pandas object; lists have a method of that name, Dask would compute them."""
    found = next((getattr(values, name) for name in names if hasattr(values, name)), None)
    return found if hasattr(found, "equals") and not hasattr(found, "compute") else None


def _compute(values: Any) -> Array:
    # Inside a task of a cluster a nested computation must not wait for the cluster.
    if hasattr(values, "compute"):
        values = values.compute(scheduler="synchronous")
    return np.asarray(values)


def is_text(name: Any) -> bool:
    """Whether a name can be stored: half of a surrogate pair cannot."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True
