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

from softmix_dist.blocks import MOST_DRAWS, Array
from softmix_dist.data.dataset import MARK
from softmix_dist.data.files import open_file
from softmix_dist.data.objects import is_url, open_store
from softmix_dist.data.store import member, names_of, read, refused_codecs
from softmix_dist.errors import InputError, SoftmixError, StoreError

# Rows that are read at a time.
_ROWS = 65_536


@dataclass(frozen=True)
class Matrix:
    """Features of candidates, (p, L), read some rows at a time."""

    values: Any
    names: list[str] | None = None
    ids: list[str] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Candidates and features."""
        rows, width = self.values.shape
        return int(rows), int(width)

    def parts(self) -> Iterator[tuple[int, Array]]:
        """Yield the rows in order, with the number of the first."""
        for first in range(0, self.shape[0], _ROWS):
            part = slice(first, first + _ROWS)
            if isinstance(self.values, zarr.Array):
                yield first, read(self.values, part, f"candidates from {first} on")
            else:
                yield first, np.asarray(self.values[part])


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
    if isinstance(where, Matrix):
        return where
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
        if not is_url(path):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with open_file(path) as file:
            return np.load(file, allow_pickle=False)
    except SoftmixError:
        raise
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
        names = names_of(found)
        more = [name for name in ("candidate_label", "feature", "log_base") if name in names]
        if MARK in found.attrs or more:
            # Its row numbers would become ids, whatever it calls its candidates.
            raise InputError(
                f"{path} is a data set already{' with ' if more else ''}{', '.join(more)}, which "
                "would be lost; give the table it was made of, or its array alone, "
                f"{path.rstrip('/')}/features, whose row numbers are then the ids"
            )
        found = member(found, "features")
    if not isinstance(found, zarr.Array):
        raise InputError(f"{path}: expected a Zarr array, or a group with an array 'features'")
    if problem := refused_codecs(found):
        raise InputError(f"{path}: {problem}; write it again")
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
            with open_file(os.fspath(counts)) as file:
                counts = load_npz(file)
        except SoftmixError:
            raise
        except Exception as error:
            problem = " ".join(str(error).split())
            raise InputError(f"{counts}: not a sparse matrix of SciPy ({problem})") from error
    if not issparse(counts) and not (hasattr(counts, "shape") and not hasattr(counts, "columns")):
        return None
    found = coo_array(counts if issparse(counts) else np.atleast_2d(np.asarray(counts)))
    found.sum_duplicates()
    found.eliminate_zeros()
    values = found.data
    if values.dtype.kind not in "fiub":
        raise InputError(f"counts: expected numbers of draws, 0, 1, 2, ..., found {values.dtype}")
    wrong = ~((values >= 0) & (values < MOST_DRAWS)) | (values != np.rint(values))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise InputError(
            f"counts: expected numbers of draws, 0, 1, 2, ... below 2^53: {int(wrong.sum()):,} are "
            f"not, the first is {values[i]} in row {found.row[i]}, column {found.col[i]}"
        )
    return found


@dataclass(frozen=True)
class Annotated:
    """Features, counts and names of an AnnData object: its variables are the candidates.

    Attributes
    ----------
    features : Matrix or pandas.DataFrame
    counts : sparse or dense (S, p) matrix
    samples : list of str
    id : str
        Column of ids, where features are a frame.
    """

    features: Any
    counts: Any
    samples: list[str]
    id: str


def annotated(data: Any, varm: str | None, layer: str | None) -> Annotated:
    """Take an AnnData object, or a ``.h5ad`` or Zarr file of one, apart.

    Raises
    ------
    InputError
        If it cannot be read, or does not hold what is asked for.
    """
    if isinstance(data, str | os.PathLike):
        data = _read_anndata(os.fspath(data))
    for what, key, there in (("varm", varm, data.varm), ("layers", layer, data.layers)):
        if key is not None and key not in there:
            raise InputError(f"no {what} {key!r}; there are {sorted(there)}")
    ids = [str(name) for name in data.var_names]
    id = "id"
    while id in data.var.columns:
        id = f"_{id}"
    if varm is None:
        features = data.var.reset_index(drop=True)
        features.insert(0, id, ids)
    else:
        values = data.varm[varm]
        names = [str(name) for name in getattr(values, "columns", [])]
        values = np.asarray(values)
        features = Matrix(values, names or [f"{varm}{i}" for i in range(values.shape[1])], ids)
    counts = data.X if layer is None else data.layers[layer]
    if counts is None:
        raise InputError("the object holds no X; name a layer")
    return Annotated(features, counts, [str(name) for name in data.obs_names], id)


def _read_anndata(path: str) -> Any:
    if is_url(path):
        # Not repeated: it may hold a password.
        raise InputError("AnnData is read from disks, not from URLs; copy it, and give its path")
    try:
        import anndata
    except ImportError as error:
        raise InputError(f"{path}: anndata is not installed; pip install anndata") from error
    try:
        if not path.endswith(".zarr"):
            return anndata.read_h5ad(path)
        # AnnData itself would decode whatever is named there.
        for _, array in zarr.open_group(path, mode="r").members(max_depth=None):
            if isinstance(array, zarr.Array) and (problem := refused_codecs(array)):
                raise StoreError(f"{array.name}: {problem}")
        return anndata.read_zarr(path)
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{path}: cannot be read as AnnData ({problem})") from error
