"""The engine of a Dask cluster: one graph a pass.

Shards are ordinary recomputable tasks: nothing is scattered, pinned or kept as
worker state, so that a lost worker's shards are read again elsewhere.
"""

from __future__ import annotations

import itertools
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dask import delayed
from distributed import CancelledError, Client
from distributed.client import Future
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker, NoValidWorkerError

from softmix_dist.blocks import RawBlock
from softmix_dist.engine.shards import (
    Kernel,
    Prepare,
    Shard,
    Source,
    itself,
    load,
    reduce_shard,
    split,
)
from softmix_dist.errors import ClusterError
from softmix_dist.sums import Node, merge, total

_SHARDS_PER_THREAD = 2
_FAN_IN = 8


class ClusterEngine:
    """A Dask cluster through a client, which stays the caller's.

    Parameters
    ----------
    client : distributed.Client

    Raises
    ------
    ClusterError
        If the cluster has no worker.
    """

    def __init__(self, client: Client):
        self.client = client
        workers = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
        if not workers:
            raise ClusterError("the cluster has no worker; start workers and try again")
        self.workers = sorted(workers)
        self.n_threads = sum(worker["nthreads"] for worker in workers.values())
        self.memory = sum(worker["memory_limit"] or 0 for worker in workers.values())
        self._name = uuid.uuid4().hex[:8]
        self._pass = itertools.count()
        self.bytes_read = 0
        self._shards: list[Any] = []

    def load(self, source: Source, prepare: Prepare, nbytes: int) -> str:
        """Take the data for the passes to come; return how they are held, in words."""
        shards = split(source, _SHARDS_PER_THREAD * self.n_threads, prepare)
        keep = not self.memory or nbytes <= self.memory // 2
        self.bytes_read = 0 if keep else nbytes
        name = f"softmix-load-{self._name}-{next(self._pass)}"
        with _cluster_errors():
            self._shards = [
                self._submit(load, shard, (name, i)) if keep else _whole(shard, (name, i))
                for i, shard in enumerate(shards)
            ]
        held = "in memory" if keep else "streamed"
        return (
            f"{len(self.workers)} workers, {self.n_threads} threads, {len(shards)} shards, "
            f"{nbytes / 1e6:.0f} MB {held}"
        )

    def _submit(
        self, function: Callable[[Shard], Any], shard: Shard, key: tuple[str, int]
    ) -> Future:
        with warnings.catch_warnings():
            # Arrays in memory travel inside their tasks, so that they can be recomputed.
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self.client.submit(
                function,
                shard,
                key=key,
                workers=self.workers[key[1] % len(self.workers)],
                allow_other_workers=True,
            )

    def reduce(self, kernel: Kernel) -> Any:
        """Sum of a kernel over all blocks, in the canonical order."""
        return self._sum(kernel, self._shards, f"{self._name}-{next(self._pass)}")

    def reduce_stored(self, source: Source, task: Callable[[RawBlock], Any]) -> Any:
        """Sum of ``task`` over all stored blocks, read again, in the canonical order."""
        name = f"{self._name}-{next(self._pass)}"
        shards = split(source, _SHARDS_PER_THREAD * self.n_threads, task)
        whole = [_whole(shard, (f"softmix-stored-{name}", i)) for i, shard in enumerate(shards)]
        return self._sum(itself, whole, name)

    def _sum(self, kernel: Kernel, shards: list[Any], name: str) -> Any:
        parameters = delayed(kernel, name=f"softmix-parameters-{name}", traverse=False)
        nodes = [
            delayed(reduce_shard)(parameters, shard, dask_key_name=(f"softmix-score-{name}", i))
            for i, shard in enumerate(shards)
        ]
        level = 0
        while len(nodes) > 1:
            nodes = [
                delayed(_merge)(
                    nodes[i : i + _FAN_IN], dask_key_name=(f"softmix-merge-{name}", level, i)
                )
                for i in range(0, len(nodes), _FAN_IN)
            ]
            level += 1
        with _cluster_errors(), warnings.catch_warnings():
            # Arrays in memory that are not kept on the workers travel with each pass.
            warnings.filterwarnings("ignore", message="Sending large graph")
            future = self.client.compute(nodes[0])
            return total(future.result())

    def visit(self, source: Source, task: Callable[[RawBlock], Any]) -> list[Any]:
        """Call ``task`` with every stored block; answers in the order of blocks."""
        name = f"softmix-visit-{self._name}-{next(self._pass)}"
        shards = split(source, _SHARDS_PER_THREAD * self.n_threads, task)
        tasks = [
            delayed(load)(_whole(shard, (f"{name}-shard", i)), dask_key_name=(name, i))
            for i, shard in enumerate(shards)
        ]
        with _cluster_errors():
            parts = self.client.gather(self.client.compute(tasks))
        return [answer for part in parts for _, answer in part]

    def close(self) -> None:
        """Release the data; the client stays open."""
        self._shards = []


def _whole(shard: Shard, key: tuple[str, int]) -> Any:
    # Dask arrays inside a shard stay lazy: looked into, they would be computed whole.
    return delayed(shard, name=key, traverse=False)


def _merge(parts: list[list[Node]]) -> list[Node]:
    return merge(node for nodes in parts for node in nodes)


@contextmanager
def _cluster_errors() -> Iterator[None]:
    try:
        yield
    except (
        KilledWorker,
        NoValidWorkerError,
        CancelledError,
        CommClosedError,
        TimeoutError,
    ) as error:
        raise ClusterError(
            f"the cluster lost the computation ({type(error).__name__}: {error}); "
            "look at the workers' logs, and try again"
        ) from error
