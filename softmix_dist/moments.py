"""Kernels of latent moments: one block of rows in, additive sums out.

Under random design the law of the standardised features z under A(eta) is about N(eta, I),
so averages of Hermite polynomials of z over draws are moments of the mixing measure. All
sums are in float64 and standard coordinates; `solve.moments` turns them into starts.

References
----------
.. [1] X. Bing, F. Bunea, J. Niles-Weed, M. Wegkamp, "Learning large softmax mixtures with
   warm start EM", arXiv:2409.09903.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softmix_dist.arrays import host, rows_at_once
from softmix_dist.blocks import Array, Block
from softmix_dist.model import Coordinates

# Rows that are standardised together: z and its projections then stay near the cache.
_ROWS = 2048


@dataclass(frozen=True)
class SecondMomentSums:
    """Moments up to the second over draws, up to the fourth over candidates.

    Attributes
    ----------
    first : (L,) array
        sum_j n_j z_j.
    second : (L, L) array
        sum_j n_j z_j z_j^T.
    powers : (3, L) array
        sum_j u_j z_j^r per coordinate, r = 2, 3, 4: how Gaussian the design is.
    n_draws : float
        sum_j n_j.
    mass : float
        sum_j u_j.
    """

    first: Array
    second: Array
    powers: Array
    n_draws: float
    mass: float

    def __add__(self, other: SecondMomentSums) -> SecondMomentSums:
        return SecondMomentSums(
            self.first + other.first,
            self.second + other.second,
            self.powers + other.powers,
            self.n_draws + other.n_draws,
            self.mass + other.mass,
        )


@dataclass(frozen=True)
class ProjectedMomentSums:
    """Hermite moments over draws along directions v, and in a subspace.

    Attributes
    ----------
    directions : (M, L) array
        The unit vectors v, carried along: the moments mean nothing without them.
    hermite : (M, 2K) array
        sum_j n_j He_r(v.z_j), r = 0, ..., 2K - 1; the first column is the number of draws.
    mixed : (M, K, L) array
        sum_j n_j He_r(v.z_j) z_j, r = 0, ..., K - 1.
    third : (d, d, d) array or None
        Third Hermite tensor of y = basis^T z: sum_j n_j of y_a y_b y_c less
        y_a [b = c] + y_b [a = c] + y_c [a = b].
    """

    directions: Array
    hermite: Array
    mixed: Array
    third: Array | None

    def __add__(self, other: ProjectedMomentSums) -> ProjectedMomentSums:
        third = None
        if self.third is not None and other.third is not None:
            third = self.third + other.third
        return ProjectedMomentSums(
            self.directions, self.hermite + other.hermite, self.mixed + other.mixed, third
        )


def second_moments(block: Block, coordinates: Coordinates) -> SecondMomentSums:
    """Second moments of one block over draws, and its first four over candidates.

    Parameters
    ----------
    block : Block
    coordinates : Coordinates
        From the frame of the block to standard coordinates.

    Returns
    -------
    SecondMomentSums
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sums = _second_moments(block, coordinates, block.rough_dtype)
    if np.isfinite(sums.powers).all():
        return sums
    return _second_moments(block, coordinates, np.dtype(np.float64))


def _second_moments(
    block: Block, coordinates: Coordinates, rough: np.dtype[Any]
) -> SecondMomentSums:
    """Second moments; the powers of a slice, which only tell how Gaussian it is, in ``rough``."""
    xp = block.xp
    to_standard = xp.asarray(coordinates.homogeneous()[1:].T)
    n_features = to_standard.shape[1]
    first, second = xp.zeros(n_features), xp.zeros((n_features, n_features))
    powers, draws, base = xp.zeros((3, n_features)), _draws(block), _base(block)
    # Relative to the largest, or they may all vanish in single precision.
    most = float(base.max()) if len(base) else 0.0
    most = most or 1.0
    u = (base / most).astype(rough)
    # Used again by each piece: fresh memory would cost as much as the arithmetic. On a device,
    # where single precision is not used, pieces have half the rows, for there are many.
    columns = 2 * n_features
    shape = max((len(x) for _, x in block.pieces(columns)), default=0), n_features
    order: Literal["C", "F"] = "F" if xp is np else "C"
    wide = [xp.empty(shape, order=order) for _ in range(2)]
    narrow = [xp.empty(shape, rough, order=order) for _ in range(3)]
    for rows, x in block.pieces(columns, np.float64):
        z, product = (buffer[: len(x)] for buffer in wide)
        power, square, higher = (buffer[: len(x)] for buffer in narrow)
        xp.matmul(x, to_standard, out=z)
        # 1. Over candidates.
        power[...] = z
        powers[0] += xp.dot(u[rows], xp.multiply(power, power, out=square))
        powers[1] += xp.dot(u[rows], xp.multiply(power, square, out=higher))
        powers[2] += xp.dot(u[rows], xp.multiply(square, square, out=higher))
        # 2. Over draws, where they are few at the rows that have any.
        n = draws[rows]
        if block.observed is not None:
            seen = xp.flatnonzero(n)
            n, z, product = n[seen], z[seen], product[: seen.size]
        first += xp.dot(n, z)
        second += xp.dot(z.T, xp.multiply(z, n[:, None], out=product))
    mass = float(base.sum())
    return SecondMomentSums(
        host(first), host(second), host(powers) * most, float(draws.sum()), mass
    )


