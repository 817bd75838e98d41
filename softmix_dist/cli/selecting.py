"""``softmix select``: how many components."""

from __future__ import annotations

import json
from pathlib import Path

import click

from softmix_dist.cli.cluster import cluster_options, connected, device_option
from softmix_dist.progress import jsonable


@click.command(short_help="Choose the number of components.")
@click.argument("data", type=str)
@click.option(
    "--components",
    default="1:8",
    show_default=True,
    metavar="FIRST:LAST",
    help="The numbers to try, both ends included.",
)
@click.option("--l2", type=float, default=0.0, show_default=True, help="Penalty of the atoms.")
@click.option("--max-passes", type=int, default=500, show_default=True, help="Passes at most.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed.")
@cluster_options
@device_option
@click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the table; the ending decides the format. Needs matplotlib.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def select(
    data: str,
    components: str,
    l2: float,
    max_passes: int,
    seed: int,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
    device: str | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Fit several numbers of components to DATA in the same passes, and recommend one."""
    from dataclasses import asdict

    from softmix_dist.data.dataset import open_dataset
    from softmix_dist.selection import select_components

    try:
        first, last = (int(end) for end in components.split(":"))
    except ValueError as error:
        raise click.BadParameter(f"--components {components!r}: expected FIRST:LAST") from error
    if picture is not None:
        _check_picture(picture)
    dataset = open_dataset(data)
    with connected(scheduler, workers, memory_limit) as client:
        found = select_components(
            dataset,
            components=range(first, last + 1),
            l2=l2,
            max_passes=max_passes,
            random_state=seed,
            client=client,
            n_threads=None if client else workers,
            device=device,
        )
    if picture is not None:
        from softmix_dist.plots import selection_plot

        selection_plot(found, path=picture)
        click.echo(f"picture written to {picture}", err=True)
    told = asdict(found) | {"reason": found.reason}
    click.echo(json.dumps(jsonable(told)) if as_json else str(found))


def _check_picture(path: Path) -> None:
    """Refuse, before the work, what could not be drawn after it."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise click.UsageError(
            "--plot needs matplotlib: pip install 'softmix-dist[plots]'"
        ) from error
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise click.BadParameter(
            f"--plot {path}: expected an ending such as .png, .pdf or .svg, found {path.suffix!r}"
        )
    if not path.resolve().parent.is_dir():
        raise click.BadParameter(f"--plot {path}: there is no folder {path.parent}")
