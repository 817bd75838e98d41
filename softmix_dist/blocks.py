"""Blocks of rows: as they are read, what is wrong with them, as the kernels see them.

A block is the unit of arithmetic: `block_rows` consecutive candidates. Its sums
do not depend on how blocks are grouped into tasks, which is why the result has
the same bits on any engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softmix_dist.arrays import namespace, rows_at_once
from softmix_dist.errors import StoreError

Array = np.ndarray[Any, np.dtype[Any]]

# Rows of a piece of a block on a device are a multiple of this.
_PIECE = 4096

# Draws of one candidate, over all samples: from here on float64 does not hold them exactly.
_MOST_DRAWS = 2**53

_LOST = "the whole block reads as the fill value, so a chunk is missing: write it again"


@dataclass(frozen=True)
class RawBlock:
    """Rows as they are stored.

    Attributes
    ----------
    start : int
        Row number of the first candidate in the data set.
    features : (rows, L) array of float
    counts : (rows,) or (S, rows) array, or (S, rows) scipy.sparse.csc_array
        Draws of each candidate, in every sample.
    log_base : (rows,) array of float or None
        Log of the base measure; -inf means not available.
    findings : Findings
        What reading itself found wrong; the arrays are then empty.
    """

    start: int
    features: Array
    counts: Any
    log_base: Array | None = None
    findings: Findings | None = None


@dataclass(frozen=True)
class Block:
    """Rows as the kernels see them.

    Attributes
    ----------
    slices : tuple of (m, L + 1) arrays of float32 or float64
        Homogeneous features (1, x), in contiguous slices of rows that stay in cache. The
        first column makes every sum of weights a column of the same matrix product as the
        sums of features.
    draws : (rows,) array of float64
        Draws of each candidate, samples added up.
    log_base : (rows,) array of float64 or None
    multiplicity : (rows,) array of float64 or None
        Weight of each row in every sum; None means 1.
    observed : (m,) array of int or None
        Rows with draws, kept where they are fewer than a quarter: the sums over
        draws then visit only these.
    findings : Findings
    start : int
        Row number of the first candidate in the data set.
    """

    slices: tuple[Array, ...]
    draws: Array
    log_base: Array | None
    multiplicity: Array | None
    observed: Array | None
    findings: Findings
    start: int = 0

    @property
    def xp(self) -> Any:
        """Namespace of its arrays: NumPy, or that of the device where they are."""
        return namespace(self.draws)

    @property
    def rough_dtype(self) -> np.dtype[Any]:
        """Precision for what is only reported: single where the host stores no more."""
        single = self.xp is np and self.slices and self.slices[0].dtype.itemsize < 8
        return np.dtype(np.float32 if single else np.float64)

    def check(self) -> None:
        """Raise `StoreError` if values that were good at the survey no longer are."""
        if self.findings:
            raise StoreError(f"the data changed while they were being fitted:\n{self.findings}")

    def halves(self) -> tuple[Block, Block]:
        """First halves of all slices, and second halves, as blocks of their own."""
        return self._half(lambda n: slice(0, n // 2)), self._half(lambda n: slice(n // 2, n))

    def _half(self, part: Callable[[int], slice]) -> Block:
        slices = tuple(x[part(len(x))] for x in self.slices)
        rows = [np.arange(rows.start, rows.stop)[part(len(x))] for rows, x in self.parts()]
        places = np.concatenate([np.empty(0, int), *rows])

        def of(values: Array | None) -> Array | None:
            return None if values is None else values[places]

        draws = self.draws[places]
        return replace(
            self,
            slices=slices,
            draws=draws,
            log_base=of(self.log_base),
            multiplicity=of(self.multiplicity),
            observed=None if self.observed is None else np.flatnonzero(draws),
        )

    def parts(self) -> Iterator[tuple[slice, Array]]:
        """Yield the slices with the rows that they hold."""
        start = 0
        for x in self.slices:
            yield slice(start, start + len(x)), x
            start += len(x)

    def pieces(self, columns: int, dtype: Any = None) -> Iterator[tuple[slice, Array]]:
        """Yield what `parts` does, in a precision; on a device in pieces.

        Parameters
        ----------
        columns : int
            Numbers a row that buffers of the caller need on a device. The rows of a piece are
            then a multiple of 4096, but for the last ones.
        dtype : dtype, optional
            Default: as stored. Otherwise a piece is only good until the next one, which is
            put in the same place: fresh memory costs more than most of the arithmetic
            (measured: 2 us a page, so that slices of 1 MB took three times as long).

        Yields
        ------
        slice, (rows, L + 1) array
        """
        wide: Array | None = None
        for part, x in self.parts():
            if self.xp is np:
                if dtype is not None and x.dtype != dtype:
                    if wide is None or len(wide) < len(x):
                        wide = np.empty_like(x, dtype)
                    wide[: len(x)] = x
                    x = wide[: len(x)]
                yield part, x
                continue
            step = rows_at_once(self.xp, columns, 0, _PIECE) // _PIECE * _PIECE
            for first in range(0, len(x), step):
                piece = x[first : first + step]
                rows = slice(part.start + first, part.start + first + len(piece))
                yield rows, piece if dtype is None else piece.astype(dtype, copy=False)


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one array: how often, and where first ("" for all of it).

    ``lost`` says that the store is to blame, not the values.
    """

    array: str
    problem: str
    remedy: str
    count: int
    first: int
    where: str
    lost: bool = False

    def __str__(self) -> str:
        times = f", {self.count} in all" if self.count > 1 else ""
        place = f" (first at {self.where}{times})" if self.where else ""
        return f"{self.array}: {self.problem}{place}; {self.remedy}"


