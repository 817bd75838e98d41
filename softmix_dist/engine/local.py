"""The engine of one process: threads over shards, no scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]

from softmix_dist.blocks import RawBlock
from softmix_dist.engine.device import find_device
from softmix_dist.engine.plan import Plan, Worker, count_shards, make_plan
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
    load_on_device,
    plan_on_devices,
    reduce_on_device,
    split_slabs,
)
from softmix_dist.errors import InputError
from softmix_dist.sums import merge, total

T = TypeVar("T")

Progress = Callable[[dict[str, Any]], None]

# Threads that keep a device busy: they read, and launch while others wait.
_DEVICE_THREADS = 4


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit() -> int:
    """Memory of this machine or of its control group, in bytes."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        limit = min(limit, int(text))
    return limit


def memory_used() -> int:
    """Memory of this process, in bytes, but for pages of files, which can be read again."""
    found = psutil.Process().memory_info()
    return int(found.rss - getattr(found, "shared", 0))


@dataclass(frozen=True)
class _Until:
    """The blocks of a shard, until nobody waits for them."""

    over: Event
    shard: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        return takewhile(lambda _: not self.over.is_set(), self.shard)


class LocalEngine:
    """Threads of this process.

    Parameters
    ----------
    n_threads : int or None
        Default: the CPUs that this process may use; with a GPU four at most, each of which works
        in some of its memory.
    memory : int or None
        Bytes that this process may have; data are kept in memory when they fit in half of it,
        beside what it uses already. Default: what the machine or control group has.
    **settings
        Of `EngineSettings`, instead of what is configured.

    Raises
    ------
    InputError
        If ``n_threads`` or a setting cannot be used.
    """

    def __init__(self, n_threads: int | None = None, memory: int | None = None, **settings: Any):
        if n_threads is not None and n_threads < 1:
            raise InputError(f"n_threads: expected at least 1, found {n_threads}")
        self.settings = replace(EngineSettings.configured(), **settings)
        self.on_device = self.settings.device == "gpu"
        self.n_threads = n_threads or available_cpus()
        if self.on_device and n_threads is None:
            self.n_threads = min(self.n_threads, _DEVICE_THREADS)
        self.memory = memory or memory_limit()
        self._pool = ThreadPoolExecutor(self.n_threads, thread_name_prefix="softmix")
        self.bytes_read = 0
        self._shards: list[Any] = []
        self._load: Callable[..., Any] = load_on_device if self.on_device else load
        self._reduce: Callable[..., Any] = reduce_on_device if self.on_device else reduce_shard

    def plan(self, source: Source, nbytes: int) -> Plan:
        """Decide how ``source``, of ``nbytes`` as blocks hold it, would be held and read.

        Raises
        ------
        InputError
            If there is no memory for a block in each thread.
        ClusterError
            If a device was asked for, and cannot be used.
        """
        workers = [Worker(self.n_threads, self.memory, memory_used())]
        if self.on_device:
            return plan_on_devices(source, nbytes, workers, [find_device()], self.settings)
        keep, blocks_per_shard = self.settings.keep, self.settings.blocks_per_shard
        return make_plan(source, nbytes, workers, keep, blocks_per_shard)

    def load(self, source: Source, prepare: Prepare, nbytes: int) -> str:
        """Take the data for the passes to come; return how they are held, in words."""
        # Before the plan, which would count them as used.
        self._shards = []
        plan = self.plan(source, nbytes)
        self.bytes_read = plan.bytes_read
        shards: list[Any]
        if self.on_device:
            shards = split_slabs(source, plan.n_shards, prepare, nbytes)
        else:
            shards = split(source, plan.n_shards, prepare, recycles=not plan.keep)
        self._shards = list(self._each(self._load, shards)) if plan.keep else shards
        return str(plan)

    def reduce(self, kernel: Kernel) -> Any:
        """Sum of a kernel over all blocks, in the canonical order."""
        return self._sum(kernel, self._shards, self._reduce)

    def reduce_stored(self, source: Blocks, task: Callable[[Any], Any]) -> Any:
        """Sum of ``task`` over all stored blocks, read again, in the canonical order."""
        return self._sum(itself, self._split(source, task))

    def _split(self, source: Blocks, task: Callable[[Any], Any]) -> list[Any]:
        n = count_shards(source.n_blocks, self.n_threads, self.settings.blocks_per_shard)
        return split(source, n, task)

    def _sum(
        self, kernel: Kernel, shards: Sequence[Any], reduce: Callable[..., Any] = reduce_shard
    ) -> Any:
        parts = self._each(partial(reduce, kernel), shards)
        return total(merge(node for nodes in parts for node in nodes))

    def _each(self, task: Callable[..., T], shards: Sequence[Any]) -> Iterator[T]:
        """Call a task with every shard; after an error or an interrupt none reads a block more."""
        over = Event()
        try:
            yield from self._pool.map(task, [_Until(over, shard) for shard in shards])
        finally:
            over.set()

    def visit(self, source: Source, task: Callable[[RawBlock], Any]) -> list[Any]:
        """Call ``task`` with every stored block; answers in the order of blocks."""
        shards = self._split(source, task)
        parts = self._each(load, shards)
        return [answer for part in parts for _, answer in part]

    def watch(self, progress: Progress | None) -> Progress | None:
        """Return the callback itself: there is no dashboard."""
        return progress

    def close(self) -> None:
        """Drop the data and stop the threads."""
        self._shards = []
        self._pool.shutdown(cancel_futures=True)
