"""Candidates and their features, from a table or a matrix: which rows are taken, and as what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softmix_dist.blocks import Array
from softmix_dist.data.blockwise import default_names
from softmix_dist.data.encoding import (
    Candidates,
    Column,
    Levels,
    check_levels,
    check_types,
    columns_of,
    count_levels,
    encode,
    is_category,
    join_levels,
    look,
)
from softmix_dist.data.matrices import Matrix
from softmix_dist.data.tables import Table
from softmix_dist.errors import InputError

# Ids that are named in a message, at most.
EXAMPLES = 5


class FeatureSource(Protocol):
    """Features of the candidates, in order.

    Attributes
    ----------
    ids : pyarrow.Array
        Of all rows.
    kept : (rows,) array of bool
        Rows that are candidates.
    columns : list of Column
    names : list of str
        Of the features.
    n_duplicates, n_lacking : int
        Rows that are not kept.
    """

    ids: pa.Array
    kept: Array
    columns: list[Column]
    names: list[str]
    n_duplicates: int
    n_lacking: int

    def parts(self, dtype: Any) -> Iterator[Array]:
        """Yield the features of the candidates, in order, in parts of any size."""
        ...


class FromMatrix:
    """Features from a matrix: every row is a candidate, unless a policy drops it.

    Parameters
    ----------
    matrix : Matrix
    policies : mapping of str to str
        As for `look_through`.

    Raises
    ------
    InputError
        If values are not finite, or ids come twice, and no policy drops them.
    """

    def __init__(self, matrix: Matrix, policies: Mapping[str, str]):
        self.matrix = matrix
        rows, width = matrix.shape
        self.ids = pa.array(np.arange(rows) if matrix.ids is None else matrix.ids)
        self.names = matrix.names or default_names(width)
        self.columns = [Column(name) for name in self.names]
        lacking = np.zeros(rows, bool)
        number, examples = 0, list[str]()
        for first, part in matrix.parts():
            bad = ~np.isfinite(part)
            lacking[first : first + len(part)] = bad.any(axis=1)
            number += int(bad.sum())
            for i, j in np.argwhere(bad)[: EXAMPLES - len(examples)]:
                examples.append(f"row {first + i}, {self.names[j]!r}")
        if number and policies["missing"] == "error":
            raise InputError(
                f"features: {number:,} values are not finite, the first in {'; '.join(examples)}; "
                "impute them, or drop the candidates (missing='drop')"
            )
        repeated = _repeated(self.ids, ~lacking, policies["duplicates"])
        self.kept = ~(lacking | repeated)
        if not self.kept.any():
            raise InputError("features: no row is left; every one lacks a value")
        self.n_duplicates = int(repeated.sum())
        self.n_lacking = int(lacking.sum())

    def parts(self, dtype: Any) -> Iterator[Array]:
        """Yield the features of the candidates, in order, in parts of any size."""
        for first, part in self.matrix.parts():
            rows = first + np.flatnonzero(self.kept[first : first + len(part)])
            with np.errstate(over="ignore"):
                values = part[rows - first].astype(dtype)
            bad = ~np.isfinite(values)
            if bad.any():
                i, j = np.argwhere(bad)[0]
                raise InputError(
                    f"features: values that {np.dtype(dtype)} cannot hold, the first in row "
                    f"{rows[i]}, {self.names[j]!r}; scale them, or take a wider dtype"
                )
            yield values


class FromTable:
    """Features from a table; made by `look_through`."""

    def __init__(self, table: Table, found: Candidates, repeated: Array, columns: list[Column]):
        self.table, self.ids, self.columns = table, found.ids, columns
        self.kept = ~(found.unusable | repeated)
        self.names = [name for column in columns for name in column.features]
        self.n_duplicates = int(repeated.sum())
        self.n_lacking = int(found.unusable.sum())

    def parts(self, dtype: Any) -> Iterator[Array]:
        """Yield the features of the candidates, in order, in parts of any size."""
        names = [column.name for column in self.columns]
        for rows in _kept_rows(self.table, names, self.kept):
            yield encode(rows, self.columns, dtype)


def _kept_rows(table: Table, columns: Sequence[str], kept: Array) -> Iterator[pa.Table]:
    first = 0
    for index in range(table.n_blocks):
        for rows in table.read_block(index).batches(columns):
            own = kept[first : first + len(rows)]
            first += len(rows)
            yield rows.filter(pa.array(own))


def _levels(table: Table, categories: Sequence[str], kept: Array) -> Levels:
    """Levels of the rows that are kept, by another reading."""
    found: Levels = {}
    for rows in _kept_rows(table, categories, kept):
        found = join_levels(found, count_levels(rows, categories))
    return found


def look_through(
    table: Table,
    id: str,
    columns: Sequence[str] | None,
    categorical: Sequence[str],
    bases: Mapping[str, str],
    policies: Mapping[str, str],
    like: Sequence[Column] | None,
    reduce: Callable[[Table, Any], Candidates],
) -> FromTable:
    """Look through a feature table once: its ids, what is missing, its categories.

    Parameters
    ----------
    table : Table
    id : str
        Column of ids.
    columns : sequence of str or None
        That become features; None for all but the id.
    categorical : sequence of str
    bases : mapping of str to str
    policies : mapping of str to str
        "error" or "drop", for ``duplicates`` and for ``missing``.
    like : sequence of Column or None
        How the columns of another data set became features, instead of these choices.
    reduce : callable
        Sums a function over the pieces of the table.

    Raises
    ------
    InputError
        If columns, ids or values are not as they should be; with numbers and examples.
    """
    if like is not None:
        columns = [column.name for column in like]
        categorical = [column.name for column in like if column.levels is not None]
    table.check_columns(id, *(columns or ()), *categorical)
    if columns is not None and (id in columns or len({*columns}) < len(columns)):
        raise InputError(
            f"columns: expected features, each once and without the id {id!r}, found "
            f"{', '.join(map(repr, columns))}"
        )
    if columns is None:
        columns = [name for name in table.schema.names if name != id]
    if not columns:
        raise InputError("features: no column beside the id; give at least one")
    if others := [name for name in categorical if name not in columns]:
        raise InputError(f"categorical: not among the features: {', '.join(map(repr, others))}")
    table = table.using([id, *columns], text=[id, *categorical])
    check_types(table.schema, columns, categorical, table.declared)
    texts = [name for name in columns if is_category(table.schema.field(name).type)]
    categories = [name for name in columns if name in {*categorical, *table.declared, *texts}]
    if like is not None:
        categories = list(categorical)
        if strange := [name for name in texts if name not in categorical]:
            raise InputError(
                f"features: text in {', '.join(map(repr, strange))}, which were numbers in the "
                "data set that these should be like; convert them"
            )
    task = partial(look, id_column=id, columns=columns, categorical=categories)
    found = reduce(table, task)
    if not len(found.ids):
        raise InputError(f"{table.name}: no rows")
    if found.ids.null_count:
        raise InputError(f"features: {found.ids.null_count} rows have no id in column {id!r}")
    if found.lacking and policies["missing"] == "error":
        raise InputError(_lacking(found))
    repeated = _repeated(found.ids, ~found.unusable, policies["duplicates"])
    if (found.unusable | repeated).all():
        raise InputError("features: no row is left; every one lacks a value")
    if repeated.any() and categories:
        found = replace(found, levels=_levels(table, categories, ~(found.unusable | repeated)))
    if like is None:
        like = columns_of(columns, found.levels, bases)
    check_levels(like, found)
    return FromTable(table, found, repeated, list(like))


def _lacking(found: Candidates) -> str:
    told = "\n- ".join(
        f"column {name!r}: {number:,} rows, the first have ids {', '.join(examples)}"
        for name, (number, examples) in found.lacking.items()
    )
    return (
        f"features lack values:\n- {told}\nimpute them, leave the column out (columns), or drop "
        "the candidates (missing='drop')"
    )


def _repeated(ids: pa.Array, usable: Array, policy: str) -> Array:
    """Rows whose id came before in a usable row, (rows,); refused, unless the policy drops them."""
    unique = pc.unique(ids)
    if len(unique) == len(ids):
        return np.zeros(len(ids), bool)
    number = np.asarray(pc.index_in(ids, value_set=unique))
    if policy == "error":
        repeated = _later(number)
        examples = pc.unique(ids.filter(pa.array(repeated)))[:EXAMPLES].to_pylist()
        raise InputError(
            f"features: {int(repeated.sum()):,} rows have an id that came before "
            f"({', '.join(map(str, examples))}, ...); give each candidate one row, or keep the "
            "first (duplicates='drop')"
        )
    repeated = np.zeros(len(ids), bool)
    repeated[usable] = _later(number[usable])
    return repeated


def _later(number: Array) -> Array:
    """Whether a number came before, for each."""
    later = np.ones(len(number), bool)
    later[np.unique(number, return_index=True)[1]] = False
    return later
