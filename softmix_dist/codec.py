"""Values of a fit as bytes, and back: JSON and arrays, never pickle.

What is asked of a pass (a kernel with its parameters) is only encoded, to be compared; its
answer is decoded as well, and only to the classes that are listed here, so that reading a
file executes nothing.
"""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from softmix_dist.blocks import Array, Finding, Findings
from softmix_dist.data.fingerprint import digest
from softmix_dist.lindsay import GradientSums
from softmix_dist.model import Mixture
from softmix_dist.moments import ProjectedMomentSums, SecondMomentSums
from softmix_dist.sketch import SketchRows
from softmix_dist.solve.starts import Start
from softmix_dist.sums import (
    DesignSums,
    Extent,
    InformationSums,
    PearsonSums,
    ProductSums,
    ScoreSums,
)

_CLASSES = {
    kind.__name__: kind
    for kind in (
        DesignSums, Extent, Finding, Findings, GradientSums, InformationSums, Mixture,
        PearsonSums, ProductSums, ProjectedMomentSums, ScoreSums, SecondMomentSums, SketchRows,
        Start,
    )
}  # fmt: skip


# The digest of all other arrays of an archive.
_SEAL = ".digest"

# What NumPy, zipfile and json raise for bytes that are none of theirs (fuzzed): RuntimeError for
# an archive that says it is encrypted, among others; TokenError for the head of an array.
_UNREADABLE = (
    AttributeError, EOFError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class DamagedError(ValueError):
    """Bytes that were not written here, or not all of them."""


@dataclass(frozen=True)
class Encoded:
    """A value as a tree that JSON can say and the arrays it refers to, by number."""

    tree: Any
    arrays: list[Array]


def encode(value: Any) -> Encoded:
    """Encode a value made of dataclasses, containers, arrays, numbers, text and functions.

    Raises
    ------
    TypeError
        If there is something else in it.
    """
    arrays: list[Array] = []
    return Encoded(_tree(value, arrays), arrays)


def _tree(value: Any, arrays: list[Array]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        # A scalar stays one: NumPy's division by zero is another than Python's.
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        array = np.asarray(value)
        # Views are copied as they will be stored: products of matrices have bits by their order.
        arrays.append(array if array.flags.forc else np.ascontiguousarray(array))
        return {kind: len(arrays) - 1}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_tree(part, arrays) for part in value]}
    if isinstance(value, dict):
        return {"dict": [[_tree(k, arrays), _tree(v, arrays)] for k, v in value.items()]}
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if isinstance(value, partial):
        parts = value.func, value.args, value.keywords
        return {"call": [_tree(part, arrays) for part in parts]}
    if is_dataclass(value) and not isinstance(value, type):
        parts_by_name = {f.name: _tree(getattr(value, f.name), arrays) for f in fields(value)}
        return {type(value).__name__: parts_by_name}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"function": f"{value.__module__}.{value.__qualname__}"}
    raise TypeError(f"{type(value).__name__} cannot be kept in a checkpoint")


def decode(encoded: Encoded) -> Any:
    """Return the value that was encoded; arrays keep their type and memory order.

    Raises
    ------
    DamagedError
        If it is none of the values that are known here.
    """
    try:
        return _value(encoded.tree, encoded.arrays)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error


def _value(tree: Any, arrays: list[Array]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "array":
        return arrays[content]
    if kind == "scalar":
        return arrays[content][()]
    if kind in ("list", "tuple"):
        parts = [_value(part, arrays) for part in content]
        return parts if kind == "list" else tuple(parts)
    if kind == "dict":
        return {_value(key, arrays): _value(value, arrays) for key, value in content}
    found = {name: _value(part, arrays) for name, part in content.items()}
    return _CLASSES[kind](**found)


def _seal(arrays: Mapping[str, Array]) -> Array:
    names = sorted(arrays)
    told = np.frombuffer("\n".join(names).encode(), np.uint8)
    return np.frombuffer(digest(told, *(arrays[name] for name in names)).encode(), np.uint8)


def to_bytes(parts: Mapping[str, Encoded]) -> bytes:
    """Write encoded values, by name, as one NumPy archive."""
    arrays: dict[str, Array] = {}
    for name, part in parts.items():
        arrays[name] = np.frombuffer(json.dumps(part.tree).encode(), np.uint8)
        arrays |= {f"{name}.{i}": array for i, array in enumerate(part.arrays)}
    arrays[_SEAL] = _seal(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(content: bytes) -> dict[str, Encoded]:
    """Read what `to_bytes` wrote; the archive's checksums and a digest of all of it are checked.

    Raises
    ------
    DamagedError
        If it cannot be read.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if arrays.pop(_SEAL).tobytes() != _seal(arrays).tobytes():
            # Each part may be sound by itself, and no answer to the rest.
            raise DamagedError("not all of it is what was written")
        found = {}
        for name in (name for name in arrays if "." not in name):
            tree = json.loads(arrays[name].tobytes())
            numbers = range(sum(key.startswith(f"{name}.") for key in arrays))
            found[name] = Encoded(tree, [arrays[f"{name}.{i}"] for i in numbers])
        return found
    except DamagedError:
        raise
    except _UNREADABLE as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error


def same(a: Encoded, b: Encoded, tolerance: float = 0.0) -> bool:
    """Whether two values are the same: in every bit, or up to a relative difference.

    Arrays are compared by their largest entries, for small ones may be what is left of large
    ones that cancelled.
    """
    return (
        len(a.arrays) == len(b.arrays)
        and _same_tree(a.tree, b.tree, tolerance)
        and all(_same_array(x, y, tolerance) for x, y in zip(a.arrays, b.arrays, strict=True))
    )


def _same_tree(a: Any, b: Any, tolerance: float) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_tree(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list):
        pairs = zip(a, b, strict=False)
        return len(a) == len(b) and all(_same_tree(x, y, tolerance) for x, y in pairs)
    if isinstance(a, float):
        return _same_array(np.array(a), np.array(b), tolerance)
    return bool(a == b)


def _same_array(a: Array, b: Array, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not tolerance or a.dtype.kind != "f":
        return a.tobytes() == b.tobytes()
    finite = np.isfinite(a)
    if (finite != np.isfinite(b)).any() or not np.array_equal(a[~finite], b[~finite], True):
        return False
    off = np.abs(a[finite] - b[finite]).max(initial=0.0)
    return bool(off <= tolerance * np.abs(a[finite]).max(initial=0.0))
