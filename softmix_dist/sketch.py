"""The sketch: a small weighted sample of the rows, the same for any chunking and engine.

Poisson sampling: each row is kept or not by its own uniform, which is a function of the
seed and of the row's number in the data set and of nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softmix_dist.arrays import host
from softmix_dist.blocks import Array, Block
from softmix_dist.model import Mixture

# Philox gives four numbers of 64 bits for each value of its counter.
_PER_COUNT = 4


@dataclass(frozen=True)
class Sampling:
    """How rows are chosen.

    Attributes
    ----------
    seed : int
    n_rows : int
        Rows to be expected, at most.
    n_candidates : int
        In the whole data; up to ``n_rows`` of them the sketch is the data.
    log_candidates : float
        Log of the total base measure, in the frame.
    n_draws : int
    mixture : Mixture or None
        In frame coordinates, with exact normalisers: candidates that it expects are then
        chosen as well, which a curvature at that mixture needs where draws are few.
    number : int
        Of the sketch: another one is independent.
    """

    seed: int
    n_rows: int
    n_candidates: int
    log_candidates: float
    n_draws: int
    mixture: Mixture | None = None
    number: int = 0


@dataclass(frozen=True)
class SketchRows:
    """Rows of the sketch, in the order of the data; adding is joining.

    Attributes
    ----------
    rows : (m,) array of int
        Their numbers in the data set.
    features : (m, L) array
        In the frame.
    log_base : (m,) array of float64
    draws : (m,) array of float64
    chance : (m,) array of float64
        With which each was kept: 1 / chance is its weight.
    """

    rows: Array
    features: Array
    log_base: Array
    draws: Array
    chance: Array

    def __add__(self, other: SketchRows) -> SketchRows:
        return SketchRows(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.features, other.features]),
            np.concatenate([self.log_base, other.log_base]),
            np.concatenate([self.draws, other.draws]),
            np.concatenate([self.chance, other.chance]),
        )


def uniforms(seed: int, start: int, n: int, stream: int = 0) -> Array:
    """Uniform numbers in [0, 1) of the rows ``start`` to ``start + n``, (n,).

    A function of the seed, the stream and the row alone.

    Examples
    --------
    >>> bool((uniforms(7, 0, 10)[3:8] == uniforms(7, 3, 5)).all())
    True
    """
    first, skip = divmod(start, _PER_COUNT)
    # A seed may have more bits than a key, and the stream has the counter's highest word.
    key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    counter = np.array([first, 0, 0, stream], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return generator.random(n + skip)[skip:]


def draw(block: Block, sampling: Sampling) -> SketchRows:
    """Rows of one block that belong to the sketch.

    Parameters
    ----------
    block : Block
    sampling : Sampling

    Returns
    -------
    SketchRows
        Row j is kept with probability min(1, m (u_j / 2U + q_j / 2)), or, where a mixture
        is given, min(1, m (u_j / 4U + q_j / 4 + mean_k A_j(theta_k) / 2)).
    """
    rows, draws = len(block.draws), host(block.draws)
    log_base = np.zeros(rows) if block.log_base is None else host(block.log_base)
    if sampling.n_candidates <= sampling.n_rows:
        chance = np.ones(rows)
        kept = np.flatnonzero(log_base > -np.inf)
    else:
        chance = np.exp(log_base - sampling.log_candidates)
        chance += draws / sampling.n_draws
        chance *= 0.5
        if sampling.mixture is not None:
            chance += _mean_softmax(block, sampling.mixture)
            chance *= 0.5
        chance *= sampling.n_rows
        np.minimum(chance, 1.0, out=chance)
        kept = np.flatnonzero(uniforms(sampling.seed, block.start, rows, sampling.number) < chance)
    features = []
    for part, x in block.parts():
        low, high = np.searchsorted(kept, (part.start, part.stop))
        features.append(host(x[block.xp.asarray(kept[low:high] - part.start), 1:]))
    return SketchRows(
        block.start + kept,
        np.concatenate(features),
        log_base[kept],
        draws[kept],
        chance[kept],
    )


def _mean_softmax(block: Block, mixture: Mixture) -> Array:
    """Mean over components of their softmax at each row, (rows,)."""
    xp = block.xp
    coefficients = xp.asarray(mixture.coefficients)
    share = xp.full(mixture.n_components, 1 / mixture.n_components)
    mean = np.empty(len(block.draws))
    for part, x in block.pieces(max(coefficients.shape), np.float64):
        logits = xp.matmul(x, coefficients)
        if block.log_base is not None:
            logits += block.log_base[part, None]
        mean[part] = host(xp.dot(xp.exp(logits, out=logits), share))
    return mean
