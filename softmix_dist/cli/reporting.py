"""``softmix report``: a fitted model as one page."""

from __future__ import annotations

import os
from typing import Any

import click

from softmix_dist.cli.cluster import cluster_options, connected
from softmix_dist.errors import StoreError


@click.command(short_help="Write a page about a model.")
@click.argument("model", type=str)
@click.option(
    "-o",
    "--output",
    type=str,
    required=True,
    metavar="FILE.html",
    help="Where the page goes; or a URL.",
)
@click.option("--data", type=str, help="Data set, for the pictures of candidates: two passes.")
@click.option("--title", default="", help="Headline.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@cluster_options
def report(
    model: str,
    output: str,
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
    from softmix_dist.data.place import place_at
    from softmix_dist.estimator import SoftmaxMixture

    folder, name = os.path.split(output)
    place = place_at(folder or ".")
    if place.get(name) is not None and not overwrite:
        raise StoreError(f"{output!r} exists already; choose another path or --overwrite")
    loaded = SoftmaxMixture.load(model)
    profile: Any = None
    if data is not None:
        with connected(scheduler, workers, memory_limit) as client:
            profile = loaded.profile(data, client=client, n_threads=None if client else workers)
    place.put(name, page(loaded, profile, title).encode())
    click.echo(f"report written to {output}", err=True)
