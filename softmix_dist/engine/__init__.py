"""Engines: map kernels over blocks and add their sums in one canonical order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from softmix_dist.blocks import RawBlock
from softmix_dist.engine.blas import blas_kernel, single_blas_thread
from softmix_dist.engine.local import LocalEngine, Progress, memory_limit
from softmix_dist.engine.plan import Plan
from softmix_dist.engine.shards import Blocks, Kernel, Prepare, Source
from softmix_dist.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Engine",
    "LocalEngine",
    "Plan",
    "blas_kernel",
    "engine_for",
    "memory_limit",
    "single_blas_thread",
]


class Engine(Protocol):
    """What the loop asks of an engine; the same bits from every one.

    Attributes
    ----------
    bytes_read : int
        By every pass, as blocks are held; 0 where they stay in memory.
    """

    bytes_read: int

    def plan(self, source: Source, nbytes: int) -> Plan:
        """Decide how a data set, of ``nbytes`` as blocks hold it, would be held and read."""
        ...

    def load(self, source: Source, prepare: Prepare, nbytes: int) -> str:
        """Take the data for the passes to come; return how they are held, in words."""
        ...

    def reduce(self, kernel: Kernel) -> Any:
        """Sum of a kernel over all blocks: one pass."""
        ...

    def reduce_stored(self, source: Blocks, task: Callable[[Any], Any]) -> Any:
        """Sum of ``task`` over all stored blocks, read again: for what prepared ones lack."""
        ...

    def visit(self, source: Source, task: Callable[[RawBlock], Any]) -> list[Any]:
        """Call ``task`` with every stored block; answers in the order of blocks."""
        ...

    def close(self) -> None:
        """Release what the engine itself holds; never a client that was passed in."""
        ...


class OwnEngine(Engine, Protocol):
    """An engine as it is made, for a face to watch."""

    def watch(self, progress: Progress | None) -> Progress | None:
        """Return a callback that shows progress where the engine shows things, as well."""
        ...


def engine_for(
    client: Client | None = None, n_threads: int | None = None, device: str | None = None
) -> OwnEngine:
    """Engine for a client: the given one, else the current one, else threads.

    Parameters
    ----------
    client : distributed.Client or None
        None takes the current client if there is one, and else the threads of this
        process; no cluster is started behind the user's back.
    n_threads : int or None
        Of the threaded engine; asking for them means asking for it.
    device : {"cpu", "gpu"} or None
        What passes are computed on; None takes what is configured.

    Raises
    ------
    InputError
        If there is no such device, or what is configured cannot be used.
    """
    if device not in (None, "cpu", "gpu"):
        raise InputError(f"device: expected 'cpu' or 'gpu', found {device!r}")
    settings: dict[str, Any] = {} if device is None else {"device": device}
    if client is None and n_threads is None and "distributed" in sys.modules:
        from distributed.client import default_client

        try:
            client = default_client()
        except ValueError:
            client = None
    if client is None:
        return LocalEngine(n_threads, **settings)
    from softmix_dist.engine.cluster import ClusterEngine

    return ClusterEngine(client, **settings)
