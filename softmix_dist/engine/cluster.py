"""The engine of a Dask cluster: one graph a pass.

Shards are ordinary recomputable tasks: nothing is scattered, pinned or kept as
worker state, so that a lost worker's shards are read again elsewhere.
"""

from __future__ import annotations

import itertools
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dask.highlevelgraph import HighLevelGraph
from distributed import Client
from distributed.client import Future
from distributed.protocol.pickle import dumps

from softmix_dist.blocks import RawBlock
from softmix_dist.dashboard import Progress, Publisher
from softmix_dist.engine.device import Device, look_for_device
from softmix_dist.engine.plan import FAN_IN, Plan, Worker, count_shards, make_plan
from softmix_dist.engine.settings import EngineSettings
from softmix_dist.engine.shards import (
    Blocks,
    Kernel,
    Prepare,
    Source,
    itself,
    load,
    reduce_shard,
    split,
)
from softmix_dist.engine.slabs import (
    GPU,
    choose_workers,
    load_on_device,
    plan_on_devices,
    reduce_on_device,
    split_slabs,
)
from softmix_dist.engine.waiting import cancel, cluster_errors, result_of
from softmix_dist.errors import ClusterError, InputError
from softmix_dist.sums import Node, merge, total

# Bytes of parameters that go with each task of a pass: with a thousand tasks, 100 MB.
_SMALL = 100_000
_NEW_CLUSTER = "start a new cluster, and run it again"

_Key = str | tuple[Any, ...]


