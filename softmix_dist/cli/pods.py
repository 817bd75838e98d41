"""``softmix pod``: what the containers of a Kubernetes job run."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import click

from softmix_dist.cli.exits import RETRY, Interrupted
from softmix_dist.errors import ClusterError

_option = partial(click.option, show_envvar=True)


def _settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command options, which a manifest sets as variables."""
    found = {
        "scheduler": _option(
            "--scheduler",
            required=True,
            metavar="HOST:PORT",
            envvar=["SOFTMIX_SCHEDULER", "DASK_SCHEDULER_ADDRESS"],
            help="Where the scheduler is to be found.",
        ),
        "index": _option(
            "--index",
            type=click.IntRange(0),
            required=True,
            envvar="JOB_COMPLETION_INDEX",
            help="Of this pod; 0 runs scheduler and driver. Kubernetes sets it in an Indexed Job.",
        ),
        "workers": _option(
            "--workers",
            type=click.IntRange(1),
            required=True,
            envvar="SOFTMIX_WORKERS",
            help="Workers to wait for before the command begins.",
        ),
        "min_workers": _option(
            "--min-workers",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            envvar="SOFTMIX_MIN_WORKERS",
            help="Workers that are enough once --wait has passed.",
        ),
        "wait": _option(
            "--wait",
            type=str,
            default="600 s",
            show_default=True,
            envvar="SOFTMIX_WAIT",
            help="Time to wait for workers.",
        ),
        "scheduler_wait": _option(
            "--scheduler-wait",
            type=str,
            default="6 hours",
            show_default=True,
            envvar="SOFTMIX_SCHEDULER_WAIT",
            help="Time to wait for the scheduler, wherever it may be restarted.",
        ),
        "name": _option(
            "--name",
            default=socket.gethostname,
            show_default="host name",
            envvar=["SOFTMIX_POD", "DASK_WORKER_NAME"],
            help="Of this worker.",
        ),
        "threads": _option(
            "--threads",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            envvar="SOFTMIX_THREADS",
            help="Threads of the worker.",
        ),
        "memory": _option(
            "--memory",
            metavar="BYTES",
            envvar="SOFTMIX_MEMORY",
            help="Memory of the container, of which the worker uses 85 %.",
        ),
        "gpus": _option(
            "--gpus",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            envvar="SOFTMIX_GPUS",
            help="Devices of this worker, declared to Dask as its resource GPU.",
        ),
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = found[name](command)
        return command

    return decorate


_WORKER = "scheduler_wait", "name", "threads", "memory", "gpus"
_command = click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
_passes_on = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group(short_help="Parts of a batch job, for manifests.")
def pod() -> None:
    """Parts of a batch job, for the manifests in deploy/; options are read from the environment.

    Exit codes are those of softmix; 75 as well for too few workers, no scheduler, and a pod
    that is told to stop.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("softmix_dist.pods").setLevel(logging.INFO)


@pod.command(context_settings=_passes_on, short_help="Play the part of this pod's index.")
@_settings("index", "scheduler", "workers", "min_workers", "wait", *_WORKER)
@_command
def run(
    index: int,
    scheduler: str,
    workers: int,
    min_workers: int,
    wait: str,
    command: tuple[str, ...],
    **worker: Any,
) -> None:
    """Run COMMAND, such as fit DATA -k 5 -o MODEL, on the workers of an Indexed Job.

    Index 0 runs the scheduler and COMMAND, which is told where the scheduler is; the others work
    for it, wherever it may be restarted, until they are told to stop.
    """
    _check_command(command)
    address, seconds = _address(scheduler), _seconds("wait", wait)
    if index:
        _work(address, **worker)
    from softmix_dist.engine.pods import scheduler_at

    with scheduler_at(int(address.rpartition(":")[2])) as here:
        _drive(here, workers, min_workers, seconds, command)


@pod.command(context_settings=_passes_on, short_help="Run a command on a cluster that is there.")
@_settings("scheduler", "scheduler_wait", "workers", "min_workers", "wait")
@_command
def drive(
    scheduler: str,
    scheduler_wait: str,
    workers: int,
    min_workers: int,
    wait: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND, such as fit DATA -k 5 -o MODEL, on a cluster once its workers are there."""
    from softmix_dist.engine.pods import wait_for_scheduler

    _check_command(command)
    address, seconds = _address(scheduler), _seconds("wait", wait)
    wait_for_scheduler(address, _seconds("scheduler-wait", scheduler_wait))
    _drive(address, workers, min_workers, seconds, command)


@pod.command(short_help="Work for a scheduler.")
@_settings("scheduler", *_WORKER)
def work(scheduler: str, **worker: Any) -> None:
    """Work for a scheduler, wherever it may be restarted, until told to stop."""
    _work(_address(scheduler), **worker)


@pod.command(short_help="Hand a worker's data on, before it is stopped.")
@click.option("--index", type=int, envvar="JOB_COMPLETION_INDEX", hidden=True)
@_settings("scheduler", "name")
def retire(index: int | None, scheduler: str, name: str) -> None:
    """Let the worker of this pod hand its data on and take no more tasks; for a preStop hook."""
    from softmix_dist.engine.pods import retire as retire_worker

    if index == 0:
        return
    try:
        click.echo(f"{name}: {retire_worker(_address(scheduler), name)}", err=True)
    except ClusterError as error:
        # The job is done, or its scheduler is gone: there is nobody to hand data to.
        click.echo(f"{name}: not retired: {error}", err=True)


def _drive(
    address: str, workers: int, min_workers: int, seconds: float, command: tuple[str, ...]
) -> None:
    from softmix_dist.engine.pods import wait_for_workers

    wait_for_workers(address, workers, min(min_workers, workers), seconds)
    _softmix().main([*command, "--scheduler", address], prog_name="softmix")


def _softmix() -> click.Group:
    """Return the command that this one is a part of."""
    here = click.get_current_context()
    return here.parent.parent.command  # type: ignore[union-attr,return-value]


def _work(
    address: str, scheduler_wait: str, name: str, threads: int, memory: str | None, gpus: int
) -> None:
    from dask.utils import parse_bytes

    from softmix_dist.engine.pods import work as work_for

    try:
        nbytes = None if memory is None else parse_bytes(memory)
    except ValueError as error:
        raise click.BadParameter(f"--memory (SOFTMIX_MEMORY): {error}") from error
    # While it waits for a scheduler, SIGTERM comes as it does to any command.
    with suppress(Interrupted):
        work_for(address, name, _seconds("scheduler-wait", scheduler_wait), threads, nbytes, gpus)
    click.echo("told to stop", err=True)
    # Not 0: for Kubernetes this index would be done, and no pod would take its place.
    click.get_current_context().exit(RETRY)


def _address(scheduler: str) -> str:
    from softmix_dist.engine.pods import address_of

    _check([scheduler])
    address = address_of(scheduler)
    parts = re.fullmatch(
        r"[a-z]+://([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]):(\d+)", address
    )
    if parts is None or not 0 < int(parts[2]) < 2**16:
        raise click.BadParameter(
            f"--scheduler (SOFTMIX_SCHEDULER): expected host:port, found {scheduler!r}"
        )
    return address


def _seconds(name: str, wait: str) -> float:
    from dask.utils import parse_timedelta

    try:
        return float(parse_timedelta(wait))
    except (ValueError, KeyError) as error:
        raise click.BadParameter(
            f"--{name} (SOFTMIX_{name.upper().replace('-', '_')}): expected a time such as "
            f"10 minutes, found {wait!r}"
        ) from error


def _check_command(command: tuple[str, ...]) -> None:
    """Refuse a command that cannot run, before anybody is waited for."""
    _check(command)
    softmix = _softmix()
    found = softmix.commands.get(command[0])
    if found is None or not any("--scheduler" in option.opts for option in found.params):
        able = [
            name
            for name, known in softmix.commands.items()
            if any("--scheduler" in option.opts for option in known.params)
        ]
        raise click.UsageError(f"{command[0]!r} runs on no cluster; there are {', '.join(able)}")
    # As if it were called; its own usage errors come from here.
    found.make_context(f"softmix {command[0]}", [*command[1:], "--scheduler", "tcp://later:0"])


def _check(arguments: tuple[str, ...] | list[str]) -> None:
    """Refuse what Kubernetes leaves where a variable of a manifest does not exist."""
    for argument in arguments:
        missing = re.search(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", argument)
        if missing:
            raise click.UsageError(
                f"{argument!r}: the environment variable {missing[1]} is not set; set it in "
                "job.env, or in the container's env"
            )
        if not argument:
            raise click.UsageError(
                "an argument of the command is empty: a variable of job.env has no value"
            )
