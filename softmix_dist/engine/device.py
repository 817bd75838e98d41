"""One GPU for this process, through CuPy: found, taken, and given arrays.

Everything that knows CuPy's own ways is here. The kernels know nothing of it: they take their
namespace from their arrays.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from softmix_dist.errors import ClusterError

T = TypeVar("T")

_INSTALL = "pip install 'softmix-dist[gpu]' (CUDA 13) or 'softmix-dist[gpu-cuda12]'"
_OR_CPU = "or use device 'cpu'"
# Buffers of pinned memory that a thread fills in turn: one is sent while the other is filled.
_STAGES = 2
# Of an error of CuPy's: memory of the device, or memory of the host that it sends from.
_FULL = re.compile("OutOfMemoryError|cudaErrorMemoryAllocation")


@dataclass(frozen=True)
class Device:
    """What a process has found.

    Attributes
    ----------
    name : str
    identity : str
        The same for all processes that use it.
    memory, free : int
        Bytes.
    """

    name: str
    identity: str
    memory: int
    free: int


class Gpu:
    """The device of this process.

    Parameters
    ----------
    cupy : module
    index : int
        Among those that the process may see.
    """

    def __init__(self, cupy: Any, index: int):
        self.xp = cupy
        self._device = cupy.cuda.Device(index)
        self._threads = threading.local()

    def active(self) -> AbstractContextManager[Any]:
        """Compute on it, in the thread that enters the context."""
        context: AbstractContextManager[Any] = self.xp.cuda.Device(self._device.id)
        return context

    def describe(self) -> Device:
        """Name and memory of the device, after it has computed something."""
        with self.active():
            # Compiles a kernel, which shows whether all that CuPy needs is there.
            float(self.xp.exp(self.xp.zeros(2)).sum())
            self.xp.get_default_memory_pool().free_all_blocks()
            free, memory = self._device.mem_info
            properties = self.xp.cuda.runtime.getDeviceProperties(self._device.id)
        name = properties["name"]
        return Device(
            name.decode() if isinstance(name, bytes) else str(name),
            self._device.pci_bus_id,
            int(memory),
            int(free),
        )

    def send(self, parts: Sequence[Any]) -> Any:
        """Send arrays to the device, joined along their rows; the host goes on at once.

        Parameters
        ----------
        parts : sequence of NumPy arrays
            They are copied to pinned memory first, and may be used again.

        Returns
        -------
        array of the device
            What is computed with it waits until it is there.
        """
        stream, stages = self._sending()
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        dtype = parts[0].dtype
        target = self.xp.empty(shape, dtype)
        if not target.nbytes:
            return target
        # 1. The older buffer, when what it held has left it; it stays there if this fails.
        buffer, gone = stages[0]
        if gone is not None:
            gone.synchronize()
        if buffer is None or buffer.nbytes < target.nbytes:
            memory = self.xp.cuda.alloc_pinned_memory(target.nbytes)
            buffer = np.frombuffer(memory, np.uint8, target.nbytes)
        held = buffer[: target.nbytes].view(dtype).reshape(shape)
        np.concatenate(parts, out=held)
        # 2. Memory that was free on the computing stream may still be read by what was queued.
        computing = self.xp.cuda.get_current_stream()
        stream.wait_event(computing.record())
        target.set(held, stream=stream)
        sent = stream.record()
        computing.wait_event(sent)
        stages[:] = [*stages[1:], (buffer, sent)]
        return target

    def _sending(self) -> tuple[Any, list[tuple[Any, Any]]]:
        """Stream and buffers of this thread."""
        own = self._threads
        if not hasattr(own, "stream"):
            own.stream = self.xp.cuda.Stream(non_blocking=True)
            own.stages = [(None, None)] * _STAGES
        return own.stream, own.stages


def on_device(task: Callable[..., T], *given: Any) -> T:
    """Call a task with the device of this process active.

    Raises
    ------
    ClusterError
        If there is no device, or its memory is not enough; names the remedy.
    """
    with gpu().active():
        try:
            return task(*given)
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if not _FULL.search(told):
                raise
    # Outside of the handler: where there is no CuPy its error could not be unpickled.
    raise ClusterError(
        f"the GPU, or the memory of the host that it is sent from, is full ({told}); see what else "
        "uses it, set softmix.engine.device-share lower or softmix.engine.keep to false, use fewer "
        f"threads a worker, {_OR_CPU}"
    )


_taking = threading.Lock()
_taken: list[IO[str]] = []


def gpu() -> Gpu:
    """Return the device of this process; it stays the same.

    Of those that the process may see (``CUDA_VISIBLE_DEVICES``), the first that no other process
    of this machine has taken, so that several workers of a node use one each.

    Raises
    ------
    ClusterError
        If CuPy or a device is missing, or they do not go together; names the remedy.
    """
    with _taking:
        return _gpu()


@cache
def _gpu() -> Gpu:
    cupy = _cupy()
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise ClusterError(_no_device(cupy, error)) from error
    if not n_devices:
        raise ClusterError(
            "no CUDA device is visible; look at CUDA_VISIBLE_DEVICES, or give the worker a GPU "
            f"(nvidia.com/gpu in Kubernetes), {_OR_CPU}"
        )
    own = (index for index in range(n_devices) if _take(cupy.cuda.Device(index)))
    return Gpu(cupy, next(own, 0))


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        if getattr(error, "name", None) == "cupy":
            told = "CuPy is not installed"
        else:
            told = f"CuPy cannot be imported ({' '.join(str(error).split())[:300]})"
        raise ClusterError(f"{told}; {_INSTALL} where workers run, {_OR_CPU}") from error
    return cupy


def _no_device(cupy: Any, error: Exception) -> str:
    """Say why CuPy sees no device, and what to do."""
    runtime = cupy.cuda.runtime
    try:
        driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    except Exception:
        driver = built = 0
    told = str(error).split(":")[0]
    if not driver:
        return (
            f"there is no CUDA driver here ({told}); run workers where there is a GPU, with "
            f"--gpus all for Docker, {_OR_CPU}"
        )
    if driver < built:
        return (
            f"the driver knows CUDA {_version(driver)}, and CuPy was built for {_version(built)} "
            f"({told}); install the CuPy for CUDA {driver // 1000}, {_INSTALL}, or a newer driver"
        )
    return f"CuPy finds no CUDA device ({told}); look at CUDA_VISIBLE_DEVICES, {_OR_CPU}"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _take(device: Any) -> bool:
    """Take a device until the process ends, unless another process of this machine has it."""
    try:
        import fcntl
    except ImportError:
        return True
    name = str(device.pci_bus_id).replace(":", "-")
    try:
        file = (Path(tempfile.gettempdir()) / f"softmix-gpu-{name}.lock").open("a")
    except OSError:
        # Made by another user, who has taken it.
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _taken.append(file)
    return True


def find_device() -> Device:
    """Describe the device of this process.

    Raises
    ------
    ClusterError
        If there is none that can be used; names the remedy.
    """
    found = gpu()
    try:
        return found.describe()
    except ClusterError:
        raise
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ClusterError(
            f"the GPU does not compute ({told}); CuPy needs the libraries of its CUDA version: "
            f"{_INSTALL}, {_OR_CPU}"
        ) from error


def look_for_device() -> Device | ClusterError:
    """Return the device of this process, or why there is none: for a worker, whose log it saves."""
    try:
        return find_device()
    except ClusterError as error:
        return error