class ClusterEngine:
    """A Dask cluster through a client, which stays the caller's.

    Parameters
    ----------
    client : distributed.Client
    **settings
        Of `EngineSettings`, instead of what is configured.

    Raises
    ------
    InputError
        If the client is an asynchronous one, or a setting cannot be used.
    ClusterError
        If the cluster has no worker, or does not answer.
    """

    def __init__(self, client: Client, **settings: Any):
        if client.asynchronous:
            raise InputError(
                "the client is asynchronous, and a fit waits for its passes; give it a client of "
                "its own: Client(scheduler_address)"
            )
        self.client = client
        self.settings = replace(EngineSettings.configured(), **settings)
        self.bytes_read = 0
        self._name = uuid.uuid4().hex[:8]
        self._pass = itertools.count()
        self._streamed: Callable[[], list[Any]] | None = None
        self._kept: list[Future] = []
        self.on_device = self.settings.device == "gpu"
        self._load: Callable[..., Any] = load_on_device if self.on_device else load
        self._reduce: Callable[..., Any] = reduce_on_device if self.on_device else reduce_shard
        self._resources: dict[str, float] | None = None
        workers = self._workers()
        if not workers:
            raise ClusterError("the cluster has no worker; start workers and try again")
        self.n_threads = sum(worker.n_threads for worker in workers.values())

    def _workers(self) -> dict[str, Worker]:
        identity = self._ask("identity", n_workers=-1)
        return {
            address: Worker(
                worker["nthreads"],
                worker["memory_limit"] or None,
                worker["metrics"].get("memory", 0),
                worker["resources"].get(GPU, 0) > 0,
            )
            for address, worker in sorted(identity["workers"].items())
        }

    def _ask(self, question: str, **how: Any) -> Any:
        """Ask the scheduler: Dask itself would wait for ever for one that hangs."""
        self._check_open()
        ask, stall = getattr(self.client.scheduler, question), self.settings.stall_timeout
        with cluster_errors():
            try:
                return self.client.sync(ask, **how, callback_timeout=stall)
            except TimeoutError:
                raise ClusterError(
                    f"the scheduler did not answer for {stall:.0f} seconds "
                    f"(softmix.engine.stall-timeout); {_NEW_CLUSTER}"
                ) from None

    def _check_open(self) -> None:
        # Dask closes a client that looked for its scheduler in vain.
        if self.client.status == "closed":
            raise ClusterError(f"the client is closed, or lost its scheduler; {_NEW_CLUSTER}")

    def plan(self, source: Source, nbytes: int) -> Plan:
        """Decide how ``source``, of ``nbytes`` as blocks hold it, would be held and read.

        Raises
        ------
        InputError
            If some worker has no memory for a block in each of its threads.
        ClusterError
            If devices were asked for, and cannot be used.
        """
        if self.on_device:
            workers, devices = self._devices()
            return plan_on_devices(source, nbytes, workers, devices, self.settings)
        workers = list(self._workers().values())
        keep, blocks_per_shard = self.settings.keep, self.settings.blocks_per_shard
        return make_plan(source, nbytes, workers, keep, blocks_per_shard)

    def _devices(self) -> tuple[list[Worker], list[Device]]:
        """Return the workers that compute, and their devices."""
        stall = self.settings.stall_timeout
        with cluster_errors():
            told = self.client.run(look_for_device, on_error="return", callback_timeout=stall)
        workers = self._workers()
        chosen, self._resources = choose_workers(workers, told, self.settings.mixed_devices)
        return [workers[address] for address in chosen], [told[address] for address in chosen]

    def load(self, source: Source, prepare: Prepare, nbytes: int) -> str:
        """Take the data for the passes to come; return how they are held, in words."""
        plan = self.plan(source, nbytes)
        self.bytes_read = plan.bytes_read
        self._release()
        if plan.keep:
            name = f"softmix-load-{self._name}-{next(self._pass)}"
            shards = self._shards(source, prepare, plan.n_shards, nbytes)
            # One graph, which goes round the workers; and no hint where a shard should go: one
            # for a worker that died while there was no other is waited for, for ever, by Dask.
            graph = {(name, i): (self._load, shard) for i, shard in enumerate(shards)}
            self._kept = self._submit(graph, list(graph), self._resources)
        # Streamed, for the threads that there are at each pass.
        self._streamed = (
            None
            if plan.keep
            else lambda: self._shards(source, prepare, self._count(source), nbytes, True)
        )
        return str(plan)

    def _shards(
        self, source: Source, prepare: Prepare, number: int, nbytes: int, recycles: bool = False
    ) -> list[Any]:
        if self.on_device:
            return split_slabs(source, number, prepare, nbytes)
        return split(source, number, prepare, recycles)

    def _count(self, source: Blocks) -> int:
        """Count shards for the threads that there are now: workers come and go."""
        threads = self._ask("ncores")
        self.n_threads = sum(threads.values()) or self.n_threads
        return count_shards(source.n_blocks, self.n_threads, self.settings.blocks_per_shard)

    def reduce(self, kernel: Kernel) -> Any:
        """Sum of a kernel over all blocks, in the canonical order."""
        shards = self._kept if self._streamed is None else self._streamed()
        return self._sum(kernel, shards, self._reduce, self._resources)

    def reduce_stored(self, source: Blocks, task: Callable[[Any], Any]) -> Any:
        """Sum of ``task`` over all stored blocks, read again, in the canonical order."""
        return self._sum(itself, split(source, self._count(source), task), reduce_shard)

    def _sum(
        self,
        kernel: Kernel,
        shards: list[Any],
        reduce: Callable[..., Any],
        resources: dict[str, float] | None = None,
    ) -> Any:
        name = f"{self._name}-{next(self._pass)}"
        # 1. Large parameters are a node of their own, sent once, made again if lost. Small ones
        #    go with each task: Dask begins tasks where their inputs are, so that all of a
        #    streamed pass would begin on one worker, and wait to be stolen.
        graph: dict[_Key, Any] = {}
        parameters: Any = kernel
        if len(dumps(kernel)) > _SMALL:
            parameters = f"softmix-parameters-{name}"
            graph[parameters] = kernel
        # 2. A task a shard.
        keys: list[_Key] = []
        for i, shard in enumerate(shards):
            keys.append((f"softmix-score-{name}", i))
            graph[keys[-1]] = (reduce, parameters, shard)
        # 3. A tree of merges, down to one.
        level = 0
        while len(keys) > 1:
            merged: list[_Key] = []
            for i in range(0, len(keys), FAN_IN):
                merged.append((f"softmix-merge-{name}", level, i))
                graph[merged[-1]] = (_merge, *keys[i : i + FAN_IN])
            keys, level = merged, level + 1
        return total(self._compute(graph, keys[0], resources))

    def visit(self, source: Source, task: Callable[[RawBlock], Any]) -> list[Any]:
        """Call ``task`` with every stored block; answers in the order of blocks."""
        name = f"softmix-visit-{self._name}-{next(self._pass)}"
        keys: list[_Key] = []
        graph: dict[_Key, Any] = {}
        for i, shard in enumerate(split(source, self._count(source), task)):
            keys.append((name, i))
            graph[keys[-1]] = (load, shard)
        graph[f"{name}-all"] = (_joined, *keys)
        return [answer for _, answer in self._compute(graph, f"{name}-all")]

    def _compute(
        self, graph: dict[_Key, Any], key: _Key, resources: dict[str, float] | None = None
    ) -> Any:
        (future,) = self._submit(graph, [key], resources)
        try:
            return result_of(self.client, future, self.settings.stall_timeout, resources)
        finally:
            future.release()

    def _submit(
        self,
        graph: Mapping[Any, Any],
        keys: list[Any],
        resources: dict[str, float] | None = None,
    ) -> list[Future]:
        self._check_open()
        with cluster_errors(), warnings.catch_warnings():
            # Arrays in memory travel inside their tasks, so that they can be recomputed.
            warnings.filterwarnings("ignore", message="Sending large graph")
            try:
                # As a layer with a name: Dask hashes each task of a plain dictionary, a third of
                # the client's and scheduler's time, for a name that is used for nothing here.
                layers = HighLevelGraph.from_collections("softmix", graph)
                futures: list[Future] = self.client.get(
                    layers, keys, resources=resources, sync=False
                )
                return futures
            except BaseException:
                # Interrupted after they were sent, perhaps.
                cancel(self.client, keys)
                raise

    def _release(self) -> None:
        # By name: after an interrupt its traceback refers to them, in a notebook until the next.
        for future in self._kept:
            future.release()
        self._kept = []

    def watch(self, progress: Progress | None) -> Progress | None:
        """Return a callback that shows progress on the scheduler's dashboard as well."""
        return Publisher(self.client, progress) if self.settings.dashboard else progress

    def close(self) -> None:
        """Release the data; the client stays open."""
        self._release()
        self._streamed = None


def _merge(*parts: list[Node]) -> list[Node]:
    return merge(node for nodes in parts for node in nodes)


def _joined(*parts: list[Any]) -> list[Any]:
    return [value for part in parts for value in part]
