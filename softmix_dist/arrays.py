"""Arrays of the host, or of a device: kernels ask an array where it lives, and know no library.

A namespace is the module that made an array, NumPy or CuPy. Kernels take theirs from the block
that they are given; nothing goes from one to the other but by `host` and ``xp.asarray``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

# Numbers of a buffer on a device, large enough that launching is cheap beside computing; bytes.
_DEVICE_NUMBERS = 1 << 25
DEVICE_BUFFER = 8 * _DEVICE_NUMBERS


def namespace(array: Any) -> Any:
    """Return the module that made an array, with the functions that take it."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def host(array: Any) -> Any:
    """Return an array or a scalar of a device as NumPy has it; others as they are."""
    return array.get() if hasattr(array, "get") else array


def rows_at_once(xp: Any, columns: int, numbers: int, least: int = 1) -> int:
    """Rows of a buffer of ``columns`` numbers a row: ``numbers`` in all on the host."""
    return max(least, (numbers if xp is np else _DEVICE_NUMBERS) // columns)
