"""What every data set is, wherever it is stored: candidates in blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Protocol

import numpy as np

from softmix_dist.blocks import RawBlock

_BLOCK_ROWS = 65_536
_BLOCK_BYTES = 16 << 20


class Dataset(Protocol):
    """What the loop needs of a data set, wherever it is stored."""

    @property
    def name(self) -> str:
        """Path, or what else tells people which data set it is."""
        ...

    @property
    def n_candidates(self) -> int:
        """Number of candidates p."""
        ...

    @property
    def n_features(self) -> int:
        """Number of features L."""
        ...

    @property
    def n_samples(self) -> int:
        """Number of samples S."""
        ...

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored features."""
        ...

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, L of them."""
        ...

    @property
    def n_draws(self) -> int | None:
        """Total of the counts that the writer recorded."""
        ...

    @property
    def n_blocks(self) -> int:
        """Number of blocks, ceil(n_candidates / block_rows)."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes of a block as it is stored, when it was read."""
        ...

    @property
    def reads_ahead(self) -> int:
        """Blocks worth reading while another one is computed on; 0 in memory."""
        ...

    def read_block(self, index: int) -> RawBlock:
        """Read one block as it is stored."""
        ...

    def part(self, start: int, stop: int) -> Dataset:
        """Return what is needed to read the blocks from ``start`` to ``stop`` elsewhere."""
        ...

    def labels(self, rows: Sequence[int] | slice) -> list[str]:
        """Labels of candidates, or their row numbers where there are none."""
        ...


class Blockwise:
    """The arithmetic of blocks that every data set shares."""

    n_candidates: int
    block_rows: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks, ceil(n_candidates / block_rows)."""
        return -(-self.n_candidates // self.block_rows)

    def _block_bytes(self, *arrays: Any) -> int:
        stored = sum(array.nbytes for array in arrays if array is not None)
        return -(-stored * min(self.block_rows, self.n_candidates) // self.n_candidates)

    def _repr_html_(self: Any) -> str:
        told = {
            "candidates": f"{self.n_candidates:,} in {self.n_blocks:,} blocks",
            "features": f"{self.n_features} of {self.dtype}: {', '.join(self.feature_names[:10])}"
            + (", ..." if self.n_features > 10 else ""),
            "samples": f"{self.n_samples:,}",
            "draws": "not counted yet" if self.n_draws is None else f"{self.n_draws:,}",
        }
        rows = "".join(f"<tr><th>{k}</th><td>{escape(v)}</td></tr>" for k, v in told.items())
        return f"<div><p>data set {escape(self.name)}</p><table>{rows}</table></div>"

    def _rows(self, index: int) -> slice:
        start = index * self.block_rows
        return slice(start, min(start + self.block_rows, self.n_candidates))

    def _row_numbers(self, rows: Sequence[int] | slice) -> list[str]:
        numbers = range(self.n_candidates)
        return [str(i) for i in (numbers[rows] if isinstance(rows, slice) else rows)]


def default_block_rows(row_bytes: int, sample_bytes: int = 0) -> int:
    """Rows of a block: the largest power of two up to 65 536 with 16 MB of features or counts.

    Parameters
    ----------
    row_bytes, sample_bytes : int
        Bytes of the features, and of the counts in all samples, of one candidate.
    """
    rows = min(_BLOCK_ROWS, _BLOCK_BYTES // max(row_bytes, sample_bytes, 1))
    return 1 << max(rows, 1).bit_length() - 1


def default_names(size: int, prefix: str = "x") -> list[str]:
    """Names of features, or of what the prefix says, that have none of their own."""
    return [f"{prefix}{i}" for i in range(size)]
