"""What the pods of a batch job do: serve a fit, work for it, and leave it in good order.

Every process of the job is started with the same command and finds its part by its index. The
scheduler may go and come back with another address behind the same name: workers look for it
again. TLS and everything else of Dask are configured as for any other Dask process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from typing import Any

import dask
from distributed import Nanny

from softmix_dist.engine.waiting import ask, innermost, listens, unreachable
from softmix_dist.errors import ClusterError

# Of a container's memory: what its worker may use. The rest is for the interpreter that watches
# it, for what its allocator holds, and for files in a memory-backed /tmp.
MEMORY_SHARE = 0.85
_LOOK = 1.0
# Seconds for an answer of the scheduler; for one that hangs, or a worker that it refuses, to
# change; for a worker to begin; to end; and to hand on its data before.
_ANSWER, _PATIENCE, _BEGIN, _END, _RETIRE = 10.0, 60.0, 60.0, 8.0, 20.0

logger = logging.getLogger("softmix_dist.pods")


def address_of(place: str) -> str:
    """Address of a scheduler at ``host:port``, with the scheme that Dask is configured for."""
    if "://" in place:
        return place
    encrypted = dask.config.get("distributed.comm.require-encryption")
    scheme = "tls" if encrypted else dask.config.get("distributed.comm.default-scheme")
    return f"{scheme}://{place}"


@contextmanager
def scheduler_at(port: int) -> Iterator[str]:
    """Run a scheduler as a process of its own; yield the address for this host.

    Its dashboard is at port 8787, with the page of fits, unless Dask's configuration says
    otherwise.

    Parameters
    ----------
    port : int

    Raises
    ------
    ClusterError
        If it ends, or does not answer within a minute.
    """
    address = address_of(f"127.0.0.1:{port}")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", str(port)]
    command += ["--protocol", address.partition("://")[0], "--preload", "softmix_dist.dashboard"]
    if listens(address):
        # Never another's: it would have its workers, and there would be two drivers.
        raise ClusterError(f"something listens at {address} already; only one scheduler can")
    # Dask takes a task that was under way on four workers that died for the cause of it; where
    # nodes are taken away it is not.
    lenient = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "20", **os.environ}
    with subprocess.Popen(command, env=lenient) as process:
        try:
            wait_for_scheduler(address, 60.0, process)
            yield address
        finally:
            process.terminate()


def wait_for_scheduler(
    address: str, seconds: float, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Wait until a scheduler answers at an address.

    Parameters
    ----------
    address : str
    seconds : float
        To wait at most; where something listens that does not answer, a minute.
    process : subprocess.Popen, optional
        The scheduler, where it is one of this pod; its end ends the waiting.

    Raises
    ------
    ClusterError
    """
    began, mute, told = time.monotonic(), None, False
    while True:
        if process is not None and process.poll() is not None:
            raise ClusterError(
                f"the scheduler ended with {process.returncode}; its messages are above"
            )
        try:
            # Its name is looked up each time: a scheduler that moved has another number.
            if (problem := unreachable(address)) is not None:
                raise ConnectionRefusedError(problem)
            ask(address, "identity", min(_ANSWER, seconds), n_workers=0)
            return
        except (OSError, TimeoutError) as error:
            now = time.monotonic()
            mute = None if isinstance(error, ConnectionRefusedError) else mute or now
            why = innermost(error)
            if mute is not None and now - mute > min(_PATIENCE, seconds):
                raise ClusterError(
                    f"something listens at {address}, but does not answer as a scheduler ({why}); "
                    "does it ask for TLS (tls://), or hang?"
                ) from error
            if now - began > seconds:
                raise ClusterError(
                    f"no scheduler at {address} within {seconds:.0f} s ({why}); look at the pod "
                    "of index 0, its Service, and whether a NetworkPolicy lets its port and DNS "
                    "through"
                ) from error
            if not told and process is None:
                logger.info("waiting for the scheduler at %s", address)
            told = True
        time.sleep(_LOOK)


