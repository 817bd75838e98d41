"""Shards: contiguous ranges of blocks, the unit of scheduling.

A shard returns its maximal aligned partial sums, so that tasks number with the
workers and not with the data, and the order of addition does not depend on them.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from dask.sizeof import sizeof

from softmix_dist.blocks import Block, RawBlock
from softmix_dist.engine.blas import single_blas_thread
from softmix_dist.sums import Node, merge

# Takes a stored block and, as ``spent``, one whose memory it may use again (`kernels.prepare`).
Prepare = Callable[..., Block]
Kernel = Callable[[Block], Any]


@sizeof.register(Block)
def _host_bytes(block: Block) -> int:
    """Tell Dask how large a block is, or it would move shards about as if they were nothing.

    One on a device is none of the host's memory, and would be spilled from it.
    """
    if block.xp is not np:
        return sys.getsizeof(block)
    arrays = (*block.slices, block.draws, block.log_base, block.multiplicity, block.observed)
    return sum(array.nbytes for array in arrays if array is not None)


class Blocks(Protocol):
    """Anything that comes in blocks, which are read one at a time."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        ...

    @property
    def reads_ahead(self) -> int:
        """Blocks to read while another one is computed on: 0 where reading is nothing."""
        ...

    def read_block(self, index: int) -> Any:
        """Read one block."""
        ...

    def part(self, start: int, stop: int) -> Blocks:
        """Return what is needed to read some of the blocks elsewhere."""
        ...


class Source(Blocks, Protocol):
    """What an engine needs to know of a data set."""

    @property
    def n_candidates(self) -> int:
        """Number of rows."""
        ...

    @property
    def n_features(self) -> int:
        """Number of features."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the features as they are stored."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes of a block as it is stored, when it was read."""
        ...

    def read_block(self, index: int) -> RawBlock:
        """Read one block."""
        ...

    def part(self, start: int, stop: int) -> Source:
        """Return what is needed to read some of the blocks elsewhere."""
        ...


@dataclass(frozen=True)
class Shard:
    """Blocks from ``start`` to ``stop``, read and prepared anew at each iteration.

    Where ``recycles`` is set each block uses the memory of the one before: ``prepare`` then
    takes that as ``spent``, and only one block at a time means something.
    """

    source: Blocks
    start: int
    stop: int
    prepare: Callable[..., Any]
    recycles: bool = False

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        block = None
        for index, raw in zip(range(self.start, self.stop), self._read(), strict=True):
            block = self.prepare(raw, spent=block) if self.recycles else self.prepare(raw)
            yield index, block

    def _read(self) -> Iterator[Any]:
        """Read the blocks in order, the next ones while the last one is worked on."""
        ahead, indices = self.source.reads_ahead, iter(range(self.start, self.stop))
        if not ahead or self.stop - self.start == 1:
            yield from map(self.source.read_block, indices)
            return
        # Zarr lets the interpreter go while it reads and decodes.
        pool = ThreadPoolExecutor(ahead, thread_name_prefix="softmix-read")
        waiting: deque[Future[Any]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(self.source.read_block, index))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Without waiting: after an error this may run in the garbage collector, while its
            # thread holds a lock that the reads need.
            pool.shutdown(wait=False, cancel_futures=True)


def split(
    source: Blocks,
    n_shards: int,
    prepare: Callable[..., Any],
    recycles: bool = False,
    unit: int = 1,
) -> list[Shard]:
    """Split the blocks of a source into contiguous shards of nearly equal size, ``unit`` whole."""
    n_units = -(-source.n_blocks // unit)
    n_shards = max(1, min(n_shards, n_units))
    bounds = [min(unit * (n_units * i // n_shards), source.n_blocks) for i in range(n_shards + 1)]
    return [
        Shard(source.part(start, stop), start, stop, prepare, recycles)
        for start, stop in zip(bounds, bounds[1:], strict=False)
    ]


def load(shard: Iterable[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Read and prepare all blocks of a shard."""
    with single_blas_thread():
        return list(shard)


def itself(value: Any) -> Any:
    """Kernel of blocks whose preparation was all that there was to do."""
    return value


def reduce_shard(kernel: Kernel, shard: Iterable[tuple[int, Block]]) -> list[Node]:
    """Apply a kernel to the blocks of a shard, loaded or not, and add what can be added."""
    with single_blas_thread():
        return merge(Node(0, index, kernel(block)) for index, block in shard)
