"""Columns of a table as features: numbers as they are, categories as columns of 0 and 1.

One level of each categorical column has no column of its own: the base, against which the
coefficients of the others are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softmix_dist.blocks import Array
from softmix_dist.data.tables import PieceReader
from softmix_dist.errors import InputError

# Levels of a categorical column, at most: more of them are ids, not categories.
_MOST_LEVELS = 1000
_EXAMPLES = 3
_NUMBERS = pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal
_TEXTS = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view


Levels = dict[str, Counter[str]]


@dataclass(frozen=True)
class Column:
    """How one column becomes features.

    Attributes
    ----------
    name : str
    levels : tuple of str or None
        Of a categorical column, without its base; None for numbers.
    base : str or None
    """

    name: str
    levels: tuple[str, ...] | None = None
    base: str | None = None

    @property
    def features(self) -> list[str]:
        """Names of its features."""
        return [self.name] if self.levels is None else [f"{self.name}={v}" for v in self.levels]

    def plain(self) -> dict[str, Any]:
        """Return what is kept with the data set."""
        if self.levels is None:
            return {"name": self.name, "kind": "numeric"}
        return {
            "name": self.name, "kind": "categorical", "base": self.base,
            "levels": list(self.levels),
        }  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """What the rows of a feature table are; adding is joining.

    Attributes
    ----------
    ids : pyarrow.Array
    unusable : (rows,) array of bool
        Rows that lack a value.
    lacking : dict
        Columns in which values are missing: how many, and ids of the first ones.
    levels : dict
        Of each categorical column, its levels and how many usable rows have each.
    """

    ids: pa.Array
    unusable: Array
    lacking: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    levels: Levels = field(default_factory=dict)

    def __add__(self, other: Candidates) -> Candidates:
        lacking = dict(self.lacking)
        for name, (number, first) in other.lacking.items():
            before, examples = lacking.get(name, (0, []))
            lacking[name] = before + number, (examples + first)[:_EXAMPLES]
        return Candidates(
            pa.concat_arrays([self.ids, other.ids]),
            np.concatenate([self.unusable, other.unusable]),
            lacking,
            join_levels(self.levels, other.levels),
        )


def is_category(kind: pa.DataType) -> bool:
    """Whether columns of a type are categorical."""
    return any(test(kind) for test in _TEXTS)


def check_types(
    schema: pa.Schema, columns: Sequence[str], categorical: Sequence[str], declared: Container[str]
) -> None:
    """Raise `InputError` where columns are neither numbers nor categories.

    Parameters
    ----------
    schema : pyarrow.Schema
    columns, categorical : sequence of str
    declared : container of str
        Columns that the table itself says are categories: of whatever type.
    """
    problems = []
    for name in columns:
        if name in declared:
            continue
        kind = schema.field(name).type
        number = any(test(kind) for test in _NUMBERS)
        # A column without any value has no type; that it lacks them is told later.
        if not (number or pa.types.is_null(kind) or pa.types.is_boolean(kind) or is_category(kind)):
            problems.append(
                f"column {name!r} has type {kind}; give a number, or leave it out (columns)"
            )
        if name in categorical and pa.types.is_floating(kind):
            problems.append(f"column {name!r} has fractions, which are no categories")
    if problems:
        raise InputError("features: columns that are neither numbers nor categories:\n- "
                         + "\n- ".join(problems))  # fmt: skip


def count_levels(rows: pa.Table, categorical: Sequence[str]) -> Levels:
    """Count the levels of categorical columns."""
    found = {}
    for name in categorical:
        told = _texts(rows[name]).value_counts().to_pylist()
        found[name] = Counter({v["values"]: v["counts"] for v in told if v["values"] is not None})
    return found


def join_levels(first: Levels, other: Levels) -> Levels:
    """Join what was counted in two parts of a table.

    Raises
    ------
    InputError
        If a column has more levels than categories have.
    """
    found = {}
    for name in dict.fromkeys([*first, *other]):
        found[name] = first.get(name, Counter()) + other.get(name, Counter())
        if len(found[name]) > _MOST_LEVELS:
            raise InputError(
                f"features: column {name!r} has more than {_MOST_LEVELS} levels, as ids have; "
                "leave it out (columns)"
            )
    return found


def _texts(values: pa.ChunkedArray) -> pa.Array:
    """Return levels as they are named, where they are counted and where they are encoded."""
    return _plain(values).cast(pa.string())


def look(
    reader: PieceReader, id_column: str, columns: Sequence[str], categorical: Sequence[str]
) -> Candidates:
    """Look through one piece of a feature table.

    Parameters
    ----------
    reader : PieceReader
    id_column : str
    columns : sequence of str
        That become features.
    categorical : sequence of str
        Those of them that are categories.

    Returns
    -------
    Candidates
    """
    ids, unusable = [], []
    found = Candidates(pa.array([], pa.null()), np.zeros(0, bool))
    lacking, levels = found.lacking, found.levels
    for rows in reader.batches([id_column, *columns]):
        own = _plain(rows[id_column])
        bad = np.zeros(len(own), bool)
        for name in columns:
            values = _plain(rows[name])
            there = _usable(values, name in categorical)
            bad |= ~there
            if not there.all():
                number, first = lacking.get(name, (0, []))
                which = np.flatnonzero(~there)
                first = first + [str(own[int(i)]) for i in which[:_EXAMPLES]]
                lacking[name] = number + len(which), first[:_EXAMPLES]
        # A level that only such rows have would be a column of zeros, or a base of nobody.
        levels = join_levels(levels, count_levels(rows.filter(pa.array(~bad)), categorical))
        ids.append(own)
        unusable.append(bad)
    kind = ids[0].type if ids else reader.table.schema.field(id_column).type
    return Candidates(
        pa.concat_arrays(ids) if ids else pa.array([], kind),
        np.concatenate(unusable) if unusable else np.zeros(0, bool),
        lacking,
        levels,
    )


def _plain(values: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)


def _usable(values: pa.Array, category: bool) -> Array:
    """Whether each value is there, and is a finite number where it is one, (rows,)."""
    there = np.asarray(values.is_valid())
    if not category and pa.types.is_floating(values.type):
        there = there & np.isfinite(np.asarray(values.fill_null(np.nan).cast(pa.float64())))
    return there


def columns_of(
    columns: Sequence[str], levels: Mapping[str, Iterable[str]], bases: Mapping[str, str]
) -> list[Column]:
    """Say how each column becomes features.

    Parameters
    ----------
    columns : sequence of str
    levels : mapping of str to iterable of str
        Levels of the categorical ones.
    bases : mapping of str to str
        Their bases, where that is not the first level in order.

    Raises
    ------
    InputError
        If a base is no level, or a column has but one.
    """
    found, problems = [], []
    for name in bases:
        if name not in levels:
            problems.append(f"base of {name!r}: not a categorical column")
    for name in columns:
        if name not in levels:
            found.append(Column(name))
            continue
        own = sorted(levels[name])
        base = bases.get(name, own[0] if own else "")
        if base not in own:
            problems.append(f"base of {name!r}: no level {base!r}; there are {_some(own)}")
        if len(own) < 2:
            problems.append(f"column {name!r} has one level alone, {own}; leave it out (columns)")
        found.append(Column(name, tuple(level for level in own if level != base), base))
    if problems:
        raise InputError("features: categories that cannot be used:\n- " + "\n- ".join(problems))
    return found


def columns_like(kept: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of a data set, from what was kept with it."""
    return [
        Column(column["name"], tuple(column["levels"]), column["base"])
        if column["kind"] == "categorical"
        else Column(column["name"])
        for column in kept
    ]


