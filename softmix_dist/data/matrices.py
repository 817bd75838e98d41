"""Matrices as users hold them: features in ``.npy`` or Zarr arrays, counts in ``.npz``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.sparse import coo_array, issparse, load_npz

from softmix_dist.blocks import Array
from softmix_dist.data.objects import is_url, open_store
from softmix_dist.errors import InputError, SoftmixError

# Rows that are read at a time.
_ROWS = 65_536


@dataclass(frozen=True)
class Matrix:
    """Features of candidates, (p, L), read some rows at a time."""

    values: Any
    names: list[str] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Candidates and features."""
        rows, width = self.values.shape
        return int(rows), int(width)

    def parts(self) -> Iterator[Array]:
        """Yield the rows in order."""
        for first in range(0, self.shape[0], _ROWS):
            yield np.asarray(self.values[first : first + _ROWS])


def as_matrix(where: Any) -> Matrix | None:
    """Open a matrix of features; None where it is a table.

    Parameters
    ----------
    where : path of a ``.npy`` file or of a Zarr array, or (p, L) array

    Raises
    ------
    InputError
        If it is no matrix of numbers.
    """
    values = None
    if isinstance(where, str | os.PathLike):
        path = os.fspath(where)
        if path.endswith(".npy"):
            values = _npy(path)
        elif path.rstrip("/").endswith(".zarr") or (Path(path) / "zarr.json").exists():
            values = _zarr(path)
    elif hasattr(where, "shape") and not hasattr(where, "columns"):
        values = where
    if values is None:
        return None
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiub":
        raise InputError(
            f"features: expected a matrix of numbers (p, L), found {values.dtype} of shape "
            f"{values.shape}"
        )
    return Matrix(values)


def _npy(path: str) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())
    raise InputError(f"{path}: cannot be read as a NumPy array ({problem})")


def _zarr(path: str) -> Any:
    try:
        store: Any = open_store(path, read_only=True) if is_url(path) else path
        found: Any = zarr.open(store, mode="r")
    except SoftmixError:
        raise
    except Exception:
        found = None
    if isinstance(found, zarr.Group):
        found = found.get("features")
    if not isinstance(found, zarr.Array):
        raise InputError(f"{path}: expected a Zarr array, or a group with an array 'features'")
    return found


def counts_of(counts: Any) -> coo_array | None:
    """Take a matrix of counts, (S, p) or (p,); None where it is a table.

    Raises
    ------
    InputError
        If it holds anything but 0, 1, 2, ...
    """
    if isinstance(counts, str | os.PathLike) and os.fspath(counts).endswith(".npz"):
        try:
            counts = load_npz(counts)
        except Exception as error:
            problem = " ".join(str(error).split())
            raise InputError(f"{counts}: not a sparse matrix of SciPy ({problem})") from error
    if not issparse(counts) and not (hasattr(counts, "shape") and not hasattr(counts, "columns")):
        return None
    found = coo_array(counts if issparse(counts) else np.atleast_2d(np.asarray(counts)))
    found.sum_duplicates()
    values = found.data
    if (
        values.dtype.kind not in "fiub"
        or not (values >= 0).all()
        or (values != np.rint(values)).any()
    ):
        raise InputError("counts: expected numbers of draws, 0, 1, 2, ...")
    return found
