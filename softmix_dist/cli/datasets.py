"""``softmix check`` and ``softmix simulate``: data sets described, and made."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import click

from softmix_dist.cli.cluster import cluster_options, connected
from softmix_dist.progress import jsonable


@click.command(short_help="Validate and describe a data set.")
@click.argument("data", type=str)
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def check(data: str, scheduler: str, workers: int | None, memory_limit: str, as_json: bool) -> None:
    """Validate and describe the data set DATA; exit 65 with every problem named."""
    from softmix_dist.data.dataset import open_dataset
    from softmix_dist.engine import engine_for
    from softmix_dist.survey import describe

    dataset = open_dataset(data)
    with (
        connected(scheduler, workers, memory_limit) as client,
        closing(engine_for(client, workers)) as engine,
    ):
        told = describe(dataset, engine)
    if as_json:
        click.echo(json.dumps(jsonable(told)))
    else:
        click.echo("\n".join(f"{name:<22}{_plain(value)}" for name, value in told.items()))


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


@click.command()
@click.argument("path", metavar="OUT.zarr", type=str)
@click.option("--candidates", type=int, required=True, help="Number of candidates p.")
@click.option("--features", type=int, required=True, help="Number of features L.")
@click.option("--components", type=int, required=True, help="Number of components K.")
@click.option("--draws", type=int, required=True, help="Number of draws N.")
@click.option("--samples", type=int, help="Number of samples S; default: one vector of counts.")
@click.option("--norm", type=float, default=2.0, show_default=True, help="Norm of the atoms.")
@click.option(
    "--feature-law",
    type=click.Choice(["gaussian", "uniform", "student", "clusters", "binary"]),
    default="gaussian",
    show_default=True,
)
@click.option(
    "--degrees-of-freedom", type=float, default=7.0, show_default=True, help="Of student features."
)
@click.option(
    "--overdispersion",
    type=float,
    default=1.0,
    show_default=True,
    help="Variance of the counts of a sample relative to multinomial ones.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="Of the features.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all random numbers.")
@click.option("--overwrite", is_flag=True, help="Replace a data set that is there.")
def simulate(
    path: str,
    candidates: int,
    features: int,
    components: int,
    draws: int,
    samples: int | None,
    norm: float,
    feature_law: str,
    degrees_of_freedom: float,
    overdispersion: float,
    dtype: str,
    seed: int,
    overwrite: bool,
) -> None:
    """Write a simulated data set with its truth."""
    from softmix_dist.data.simulate import simulate as write

    write(
        path,
        candidates,
        features,
        components,
        draws,
        n_samples=samples,
        norm=norm,
        feature_law=feature_law,
        degrees_of_freedom=degrees_of_freedom,
        overdispersion=overdispersion,
        dtype=dtype,
        seed=seed,
        overwrite=overwrite,
    )
    click.echo(f"data set written to {path}", err=True)
