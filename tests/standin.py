"""A stand-in for CuPy: its arrays are NumPy's, behind what CuPy has and no more.

Functions, methods and their keywords are those of `cupy_names.txt`. No array becomes NumPy's
but by ``get``, none of NumPy's is taken but by ``asarray``, as with CuPy; both are counted.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = {
    name: set(parameters)
    for name, *parameters in (
        line.split()
        for line in Path(__file__).with_name("cupy_names.txt").read_text().splitlines()[1:]
    )
}

# Transfers and their bytes, by direction: "up" to the device, "down" from it, and "scalar" for
# those of one number that CuPy makes by itself.
transfers: Counter[str] = Counter()
moved: Counter[str] = Counter()


def count(direction: str, nbytes: int) -> None:
    transfers[direction] += 1
    moved[direction] += nbytes


def _open(value: Any, what: str) -> Any:
    """Take the NumPy array out of what is given to the device."""
    if isinstance(value, ndarray):
        return value.inner
    if isinstance(value, np.ndarray):
        raise TypeError(f"{what}: Unsupported type {type(value)}")
    if isinstance(value, (list, tuple)):
        return type(value)(_open(part, what) for part in value)
    return value


def _wrap(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_wrap(part) for part in value)
    return ndarray(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


class ndarray:  # noqa: N801
    """An array that lives elsewhere."""

    __array_ufunc__ = None
    __module__ = "standin"

    def __init__(self, inner: np.ndarray):
        self.stored = inner
        # Brings what is on its way here.
        self.arrive: Callable[[], None] | None = None

    @property
    def inner(self) -> np.ndarray:
        if self.arrive is not None:
            self.arrive()
            self.arrive = None
        return self.stored

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> np.ndarray:
        count("down", self.inner.nbytes)
        return self.inner.copy()

    def _scalar(self) -> Any:
        count("scalar", self.inner.nbytes)
        return self.inner.item()

    def __bool__(self) -> bool:
        return bool(self._scalar())

    def __int__(self) -> int:
        return int(self._scalar())

    def __float__(self) -> float:
        return float(self._scalar())

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, key: Any) -> Any:
        # CuPy takes some of these; none is needed.
        if isinstance(key, tuple) and None in [k for k in key if not isinstance(k, ndarray)]:
            assert not any(isinstance(k, ndarray) for k in key), "an array and None as index"
        return _wrap(self.inner[_open(key, "index")])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.inner[_open(key, "index")] = _open(value, "assignment")

    @property
    def T(self) -> ndarray:  # noqa: N802
        return _wrap(self.inner.T)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "size", "ndim", "nbytes", "itemsize", "flags", "strides"):
            return getattr(self.inner, name)
        if f"ndarray.{name}" not in _NAMES:
            raise AttributeError(f"CuPy's arrays have no {name!r}")
        return _function(f"ndarray.{name}", getattr(self.inner, name))

    def __getstate__(self) -> Any:
        return self.inner

    def __setstate__(self, inner: Any) -> None:
        self.__init__(inner)  # type: ignore[misc]


def _function(name: str, inner: Any) -> Any:
    def call(*args: Any, **keywords: Any) -> Any:
        if name in ("ndarray.max", "ndarray.min"):
            assert inner.__self__.size, "CuPy has no largest of nothing"
        unknown = set(keywords) - _NAMES[name]
        if unknown:
            raise TypeError(f"CuPy's {name} takes no {sorted(unknown)}")
        out = keywords.get("out")
        opened = {key: _open(value, name) for key, value in keywords.items()}
        found = inner(*(_open(arg, name) for arg in args), **opened)
        return out if out is not None else _wrap(found)

    return call


def _operator(name: str) -> None:
    function = getattr(operator, name)

    def forward(self: ndarray, other: Any) -> Any:
        return _wrap(function(self.inner, _open(other, name)))

    def backward(self: ndarray, other: Any) -> Any:
        return _wrap(function(_open(other, name), self.inner))

    def in_place(self: ndarray, other: Any) -> ndarray:
        found = function(self.inner, _open(other, name))
        if found.shape != self.inner.shape:
            raise ValueError(
                f"{name}: an array of {self.inner.shape} does not become {found.shape}"
            )
        self.inner[...] = found
        return self

    bare = name.strip("_")
    setattr(ndarray, f"__{bare}__", forward)
    setattr(ndarray, f"__r{bare}__", backward)
    setattr(ndarray, f"__i{bare}__", in_place)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_"):
    _operator(_name)
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    _operator(_name)
ndarray.__neg__ = lambda self: _wrap(-self.inner)  # type: ignore[attr-defined]
ndarray.__invert__ = lambda self: _wrap(~self.inner)  # type: ignore[attr-defined]


def asarray(value: Any, dtype: Any = None) -> ndarray:
    if isinstance(value, ndarray):
        return _wrap(np.asarray(value.inner, dtype))
    found = np.array(value, dtype)
    count("up", found.nbytes)
    return ndarray(found)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in _NAMES:
        raise AttributeError(f"CuPy has no {name!r}")
    return _function(name, getattr(np, name))
