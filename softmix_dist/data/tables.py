"""Tables as users hold them: Parquet, Arrow or CSV, one file or thousands, or in memory.

A table is a list of pieces of about a million rows, which are read one at a time, here or in
other processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from softmix_dist.data.files import list_files, open_file
from softmix_dist.data.formats import (
    KINDS,
    dictionaries,
    kind_of,
    look,
    plain,
    readable,
    rows_of,
    value_type,
)
from softmix_dist.errors import InputError, StoreError

# Rows of a piece, about: a row group of Parquet is not divided.
_ROWS = 1 << 20
# Differences between the schemas of files that are told, at most.
_TOLD = 5


@dataclass(frozen=True)
class Piece:
    """Some rows of a table.

    Attributes
    ----------
    parts : tuple of (str, int)
        Files, and the row group or record batch of each; -1 is all of a file.
    memory : pyarrow.Table or None
        The rows themselves, where they are in memory.
    """

    parts: tuple[tuple[str, int], ...] = ()
    memory: pa.Table | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # By itself a slice takes the whole table with it.
        if self.memory is None:
            return Piece, (self.parts,)
        sink = pa.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, self.memory.schema) as stream:
            stream.write_table(self.memory)
        # As bytes: a buffer would arrive where its numbers may not be aligned.
        return _in_memory, (sink.getvalue().to_pybytes(),)


def _in_memory(content: bytes) -> Piece:
    return Piece(memory=pyarrow.ipc.open_stream(content).read_all())


@dataclass(frozen=True)
class Table:
    """A table in files of one kind, or in memory; made by `open_table`.

    It is a source of an engine, whose blocks are its pieces.

    Attributes
    ----------
    name : str
    schema : pyarrow.Schema
        Of the first file; after `using`, of all.
    pieces : tuple of Piece
    typed : bool
        Whether the files tell the types of columns: CSV does not.
    types : tuple of (str, pyarrow.DataType)
        Columns that are read as another type.
    files : tuple of (str, pyarrow.Schema)
        Each file with its columns; none after `using`.
    declared : frozenset of str
        Columns that are categories by their type: dictionaries, as of pandas.
    """

    name: str
    schema: pa.Schema
    pieces: tuple[Piece, ...]
    typed: bool
    types: tuple[tuple[str, pa.DataType], ...] = ()
    files: tuple[tuple[str, pa.Schema], ...] = ()
    declared: frozenset[str] = frozenset()
    reads_ahead: int = 0

    @property
    def n_blocks(self) -> int:
        """Number of pieces."""
        return len(self.pieces)

    def part(self, start: int, stop: int) -> Table:
        """Return the table itself without the pieces that are not asked for."""
        there = range(start, stop)
        kept = (piece if i in there else Piece() for i, piece in enumerate(self.pieces))
        return replace(self, pieces=tuple(kept))

    def read_block(self, index: int) -> PieceReader:
        """Return a reader of one piece."""
        return PieceReader(self, self.pieces[index])

    def read_as(self, **types: pa.DataType) -> Table:
        """Return the table with some columns read as other types."""
        return replace(self, types=(*self.types, *types.items()))

    def using(self, columns: Sequence[str], text: Sequence[str] = ()) -> Table:
        """Return the table for reading some columns, each as one type in all files.

        Parameters
        ----------
        columns : sequence of str
        text : sequence of str
            Those of them that are text where files do not tell types, for 007 is not 7. Numbers
            are then floating, for a first file or its first rows may have whole ones alone.

        Raises
        ------
        InputError
            If a file lacks a column, or has another type.
        """
        self.check_columns(*columns)
        types, problems = dict(self.types), []
        there = [(path, dict(zip(of.names, of.types, strict=True))) for path, of in self.files]
        for name in columns:
            problems += [
                f"{path} has no column {name!r}, {there[0][0]} has"
                for path, kinds in there
                if name not in kinds
            ]
            if name in types:
                continue
            if name in text and not self.typed:
                types[name] = pa.string()
                continue
            found = [(p, _common(kinds[name], self.typed)) for p, kinds in there if name in kinds]
            # Without values a column has no type.
            first, types[name] = next((v for v in found if not pa.types.is_null(v[1])), found[0])
            problems += [
                f"{path}: column {name!r} is {kind}, in {first} {types[name]}"
                for path, kind in found
                if kind != types[name] and not pa.types.is_null(kind)
            ]
            if pa.types.is_null(types[name]) and not self.typed:
                types[name] = pa.float64()
        if problems:
            more = f"\n- and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
            if not self.typed:
                more += "\ncorrect the files; a feature may be named as categories (categorical)"
            told = "\n- ".join(problems[:_TOLD])
            raise InputError(f"{self.name}: the files have different columns:\n- {told}{more}")
        schema = pa.schema([(name, types[name]) for name in dict.fromkeys(columns)])
        return replace(self, schema=schema, types=tuple(types.items()), files=())

    def check_columns(self, *names: str | None, advice: str = "") -> None:
        """Raise `InputError` unless all columns are there, each once."""
        missing = [name for name in names if name is not None and name not in self.schema.names]
        if missing:
            raise InputError(
                f"{self.name}: no column {', '.join(map(repr, missing))}; there are "
                f"{', '.join(map(repr, self.schema.names))}{advice}"
            )
        there = [self.schema.names, *(of.names for _, of in self.files)]
        twice = [n for n in dict.fromkeys(names) if any(own.count(n) > 1 for own in there)]
        if twice:
            raise InputError(
                f"{self.name}: several columns are called {', '.join(map(repr, twice))}; rename "
                "all but one"
            )


@dataclass(frozen=True)
class PieceReader:
    """Reads one piece of a table."""

    table: Table
    piece: Piece

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows, part by part.

        Parameters
        ----------
        columns : sequence of str

        Raises
        ------
        InputError
            If a file cannot be read as what it is, or a value not as its column.
        StoreError
            If a file is not there.
        """
        if self.piece.memory is not None:
            yield self._cast(self.piece.memory.select(columns), self.table.name)
        for path, number in self.piece.parts:
            with open_file(path) as file, readable(path):
                for rows in rows_of(file, path, number, columns, dict(self.table.types), _ROWS):
                    yield self._cast(rows, path)

    def _cast(self, rows: pa.Table, place: str) -> pa.Table:
        """Read columns as the types asked for, and dictionaries, which differ, as their values."""
        there = {field.name: value_type(field.type) for field in rows.schema}
        for name, kind in (there | dict(self.table.types)).items():
            if name in there and rows.schema.field(name).type != kind:
                try:
                    values = rows[name].cast(kind)
                except pa.ArrowInvalid as error:
                    raise InputError(f"{place}: column {name!r}: {error}") from error
                rows = rows.set_column(rows.schema.get_field_index(name), name, values)
        return rows


