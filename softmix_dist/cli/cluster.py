"""Where a command computes: threads of this process, a local cluster, or a running scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--scheduler``, ``--workers`` and ``--memory-limit``."""
    for option in (
        click.option(
            "--memory-limit",
            metavar="BYTES",
            default="auto",
            show_default=True,
            help="Memory of each worker of a local cluster, such as 2GiB.",
        ),
        click.option("--workers", type=click.IntRange(1), help="Workers, or threads, to use."),
        click.option(
            "--scheduler",
            metavar="ADDRESS|local|threads",
            default="threads",
            show_default=True,
            help="A running Dask scheduler, a local cluster of processes, or threads.",
        ),
    ):
        command = option(command)
    return command


device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "gpu"]),
    help="What the passes are computed on; default: as configured (softmix.engine.device), else "
    "cpu. gpu needs CuPy where the passes run.",
)


@contextmanager
def connected(scheduler: str, workers: int | None, memory_limit: str) -> Iterator[Any]:
    """Yield a client, or None for the threads of this process."""
    if scheduler == "threads":
        yield None
        return
    from dask.utils import parse_bytes
    from distributed import Client, LocalCluster

    from softmix_dist.engine.waiting import client_of

    try:
        if memory_limit != "auto":
            parse_bytes(memory_limit)
    except ValueError as error:
        raise click.BadParameter(f"--memory-limit: {error}") from error
    if scheduler == "local":
        with (
            LocalCluster(
                n_workers=workers or os.cpu_count() or 1,
                threads_per_worker=1,
                memory_limit=memory_limit,
                dashboard_address=":0",
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    with ExitStack() as stack:
        try:
            client = stack.enter_context(client_of(scheduler))
        except ValueError as error:
            raise click.BadParameter(f"--scheduler {scheduler}: {error}") from error
        yield client
