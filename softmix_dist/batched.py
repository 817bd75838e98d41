"""Score sums of long slices: many rows at a time, as a device wants them.

On the host a slice stays in cache and is swept with buffers of its own (`kernels`). On a device
a slice is as long as the block, and what counts is that few operations read it, each large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from softmix_dist.arrays import host
from softmix_dist.blocks import Array, Block
from softmix_dist.fused import fused_score, shape_of
from softmix_dist.model import Mixture
from softmix_dist.sums import ScoreSums

# Rows whose products are added in the precision of the arithmetic, and then in float64.
_BATCH = 4096


def batched_score(block: Block, mixture: Mixture, dtype: np.dtype[Any]) -> ScoreSums | None:
    """Score sums of one block.

    Parameters
    ----------
    block : Block
        Of any length, on the host or on a device.
    mixture : Mixture
        In frame coordinates.
    dtype : dtype
        Of the arithmetic within 4096 rows; these are added in float64.

    Returns
    -------
    ScoreSums or None
        On the host. None where lambda underflows at a row with draws, or something overflows.
    """
    xp = block.xp
    K = mixture.n_components
    shape = shape_of(block, mixture, dtype)
    if shape is not None:
        return _unpacked(fused_score(block, mixture, shape), K)
    columns = block.slices[0].shape[1]
    tiny = float(np.finfo(dtype).tiny * 1e8)
    coefficients = xp.asarray(mixture.coefficients.astype(dtype))
    sums, base = xp.zeros((2 * K, columns)), xp.zeros((K, 1))
    log_density, vanished = xp.zeros(()), xp.zeros(())
    for rows, n_batches, x in _batches(block, max(columns, 2 * K), dtype):
        # 1. The exponentials u_j exp(b_k + x_j.theta_k), (rows, K), and their sum lambda_j.
        e = xp.matmul(x, coefficients)
        if block.log_base is not None:
            e += block.log_base[rows, None].astype(dtype)
        e = xp.exp(e)
        lam = e.sum(axis=1)
        draws = block.draws[rows]
        vanished += ((lam <= tiny) & (draws > 0)).sum()
        lam = xp.maximum(lam, tiny)
        # 2. Beside them the same, reweighted by n_j / lambda_j: (rows, 2K).
        ratio = (draws / lam).astype(dtype)
        weights = xp.concatenate([e, e * ratio[:, None]], axis=1)
        if block.multiplicity is not None:
            weights *= block.multiplicity[rows, None].astype(dtype)
            draws = draws * block.multiplicity[rows]
        # 3. Sums over candidates and over draws, by one product.
        weights = weights.reshape(n_batches, -1, 2 * K).transpose(0, 2, 1)
        sums += _product(weights, x, n_batches)
        if block.log_base is not None:
            log_base = block.log_base[rows]
            log_base = xp.where(log_base > -np.inf, log_base, 0).astype(dtype)
            base += _product(weights[:, :K], log_base, n_batches)
        log_density += draws @ xp.log(lam).astype(np.float64)
    return _unpacked(
        xp.concatenate([log_density[None], vanished[None], base[:, 0], sums.ravel()]), K
    )


def _unpacked(packed: Any, n_components: int) -> ScoreSums | None:
    """Bring sums to the host in one transfer: log density, rows that vanished, base, sums."""
    values: Array = host(packed)
    if values[1] > 0 or not np.isfinite(values).all():
        return None
    base, sums = values[2 : 2 + n_components], values[2 + n_components :]
    candidates, draws = sums.reshape(2, n_components, -1)
    return ScoreSums(float(values[0]), candidates, draws, base)


def _batches(block: Block, widest: int, dtype: np.dtype[Any]) -> Iterator[tuple[slice, int, Any]]:
    """Yield rows of the block, how many batches they are, and their features."""
    for part, stored in block.pieces(widest):
        whole = len(stored) - len(stored) % _BATCH
        for first, last, n_batches in ((0, whole, whole // _BATCH), (whole, len(stored), 1)):
            if last > first:
                rows = slice(part.start + first, part.start + last)
                yield rows, n_batches, stored[first:last].astype(dtype, copy=False)


def _product(weights: Any, x: Any, n_batches: int) -> Any:
    """Sum over rows of weights (batches, a, rows) times x, (a, columns), in float64."""
    batches = x.reshape(n_batches, weights.shape[2], -1)
    return (weights @ batches).sum(axis=0, dtype=np.float64)
