"""Kernel of the observed information: what one block adds to it."""

from __future__ import annotations

import numpy as np

from softmix_dist.blocks import Block
from softmix_dist.model import Mixture
from softmix_dist.sums import InformationSums


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
        K weighted Grams over candidates, K (K + 1) / 2 over draws.
    """
    coefficients = np.column_stack([mixture.offsets, mixture.atoms]).T
    columns, n_components = coefficients.shape
    candidates = np.zeros((n_components, columns, columns))
    draws = np.zeros((n_components, n_components, columns, columns))
    for part, stored in block.parts():
        x = np.ascontiguousarray(stored, dtype=np.float64)
        logits = x @ coefficients
        if block.log_base is not None:
            logits += block.log_base[part, None]
        times = 1.0 if block.multiplicity is None else block.multiplicity[part, None]
        # 1. Over candidates: u_j exp(b_k + x_j.theta_k).
        e = np.exp(logits) * times
        for k in range(n_components):
            candidates[k] += np.dot(x.T, x * e[:, k, None])
        # 2. Over draws: n_j (r_jk [k = l] - r_jk r_jl), at the rows that have any.
        n = (block.draws[part, None] * times)[:, 0]
        seen = n > 0
        x_n, n_n, logits_n = x[seen], n[seen], logits[seen]
        resp = np.exp(logits_n - logits_n.max(axis=1, keepdims=True))
        resp /= resp.sum(axis=1, keepdims=True)
        for k in range(n_components):
            for m in range(k, n_components):
                w = n_n * resp[:, k] * ((k == m) - resp[:, m])
                draws[k, m] += np.dot(x_n.T, x_n * w[:, None])
    return InformationSums(candidates, draws)