def check_levels(columns: Sequence[Column], found: Candidates) -> None:
    """Raise `InputError` where categories have levels that a mapping does not know."""
    problems = []
    for column in columns:
        if column.levels is None:
            continue
        known = {*column.levels, column.base}
        strange = sorted(set(found.levels.get(column.name, {})) - known)
        if strange:
            rows = sum(found.levels[column.name][level] for level in strange)
            problems.append(
                f"column {column.name!r}: {rows:,} rows have levels that are not known, "
                f"{_some(strange)}; there are {_some(sorted(map(str, known)))}"
            )
    if problems:
        raise InputError("features: categories that were not seen before:\n- "
                         + "\n- ".join(problems))  # fmt: skip


def _some(values: Sequence[str]) -> str:
    told = ", ".join(map(repr, values[:10]))
    return f"{told} and {len(values) - 10} more" if len(values) > 10 else told


def encode(rows: pa.Table, columns: Sequence[Column], dtype: Any) -> Array:
    """Features of some rows, (rows, L).

    Raises
    ------
    InputError
        If a value is too large for ``dtype``, or a category has another level than its column.
    """
    found = np.empty((len(rows), sum(len(column.features) for column in columns)), dtype)
    place = 0
    for column in columns:
        values = _plain(rows[column.name])
        if column.levels is None:
            with np.errstate(over="ignore"):
                # Whole numbers above 2**53 are rounded, as they would be in any dtype here.
                found[:, place] = np.asarray(values.cast(pa.float64(), safe=False))
            if not np.isfinite(found[:, place][_usable(values, False)]).all():
                raise InputError(
                    f"features: column {column.name!r} has values that {np.dtype(dtype)} cannot "
                    "hold; scale them, or take a wider dtype"
                )
        else:
            known = pa.array([*column.levels, column.base], pa.string())
            level = pc.index_in(_texts(rows[column.name]), value_set=known)
            if level.null_count:
                raise InputError(
                    f"features: column {column.name!r} changed while it was read: "
                    f"{level.null_count:,} rows have levels that were not there"
                )
            level = np.asarray(level)
            for i in range(len(column.levels)):
                found[:, place + i] = level == i
        place += len(column.features)
    return found
