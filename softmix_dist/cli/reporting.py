"""``softmix report``: a fitted model as one page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from softmix_dist.cli.cluster import cluster_options, connected
from softmix_dist.errors import StoreError


@click.command(short_help="Write a page about a model.")
@click.argument("model", type=str)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.html",
    help="Where the page goes.",
)
@click.option("--data", type=str, help="Data set, for the pictures of candidates: two passes.")
@click.option("--title", default="", help="Headline.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@cluster_options
def report(
    model: str,
    output: Path,
    data: str | None,
    title: str,
    overwrite: bool,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
) -> None:
    """Write what MODEL found, with pictures, as one page of HTML that needs nothing beside it."""
    try:
        from softmix_dist.report import report as page
    except ImportError as error:
        raise click.UsageError(
            "report needs matplotlib: pip install 'softmix-dist[plots]'"
        ) from error
    from softmix_dist.estimator import SoftmaxMixture

    if output.exists() and not overwrite:
        raise StoreError(f"{str(output)!r} exists already; choose another path or --overwrite")
    loaded = SoftmaxMixture.load(model)
    profile: Any = None
    if data is not None:
        with connected(scheduler, workers, memory_limit) as client:
            profile = loaded.profile(data, client=client, n_threads=None if client else workers)
    _write(output, page(loaded, profile, title))
    click.echo(f"report written to {output}", err=True)


def _write(path: Path, text: str) -> None:
    """Write a file whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"cannot write {str(path)!r}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
