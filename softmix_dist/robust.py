"""Kernels of standard errors that do not trust the model: scores of samples, Pearson's statistic.

Draws of one sample may go together, and counts may vary more than multinomial ones. The first
needs the counts of every sample, which a prepared block has given up: it takes them beside
the block, from the data as they are stored, so that no other pass carries them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmix_dist.arrays import host
from softmix_dist.blocks import Array, Block
from softmix_dist.model import Mixture
from softmix_dist.sums import PearsonSums

# Rows times coefficients of a buffer that stays near the second-level cache.
_BUFFER = 200_000


def sample_sums(block: Block, counts: Any, mixture: Mixture) -> Array:
    """Sum over the draws of each sample, (S, K, L + 1).

    Parameters
    ----------
    block : Block
    counts : (S, rows) array or scipy.sparse.csc_array
        Of the same rows.
    mixture : Mixture
        In frame coordinates.

    Returns
    -------
    (S, K, L + 1) array
        sum_j n_sj r_jk (1, x_j), in float64: all that the scores need.
    """
    coefficients = mixture.coefficients
    columns, n_components = coefficients.shape
    size = n_components * columns
    step = max(64, _BUFFER // size)
    found = np.zeros((counts.shape[0], size))
    for part, stored in block.parts():
        for first in range(0, len(stored), step):
            start = part.start + first
            rows = slice(start, start + len(stored[first : first + step]))
            seen = np.flatnonzero(block.draws[rows])
            if not seen.size:
                continue
            x = stored[first + seen].astype(np.float64)
            # The base measure is the same in all components: responsibilities do not have it.
            logits = x @ coefficients
            resp = np.exp(logits - logits.max(axis=1, keepdims=True))
            resp /= resp.sum(axis=1, keepdims=True)
            spread = (resp[:, :, None] * x[:, None, :]).reshape(len(x), size)
            found += counts[:, start + seen].astype(np.float64) @ spread
    return found.reshape(-1, n_components, columns)


def pearson(block: Block, mixture: Mixture, n_draws: int) -> PearsonSums:
    """Pearson's statistic of one block, over cells of at least five expected draws.

    Parameters
    ----------
    block : Block
    mixture : Mixture
        In frame coordinates, normalised: its densities sum to 1 over the candidates.
    n_draws : int

    Returns
    -------
    PearsonSums

    Notes
    -----
    A candidate with 10^-9 expected draws that has one adds 10^9 to the plain statistic, so
    candidates with few are joined with their neighbours. Fletcher's correction (Biometrika 99,
    2012), made for sparse counts, divides by the mean of observed over expected draws
    instead: that one candidate would pull its estimate to 1, whatever the others say.
    """
    block.check()
    xp = block.xp
    coefficients = xp.asarray(mixture.coefficients)
    expected = xp.empty(len(block.draws))
    for part, x in block.pieces(max(coefficients.shape), np.float64):
        logits = x @ coefficients
        if block.log_base is not None:
            logits += block.log_base[part, None]
        expected[part] = xp.exp(logits).sum(axis=1)
    return PearsonSums.of(host(block.draws), n_draws * host(expected))
