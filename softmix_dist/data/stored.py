"""Data sets in Zarr groups, whose blocks are read one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import zarr

from softmix_dist.blocks import Array, Finding, Findings, RawBlock
from softmix_dist.data.blockwise import Blockwise
from softmix_dist.data.objects import is_url
from softmix_dist.data.sparse import SparseCounts
from softmix_dist.data.store import ChunkError, arrays_of, member, open_group, read
from softmix_dist.errors import InputError, StoreError

_ARRAYS = ("features", "counts", "log_base", "candidate_label", "feature", "sample")
# Blocks read while another one is worked on: from a disk, and from an object store, which takes
# long to begin an answer and gives several at once.
_READS_AHEAD, _REMOTE_READS_AHEAD = 1, 4


class Opened(NamedTuple):
    """A group that is open, what is in it, and what is wrong with its sparse counts."""

    group: zarr.Group
    members: dict[str, Any]
    problems: list[str]


@lru_cache(maxsize=16)
def opened(path: str, token: str) -> Opened:
    """Open a group once in each process; the token tells it from what was at its path before."""
    group = open_group(path, "data set")
    members: dict[str, Any] = arrays_of(group, _ARRAYS)
    problems = []
    if isinstance(sparse := member(group, "counts"), zarr.Group):
        try:
            members["counts"] = SparseCounts.of(sparse)
        except InputError as error:
            problems.append(str(error))
    return Opened(group, members, problems)


@dataclass(frozen=True)
class ZarrDataset(Blockwise):
    """A data set in a Zarr group; opened by `open_dataset`.

    Pickles as its path, which another process opens again: with its own credentials, where it
    is the URL of an object store.

    Attributes
    ----------
    name : str
        Its path as it was given.
    path : str
        From the root, or a URL.
    token : str
        Another one each time a data set is opened.
    n_candidates, n_features, n_samples, block_rows : int
    dtype : dtype
        Of the features.
    feature_names, sample_names : list of str
    n_draws : int or None
        The total that the writer recorded.
    """

    name: str
    path: str
    token: str
    n_candidates: int
    n_features: int
    n_samples: int
    block_rows: int
    dtype: np.dtype[Any]
    feature_names: list[str]
    sample_names: list[str]
    n_draws: int | None

    @property
    def _arrays(self) -> dict[str, Any]:
        arrays = opened(self.path, self.token).members
        if getattr(arrays.get("features"), "shape", None) != (self.n_candidates, self.n_features):
            raise StoreError(f"{self.name!r} is not what it was when it was opened; open it again")
        return arrays

    @property
    def block_bytes(self) -> int:
        """Bytes of a block as it is stored, when it was read."""
        arrays = (self._arrays.get(name) for name in ("features", "counts", "log_base"))
        return self._block_bytes(*arrays)

    @property
    def reads_ahead(self) -> int:
        """Blocks worth reading while another one is computed on."""
        return _REMOTE_READS_AHEAD if is_url(self.path) else _READS_AHEAD

    def read_block(self, index: int) -> RawBlock:
        """Read one block; chunks that cannot be read become its findings.

        Raises
        ------
        StoreError
            If the store itself fails.
        """
        rows, arrays = self._rows(index), self._arrays
        place = f"candidates {rows.start} to {rows.stop - 1}"
        values: dict[str, Any] = {}
        for name in ("features", "counts", "log_base"):
            array = arrays.get(name)
            try:
                if isinstance(array, SparseCounts):
                    values[name] = array.read(rows, place)
                elif array is not None:
                    several = name == "counts" and array.ndim == 2
                    values[name] = read(array, (slice(None), rows) if several else rows, place)
            except (ChunkError, InputError) as error:
                found = Finding(
                    name,
                    "the chunk cannot be read",
                    "write it again",
                    1,
                    rows.start,
                    f"{place}: {error.__cause__ or error}",
                    isinstance(error, ChunkError),
                )
                empty = np.empty((0, self.n_features), self.dtype)
                nothing = np.empty(0, np.uint8)
                return RawBlock(rows.start, empty, nothing, None, Findings((found,)))
        return RawBlock(rows.start, values["features"], values["counts"], values.get("log_base"))

    def part(self, start: int, stop: int) -> ZarrDataset:
        """Return the data set itself: its path travels, data do not."""
        return self

    def labels(self, rows: Sequence[int] | slice) -> list[str]:
        """Labels of candidates, or their row numbers where there are none."""
        array = self._arrays.get("candidate_label")
        if array is None:
            return self._row_numbers(rows)
        chosen = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return [str(label) for label in read(array, chosen, "these labels")]

    def truth(self) -> tuple[Array, Array] | None:
        """Weights (K,) and atoms (K, L) that the simulator wrote, if it did.

        Raises
        ------
        StoreError, InputError
            If they cannot be read, or are of other shapes.
        """
        group = member(opened(self.path, self.token).group, "truth")
        if not isinstance(group, zarr.Group):
            return None
        arrays = arrays_of(group, ("weights", "atoms"))
        if len(arrays) < 2:
            return None
        weights, atoms = (read(arrays[name], ..., "the truth") for name in ("weights", "atoms"))
        numbers = weights.dtype.kind == atoms.dtype.kind == "f"
        if not numbers or weights.ndim != 1 or atoms.shape != (len(weights), self.n_features):
            raise InputError(
                f"truth: expected weights (K,) and atoms (K, {self.n_features}), found "
                f"{weights.dtype} {weights.shape} and {atoms.dtype} {atoms.shape}; write it again"
            )
        return weights, atoms
