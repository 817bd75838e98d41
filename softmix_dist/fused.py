"""Score sums on a GPU by one kernel that reads the features once.

By plain array operations a pass reads them three times, and writes and reads weights in
between. The kernel is compiled for the shape at hand by the namespace of the arrays, CuPy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from softmix_dist.blocks import Block
from softmix_dist.model import Mixture

THREADS = 256
# Rows of a thread block, in tiles of them: more in a tile while shared memory holds it.
_ROWS = 4096
_TILE_BYTES = 48_000
_TILE_ROWS = 256, 32
# Shared memory that a thread block may have on devices of compute capability 7.0 and up, bytes.
_SHARED = 98_304
# Columns that a thread adds up for 8 weights.
_COLUMNS = 3, 6


@dataclass(frozen=True)
class Shape:
    """What the kernel is compiled for.

    Attributes
    ----------
    n_components, columns : int
        K, and L + 1.
    base, half : bool
        Whether there is a log base measure; whether features are float16, else float32.
    """

    n_components: int
    columns: int
    base: bool
    half: bool

    @property
    def padded(self) -> int:
        """Components, and as many more as make a multiple of 4."""
        return -(-self.n_components // 4) * 4

    @property
    def all_columns(self) -> int:
        """Columns of the sums: features, and the log base measure."""
        return self.columns + self.base

    @property
    def tile_rows(self) -> int:
        """Rows of a tile, a power of two."""
        most, least = _TILE_ROWS
        rows = most
        while rows > least and self._bytes(rows) > _TILE_BYTES:
            rows //= 2
        return rows

    @property
    def thread_columns(self) -> int | None:
        """Columns of a thread; None where they would be too many."""
        for columns in range(_COLUMNS[0], _COLUMNS[1] + 1):
            if (self.padded // 4) * -(-self.all_columns // columns) <= THREADS:
                return columns
        return None

    @property
    def shared(self) -> int:
        """Shared memory of a thread block, bytes."""
        return max(self._bytes(self.tile_rows), 16 * THREADS)

    def _bytes(self, rows: int) -> int:
        row = (2 * self.padded + 4) + (self.all_columns | 1)
        return 4 * (rows * row + self.columns * self.padded)

    @property
    def fits(self) -> bool:
        """Whether there is a kernel for it."""
        return self.thread_columns is not None and self.shared <= _SHARED

    @property
    def options(self) -> tuple[str, ...]:
        """Options of the compiler."""
        values = {
            "K": self.n_components, "KP": self.padded, "C": self.columns, "BASE": int(self.base),
            "HALF": int(self.half), "R": self.tile_rows, "TC": self.thread_columns,
            "TILES": _ROWS // self.tile_rows,
        }  # fmt: skip
        return ("-std=c++17", *(f"-D{name}={value}" for name, value in values.items()))


def shape_of(block: Block, mixture: Mixture, dtype: np.dtype[Any]) -> Shape | None:
    """Return what the kernel is to be compiled for; None where there is none for it."""
    stored = block.slices[0].dtype
    if not hasattr(block.xp, "RawModule") or dtype != np.float32 or stored.itemsize > 4:
        return None
    if block.multiplicity is not None or len(block.slices) != 1 or not len(block.draws):
        return None
    if not block.slices[0].flags.c_contiguous:
        return None
    columns = block.slices[0].shape[1]
    shape = Shape(mixture.n_components, columns, block.log_base is not None, stored.itemsize == 2)
    return shape if shape.fits else None


def fused_score(block: Block, mixture: Mixture, shape: Shape) -> Any:
    """Sum up one block, on its device.

    Parameters
    ----------
    block : Block
    mixture : Mixture
        In frame coordinates.
    shape : Shape
        As `shape_of` returns it.

    Returns
    -------
    (2 + K + 2K (L + 1),) array of the device, float64
        sum_j n_j log lambda_j; rows with draws where lambda vanished; the sums of log u; and
        those over candidates and over draws.
    """
    xp = block.xp
    K, columns = shape.n_components, shape.columns
    x = block.slices[0]
    padded = np.zeros((columns, shape.padded), np.float32)
    padded[:, :K] = mixture.coefficients
    n_blocks = -(-len(x) // _ROWS)
    sums = xp.empty((n_blocks, 2 + 2 * shape.padded * shape.all_columns))
    tiny = np.float32(np.finfo(np.float32).tiny * 1e8)
    log_base = block.draws if block.log_base is None else block.log_base
    _kernel(xp, shape)(
        (n_blocks,),
        (THREADS,),
        (x, block.draws, log_base, xp.asarray(padded), np.int64(len(x)), tiny, sums),
        shared_mem=shape.shared,
    )
    total = sums.sum(axis=0)
    products = total[2:].reshape(2, shape.padded, shape.all_columns)[:, :K]
    base = products[0, :, columns] if shape.base else xp.zeros(K)
    return xp.concatenate([total[:2], base, products[:, :, :columns].ravel()])


@cache
def _kernel(xp: Any, shape: Shape) -> Any:
    source = files("softmix_dist").joinpath("score.cu").read_text()
    kernel = xp.RawModule(code=source, options=shape.options).get_function("score_rows")
    kernel.max_dynamic_shared_size_bytes = shape.shared
    return kernel