def wait_for_workers(address: str, wanted: int, minimum: int, seconds: float) -> None:
    """Wait for workers: for all that are wanted, or, after a time, for enough.

    Parameters
    ----------
    address : str
        Of the scheduler.
    wanted, minimum : int
        Workers to wait for; workers that are enough once ``seconds`` have passed.
    seconds : float

    Raises
    ------
    ClusterError
        If the scheduler does not answer, or too few workers came.
    """
    last = time.monotonic() + seconds
    found = -1
    while True:
        try:
            before, found = found, len(ask(address, "ncores_running", _PATIENCE))
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                f"the scheduler at {address} does not answer: {innermost(error)}"
            ) from error
        if found != before:
            logger.info("%d of %d workers are here", found, wanted)
        if found >= wanted:
            return
        if time.monotonic() > last:
            break
        time.sleep(_LOOK)
    if found < minimum:
        raise ClusterError(
            f"{found} of at least {minimum} workers came to {address} within {seconds:.0f} s; look "
            "at the pods of the other indexes: are they scheduled, and can they pull the image?"
        )
    logger.warning("%d of %d workers came within %.0f s; going on", found, wanted, seconds)


def work(
    address: str,
    name: str,
    seconds: float,
    n_threads: int,
    memory: int | None,
    n_gpus: int = 0,
) -> None:
    """Work for the scheduler at an address until told to stop by SIGTERM.

    A scheduler that goes is waited for: index 0 may be restarted, and its fit goes on.

    Parameters
    ----------
    address : str
        Of the scheduler.
    name : str
        Of this worker, unlike any other's.
    seconds : float
        To wait for a scheduler at most.
    n_threads : int
    memory : int or None
        Bytes of the container, of which the worker uses `MEMORY_SHARE`.
    n_gpus : int
        That the worker declares to have.

    Raises
    ------
    ClusterError
        If there is no scheduler within that time, or it takes no worker from here.
    """
    options: dict[str, Any] = {
        "name": name,
        "nthreads": n_threads,
        "memory_limit": "auto" if memory is None else int(MEMORY_SHARE * memory),
        "resources": {"GPU": n_gpus} if n_gpus else None,
        "death_timeout": min(_BEGIN, seconds),
    }
    refused: float | None = None
    while True:
        wait_for_scheduler(address, seconds)
        try:
            stopped = asyncio.run(_work(address, options))
        except _NotTakenError as error:
            # The scheduler went while the worker began; or a worker of this name, which was here
            # before, is not yet gone.
            now = time.monotonic()
            refused = refused or now
            if now - refused > min(_PATIENCE, seconds):
                raise ClusterError(f"{address} takes no worker from here: {error}") from error
            logger.warning("%s takes no worker from here: %s; trying again", address, error)
            time.sleep(_LOOK)
            continue
        finally:
            # Of a worker that did not end in time.
            for child in active_children():
                child.kill()
                child.join(_ANSWER)
        if stopped:
            return
        refused = None
        logger.warning("the scheduler at %s is gone; waiting for it", address)


class _NotTakenError(Exception):
    """A worker could not begin; says why."""


async def _work(address: str, options: dict[str, Any]) -> bool:
    """Work until the scheduler goes, or until SIGTERM; return whether it was that."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        told = asyncio.create_task(stop.wait())
        nanny = Nanny(address, **options)
        try:
            begun = asyncio.ensure_future(nanny.start())
            await asyncio.wait({begun, told}, return_when=asyncio.FIRST_COMPLETED)
            if begun.done():
                await begun
                gone = asyncio.ensure_future(nanny.finished())
                await asyncio.wait({gone, told}, return_when=asyncio.FIRST_COMPLETED)
        except Exception as error:
            # Of any kind: a nanny whose worker does not begin in time fails its own assertion.
            if not stop.is_set():
                raise _NotTakenError(innermost(error)) from error
        finally:
            with suppress(Exception):
                await asyncio.wait_for(nanny.close(reason="pod-ends"), _END)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
    return stop.is_set()


def retire(address: str, name: str) -> str:
    """Let a worker hand its data on to others and take no more tasks.

    Parameters
    ----------
    address : str
        Of the scheduler.
    name : str
        Of the worker, which stays until it is told to stop.

    Returns
    -------
    str
        What became of it, in words.

    Raises
    ------
    ClusterError
        If the scheduler does not answer, or it takes too long.
    """
    try:
        workers = ask(address, "identity", 5.0, n_workers=-1)["workers"].values()
        if name not in {worker["name"] for worker in workers}:
            return "the scheduler knows no such worker"
        # It would come back if it were closed now: its pod looks for the scheduler again.
        retired = ask(
            address, "retire_workers", _RETIRE, names=[name], close_workers=False, remove=False
        )
    except (OSError, TimeoutError) as error:
        raise ClusterError(f"no scheduler answers at {address}: {innermost(error)}") from error
    return "retired" if retired else "no other worker has room for its data: they are read again"
