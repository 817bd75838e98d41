"""Waiting for a cluster: until it answers, or until nobody is there to answer.

A computation that no worker can make waits for ever in Dask. Here it waits for new workers
for a time that the user sets, and then says so.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from distributed import CancelledError, Client
from distributed.client import Future
from distributed.comm import CommClosedError
from distributed.comm.core import FatalCommClosedError
from distributed.core import rpc
from distributed.scheduler import KilledWorker, NoValidWorkerError
from distributed.security import Security

from softmix_dist.errors import ClusterError

# Seconds between looks at the workers, while a result is not there.
_LOOK = 2.0
# Workers that may have run, for each at a time, while one result is waited for.
_LIVES = 20
_OUT_OF_MEMORY = (
    "most often they ran out of memory: look at their logs, give them more memory or fewer threads"
)
_REMEDY = "start workers, or a new cluster, and run it again"


@contextmanager
def client_of(address: str, seconds: float = 20.0) -> Iterator[Client]:
    """Yield a client of a scheduler, and close it.

    Raises
    ------
    ClusterError
        If the scheduler does not answer, or refuses: a certificate that is missing or not its
        own, or a scheme that is not the scheduler's.
    ValueError
        If this is no address.
    """
    try:
        # First without a client, whose beginning waits for ever on a scheduler that hangs.
        ask(address, "identity", seconds, n_workers=0)
        client = Client(address, timeout=f"{seconds} s")
    except (OSError, TimeoutError) as error:
        hint = "; does it ask for TLS (tls://)?" if listens(address) else ""
        told = innermost(error)
        raise ClusterError(f"no Dask scheduler answers at {address!r}: {told}{hint}") from error
    with client:
        yield client


def ask(address: str, question: str, seconds: float, **how: Any) -> Any:
    """Ask a scheduler something, without becoming its client; not inside an event loop.

    Parameters
    ----------
    address, question : str
        The question is the name of one of its handlers.
    seconds : float
        To wait at most.
    **how
        Of the question.

    Raises
    ------
    OSError, TimeoutError
        If there is no answer in time.
    ClusterError
        If there will be none: a certificate is missing, or is not of the scheduler's authority.
    """

    async def answer() -> Any:
        given = Security().get_connection_args("client")
        async with rpc(address, timeout=seconds, connection_args=given) as scheduler:
            return await getattr(scheduler, question)(**how)

    async def in_time() -> Any:
        return await asyncio.wait_for(answer(), seconds)

    try:
        return asyncio.run(in_time())
    except TypeError as error:
        # What Dask says where no certificate is configured.
        raise ClusterError(
            f"{address} asks for TLS, and no certificate is configured here; name them in "
            "distributed.comm.tls of Dask's configuration (ca-file, client.cert, client.key)"
        ) from error
    except MemoryError as error:
        # It takes the first bytes of an answer, such as HTTP/1.1, for a length.
        raise ClusterError(
            f"no Dask scheduler answers at {address!r}, but something else does; is it the "
            "address of the dashboard?"
        ) from error
    except FatalCommClosedError as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address!r}: {innermost(error)}; are these "
            "certificates signed by its authority?"
        ) from error


def innermost(error: BaseException) -> str:
    """Return what was said first in a chain of errors, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, (TimeoutError, asyncio.CancelledError)):
        return "no answer in time"
    return " ".join(str(error).split()) or type(error).__name__


def listens(address: str) -> bool:
    """Whether anything listens at an address."""
    return unreachable(address) is None


def unreachable(address: str) -> str | None:
    """Return why nothing can be reached at an address, or None where something listens."""
    host, _, port = address.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except socket.gaierror:
        # Where a Service is missing, or no DNS may be asked: another remedy than a closed port.
        return f"the name {host} is not found"
    except TimeoutError:
        return "no answer in time"
    except (OSError, ValueError):
        return "nothing listens there"
    return None


def result_of(
    client: Client, future: Future, stall: float, resources: Mapping[str, float] | None = None
) -> Any:
    """Wait for a result, and cancel its tasks where it is not wanted any more.

    Parameters
    ----------
    client : distributed.Client
    future : distributed.Future
    stall : float
        Seconds without a running worker, or without an answer of the scheduler, to wait at most.
    resources : mapping, optional
        Of Dask: workers that do not declare them do not count.

    Raises
    ------
    ClusterError
        If the cluster lost the computation, or nobody is left to make it.
    """
    try:
        with cluster_errors():
            return _wait(client, future, stall, resources or {})
    except BaseException:
        # An interrupt as well: nobody waits for these tasks, so nobody should make them.
        cancel(client, [future.key])
        raise


def cancel(client: Client, keys: list[Any]) -> None:
    """Tell the scheduler to forget what a client asked for, if it can be told."""
    with suppress(Exception):
        client.cancel([Future(key, client) for key in keys])


def _wait(client: Client, future: Future, stall: float, resources: Mapping[str, float]) -> Any:
    seen = time.monotonic()
    lived: set[str] = set()
    most = 1
    while True:
        done = future.done()
        try:
            return future.result(timeout=stall if done else _LOOK)
        except TimeoutError:
            if future.status == "error":
                raise
        try:
            threads = client.sync(client.scheduler.ncores_running, callback_timeout=_LOOK)
            lived, most = lived.union(threads), max(most, len(threads))
            if threads and resources:
                threads = _declaring(client, resources)
        except (TimeoutError, OSError):
            problem = "the scheduler did not answer"
        else:
            problem = "there was no running worker"
            if resources:
                problem += f" with --resources {' '.join(resources)}"
            if threads:
                seen = time.monotonic()
        # Dask counts only those that die at a task, not those that die of what it returned.
        if len(lived) > _LIVES * most:
            raise ClusterError(
                f"{len(lived)} workers came and went, {most} at a time, and one pass is not made; "
                f"{_OUT_OF_MEMORY}"
            )
        if time.monotonic() - seen > stall:
            raise ClusterError(
                f"{problem} for {stall:.0f} seconds (softmix.engine.stall-timeout)"
                f"{_paused(client)}; {_REMEDY}"
            )


def _paused(client: Client) -> str:
    """Return what to say of workers that are there, but take no tasks for want of memory."""
    try:
        identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=_LOOK)
    except (TimeoutError, OSError):
        return ""
    status = [worker["status"] for worker in identity["workers"].values()]
    paused = status.count("paused")
    if not paused:
        return ""
    return f"; {paused} of {len(status)} are paused, their memory nearly full: give them more"


def _declaring(client: Client, resources: Mapping[str, float]) -> list[str]:
    """Addresses of running workers that declare some resources."""
    identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=_LOOK)
    return [
        address
        for address, worker in identity["workers"].items()
        if worker["status"] == "running" and resources.keys() <= worker["resources"].keys()
    ]


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Turn what Dask raises where a cluster lost its work into `ClusterError`."""
    try:
        yield
    except KilledWorker as error:
        raise ClusterError(
            f"workers died one after the other on the same task ({error}); {_OUT_OF_MEMORY}; where "
            "nodes are taken away, as preemptible ones are, set "
            "distributed.scheduler.allowed-failures, 3 by default, to 20 for the scheduler"
        ) from error
    except (NoValidWorkerError, CancelledError, CommClosedError, TimeoutError) as error:
        told = " ".join(str(error).split())
        raise ClusterError(
            f"the cluster lost the computation ({type(error).__name__}: {told}); {_REMEDY}"
        ) from error
