"""Kernel of Lindsay's gradient function: whether one more component would help."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softmix_dist.arrays import host, namespace
from softmix_dist.blocks import Array, Block
from softmix_dist.model import Mixture

# Of a density, below which it may have lost digits.
_LEAST = 1e-280


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


# At a fit that went wrong sums may overflow; what is not finite is left out by who asked.
@np.errstate(over="ignore", invalid="ignore")
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
    xp, n_tried = block.xp, atoms.n_components
    both = xp.asarray(np.concatenate([atoms.coefficients, mixture.coefficients], axis=1))
    ones = xp.ones(mixture.n_components)
    sums = GradientSums(np.zeros(n_tried), np.zeros(n_tried))
    for part, x in block.pieces(max(both.shape), np.float64):
        if not len(x):
            continue
        times = xp.ones(len(x)) if block.multiplicity is None else block.multiplicity[part]
        base = times if block.log_base is None else times * xp.exp(block.log_base[part])
        n = times * block.draws[part]
        # The base measure cancels in A / pi.
        logits = xp.matmul(x, both)
        e = xp.exp(logits)
        tried, density = e[:, :n_tried], xp.dot(e[:, n_tried:], ones)
        candidates = host(xp.dot(base, tried))
        density = xp.where(n > 0, density, 1.0)
        if float(density.min()) > _LEAST and float(density.max()) < np.inf:
            draws = host(xp.dot(n / density, tried))
        else:
            draws = _shifted(logits[n > 0], n[n > 0], n_tried)
        sums += GradientSums(candidates, draws)
    return sums


def _shifted(logits: Array, n: Array, n_tried: int) -> Array:
    """Sum over draws with exponents shifted row by row."""
    xp = namespace(logits)
    tried, own = logits[:, :n_tried], logits[:, n_tried:]
    top = own.max(axis=1, keepdims=True)
    log_density = top + xp.log(xp.exp(own - top).sum(axis=1, keepdims=True))
    return np.asarray(host(xp.dot(n, xp.exp(tried - log_density))))
