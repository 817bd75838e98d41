"""From what users hold to a data set: tables of features and of events, matrices, AnnData.

Events are counted by their ids, in parallel and in bounded memory, and only then matched to the
feature table; what does not match is told with numbers and examples, and a policy decides.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

try:
    import pyarrow as pa
except ImportError as error:
    raise ImportError("ingest needs pyarrow: pip install 'softmix-dist[ingest]'") from error

from softmix_dist.data.assembly import IngestReport, assemble
from softmix_dist.data.candidates import EXAMPLES, FeatureSource, FromMatrix, look_through
from softmix_dist.data.counting import Counted, count, match, match_columns
from softmix_dist.data.dataset import MARK
from softmix_dist.data.encoding import Column, columns_like, is_category
from softmix_dist.data.matrices import annotated, as_matrix, counts_of
from softmix_dist.data.store import check_target, open_group
from softmix_dist.data.tables import Table, open_table
from softmix_dist.engine import Engine, engine_for
from softmix_dist.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

Policy = Literal["error", "drop"]
_OF_TABLES = {
    "features", "events", "counts", "id", "event_id", "sample", "count_column", "sample_names"
}  # fmt: skip


def ingest(
    path: str | os.PathLike[str],
    features: Any,
    events: Any = None,
    counts: Any = None,
    *,
    id: str = "id",
    event_id: str | None = None,
    sample: str | None = None,
    count_column: str = "count",
    columns: Sequence[str] | None = None,
    categorical: Sequence[str] = (),
    bases: Mapping[str, str] | None = None,
    like: str | os.PathLike[str] | None = None,
    sample_names: Sequence[str] | None = None,
    unknown: Policy = "error",
    duplicates: Policy = "error",
    missing: Policy = "error",
    dtype: Any = np.float32,
    block_rows: int | None = None,
    overwrite: bool = False,
    client: Client | None = None,
    n_threads: int | None = None,
) -> IngestReport:
    """Write a data set from tables or matrices.

    Parameters
    ----------
    path : path
        Where it appears when it is complete; or a URL.
    features : path, sequence of paths, DataFrame, pyarrow.Table, or (p, L) array
        A table with a row for each candidate: its id, and its features. Files of Parquet, Arrow
        or CSV, folders or patterns of them; or a matrix, ``.npy`` or a Zarr array, whose row
        numbers are the ids.
    events : same kinds of table, optional
        A row for each draw: the id of its candidate and, where there are samples, their key.
    counts : same kinds of table, Series, or (S, p) sparse or dense matrix, optional
        A row for each id (and sample) with its number of draws; a Series of pandas, whose index
        holds the ids (or ids and samples, by name), such as ``value_counts()``; or a matrix, in
        memory or ``.npz``, whose columns are the rows of ``features``. One of the two is needed.
    id, event_id : str
        Columns of ids, in the feature table and in the other one (default: the same).
    sample : str, optional
        Column of sample keys among the events; of CSV they are text.
    count_column : str
        Column of draws in ``counts``.
    columns : sequence of str, optional
        Of the feature table, that become features; default: all but the id.
    categorical : sequence of str
        Columns of whole numbers that are categories; text is always, and what pandas or Arrow
        hold as categories. Of CSV they are text: 07 is not 7.
    bases : mapping of str to str, optional
        Levels of categorical columns without a column of their own; default: the first in order.
    like : path, optional
        A data set that was ingested: its columns, levels and bases are taken, so that a model of
        it fits these candidates.
    sample_names : sequence of str, optional
        Of the rows of a matrix of counts.
    unknown, duplicates, missing : {"error", "drop"}
        What becomes of draws whose id has no features; of rows of features whose id came before;
        of rows of features that lack a value or are not finite.
    dtype : dtype
        Of the stored features.
    block_rows : int, optional
    overwrite : bool
    client : distributed.Client, optional
        Counts on its cluster; default: the current client if there is one, else threads.
    n_threads : int, optional

    Returns
    -------
    IngestReport

    Raises
    ------
    InputError
        If tables cannot be read or do not go together; names what, how often and examples.
    StoreError
        If something is not there, or cannot be written.

    Examples
    --------
    >>> import pandas as pd
    >>> products = pd.DataFrame({"id": ["a", "b", "c"], "price": [1.0, 2.5, 4.0]})
    >>> sales = pd.DataFrame({"id": ["a", "c", "a"]})
    >>> report = ingest("shop.zarr", products, sales)
    >>> report.n_draws, report.n_unseen
    (3, 1)
    """
    began = time.perf_counter()
    _check(events, counts, unknown, duplicates, missing)
    _check_columns(columns, categorical, bases, like)
    # Refused before the work.
    check_target(path, MARK, overwrite)
    matrix = as_matrix(features)
    own, number = event_id or id, None if counts is None else count_column
    counts = _table_of(counts, own, count_column)
    drawn = counts_of(counts)
    _check_unused(
        "features that are a matrix have none", matrix is not None, columns=columns,
        categorical=categorical, bases=bases, like=None if like is None else str(like),
    )  # fmt: skip
    _check_unused(
        "a matrix of counts has none", drawn is not None, sample=sample, event_id=event_id
    )
    _check_unused("a table has none; name a column, sample", drawn is None,
                  sample_names=sample_names)  # fmt: skip
    drawn_table = None
    if drawn is None:
        given, name = (events, "events") if counts is None else (counts, "counts")
        drawn_table = _opened(given, name, own, sample, number)
    with closing(engine_for(client, n_threads)) as engine:
        source: FeatureSource
        policies = {"duplicates": duplicates, "missing": missing}
        if matrix is not None:
            source = FromMatrix(matrix, policies)
        else:
            table = open_table(features, "features")
            advice = "; name the column of ids of the features: id, and event_id for the others"
            table.check_columns(id, advice=advice)
            table = _with_ids(table, id, drawn_table, own)
            source = look_through(
                table, id, columns, categorical, bases or {}, policies,
                None if like is None else _columns_of(like),
                engine.reduce_stored,
            )  # fmt: skip
        if drawn is not None:
            matched = match_columns(drawn, source.ids, source.kept, sample_names, EXAMPLES)
            n_rows = drawn.nnz
        else:
            assert drawn_table is not None
            counted = _counted(drawn_table, source, own, sample, number, engine)
            matched, n_rows = match(counted, source.ids, source.kept, EXAMPLES), counted.n_rows
    if matched.n_unknown_ids and unknown == "error":
        raise InputError(
            f"{matched.n_unknown_draws:,} draws are of {matched.n_unknown_ids:,} ids without "
            f"features, such as {', '.join(matched.unknown)}; add their features, or drop them "
            "(unknown='drop')"
        )
    several = sample is not None or drawn is not None
    return assemble(path, source, matched, n_rows, several, dtype, block_rows, overwrite, began)


def ingest_anndata(
    path: str | os.PathLike[str],
    data: Any,
    *,
    varm: str | None = None,
    layer: str | None = None,
    **options: Any,
) -> IngestReport:
    """Write a data set from AnnData: variables are candidates, observations are samples.

    Parameters
    ----------
    path : path
    data : anndata.AnnData, or path of a ``.h5ad`` file or Zarr group
    varm : str, optional
        Matrix of features; default: the columns of ``var``.
    layer : str, optional
        Counts; default: ``X``.
    **options
        Of `ingest`, but for tables of events or counts and their columns.

    Returns
    -------
    IngestReport

    Raises
    ------
    InputError, StoreError
        As `ingest`.
    """
    if given := _OF_TABLES & {*options}:
        raise InputError(f"AnnData holds all of it, so that there is no {', '.join(sorted(given))}")
    found = annotated(data, varm, layer)
    return ingest(
        path, found.features, counts=found.counts, id=found.id, sample_names=found.samples,
        **options,
    )  # fmt: skip


def _table_of(counts: Any, id: str, number: str) -> Any:
    """Return counts as they are, but a Series, whose index says what was counted, as a frame."""
    if not hasattr(counts, "to_frame") or not hasattr(counts, "index"):
        return counts
    frame = counts.to_frame(number)
    return (frame.rename_axis(index=id) if frame.index.nlevels == 1 else frame).reset_index()


def _with_ids(table: Table, id: str, events: Table | None, event_id: str) -> Table:
    """Return a feature table of files without types whose ids are read as what they are.

    That is what the events have, where these tell; else text, for 007 is not 7.
    """
    if table.typed or id not in table.schema.names:
        return table
    there = pa.string()
    if events is not None and events.typed:
        there = events.schema.field(event_id).type
    return table if pa.types.is_null(there) else table.read_as(**{id: there})


def _columns_of(like: str | os.PathLike[str]) -> list[Column]:
    kept: Any = open_group(like, "data set").attrs.get("softmix_columns")
    if not kept:
        raise InputError(f"{str(like)!r} was not ingested: it says of no columns what they became")
    return columns_like(kept)


def _check(events: Any, counts: Any, *policies: str) -> None:
    if (events is None) == (counts is None):
        found = "neither" if events is None else "both"
        raise InputError(
            f"give either events, a row for each draw, or counts, and not both; found {found}"
        )
    for name, policy in zip(("unknown", "duplicates", "missing"), policies, strict=True):
        if policy not in ("error", "drop"):
            raise InputError(f"{name}: expected 'error' or 'drop', found {policy!r}")


def _check_columns(
    columns: Sequence[str] | None, categorical: Sequence[str], bases: Any, like: Any
) -> None:
    for name, given in (("columns", columns), ("categorical", categorical)):
        if isinstance(given, str):
            raise InputError(f"{name}: expected a list of columns, found {given!r}")
    if like is not None and (columns is not None or categorical or bases):
        raise InputError("like takes columns, categories and bases of a data set; give it alone")


def _check_unused(reason: str, unused: bool, **options: Any) -> None:
    """Refuse options that would have no effect."""
    given = [name for name, value in options.items() if value is not None and len(value)]
    if unused and given:
        raise InputError(f"{', '.join(given)}: {reason}")


def _opened(given: Any, name: str, id: str, sample: str | None, number: str | None) -> Table:
    """Open a table of events or counts for the columns that are read of it."""
    keys = [id] if sample is None else [id, sample]
    used = keys if number is None else [*keys, number]
    if len({*used}) < len(used):
        raise InputError(
            f"{name}: expected columns of their own for ids, samples and counts, found "
            f"{', '.join(map(repr, used))}"
        )
    table = open_table(given, name)
    table.check_columns(id, advice=f"; name the column of ids of the {name}: event_id")
    return table.using(used, text=keys)


def _counted(
    events: Table, source: FeatureSource, id_column: str, sample: str | None, number: str | None,
    engine: Engine,
) -> Counted:  # fmt: skip
    """Count the events, their ids read as those of the features."""
    wanted, plain = source.ids.type, events.schema.field(id_column).type
    # Without rows a column has no type.
    kinds = {_kind(kind) for kind in (wanted, plain) if not pa.types.is_null(kind)}
    if len(kinds) > 1 and events.typed and getattr(source, "table", events).typed:
        raise InputError(
            f"ids are {wanted} in the feature table and {plain} among the events; convert one"
        )
    if plain != wanted:
        events = events.read_as(**{id_column: wanted})
    task = partial(count, id_column=id_column, sample_column=sample, count_column=number)
    counted: Counted = engine.reduce_stored(events, task)
    if not counted.n_rows:
        raise InputError(f"{events.name}: no rows")
    return counted


def _kind(kind: pa.DataType) -> str:
    return (
        "whole numbers" if pa.types.is_integer(kind) else "text" if is_category(kind) else str(kind)
    )
