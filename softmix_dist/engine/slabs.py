"""Slabs: what a device computes on at a time, many stored blocks as one.

A block that stays in a processor's cache is done by a device before the next one is launched.
How many blocks a slab holds depends on the data alone, and slabs are added in the canonical
order, so that the result has the same bits on any number of devices of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from dask.utils import format_bytes

from softmix_dist.arrays import DEVICE_BUFFER
from softmix_dist.blocks import Block, Findings, RawBlock
from softmix_dist.engine.device import Device, Gpu, gpu, on_device
from softmix_dist.engine.plan import (
    Plan,
    Worker,
    count_merges,
    count_shards,
    largest_share,
    make_plan,
)
from softmix_dist.engine.settings import EngineSettings
from softmix_dist.engine.shards import (
    Kernel,
    Prepare,
    Shard,
    Source,
    load,
    reduce_shard,
    split,
)
from softmix_dist.errors import ClusterError
from softmix_dist.sums import Node

# Of prepared features in a slab, at most.
_SLAB = 1 << 29
# Name of Dask's resource that workers with a GPU declare.
GPU = "GPU"
# What a thread works in: slabs while one is joined, and buffers of a kernel in float64.
_COPIES, _BUFFERS = 3, 6


@dataclass(frozen=True)
class DeviceShard:
    """A shard whose blocks are joined to slabs on the device of the process that iterates.

    Attributes
    ----------
    shard : Shard
        Of stored blocks, from the first of a slab.
    blocks_per_slab : int
    """

    shard: Shard
    blocks_per_slab: int

    def __iter__(self) -> Iterator[tuple[int, Block]]:
        device = gpu()
        for slab, blocks in groupby(self.shard, lambda pair: pair[0] // self.blocks_per_slab):
            yield slab, _joined(device, (block for _, block in blocks))


def _joined(device: Gpu, blocks: Iterator[tuple[Block, np.dtype[Any]]]) -> Block:
    """Send blocks to the device one by one, each while the next is read, and join them there."""
    xp = device.xp
    sent: list[tuple[Any, Any, Any]] = []
    findings, start, half = Findings(), 0, False
    for block, stored in blocks:
        start, half = start if sent else block.start, stored == np.float16
        findings += block.findings
        if findings:
            # Arrays may be missing; only what is wrong with the other blocks is still told.
            continue
        log_base = None if block.log_base is None else device.send([block.log_base])
        sent.append((device.send(block.slices), device.send([block.draws]), log_base))
    if findings:
        return Block((), xp.zeros(0), None, None, None, findings, start)
    features, draws, log_base = zip(*sent, strict=True)
    x = xp.concatenate(features)
    if half:
        # As it was stored, where the frame left it exact: half of the memory and of its reads.
        narrow = x.astype(np.float16)
        x = narrow if bool((narrow == x).all()) else x
    return Block(
        (x,),
        xp.concatenate(draws),
        None if log_base[0] is None else xp.concatenate(log_base),
        None,
        None,
        findings,
        start,
    )


def split_slabs(source: Source, n_shards: int, prepare: Prepare, nbytes: int) -> list[DeviceShard]:
    """Split a source, of ``nbytes`` as blocks hold it, into contiguous shards of whole slabs."""
    size = blocks_per_slab(source, nbytes)
    shards = split(source, n_shards, _Told(prepare), recycles=True, unit=size)
    return [DeviceShard(shard, size) for shard in shards]


@dataclass(frozen=True)
class _Told:
    """Prepares a block, and tells how its features were stored."""

    prepare: Callable[..., Block]

    def __call__(self, raw: RawBlock, spent: Any = None) -> tuple[Block, np.dtype[Any]]:
        block = self.prepare(raw, spent=None if spent is None else spent[0])
        return block, raw.features.dtype


def blocks_per_slab(source: Source, nbytes: int) -> int:
    """Blocks of a slab: a power of two, by the data alone."""
    most = _SLAB * source.n_blocks // max(nbytes, 1)
    return 1 << max(most, 1).bit_length() - 1


def load_on_device(shard: DeviceShard) -> list[tuple[int, Block]]:
    """Read all slabs of a shard to the device."""
    return on_device(load, shard)


def reduce_on_device(kernel: Kernel, shard: Any) -> list[Node]:
    """Apply a kernel to the slabs of a shard, there already or not."""
    return on_device(reduce_shard, kernel, shard)


def plan_on_devices(
    source: Source,
    nbytes: int,
    workers: Sequence[Worker],
    devices: Sequence[Device],
    settings: EngineSettings,
) -> Plan:
    """Decide shards and memory for workers each of which has a device.

    Parameters
    ----------
    source : Source
    nbytes : int
        Of all data as blocks of the host hold them.
    workers : sequence of Worker
    devices : sequence of Device
        One for each worker; several may have the same.
    settings : EngineSettings

    Raises
    ------
    InputError
        If some worker has no host memory to read through.
    ClusterError
        If some device has no memory to compute in.
    """
    slab = blocks_per_slab(source, nbytes)
    n_slabs = -(-source.n_blocks // slab)
    asked = settings.blocks_per_shard
    n_threads = sum(worker.n_threads for worker in workers)
    n_shards = count_shards(n_slabs, n_threads, None if asked is None else -(-asked // slab))
    # 1. On the host blocks only pass through.
    plan = make_plan(source, nbytes, workers, keep=False, blocks_per_shard=asked)
    # 2. What the device holds, and what its threads work in. Whether features stay in half
    #    precision is seen slab by slab, when they are there: here all are counted in single.
    slab_bytes = -(-slab * nbytes // source.n_blocks)
    keep = True
    for worker, device in zip(workers, devices, strict=True):
        sharing = sum(other.identity == device.identity for other in devices)
        room = settings.device_share * device.free / sharing
        works = worker.n_threads * (_COPIES * slab_bytes + _BUFFERS * DEVICE_BUFFER)
        if works > room:
            raise ClusterError(
                f"too little device memory: {worker.n_threads} threads work in "
                f"{format_bytes(works)}, and {device.name} has {format_bytes(device.free)} free "
                f"for {sharing} workers, of which {settings.device_share:.0%} are used "
                "(softmix.engine.device-share); use fewer threads a worker, or device 'cpu'"
            )
        keep = keep and largest_share(worker, workers, nbytes, n_shards) <= room - works
    keep = keep if settings.keep is None else settings.keep
    return replace(
        plan,
        keep=keep,
        n_shards=n_shards,
        n_tasks=n_shards + count_merges(n_shards),
        devices=_in_words(devices),
    )


def choose_workers(
    workers: Mapping[str, Worker], told: Mapping[str, Any], mixed: bool
) -> tuple[list[str], dict[str, float] | None]:
    """Choose the workers that compute on their devices.

    Parameters
    ----------
    workers : mapping of Worker
        By address.
    told : mapping of Device or Exception
        What each found.
    mixed : bool
        Whether some may have found nothing.

    Returns
    -------
    list of str
        Addresses.
    dict or None
        Dask's resources that the tasks ask for, where the workers declare them.

    Raises
    ------
    ClusterError
        If no worker has a device, or some have none; says why, and what to do.
    """
    chosen = [a for a in workers if isinstance(told.get(a), Device)]
    others = [a for a in workers if a not in chosen]
    if not chosen:
        reasons = {str(told[a]) for a in others if a in told}
        raise ClusterError(f"no worker has a GPU to use: {'; '.join(sorted(reasons))}")
    declared = [a for a in workers if workers[a].declares_gpu]
    resources = None
    if declared == chosen:
        # All threads of a worker: while one waits for its sums another one launches.
        resources = {GPU: 1 / max(workers[a].n_threads for a in chosen)}
    if others and not mixed:
        raise ClusterError(
            f"{len(others)} of {len(workers)} workers have no GPU to use ({others[0]}: "
            f"{told.get(others[0], 'left')}); give each one, or let those without stand by: "
            "softmix.engine.mixed-devices, and --resources GPU=1 for the workers that have one"
        )
    if others and resources is None:
        raise ClusterError(
            f"{len(chosen)} of {len(workers)} workers have a GPU to use, and {len(declared)} "
            "declare one; start those that have one, and no others, with --resources GPU=1, so "
            "that tasks find them"
        )
    return chosen, resources


def _in_words(devices: Sequence[Device]) -> str:
    unique = {device.identity: device for device in devices}.values()
    names = sorted({device.name for device in unique})
    memory = format_bytes(sum(device.memory for device in unique))
    return f"{len(unique)} x {' and '.join(names)}, {memory} of device memory"
