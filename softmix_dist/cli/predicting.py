"""``softmix predict``: what a model says of every candidate."""

from __future__ import annotations

import json

import click

from softmix_dist.cli.cluster import cluster_options, connected
from softmix_dist.progress import jsonable


@click.command(short_help="Write predictions for all candidates.")
@click.argument("model", type=str)
@click.argument("data", type=str)
@click.option("-o", "--output", type=str, required=True, help="Where the predictions go.")
@click.option("--overwrite", is_flag=True, help="Replace predictions that are there.")
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Worst-fitting candidates to name.",
)
@click.option(
    "--by",
    type=click.Choice(["deviance", "pearson"]),
    default="deviance",
    show_default=True,
    help="The residual that decides which they are.",
)
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def predict(
    model: str,
    data: str,
    output: str,
    overwrite: bool,
    worst: int,
    by: str,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
    as_json: bool,
) -> None:
    """Write what MODEL says of all candidates of DATA.

    Log-probabilities and responsibilities, and residuals where DATA has draws; prints how well
    the model fits them.
    """
    from softmix_dist.estimator import SoftmaxMixture

    loaded = SoftmaxMixture.load(model)
    with connected(scheduler, workers, memory_limit) as client:
        threads = None if client else workers
        found = loaded.predict(
            data,
            output,
            client=client,
            n_threads=threads,
            overwrite=overwrite,
            n_worst=worst,
            by=by,
        )
    click.echo(f"predictions written to {output}", err=True)
    if as_json:
        told = {"predictions": output, "goodness_of_fit": found and found.to_dict()}
        click.echo(json.dumps(jsonable(told)))
    elif found is not None:
        click.echo(str(found))
