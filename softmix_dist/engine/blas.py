"""One BLAS thread in every process that computes.

Threads of a fit come from the engine; and a factorisation on two BLAS threads has
other bits than on one. Contexts of ``threadpoolctl`` race between threads, each
restoring what it found, so the limit is reference-counted here.
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
_limiter: Any = None


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread while at least one such context is open."""
    global _depth, _limiter
    with _lock:
        if _depth == 0:
            _limiter = _controller().limit(limits=1, user_api="blas")
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _limiter.restore_original_limits()


def blas_kernel() -> str:
    """Name of the BLAS library, its version and the kernels it chose for this CPU."""
    for library in _controller().info():
        if library.get("user_api") == "blas":
            parts = (library.get(key) for key in ("internal_api", "version", "architecture"))
            return " ".join(str(part) for part in parts if part)
    return "unknown"
