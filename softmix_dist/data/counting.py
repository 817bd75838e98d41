"""Events counted: how often each id was drawn, in each sample; additive over pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array

from softmix_dist.blocks import MOST_DRAWS, Array, whole_total
from softmix_dist.data.tables import PieceReader
from softmix_dist.errors import InputError

_ID, _SAMPLE, _NUMBER = "id", "sample", "number"
# Of all draws together: sums of 64 bits would wrap.
_MOST = 2**63


@dataclass(frozen=True)
class Counted:
    """Draws of each id, in each sample; adding is adding them up.

    Attributes
    ----------
    table : pyarrow.Table
        Columns ``id``, ``number`` (uint64) and, where there are samples, ``sample``.
    n_rows : int
        Of the table of events.
    """

    table: pa.Table
    n_rows: int

    def __add__(self, other: Counted) -> Counted:
        joined = pa.concat_tables([self.table, other.table])
        return Counted(_summed(joined), self.n_rows + other.n_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrow pickles a slice with all of the column that it is cut from, and its sums come in
        # slices of 32 768 rows: 22 MB of counts would travel as a gigabyte, and grow with their
        # square. A stream holds the rows alone, at addresses that Arrow calls aligned.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as stream:
            stream.write_table(self.table)
        return _received, (sink.getvalue().to_pybytes(), self.n_rows)


def _received(table: bytes, n_rows: int) -> Counted:
    with pa.ipc.open_stream(table) as stream:
        return Counted(stream.read_all(), n_rows)


def _summed(table: pa.Table) -> pa.Table:
    if float(np.asarray(table[_NUMBER]).sum(dtype=np.float64)) >= _MOST:
        raise InputError(
            "the numbers of draws add up to 2^63 or more; divide all of them by the same number"
        )
    keys = [name for name in (_ID, _SAMPLE) if name in table.column_names]
    summed = table.group_by(keys, use_threads=False).aggregate([(_NUMBER, "sum")])
    return summed.rename_columns([*keys, _NUMBER])


def count(
    reader: PieceReader, id_column: str, sample_column: str | None, count_column: str | None
) -> Counted:
    """Count one piece of a table of events, or add up its counts.

    Parameters
    ----------
    reader : PieceReader
    id_column : str
        Ids of candidates.
    sample_column : str or None
        Keys of samples.
    count_column : str or None
        Draws of each row; None counts every row as one.

    Raises
    ------
    InputError
        If an id, a sample or a count is missing, or a count is not 0, 1, 2, ...
    """
    wanted = {_ID: id_column}
    if sample_column is not None:
        wanted[_SAMPLE] = sample_column
    parts, n_rows = [], 0
    for rows in reader.batches([*wanted.values(), *([count_column] if count_column else [])]):
        n_rows += len(rows)
        keys = {name: rows[column] for name, column in wanted.items()}
        for name, column in wanted.items():
            if missing := keys[name].null_count:
                raise InputError(
                    f"{reader.table.name}: {missing} rows of {len(rows)} have no value in column "
                    f"{column!r}; leave them out, or give them one"
                )
        if count_column is None:
            table = pa.table(keys).group_by(list(keys), use_threads=False)
            counted = table.aggregate([([], "count_all")]).rename_columns([*keys, _NUMBER])
            number = counted[_NUMBER].cast(pa.uint64())
            counted = counted.set_column(counted.num_columns - 1, _NUMBER, number)
        else:
            number = pa.array(_whole(rows[count_column], reader.table.name, count_column))
            counted = _summed(pa.table({**keys, _NUMBER: number}))
        parts.append(counted)
    if not parts:
        return Counted(_nothing(reader, wanted), 0)
    return Counted(parts[0] if len(parts) == 1 else _summed(pa.concat_tables(parts)), n_rows)


def _nothing(reader: PieceReader, wanted: dict[str, str]) -> pa.Table:
    types = {**{f.name: f.type for f in reader.table.schema}, **dict(reader.table.types)}
    fields = [(name, types[column]) for name, column in wanted.items()]
    return pa.schema([*fields, (_NUMBER, pa.uint64())]).empty_table()


def _whole(values: pa.ChunkedArray, name: str, column: str) -> Array:
    """Return counts as unsigned integers."""
    problem = ""
    if values.null_count:
        problem = f"{values.null_count} values are missing"
    elif not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        problem = f"they are of type {values.type}"
    else:
        found = np.asarray(values)
        # From there on a data set takes none.
        wrong = ~((found >= 0) & (found < MOST_DRAWS))
        if found.dtype.kind == "f":
            wrong |= found != np.rint(found)
        if not wrong.any():
            return found.astype(np.uint64)
        first = found[np.argmax(wrong)]
        problem = f"{int(wrong.sum())} of them are not, the first is {first}"
    raise InputError(
        f"{name}: column {column!r} must hold numbers of draws, 0, 1, 2, ... below 2^53: {problem}"
    )


@dataclass(frozen=True)
class Matched:
    """Draws by row of the feature table.

    Attributes
    ----------
    rows : (m,) array of int
    samples : (m,) array of int or None
    number : (m,) array of uint64
    sample_names : list of str
    n_unknown_ids, n_unknown_draws : int
        Ids without a row, and their draws.
    unknown : list of str
        The most frequent of them.
    """

    rows: Array
    samples: Array | None
    number: Array
    sample_names: list[str]
    n_unknown_ids: int
    n_unknown_draws: int
    unknown: list[str]


def match(counted: Counted, ids: pa.Array, kept: Array, examples: int = 5) -> Matched:
    """Match what was counted to the rows of the feature table; counts of 0 match nothing.

    Parameters
    ----------
    counted : Counted
    ids : pyarrow.Array
        Of the feature table, each once among the rows that are kept.
    kept : (rows,) array of bool
        Its rows that are candidates.
    examples : int
        Of unknown ids, at most.
    """
    table = counted.table
    wanted = ids.filter(pa.array(kept))
    row = np.asarray(pc.index_in(table[_ID], value_set=wanted).fill_null(-1).cast(pa.int64()))
    known = row >= 0
    number = np.asarray(table[_NUMBER]).astype(np.uint64)
    samples, names = None, [""]
    if _SAMPLE in table.column_names:
        # Samples in the order of their keys.
        keys = pc.unique(table[_SAMPLE])
        keys = keys.take(pc.sort_indices(keys))
        names = [str(key) for key in keys.to_pylist()]
        samples = np.asarray(pc.index_in(table[_SAMPLE], value_set=keys).cast(pa.int64()))
    # Of an id without features nothing is lost where nothing was drawn.
    strange, known = ~known & (number > 0), known & (number > 0)
    unknown, n_unknown_ids = [], 0
    if strange.any():
        lost = table.filter(pa.array(strange)).group_by(_ID).aggregate([(_NUMBER, "sum")])
        n_unknown_ids = len(lost)
        order = np.argsort(-np.asarray(lost["number_sum"]).astype(float), kind="stable")
        unknown = [str(lost[_ID][int(i)]) for i in order[:examples]]
    return Matched(
        row[known],
        None if samples is None else samples[known],
        number[known],
        names,
        n_unknown_ids,
        int(number[strange].sum(dtype=np.uint64)),
        unknown,
    )


def match_columns(
    drawn: coo_array, ids: pa.Array, kept: Array, sample_names: Sequence[str] | None, examples: int
) -> Matched:
    """Match a matrix of counts, whose columns are the rows of the feature table.

    Parameters
    ----------
    drawn : (S, rows) sparse array
    ids : pyarrow.Array
        Of the feature table.
    kept : (rows,) array of bool
        Its rows that are candidates.
    sample_names : sequence of str or None
        Default: their numbers.
    examples : int
        Of draws whose row was dropped, at most.

    Raises
    ------
    InputError
        If there are more or fewer columns, or names, than there should be.
    """
    n_samples = drawn.shape[0]
    if sample_names is not None and len(sample_names) != n_samples:
        raise InputError(f"sample_names: expected {n_samples}, found {len(sample_names)}")
    if drawn.shape[1] != len(ids):
        raise InputError(
            f"counts have {drawn.shape[1]} columns, features {len(ids)} rows; give a column "
            "for each"
        )
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    rows = place[drawn.col]
    known = rows >= 0
    lost = drawn.data[~known]
    names = pc.unique(ids.take(pa.array(drawn.col[~known])))
    return Matched(
        rows[known],
        drawn.row[known].astype(np.int64),
        drawn.data[known].astype(np.uint64),
        [str(name) for name in (sample_names or range(n_samples))],
        len(names),
        whole_total(lost),
        [str(name) for name in names[:examples].to_pylist()],
    )
