"""``softmix demo``: the main job on real names."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from softmix_dist.cli.cluster import connected
from softmix_dist.progress import ProgressLines


@click.command(short_help="Fit four styles to US first names: a table and a picture.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the data set, the model and the picture; default: data and model are "
    "temporary, the picture goes here as us_names.png.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Processes of the cluster.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def demo(output: Path | None, workers: int, quiet: bool) -> None:
    """Fit four spelling styles to US first names: 88 496 names, 322 million births."""
    from softmix_dist.demo import run

    with tempfile.TemporaryDirectory(prefix="softmix-") as temporary:
        folder = output or Path(temporary)
        picture = (output or Path()) / "us_names.png"
        with (
            ProgressLines("quiet" if quiet else "auto") as progress,
            connected("local", workers, "auto") as client,
        ):
            click.echo(run(folder, picture, client, progress))