@dataclass(frozen=True)
class Findings:
    """Problems found, one entry a kind; additive over blocks."""

    items: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.items)

    @property
    def lost(self) -> bool:
        """Whether something could not be read."""
        return any(item.lost for item in self.items)

    def __add__(self, other: Findings) -> Findings:
        merged = {(item.array, item.problem): item for item in self.items}
        for item in other.items:
            key = item.array, item.problem
            if key in merged:
                first = min(merged[key], item, key=lambda finding: finding.first)
                merged[key] = replace(first, count=merged[key].count + item.count)
            else:
                merged[key] = item
        return Findings(tuple(merged.values()))

    def __str__(self) -> str:
        return "\n".join(f"- {item}" for item in self.items)


def _rows(
    array: str,
    bad: Any,
    start: int,
    problem: str,
    remedy: str,
    value: Callable[[int], str],
    lost: bool = False,
) -> Iterable[Finding]:
    """Yield a finding for the rows where ``bad`` holds, if there are any."""
    rows = np.flatnonzero(bad)
    if rows.size:
        row = int(rows[0])
        where = f"candidate {start + row}{value(row)}"
        yield Finding(array, problem, remedy, int(rows.size), start + row, where, lost)


def inspect(raw: RawBlock) -> Findings:
    """Check the values of one block.

    Parameters
    ----------
    raw : RawBlock

    Returns
    -------
    Findings
        One entry for each kind of problem, with the number of candidates that
        have it and the first of them.
    """
    if raw.findings:
        return raw.findings
    found: list[Finding] = []
    if not np.isfinite(raw.features).all():
        lost = bool(np.isnan(raw.features).all())
        remedy = _LOST if lost else "impute the value or drop the candidate"
        for problem, test in (("NaN", np.isnan), ("infinite value", np.isinf)):
            wrong = test(raw.features)

            def column(row: int, wrong: Array = wrong) -> str:
                place = int(np.argmax(wrong[row]))
                return f", feature column {place}: {raw.features[row, place]}"

            bad = wrong.any(axis=1)
            found += _rows("features", bad, raw.start, problem, remedy, column, lost)
    found += _inspect_counts(raw.counts, raw.start)
    if raw.log_base is not None:
        base = raw.log_base
        undefined = np.isnan(base) | (base == np.inf)
        lost = bool(np.isnan(base).all())
        remedy = "use the logarithm of a positive number, or -inf for not available"
        found += _rows(
            "log_base",
            undefined,
            raw.start,
            "NaN or +inf",
            _LOST if lost else remedy,
            lambda row: f": {base[row]}",
            lost,
        )
        found += _rows(
            "log_base",
            (base == -np.inf) & (candidate_totals(raw.counts) > 0),
            raw.start,
            "-inf (not available) where draws were observed",
            "make the candidate available or remove its draws",
            lambda row: f": {candidate_totals(raw.counts)[row]:.0f} draws",
        )
    return Findings(tuple(found))


def candidate_totals(counts: Any) -> Array:
    """Draws of each candidate over all samples, (rows,) float64; exact up to 2^53."""
    if counts.ndim == 1:
        return np.asarray(counts, dtype=np.float64)
    kind = np.float64 if counts.dtype.kind == "f" else np.uint64
    return np.asarray(counts.sum(axis=0, dtype=kind), dtype=np.float64)


def whole_total(draws: Any) -> int:
    """Sum of whole numbers below 2^64 each, exact however large it is."""
    rounded = float(draws.sum(dtype=np.float64))
    if rounded < _MOST_DRAWS:
        return int(rounded)
    whole = draws.astype(np.uint64)
    # In halves, for a sum of 64 bits would wrap.
    return (int((whole // 2**32).sum()) << 32) + int((whole % 2**32).sum())


def _inspect_counts(counts: Any, start: int) -> list[Finding]:
    # Dense or sparse, each stored value with its sample and its row.
    if hasattr(counts, "indptr"):
        values, samples = counts.data, counts.indices
        rows = np.repeat(np.arange(counts.shape[1]), np.diff(counts.indptr))
    else:
        table = np.atleast_2d(counts)
        values = table.ravel()
        samples, rows = None, None
    problems: list[tuple[str, Array]] = []
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        problems.append(("NaN or infinite", ~finite))
        problems.append(("fractional value", finite & (values != np.rint(values))))
    if values.dtype.kind != "u":
        problems.append(("negative value", values < 0))
    found: list[Finding] = []
    for problem, wrong in problems:
        at = np.flatnonzero(wrong)
        if not at.size:
            continue
        if rows is None or samples is None:
            sample_at, row_at = np.divmod(at, table.shape[1])
        else:
            sample_at, row_at = samples[at], rows[at]
        first = int(np.argmin(row_at))
        row = start + int(row_at[first])
        where = f"candidate {row}"
        if counts.ndim == 2:
            where += f", sample {sample_at[first]}"
        where += f": {values[at[first]]}"
        remedy = "counts are numbers of draws: 0, 1, 2, ..."
        found.append(Finding("counts", problem, remedy, len(np.unique(row_at)), row, where))
    n_samples = counts.shape[0] if counts.ndim == 2 else 1
    if float(values.max(initial=0)) * n_samples >= _MOST_DRAWS:
        wide = counts.astype(np.float64)
        totals = wide.sum(axis=0) if counts.ndim == 2 else wide
        found += _rows(
            "counts",
            np.isfinite(totals) & (totals >= _MOST_DRAWS),
            start,
            "2^53 draws or more of one candidate",
            "divide all counts by the same number",
            lambda row: f": {totals[row]:.6g} draws",
        )
    return found