def projected_moments(
    block: Block,
    coordinates: Coordinates,
    directions: Array,
    basis: Array | None,
    n_components: int,
) -> ProjectedMomentSums:
    """Hermite moments of one block along directions, and its third ones in a subspace.

    Parameters
    ----------
    block : Block
    coordinates : Coordinates
        From the frame of the block to standard coordinates.
    directions : (M, L) array
        Unit vectors in standard coordinates.
    basis : (L, d) array or None
        Orthonormal columns; None for no third moments.
    n_components : int
        K: 2K moments along each direction, K mixed ones.

    Returns
    -------
    ProjectedMomentSums
    """
    xp = block.xp
    to_standard = xp.asarray(coordinates.homogeneous()[1:].T)
    n_directions, n_features = directions.shape
    ways = xp.asarray(directions.T)
    hermite = xp.zeros((n_directions, 2 * n_components))
    mixed = xp.zeros((n_directions, n_components, n_features))
    axes = xp.zeros((n_features, 0)) if basis is None else xp.asarray(basis)
    linear, third = xp.zeros(axes.shape[1]), xp.zeros((axes.shape[1],) * 3)
    draws = _draws(block)
    for rows, x in _pieces(block):
        n = draws[rows]
        seen = xp.flatnonzero(n)
        if not seen.size:
            continue
        if seen.size < n.size:
            n, x = n[seen], x[seen]
        z = xp.dot(x.astype(np.float64), to_standard)
        # 1. n He_r by He_{r+1} = t He_r - r He_{r-1}, which is linear in n.
        t = xp.dot(z, ways)
        before, current = xp.zeros_like(t), xp.repeat(n[:, None], n_directions, axis=1)
        for r in range(2 * n_components):
            hermite[:, r] += current.sum(axis=0)
            if r < n_components:
                mixed[:, r] += xp.dot(current.T, z)
            before, current = current, t * current - r * before
        # 2. Third powers in the subspace, one face of the tensor at a time.
        y = xp.dot(z, axes)
        linear += xp.dot(n, y)
        for a in range(y.shape[1]):
            third[a] += xp.dot(y.T, y * (n * y[:, a])[:, None])
    # 3. From powers to the Hermite tensor.
    hermite, mixed, linear, third = map(host, (hermite, mixed, linear, third))
    term = np.multiply.outer(linear, np.eye(len(linear)))
    third -= term + term.transpose(1, 0, 2) + term.transpose(1, 2, 0)
    return ProjectedMomentSums(directions, hermite, mixed, None if basis is None else third)


def _draws(block: Block) -> Array:
    """Draws of each row with its multiplicity, (rows,)."""
    return block.draws if block.multiplicity is None else block.draws * block.multiplicity


def _base(block: Block) -> Array:
    """Return the base measure u of each row with its multiplicity, (rows,); not available is 0."""
    xp = block.xp
    base = xp.ones(len(block.draws)) if block.log_base is None else xp.exp(block.log_base)
    return base if block.multiplicity is None else base * block.multiplicity


def _pieces(block: Block) -> Iterator[tuple[slice, Array]]:
    """Yield the slices of the block in pieces, with their rows: on the host _ROWS at most."""
    for part, x in block.parts():
        step = rows_at_once(block.xp, x.shape[1], _ROWS * x.shape[1])
        for start in range(0, len(x), step):
            piece = x[start : start + step]
            low = part.start + start
            yield slice(low, low + len(piece)), piece
