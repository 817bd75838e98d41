"""One BLAS thread in every process that computes.

Threads of a fit come from the engine; and a factorisation on two BLAS threads has
other bits than on one. Contexts of ``threadpoolctl`` race between threads, each
restoring what it found, or are ignored where another thread came first; so limits
that hold for the whole process are reference-counted here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_depth = 0
_found: list[int] = []


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread while at least one such context is open."""
    global _depth, _found
    shared, own = _libraries()
    with _lock:
        if _depth == 0:
            _found = [library.num_threads for library in shared]
            _limit(shared, [1] * len(shared))
        _depth += 1
    found = [library.num_threads for library in own]
    _limit(own, [1] * len(own))
    try:
        yield
    finally:
        _limit(own, found)
        with _lock:
            _depth -= 1
            if _depth == 0:
                _limit(shared, _found)


def blas_kernel() -> str:
    """Names of the BLAS libraries, their versions and the kernels they chose for this CPU."""
    # NumPy and SciPy may each bring their own, found in the order of loading: on threads another
    # than on a cluster. All of them, sorted, are the same for both.
    names = set()
    for library in _controller().info():
        if library.get("user_api") == "blas":
            parts = (library.get(key) for key in ("internal_api", "version", "architecture"))
            names.add(" ".join(str(part) for part in parts if part))
    return ", ".join(sorted(names)) or "unknown"


@cache
def _controller() -> ThreadpoolController:
    # Loads SciPy's own BLAS, that the driver factorises with: only loaded libraries are seen.
    import scipy.linalg  # noqa: F401

    return ThreadpoolController()


@cache
def _libraries() -> tuple[list[Any], list[Any]]:
    """BLAS libraries whose limit holds for the process, and those where it is the thread's."""
    libraries = _controller().select(user_api="blas").lib_controllers
    own = [
        library
        for library in libraries
        if library.internal_api == "mkl" or getattr(library, "threading_layer", "") == "openmp"
    ]
    return [library for library in libraries if library not in own], own


def _limit(libraries: list[Any], numbers: list[int]) -> None:
    for library, number in zip(libraries, numbers, strict=True):
        _disown(library)
        library.set_num_threads(number)
        _disown(library)


def _disown(library: Any) -> None:
    # threadpoolctl gives the limits of OpenBLAS to the first thread that sets one and ignores
    # all others. Here the last to leave restores it, whichever thread that is.
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)
