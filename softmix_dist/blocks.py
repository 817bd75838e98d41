"""Blocks of rows: as they are read, what is wrong with them, as the kernels see them.

A block is the unit of arithmetic: `block_rows` consecutive candidates. Its sums
do not depend on how blocks are grouped into tasks, which is why the result has
the same bits on any engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RawBlock:
    """Rows as they are stored.

    Attributes
    ----------
    start : int
        Row number of the first candidate in the data set.
    features : (rows, L) array of float
    counts : (rows,) or (S, rows) array
        Draws of each candidate, in every sample.
    log_base : (rows,) array of float or None
        Log of the base measure; -inf means not available.
    findings : Findings
        What reading itself found wrong; the arrays are then empty.
    """

    start: int
    features: Array
    counts: Array
    log_base: Array | None = None
    findings: Findings | None = None


@dataclass(frozen=True)
class Block:
    """Rows as the kernels see them.

    Attributes
    ----------
    features : (rows, L + 1) array of float32 or float64
        Homogeneous features (1, x): the first column makes every sum of weights
        a column of the same matrix product as the sums of features.
    draws : (rows,) array of float64
        Draws of each candidate, samples added up.
    log_base : (rows,) array of float64 or None
    multiplicity : (rows,) array of float64 or None
        Weight of each row in every sum; None means 1.
    observed : (m,) array of int or None
        Rows with draws, kept where they are fewer than a quarter: the sums over
        draws then visit only these.
    findings : Findings
    """

    features: Array
    draws: Array
    log_base: Array | None
    multiplicity: Array | None
    observed: Array | None
    findings: Findings


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one array: how often, and where first.

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
        return f"{self.array}: {self.problem} (first at {self.where}{times}); {self.remedy}"


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
    finite = np.isfinite(raw.features)
    if not finite.all():
        lost = bool(np.isnan(raw.features).all())
        remedy = (
            "the whole block reads as the fill value, so a chunk is missing: write it again"
            if lost
            else "impute the value or drop the candidate"
        )

        def column(row: int) -> str:
            place = int(np.argmin(finite[row]))
            return f", feature column {place}: {raw.features[row, place]}"

        missing = np.isnan(raw.features).any(axis=1)
        found += _rows("features", missing, raw.start, "NaN", remedy, column, lost)
        infinite = np.isinf(raw.features).any(axis=1)
        found += _rows("features", infinite, raw.start, "infinite value", remedy, column)
    counts = np.atleast_2d(raw.counts)
    found += _inspect_counts(counts, raw.start)
    if raw.log_base is not None:
        base = raw.log_base
        undefined = np.isnan(base) | (base == np.inf)
        found += _rows(
            "log_base",
            undefined,
            raw.start,
            "NaN or +inf",
            "use the logarithm of a positive number, or -inf for not available",
            lambda row: f": {base[row]}",
        )
        found += _rows(
            "log_base",
            (base == -np.inf) & (counts > 0).any(axis=0),
            raw.start,
            "-inf (not available) where draws were observed",
            "make the candidate available or remove its draws",
            lambda row: f": {counts[:, row].sum()} draws",
        )
    return Findings(tuple(found))


def _inspect_counts(counts: Array, start: int) -> list[Finding]:
    found: list[Finding] = []

    def value(row: int) -> str:
        column = counts[:, row]
        if counts.dtype.kind == "f":
            wrong = ~np.isfinite(column) | (column < 0) | (column != np.rint(column))
        else:
            wrong = column < 0
        sample = int(np.argmax(wrong))
        place = f", sample {sample}" if counts.shape[0] > 1 else ""
        return f"{place}: {column[sample]}"

    remedy = "counts are numbers of draws: 0, 1, 2, ..."
    if counts.dtype.kind == "f":
        finite = np.isfinite(counts)
        fractional = finite & (counts != np.rint(counts))
        found += _rows("counts", ~finite.all(axis=0), start, "NaN or infinite", remedy, value)
        found += _rows("counts", fractional.any(axis=0), start, "fractional value", remedy, value)
    if counts.dtype.kind != "u":
        found += _rows("counts", (counts < 0).any(axis=0), start, "negative value", remedy, value)
    return found
