"""What the pods of a batch job do: serve a fit, work for it, and leave it in good order.

Every process of the job is started with the same command and finds its part by its index. The
scheduler may go and come back with another address behind the same name: workers look for it
again. TLS and everything else of Dask are configured as for any other Dask process.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
from distributed import Nanny

from softmix_dist.engine.waiting import client_of, cluster_errors, knock
from softmix_dist.errors import ClusterError

# Of a container's memory: what its worker may use. The rest is for the interpreter that watches
# it, for what its allocator holds, and for files in a memory-backed /tmp.
MEMORY_SHARE = 0.85
_LOOK = 1.0
# Seconds that a worker which is not needed any more has to hand on its data.
_RETIRE = 20.0

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
    with suppress(OSError):
        knock(address)
        # Never another's: it would have its workers, and there would be two drivers.
        raise ClusterError(f"something listens at {address} already; only one scheduler can")
    with subprocess.Popen(command) as process:
        try:
            wait_for_scheduler(address, 60.0, process)
            yield address
        finally:
            process.terminate()


def wait_for_scheduler(
    address: str, seconds: float, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Wait until something listens at an address.

    Parameters
    ----------
    address : str
    seconds : float
        To wait at most.
    process : subprocess.Popen, optional
        That is to listen; its end ends the waiting.

    Raises
    ------
    ClusterError
    """
    last, told = time.monotonic() + seconds, False
    while True:
        if process is not None and process.poll() is not None:
            raise ClusterError(
                f"the scheduler ended with {process.returncode}; its messages are above"
            )
        try:
            # The name is looked up each time: a scheduler that moved has another number.
            knock(address)
            return
        except OSError as error:
            if not told and process is None:
                logger.info("waiting for the scheduler at %s", address)
            told = True
            if time.monotonic() > last:
                raise ClusterError(
                    f"no scheduler at {address} within {seconds:.0f} s ({error}); look at the "
                    "pod of index 0, and whether a NetworkPolicy lets its port through"
                ) from error
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
        If the scheduler cannot be reached, or too few workers came.
    """
    last = time.monotonic() + seconds
    found = -1
    with client_of(address) as client, cluster_errors():
        while True:
            before, found = found, len(client.sync(client.scheduler.ncores_running))
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
    }
    while True:
        wait_for_scheduler(address, seconds)
        if asyncio.run(_work(address, options)):
            return
        logger.warning("the scheduler at %s is gone; waiting for it", address)


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
        except (OSError, TimeoutError, TypeError, RuntimeError) as error:
            cause = str(error.__cause__ or error)
            raise ClusterError(
                f"{address} takes no worker from here: {' '.join(cause.split())}"
            ) from error
        finally:
            await nanny.close(reason="pod-ends")
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
        If the scheduler cannot be reached, or it takes too long.
    """
    with client_of(address, 5.0) as client, cluster_errors():
        workers = client.sync(client.scheduler.identity, n_workers=-1)["workers"].values()
        if name not in {worker["name"] for worker in workers}:
            return "the scheduler knows no such worker"
        # It would come back if it were closed now: its pod looks for the scheduler again.
        retired = client.sync(
            client.scheduler.retire_workers,
            names=[name],
            close_workers=False,
            remove=False,
            callback_timeout=_RETIRE,
        )
    return "retired" if retired else "no other worker has room for its data: they are read again"
