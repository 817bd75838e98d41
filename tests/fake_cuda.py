"""A device for the stand-in: what of ``cupy.cuda`` the engine uses, with copies that take time.

A copy is made as late as it may be: when the host waits for it, or when what was told to wait for
it is used. So what is used too early, or overwritten too early, is seen.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import standin

# Threads that computed on each device.
used: Counter[int] = Counter()
_current = threading.local()


class RuntimeFailure(RuntimeError):
    """As CUDARuntimeError."""


class Copy:
    """From the host to an array, which holds nothing to compute with until then."""

    def __init__(self, target: standin.ndarray, source: Any):
        self.target, self.source = target, source
        target.stored[...] = 77 if target.dtype.kind == "u" else float("nan")

    def make(self) -> None:
        standin.count("up", self.source.nbytes)
        self.target.stored[...] = self.source


class Event:
    def __init__(self, work: list[Copy]):
        self.work = work

    def synchronize(self) -> None:
        while self.work:
            self.work.pop(0).make()


class Stream:
    def __init__(self, non_blocking: bool = False):
        assert non_blocking
        self.queue: list[Copy] = []
        self.waits = False

    def record(self) -> Event:
        queue, self.queue = self.queue, []
        return Event(queue)

    def wait_event(self, event: Event) -> None:
        self.waits = True
        for copy in event.work:
            copy.target.arrive = event.synchronize


class Device:
    def __init__(self, index: int):
        self.id = index
        self.pci_bus_id = f"0000:{index:02d}:00.0"

    def __enter__(self) -> Device:
        used[self.id] += 1
        _current.device = self.id
        return self

    def __exit__(self, *_: Any) -> None:
        _current.device = None

    @property
    def mem_info(self) -> tuple[int, int]:
        return Cuda.free, Cuda.memory


class Runtime:
    def __init__(self, n_devices: int = 1, driver: int = 13020, built: int = 13020):
        self.n_devices, self.driver, self.built = n_devices, driver, built

    def getDeviceCount(self) -> int:  # noqa: N802
        if self.driver < self.built:
            raise RuntimeFailure("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        return self.n_devices

    def driverGetVersion(self) -> int:  # noqa: N802
        return self.driver

    def runtimeGetVersion(self) -> int:  # noqa: N802
        return self.built

    def getDeviceProperties(self, index: int) -> dict[str, Any]:  # noqa: N802
        return {"name": b"Fake H200"}


class Cuda:
    free, memory = 140 << 30, 141 << 30
    Device = Device
    Stream = Stream

    def __init__(self, runtime: Runtime):
        self.runtime = runtime

    @staticmethod
    def get_current_stream() -> Stream:
        return Stream(non_blocking=True)

    @staticmethod
    def alloc_pinned_memory(nbytes: int) -> bytearray:
        return bytearray(nbytes)


class Pool:
    def free_all_blocks(self) -> None:
        pass


def _set(self: standin.ndarray, arr: Any, stream: Stream) -> None:
    # The memory of an array may be what another stream still reads, which was freed there.
    assert stream.waits
    stream.waits = False
    stream.queue.append(Copy(self, arr))


@contextmanager
def installed(runtime: Runtime, free: int = 140 << 30) -> Iterator[Any]:
    """Give the stand-in a device, and be the CuPy of this process."""
    found = {"cuda": Cuda(runtime), "get_default_memory_pool": Pool}
    Cuda.free, used_before = free, Cuda.free
    standin.__dict__.update(found)
    standin.ndarray.set = _set  # type: ignore[attr-defined]
    try:
        yield standin
    finally:
        Cuda.free = used_before
        for name in found:
            delattr(standin, name)
        del standin.ndarray.set  # type: ignore[attr-defined]
