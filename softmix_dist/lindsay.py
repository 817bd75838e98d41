"""Kernel of Lindsay's gradient function: whether one more component would help."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softmix_dist.arrays import host
from softmix_dist.blocks import Array, Block
from softmix_dist.model import Mixture


@dataclass(frozen=True)
class GradientSums:
    """Sums for D(theta) = sum_j q_j A_j(theta) / pi_j at M atoms.

    Attributes
    ----------
    candidates : (M,) array
        sum_j u_j exp(c_m + x_j.theta_m).
    draws : (M,) array
        sum_j n_j exp(c_m + x_j.theta_m) / sum_k exp(b_k + x_j.theta_k).
    """

    candidates: Array
    draws: Array

    def __add__(self, other: GradientSums) -> GradientSums:
        return GradientSums(self.candidates + other.candidates, self.draws + other.draws)


def gradient_function(block: Block, mixture: Mixture, atoms: Mixture) -> GradientSums:
    """Sum up one block for the gradient function of a mixture, in float64.

    Parameters
    ----------
    block : Block
    mixture : Mixture
        In frame coordinates.
    atoms : Mixture
        The atoms to try, in frame coordinates, with offsets that keep exponents in range.

    Returns
    -------
    GradientSums

    Notes
    -----
    Source: Lindsay, Ann. Statist. 11 (1983), 86-94.
    """
    xp = block.xp
    at, tried = xp.asarray(mixture.coefficients), xp.asarray(atoms.coefficients)
    sums = GradientSums(np.zeros(tried.shape[1]), np.zeros(tried.shape[1]))
    for part, stored in block.pieces(max(*at.shape, *tried.shape)):
        x = stored.astype(np.float64)
        times = xp.ones(len(x)) if block.multiplicity is None else block.multiplicity[part]
        base = times if block.log_base is None else times * xp.exp(block.log_base[part])
        logits = x @ tried
        candidates = base @ xp.exp(logits)
        # The base measure cancels in A / pi, so exponents are shifted row by row.
        n = times * block.draws[part]
        seen = xp.flatnonzero(n > 0)
        if not seen.size:
            sums += GradientSums(host(candidates), np.zeros(tried.shape[1]))
            continue
        own = x[seen] @ at
        top = own.max(axis=1, keepdims=True)
        log_density = top[:, 0] + xp.log(xp.exp(own - top).sum(axis=1))
        draws = n[seen] @ xp.exp(logits[seen] - log_density[:, None])
        sums += GradientSums(host(candidates), host(draws))
    return sums
