"""Kernels of the observed information, of its products, and of how far a direction reaches."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmix_dist.arrays import host, rows_at_once
from softmix_dist.blocks import Block
from softmix_dist.model import Mixture
from softmix_dist.sums import Extent, InformationSums, ProductSums

# Rows times coefficients of a buffer that stays near the second-level cache.
_BUFFER = 200_000


def information(block: Block, mixture: Mixture) -> InformationSums:
    """Sum up one block for the observed information of a mixture, in float64.

    Parameters
    ----------
    block : Block
    mixture : Mixture
        In frame coordinates, with exponents in range: a point that was accepted.

    Returns
    -------
    InformationSums
        K weighted Grams over candidates, one Gram of responsibilities times features.
    """
    xp = block.xp
    columns, n_components = mixture.coefficients.shape
    coefficients = xp.asarray(mixture.coefficients)
    size = n_components * columns
    step = rows_at_once(xp, size, _BUFFER, 64)
    candidates = xp.zeros((size, columns))
    pairs = xp.zeros((size, size))
    for part, stored in block.parts():
        for first in range(0, len(stored), step):
            x = xp.ascontiguousarray(stored[first : first + step], dtype=np.float64)
            rows = slice(part.start + first, part.start + first + len(x))
            logits = x @ coefficients
            if block.log_base is not None:
                logits += block.log_base[rows, None]
            times = xp.ones(len(x)) if block.multiplicity is None else block.multiplicity[rows]
            # 1. Over candidates: u_j exp(b_k + x_j.theta_k).
            e = xp.exp(logits) * times[:, None]
            spread = (e[:, :, None] * x[:, None, :]).reshape(len(x), size)
            candidates += xp.dot(spread.T, x)
            # 2. Over draws, at the rows that have any: n_j r_jk r_jm.
            n = block.draws[rows] * times
            seen = xp.flatnonzero(n > 0)
            if not seen.size:
                continue
            logits = logits[seen]
            resp = xp.exp(logits - logits.max(axis=1, keepdims=True))
            resp *= xp.sqrt(n[seen])[:, None] / resp.sum(axis=1, keepdims=True)
            outer = (resp[:, :, None] * x[seen][:, None, :]).reshape(len(seen), size)
            pairs += xp.dot(outer.T, outer)
    return InformationSums(host(candidates).reshape(n_components, columns, columns), host(pairs))


def information_product(
    block: Block, mixture: Mixture, direction: Mixture, dtype: np.dtype[Any]
) -> ProductSums:
    """Sum up one block for the information times a direction; no matrix is formed.

    Parameters
    ----------
    block : Block
    mixture : Mixture
        In frame coordinates, with exponents in range: a point that was accepted.
    direction : Mixture
        Changes of its offsets and atoms.
    dtype : dtype
        Precision of the arithmetic inside a slice; slices are added in float64.

    Returns
    -------
    ProductSums
        Two products with each slice of features: of 2K columns, and back of 2K columns.
    """
    n_components = mixture.n_components
    xp = block.xp
    both_ways = np.concatenate([mixture.coefficients, direction.coefficients], axis=1)
    coefficients = xp.asarray(both_ways.astype(dtype))
    columns = len(coefficients)
    total = xp.zeros((2 * n_components, columns))
    for part, x in block.pieces(max(columns, 2 * n_components), dtype):
        both = x @ coefficients
        logits, moved = both[:, :n_components], both[:, n_components:]
        if block.log_base is not None:
            logits += block.log_base[part, None].astype(dtype)
        times = xp.ones(len(x)) if block.multiplicity is None else block.multiplicity[part]
        n = block.draws[part] * times
        # Candidates that are not available have no logits and no draws.
        top = xp.maximum(logits.max(axis=1, keepdims=True), np.finfo(dtype).min)
        resp = xp.exp(logits - top)
        resp /= xp.maximum(resp.sum(axis=1, keepdims=True), 1)
        mean = xp.sum(resp * moved, axis=1, keepdims=True)
        scaled = xp.empty_like(both)
        scaled[:, :n_components] = xp.exp(logits) * times[:, None] * moved
        scaled[:, n_components:] = resp * (moved - mean) * n[:, None]
        total += xp.dot(scaled.T, x)
    total = host(total)
    return ProductSums(total[:n_components], total[n_components:])


def extent(block: Block, directions: Mixture) -> Extent:
    """Smallest and largest utility of the available candidates of one block.

    Parameters
    ----------
    block : Block
    directions : Mixture
        Its atoms and offsets, in frame coordinates.

    Returns
    -------
    Extent
        One entry for each atom.
    """
    block.check()
    coefficients = block.xp.asarray(directions.coefficients)
    found = Extent(*(np.full(directions.n_components, side) for side in (np.inf, -np.inf)))
    for part, x in block.pieces(max(coefficients.shape), np.float64):
        utilities = x @ coefficients
        if block.log_base is not None:
            utilities = utilities[block.log_base[part] > -np.inf]
        if len(utilities):
            found += Extent(host(utilities.min(axis=0)), host(utilities.max(axis=0)))
    return found