def open_table(where: Any, name: str) -> Table:
    """Open a table.

    Parameters
    ----------
    where : path, sequence of paths, pyarrow.Table, or pandas.DataFrame
        Files, folders, patterns such as ``events/*.parquet``, or URLs of object stores.
    name : str
        What it is, for messages.

    Returns
    -------
    Table

    Raises
    ------
    StoreError
        If there is nothing there.
    InputError
        If files cannot be read, or are of several kinds.
    """
    if hasattr(where, "to_dict") and hasattr(where, "columns") and not isinstance(where, pa.Table):
        where = _of_pandas(where, name)
    if isinstance(where, pa.Table):
        schema, declared = plain(where.schema), dictionaries(where.schema)
        pieces = tuple(
            Piece(memory=where.slice(first, _ROWS)) for first in range(0, len(where) or 1, _ROWS)
        )
        return Table(name, schema, pieces, True, files=((name, schema),), declared=declared)
    paths = list(where) if isinstance(where, list | tuple) else [where]
    if strange := [path for path in paths if not isinstance(path, str | os.PathLike)]:
        raise InputError(
            f"{name}: expected paths, a pandas frame or an Arrow table, found "
            f"{type(strange[0]).__name__}"
        )
    files = [file for path in paths for file in list_files(path, tuple(KINDS))]
    if not files:
        raise StoreError(f"{name}: no files at {', '.join(map(str, paths))}; give files")
    found = [look(path, _ROWS) for path in files]
    kinds = {kind_of(path) for path in files}
    if len(kinds) > 1:
        raise InputError(f"{name}: files of several kinds, {', '.join(sorted(kinds))}; give one")
    typed = kinds != {"csv"}
    schemas = [plain(schema) for schema, _, _ in found]
    by_file = tuple(zip(files, schemas, strict=True))
    declared = frozenset[str]().union(*(declared for _, _, declared in found))
    # Files without rows are a table too.
    pieces = tuple(_pieces(files, [rows for _, rows, _ in found])) or (Piece(),)
    return Table(name, schemas[0], pieces, typed, files=by_file, declared=declared)


def _of_pandas(frame: Any, name: str) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, ValueError) as error:
        told = " ".join(map(str, error.args))
    raise InputError(f"{name}: not a table of columns that have one type each ({told})")


def _common(kind: pa.DataType, typed: bool) -> pa.DataType:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return pa.float64() if number and not typed else kind


def _pieces(files: list[str], rows: list[list[int]]) -> Iterator[Piece]:
    """Join what is small, so that each piece has about _ROWS rows; CSV files stay whole."""
    parts: list[tuple[str, int]] = []
    n_rows = 0
    for path, groups in zip(files, rows, strict=True):
        if not groups and kind_of(path) == "csv":
            yield Piece(((path, -1),))
            continue
        for number, size in enumerate(groups):
            if parts and n_rows + size > _ROWS:
                yield Piece(tuple(parts))
                parts, n_rows = [], 0
            parts.append((path, number))
            n_rows += size
    if parts:
        yield Piece(tuple(parts))
