"""The engine of one process: threads over shards, no scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from softmix_dist.blocks import Block, RawBlock
from softmix_dist.engine.plan import Plan, Worker, count_shards, make_plan
from softmix_dist.engine.settings import EngineSettings
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
from softmix_dist.errors import InputError
from softmix_dist.sums import merge, total


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


class LocalEngine:
    """Threads of this process.

    Parameters
    ----------
    n_threads : int or None
        Default: the CPUs that this process may use.
    memory : int or None
        Bytes; data are kept in memory when they fit in half of it. Default: what the
        machine or control group has.
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
        self.n_threads = n_threads or available_cpus()
        self.memory = memory or memory_limit()
        self.settings = replace(EngineSettings.configured(), **settings)
        self._pool = ThreadPoolExecutor(self.n_threads, thread_name_prefix="softmix")
        self.bytes_read = 0
        self._shards: list[Shard] | list[list[tuple[int, Block]]] = []

    def plan(self, source: Source, nbytes: int) -> Plan:
        """Decide how ``source``, of ``nbytes`` as blocks hold it, would be held and read.

        Raises
        ------
        InputError
            If there is no memory for a block in each thread.
        """
        workers = [Worker(self.n_threads, self.memory)]
        keep, blocks_per_shard = self.settings.keep, self.settings.blocks_per_shard
        return make_plan(source, nbytes, workers, keep, blocks_per_shard)

    def load(self, source: Source, prepare: Prepare, nbytes: int) -> str:
        """Take the data for the passes to come; return how they are held, in words."""
        plan = self.plan(source, nbytes)
        shards = split(source, plan.n_shards, prepare, recycles=not plan.keep)
        self.bytes_read = plan.bytes_read
        self._shards = list(self._pool.map(load, shards)) if plan.keep else shards
        return str(plan)

    def reduce(self, kernel: Kernel) -> Any:
        """Sum of a kernel over all blocks, in the canonical order."""
        return self._sum(kernel, self._shards)

    def reduce_stored(self, source: Source, task: Callable[[RawBlock], Any]) -> Any:
        """Sum of ``task`` over all stored blocks, read again, in the canonical order."""
        return self._sum(itself, self._split(source, task))

    def _split(self, source: Source, task: Callable[[RawBlock], Any]) -> list[Shard]:
        n = count_shards(source.n_blocks, self.n_threads, self.settings.blocks_per_shard)
        return split(source, n, task)

    def _sum(self, kernel: Kernel, shards: Sequence[Any]) -> Any:
        parts = self._pool.map(partial(reduce_shard, kernel), shards)
        return total(merge(node for nodes in parts for node in nodes))

    def visit(self, source: Source, task: Callable[[RawBlock], Any]) -> list[Any]:
        """Call ``task`` with every stored block; answers in the order of blocks."""
        shards = self._split(source, task)
        parts = self._pool.map(load, shards)
        return [answer for part in parts for _, answer in part]

    def close(self) -> None:
        """Drop the data and stop the threads."""
        self._shards = []
        self._pool.shutdown(cancel_futures=True)
