"""The engine of one process: threads over shards, no scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from softmix_dist.blocks import Block, RawBlock
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

# Threads finish together when each has more than one shard.
_SHARDS_PER_THREAD = 2


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
    """

    def __init__(self, n_threads: int | None = None, memory: int | None = None):
        if n_threads is not None and n_threads < 1:
            raise InputError(f"n_threads: expected at least 1, found {n_threads}")
        self.n_threads = n_threads or available_cpus()
        self.memory = memory or memory_limit()
        self._pool = ThreadPoolExecutor(self.n_threads, thread_name_prefix="softmix")
        self.bytes_read = 0
        self._shards: list[Shard] | list[list[tuple[int, Block]]] = []

    def load(self, source: Source, prepare: Prepare, nbytes: int) -> str:
        """Take the data for the passes to come; return how they are held, in words."""
        shards = split(source, _SHARDS_PER_THREAD * self.n_threads, prepare)
        keep = nbytes <= self.memory // 2
        self.bytes_read = 0 if keep else nbytes
        self._shards = list(self._pool.map(load, shards)) if keep else shards
        held = "in memory" if keep else "streamed"
        return f"{self.n_threads} threads, {len(shards)} shards, {nbytes / 1e6:.0f} MB {held}"

    def reduce(self, kernel: Kernel) -> Any:
        """Sum of a kernel over all blocks, in the canonical order."""
        return self._sum(kernel, self._shards)

    def reduce_stored(self, source: Source, task: Callable[[RawBlock], Any]) -> Any:
        """Sum of ``task`` over all stored blocks, read again, in the canonical order."""
        return self._sum(itself, split(source, _SHARDS_PER_THREAD * self.n_threads, task))

    def _sum(self, kernel: Kernel, shards: Sequence[Any]) -> Any:
        parts = self._pool.map(partial(reduce_shard, kernel), shards)
        return total(merge(node for nodes in parts for node in nodes))

    def visit(self, source: Source, task: Callable[[RawBlock], Any]) -> list[Any]:
        """Call ``task`` with every stored block; answers in the order of blocks."""
        shards = split(source, _SHARDS_PER_THREAD * self.n_threads, task)
        parts = self._pool.map(load, shards)
        return [answer for part in parts for _, answer in part]

    def close(self) -> None:
        """Drop the data and stop the threads."""
        self._shards = []
        self._pool.shutdown(cancel_futures=True)
