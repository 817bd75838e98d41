"""``softmix predict``: what a model says of every candidate."""

from __future__ import annotations

import click

from softmix_dist.cli.cluster import cluster_options, connected


@click.command(short_help="Write predictions for all candidates.")
@click.argument("model", type=str)
@click.argument("data", type=str)
@click.option("-o", "--output", type=str, required=True, help="Where the predictions go.")
@click.option("--overwrite", is_flag=True, help="Replace predictions that are there.")
@cluster_options
def predict(
    model: str,
    data: str,
    output: str,
    overwrite: bool,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
) -> None:
    """Write log-probabilities and responsibilities of all candidates of DATA under MODEL."""
    from softmix_dist.estimator import SoftmaxMixture

    loaded = SoftmaxMixture.load(model)
    with connected(scheduler, workers, memory_limit) as client:
        threads = None if client else workers
        loaded.predict(data, output, client=client, n_threads=threads, overwrite=overwrite)
    click.echo(f"predictions written to {output}", err=True)
