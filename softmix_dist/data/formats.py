"""Files of Parquet, Arrow and CSV: what is in one, and its rows."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from softmix_dist.data.files import open_file
from softmix_dist.errors import InputError, SoftmixError

KINDS = {
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".ipc": "arrow",
    ".feather": "arrow", ".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".tsv.gz": "csv",
}  # fmt: skip


class readable:  # noqa: N801
    """Name the file in what Arrow says of it."""

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, SoftmixError) or not isinstance(error, (pa.ArrowException, OSError)):
            return
        told = " ".join(str(error).split())[:300]
        if "conversion error" in told:
            remedy = (
                "; a column is read as what its first rows, or the ids it is matched to, are: "
                "correct the value, or name it categorical"
            )
        else:
            remedy = "; is it whole, and what its ending says?"
        raise InputError(f"{self.path}: cannot be read ({told}){remedy}") from error


def kind_of(path: str) -> str:
    """Kind of a file, by its ending.

    Raises
    ------
    InputError
        If it is none of a table.
    """
    name = Path(path).name.lower()
    for ending, kind in KINDS.items():
        if name.endswith(ending):
            return kind
    raise InputError(
        f"{path}: not a table by its ending; expected one of {', '.join(KINDS)}, or a folder"
    )


def _csv(file: Any, path: str, types: dict[str, pa.DataType], columns: Any = None) -> Any:
    compressed = path.endswith(".gz")
    stream = pa.CompressedInputStream(file, "gzip") if compressed else file
    tab = ".tsv" in Path(path).name.lower()
    return pyarrow.csv.open_csv(
        stream,
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t" if tab else ","),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=columns, strings_can_be_null=True
        ),
    )


def rows_of(
    file: Any,
    path: str,
    number: int,
    columns: Sequence[str],
    types: dict[str, pa.DataType],
    most: int,
) -> Iterator[pa.Table]:
    """Yield the rows of a file, part by part.

    Parameters
    ----------
    file : file
        Open for reading.
    path : str
    number : int
        Of a row group or record batch; -1 is all of them.
    columns : sequence of str
    types : dict of str to pyarrow.DataType
        Of the columns of a CSV file.
    most : int
        Rows of a part of a Parquet file, at most.
    """
    kind = kind_of(path)
    if kind == "parquet":
        reader = pyarrow.parquet.ParquetFile(file)
        groups = range(reader.num_row_groups) if number < 0 else [number]
        for batch in reader.iter_batches(most, row_groups=groups, columns=list(columns)):
            yield pa.Table.from_batches([batch])
    elif kind == "arrow":
        opened = pyarrow.ipc.open_file(file)
        numbers = range(opened.num_record_batches) if number < 0 else [number]
        for i in numbers:
            yield pa.Table.from_batches([opened.get_batch(i)]).select(columns)
    else:
        own = {name: of for name, of in types.items() if name in columns}
        for batch in _csv(file, path, own, list(columns)):
            yield pa.Table.from_batches([batch])


def look(path: str, most: int) -> tuple[pa.Schema, list[int], frozenset[str]]:
    """Look into a file.

    Parameters
    ----------
    path : str
    most : int
        Rows that an Arrow batch is taken to have, which says them when it is read.

    Returns
    -------
    schema : pyarrow.Schema
    rows : list of int
        Of each of its groups; none of a CSV file.
    declared : frozenset of str
        Columns that were written as categories.
    """
    kind = kind_of(path)
    with open_file(path) as file, readable(path):
        if kind == "parquet":
            reader = pyarrow.parquet.ParquetFile(file)
            meta = reader.metadata
            rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            return reader.schema_arrow, rows, dictionaries(_written(reader))
        if kind == "arrow":
            opened = pyarrow.ipc.open_file(file)
            rows = [most] * opened.num_record_batches
            return opened.schema, rows, dictionaries(opened.schema)
        return _csv(file, path, {}).schema, [], frozenset()


def _written(reader: pyarrow.parquet.ParquetFile) -> pa.Schema:
    """Return the schema that was written: of what is read only categories of text say so."""
    kept = (reader.metadata.metadata or {}).get(b"ARROW:schema")
    if kept is None:
        return reader.schema_arrow
    return pyarrow.ipc.read_schema(pa.py_buffer(base64.b64decode(kept)))


def plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema without what pandas and others add to it, and without dictionaries."""
    return pa.schema([pa.field(field.name, value_type(field.type)) for field in schema])


def dictionaries(schema: pa.Schema) -> frozenset[str]:
    """Names of the columns that are dictionaries, as of pandas' categories."""
    return frozenset(field.name for field in schema if pa.types.is_dictionary(field.type))


def value_type(kind: pa.DataType) -> pa.DataType:
    """Type of the values of a column: of a dictionary, that of what it holds."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
