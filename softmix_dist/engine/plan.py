"""The plan of a fit's passes: how data are held, and in how many tasks they are read.

Decided before anything runs, from the size of the data and what the workers have; said in
one line, and refused with its numbers where it cannot work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask.utils import format_bytes

from softmix_dist.engine.shards import Source
from softmix_dist.errors import InputError

# Merges take this many partial sums: a power of two keeps most of them aligned.
FAN_IN = 16
# Threads finish together when each has more than one shard; with many threads the scheduler's
# time for each task is worth more than that.
_SHARDS_PER_THREAD, _FEW_THREADS = 2, 32
# Of a worker's memory limit: for data that are kept; for everything. Workers begin to spill at
# 0.7 of it, and are killed at 0.95.
_KEPT, _CALM, _FULL = 0.5, 0.65, 0.9
# Blocks that a task holds beside those read ahead: as stored; prepared, with the one before.
_STORED, _PREPARED = 1, 2


@dataclass(frozen=True)
class Worker:
    """What a worker has.

    Attributes
    ----------
    n_threads : int
    memory : int or None
        Limit, bytes; None where there is none.
    used : int
        Of the process before it has any data, bytes.
    declares_gpu : bool
        Whether it was started with ``--resources GPU=1``.
    """

    n_threads: int
    memory: int | None
    used: int = 0
    declares_gpu: bool = False


@dataclass(frozen=True)
class Plan:
    """How the passes of one fit are made.

    Attributes
    ----------
    n_workers, n_threads, n_blocks : int
    nbytes : int
        Of the data as blocks hold them.
    keep : bool
        Whether they stay in memory; else every pass reads them again.
    n_shards, n_tasks : int
        Of one pass; tasks on a cluster are shards and merges (and large parameters).
    memory : int or None
        Of all workers, bytes; None where one of them has no limit.
    task_bytes : int
        That one thread works in at most.
    devices : str or None
        In words, where passes are computed on them; ``keep`` is then about their memory.
    """

    n_workers: int
    n_threads: int
    n_blocks: int
    nbytes: int
    keep: bool
    n_shards: int
    n_tasks: int
    memory: int | None
    task_bytes: int
    devices: str | None = None

    @property
    def bytes_read(self) -> int:
        """By every pass, as blocks are held; 0 where they stay in memory."""
        return 0 if self.keep else self.nbytes

    def __str__(self) -> str:
        limit = (
            "without a limit" if self.memory is None else f"{format_bytes(self.memory)} of memory"
        )
        if self.devices is not None:
            limit += f", {self.devices}"
        where = "in memory" if self.devices is None else "on the device"
        held = f"kept {where}" if self.keep else "streamed: read again by every pass"
        return (
            f"{_number(self.n_workers, 'worker')}, {_number(self.n_threads, 'thread')}, {limit}; "
            f"{format_bytes(self.nbytes)} in {_number(self.n_blocks, 'block')}, {held}; "
            f"{_number(self.n_shards, 'shard')}, {_number(self.n_tasks, 'task')} a pass, "
            f"{format_bytes(self.task_bytes)} a thread"
        )


def make_plan(
    source: Source,
    nbytes: int,
    workers: Sequence[Worker],
    keep: bool | None = None,
    blocks_per_shard: int | None = None,
) -> Plan:
    """Decide shards and memory.

    Parameters
    ----------
    source : Source
    nbytes : int
        Of all data as blocks hold them.
    workers : sequence of Worker
    keep : bool or None
        Whether data stay in memory; None decides by what there is.
    blocks_per_shard : int or None
        None decides by the threads there are.

    Raises
    ------
    InputError
        If some worker has no memory for a block in each of its threads.
    """
    n_threads = sum(worker.n_threads for worker in workers)
    prepared = -(-nbytes // max(source.n_blocks, 1))
    ahead = source.reads_ahead
    task_bytes = (_STORED + ahead) * source.block_bytes + _PREPARED * prepared
    for worker in workers:
        _check_room(worker, source, task_bytes)
    n_shards = count_shards(source.n_blocks, n_threads, blocks_per_shard)
    if keep is None:
        keep = _fits(workers, nbytes, n_shards, task_bytes)
    limits = [worker.memory for worker in workers if worker.memory]
    return Plan(
        n_workers=len(workers),
        n_threads=n_threads,
        n_blocks=source.n_blocks,
        nbytes=nbytes,
        keep=keep,
        n_shards=n_shards,
        n_tasks=n_shards + count_merges(n_shards),
        memory=sum(limits) if len(limits) == len(workers) else None,
        task_bytes=task_bytes,
    )


def count_shards(n_blocks: int, n_threads: int, blocks_per_shard: int | None = None) -> int:
    """Count the shards of a pass: one or two for a thread, whatever the number of blocks."""
    if blocks_per_shard is not None:
        return max(1, -(-n_blocks // blocks_per_shard))
    each = _SHARDS_PER_THREAD if n_threads <= _FEW_THREADS else 1
    return max(1, min(each * n_threads, n_blocks))


def count_merges(n_shards: int) -> int:
    """Count the merges that add up so many shards."""
    found = 0
    while n_shards > 1:
        n_shards = -(-n_shards // FAN_IN)
        found += n_shards
    return found


def largest_share(worker: Worker, workers: Sequence[Worker], nbytes: int, n_shards: int) -> float:
    """Bytes of the data that a worker may come to hold."""
    # Dask deals shards out one by one, or by threads: that depends on how long they load.
    n_threads = sum(other.n_threads for other in workers)
    most = max(-(-n_shards // len(workers)), -(-n_shards * worker.n_threads // n_threads))
    return nbytes / n_shards * most


def _check_room(worker: Worker, source: Source, task_bytes: int) -> None:
    needed = worker.n_threads * task_bytes
    if not worker.memory or worker.used + needed <= _FULL * worker.memory:
        return
    works, block, has, used = map(
        format_bytes, (task_bytes, source.block_bytes, worker.memory, worker.used)
    )
    raise InputError(
        f"not even one block a thread fits: a thread works in {works} (blocks of {block} as "
        f"stored), a worker has {worker.n_threads} of them and {has} of memory, of which {used} "
        "are in use; give workers more memory or fewer threads, or write the data with a smaller "
        "block_rows"
    )


def _fits(workers: Sequence[Worker], nbytes: int, n_shards: int, task_bytes: int) -> bool:
    """Whether all data can stay in memory, without a worker that spills."""
    for worker in workers:
        if worker.memory:
            calm = _CALM * worker.memory - worker.used - worker.n_threads * task_bytes
            if largest_share(worker, workers, nbytes, n_shards) > min(_KEPT * worker.memory, calm):
                return False
    return True


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
