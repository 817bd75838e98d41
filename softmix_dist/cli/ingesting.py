"""``softmix ingest``: tables and matrices to a data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from softmix_dist.cli.cluster import cluster_options, connected
from softmix_dist.progress import jsonable

_POLICY = click.Choice(["error", "drop"])


def _pairs(context: Any, parameter: Any, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, level = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r}: expected COLUMN=LEVEL")
        found[name] = level
    return found


def _list(context: Any, parameter: Any, value: str | None) -> list[str] | None:
    return None if value is None else [name for name in value.split(",") if name]


@click.command(short_help="Make a data set of tables.")
@click.argument("output", metavar="OUT.zarr", type=str)
@click.option(
    "--features",
    multiple=True,
    metavar="PATH",
    help="A row for each candidate: Parquet, Arrow, CSV, a folder, a pattern, a URL; or a matrix "
    "in .npy or Zarr.",
)
@click.option(
    "--events", multiple=True, metavar="PATH", help="A row for each draw: the same kinds of table."
)
@click.option(
    "--counts",
    multiple=True,
    metavar="PATH",
    help="A row for each id with its number of draws; or a sample x candidate matrix in .npz.",
)
@click.option(
    "--anndata", "annotated", metavar="PATH", help="AnnData in .h5ad or Zarr, for all of these."
)
@click.option("--varm", metavar="KEY", help="Its matrix of features; default: columns of var.")
@click.option("--layer", metavar="KEY", help="Its counts; default: X.")
@click.option("--id", "id_column", default="id", show_default=True, help="Column of ids.")
@click.option("--event-id", help="Column of ids among the events or counts; default: the same.")
@click.option("--sample", help="Column of samples among the events or counts.")
@click.option(
    "--count-column", default="count", show_default=True, help="Column of draws in --counts."
)
@click.option(
    "--columns",
    callback=_list,
    metavar="A,B,...",
    help="Columns that become features; default: all but the id.",
)
@click.option(
    "--categorical",
    callback=_list,
    metavar="A,B,...",
    help="Columns of whole numbers that are categories, as text of CSV; text always is.",
)
@click.option(
    "--base",
    multiple=True,
    callback=_pairs,
    metavar="COLUMN=LEVEL",
    help="Level of a categorical column without a column of its own; default: the first.",
)
@click.option(
    "--like", metavar="DATA", help="Take columns, levels and bases from a data set made before."
)
@click.option(
    "--unknown", type=_POLICY, default="error", show_default=True,
    help="Draws of ids without features.",
)  # fmt: skip
@click.option(
    "--duplicates", type=_POLICY, default="error", show_default=True,
    help="Rows of features whose id came before.",
)  # fmt: skip
@click.option(
    "--missing", type=_POLICY, default="error", show_default=True,
    help="Rows of features that lack a value.",
)  # fmt: skip
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "float64"]),
    default="float32",
    show_default=True,
    help="Of the stored features.",
)
@click.option("--overwrite", is_flag=True, help="Replace a data set that is there.")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def ingest(
    output: str,
    features: tuple[str, ...],
    events: tuple[str, ...],
    counts: tuple[str, ...],
    annotated: str | None,
    varm: str | None,
    layer: str | None,
    id_column: str,
    base: dict[str, str],
    categorical: list[str] | None,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Write OUT.zarr from tables of features and of events.

    What does not match is told with numbers and examples, and nothing is written, unless a policy
    says to drop it.
    """
    try:
        from softmix_dist.data.ingest import ingest as write
        from softmix_dist.data.ingest import ingest_anndata
    except ImportError as error:
        raise click.UsageError(
            "ingest needs pyarrow: pip install 'softmix-dist[ingest]'"
        ) from error
    tables = bool(features), bool(events) != bool(counts)
    if any((features, events, counts)) if annotated else not all(tables):
        raise click.UsageError("give --features and either --events or --counts, or --anndata")
    if not annotated and (varm or layer):
        raise click.UsageError("--varm and --layer are of --anndata")
    if annotated and (options["event_id"] or options["sample"]):
        raise click.UsageError("--event-id and --sample are of --events and --counts")
    with connected(scheduler, workers, memory_limit) as client:
        options |= {"bases": base, "categorical": categorical or (), "client": client}
        options["n_threads"] = None if client else workers
        if annotated:
            for name in ("event_id", "sample", "count_column"):
                del options[name]
            report = ingest_anndata(output, annotated, varm=varm, layer=layer, **options)
        else:
            report = write(
                output, _one(features), _one(events), _one(counts), id=id_column, **options
            )
    click.echo(f"data set written to {output}", err=True)
    click.echo(json.dumps(jsonable(asdict(report))) if as_json else str(report))


def _one(paths: tuple[str, ...]) -> Any:
    """Return one path by itself, for it may be a matrix; several as a list; none as None."""
    return paths[0] if len(paths) == 1 else list(paths) or None
