"""Sparse sample x candidate counts: anndata's ``csc_matrix`` encoding of a Zarr group.

Columns are candidates, so that the columns of a block lie together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from scipy.sparse import csc_array

from softmix_dist.data.store import arrays_of, names_of, read
from softmix_dist.errors import InputError


@dataclass(frozen=True)
class SparseCounts:
    """Handles to the three arrays of a compressed sparse column matrix.

    Attributes
    ----------
    data, indices, indptr : zarr.Array
        Values, their samples, and where each candidate's begin; (nnz,), (nnz,), (p + 1,).
    shape : tuple of int
        Samples and candidates.
    """

    data: Any
    indices: Any
    indptr: Any
    shape: tuple[int, int]
    ndim: int = 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(self.data.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the values and their places."""
        return int(self.data.nbytes + self.indices.nbytes + self.indptr.nbytes)

    @classmethod
    def of(cls, group: zarr.Group) -> SparseCounts:
        """Open a group that holds such a matrix.

        Raises
        ------
        InputError
            If it is encoded otherwise.
        """
        encoding = group.attrs.get("encoding-type")
        members = arrays_of(group, ("data", "indices", "indptr"))
        shape = group.attrs.get("shape")
        if encoding != "csc_matrix" or {"data", "indices", "indptr"} - set(members):
            raise InputError(
                "counts: expected an array, or a group of encoding-type 'csc_matrix' with data, "
                f"indices and indptr, found {encoding!r} with {names_of(group)}; write the "
                "counts again"
            )
        if not (
            isinstance(shape, list | tuple)
            and len(shape) == 2
            and all(type(size) is int for size in shape)
            and members["indptr"].shape == (shape[1] + 1,)  # type: ignore[operator]
            and members["data"].shape == members["indices"].shape
            and members["data"].ndim == 1
            and all(members[name].dtype.kind in "iu" for name in ("indices", "indptr"))
        ):
            raise InputError(
                f"counts: shape {shape!r} does not fit indptr {members['indptr'].shape}, data "
                f"{members['data'].shape} and indices {members['indices'].shape}; write the "
                "counts again"
            )
        samples, candidates = (int(size) for size in shape)  # type: ignore[arg-type]
        return cls(members["data"], members["indices"], members["indptr"], (samples, candidates))

    def read(self, rows: slice, place: str) -> csc_array:
        """Read the columns of some candidates, (S, rows).

        Raises
        ------
        StoreError
            If a chunk cannot be read.
        InputError
            If the pointers or samples are out of range.
        """
        pointers = read(self.indptr, slice(rows.start, rows.stop + 1), place).astype(np.int64)
        part = slice(int(pointers[0]), int(pointers[-1]))
        if (np.diff(pointers) < 0).any() or part.start < 0 or part.stop > self.data.shape[0]:
            raise InputError(f"counts: indptr does not increase at {place}; write the counts again")
        samples = read(self.indices, part, place).astype(np.int64)
        if samples.size and not 0 <= samples.min() <= samples.max() < self.shape[0]:
            raise InputError(
                f"counts: indices at {place} are not samples 0 to {self.shape[0] - 1}; "
                "write the counts again"
            )
        values = read(self.data, part, place)
        shape = self.shape[0], rows.stop - rows.start
        return csc_array((values, samples, pointers - pointers[0]), shape=shape)
