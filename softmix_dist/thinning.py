"""Kernels on two independent halves of the draws.

Every draw goes to the first half with probability 1/2, by random numbers of the block: the
halves never depend on tasks or workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from softmix_dist.arrays import host
from softmix_dist.blocks import Array, Block, whole_total
from softmix_dist.model import Mixture
from softmix_dist.sums import HeldOutSums

# Highest word of the counter; sketches have others.
_STREAM = 1 << 32


def first_half(block: Block, seed: int) -> Array:
    """Draws of each row in the first half, (rows,)."""
    key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    counter = np.array([0, block.start, 0, _STREAM], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    draws = host(block.draws).astype(np.int64)
    return block.xp.asarray(generator.binomial(draws, 0.5).astype(np.float64))


def on_half(block: Block, kernel: Callable[[Block], Any], seed: int) -> Any:
    """Call a kernel on the block with the draws of the first half."""
    if block.findings:
        return kernel(block)
    draws = first_half(block, seed)
    observed = None if block.observed is None else block.xp.flatnonzero(draws)
    return kernel(replace(block, draws=draws, observed=observed))


def held_out(block: Block, mixtures: Sequence[Mixture], seed: int) -> HeldOutSums:
    """Log-likelihoods of the second half of the draws, and their products.

    Parameters
    ----------
    block : Block
    mixtures : sequence of Mixture
        In frame coordinates, normalised: their densities sum to 1 over the candidates.
    seed : int

    Returns
    -------
    HeldOutSums
    """
    block.check()
    xp = block.xp
    left = block.draws - first_half(block, seed)
    first = np.zeros(len(mixtures))
    second = np.zeros((len(mixtures), len(mixtures)))
    widest = max(max(mixture.coefficients.shape) for mixture in mixtures)
    for part, stored in block.pieces(widest):
        n = left[part]
        seen = xp.flatnonzero(n)
        if not seen.size:
            continue
        x = stored[seen].astype(np.float64)
        logs = xp.empty((len(seen), len(mixtures)))
        for i, mixture in enumerate(mixtures):
            logits = x @ xp.asarray(mixture.coefficients)
            top = logits.max(axis=1)
            logs[:, i] = top + xp.log(xp.exp(logits - top[:, None]).sum(axis=1))
        if block.log_base is not None:
            logs += block.log_base[part][seen][:, None]
        first += host(n[seen] @ logs)
        second += host(logs.T @ (n[seen][:, None] * logs))
    return HeldOutSums(first, second, whole_total(left))
