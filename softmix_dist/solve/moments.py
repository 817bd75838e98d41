"""From latent moments to starts, in standard coordinates.

Three estimators of the mixing measure sum_k alpha_k delta_{eta_k} from its moments, which
are averages over draws. None of them fails on bad moments: what is not the moment of any
mixture of K atoms is projected back, and the estimate's notes say so.

The Gaussian form of the moments: they are biased as far as the standardised features are
not Gaussian, and by order p^-1/2 when they are.

References
----------
.. [1] X. Bing, F. Bunea, J. Niles-Weed, M. Wegkamp, "Learning large softmax mixtures with
   warm start EM", arXiv:2409.09903.
.. [2] A. Anandkumar, R. Ge, D. Hsu, S. Kakade, M. Telgarsky, "Tensor decompositions for
   learning latent variable models", JMLR 15 (2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, hankel, pascal

from softmix_dist.model import Array
from softmix_dist.moments import ProjectedMomentSums

# Of the Hankel matrix with unit diagonal: below, its last node is rounding.
_SINGULAR = 1e-10
# Nodes, or atoms that are split, closer than this are one to any data.
_GAP = 0.05
_SPLIT = 0.25
# Least weight of an atom, times 1 / K: EM hardly moves from smaller ones.
_FLOOR = 0.05
# Share of the largest eigenvalue below which a direction holds no atoms.
_FLAT = 1e-3
# Spread of atoms along a direction whose eigenvalue says nothing.
_SPREAD = 0.5
# Least share of an eigenvalue that is spread about the centre.
_ALIGNED = 0.1
# Size of a component in the whitened tensor below which there is none: weight 1 has size 1.
_WEAK = 0.5
# Initial vectors of the power iterations for each dimension; iterations of each.
_TRIES, _ITERATIONS = 10, 60
# Points among which those that complete an estimate are chosen.
_CLOUD = 64


@dataclass(frozen=True)
class Estimate:
    """A mixing measure to start from.

    Attributes
    ----------
    method : str
        "moments", "subspace" or "tensor".
    weights : (K,) array
        Positive, with sum 1.
    atoms : (K, L) array
        In standard coordinates, norms within the radius.
    notes : tuple of str
        What was degenerate and what was done instead; empty when nothing was.
    """

    method: str
    weights: Array
    atoms: Array
    notes: tuple[str, ...]


def leading_subspace(
    first: Array, second: Array, n_draws: float, n_components: int
) -> tuple[Array, Array]:
    """Leading eigenvectors of sum_j q_j (z_j z_j^T - I), about sum_k alpha_k eta_k eta_k^T.

    Parameters
    ----------
    first : (L,) array
        sum_j n_j z_j; the eigenvectors are turned to its side, so that signs are defined.
    second : (L, L) array
        sum_j n_j z_j z_j^T.
    n_draws : float
    n_components : int

    Returns
    -------
    eigenvalues : (d,) array
        Decreasing; d = min(K, L).
    basis : (L, d) array
        Orthonormal columns, which span the atoms.
    """
    matrix = _share(second, n_draws) - np.eye(len(second))
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    leading = slice(None, -min(n_components, len(values)) - 1, -1)
    basis = vectors[:, leading]
    return values[leading], basis * np.where(first @ basis < 0, -1.0, 1.0)


def directions(subspace: Array, n: int, rng: np.random.Generator) -> Array:
    """Directions to take moments along, (n, L): the leading eigenvector, then random ones.

    Parameters
    ----------
    subspace : (L, d) array
        Orthonormal columns, as `leading_subspace` returns them.
    n : int
    rng : Generator

    Returns
    -------
    (n, L) array
        Unit vectors in the span.
    """
    within = rng.standard_normal((n, subspace.shape[1]))
    within[:1] = np.eye(1, subspace.shape[1])
    return _unit(within) @ subspace.T


def moment_estimate(
    sums: ProjectedMomentSums, index: int, n_components: int, radius: float
) -> Estimate:
    """Moment estimator along one direction [1]_.

    Parameters
    ----------
    sums : ProjectedMomentSums
        With at least 2K moments along each direction.
    index : int
        Of the direction v.
    n_components : int
    radius : float
        Largest norm of an atom.

    Returns
    -------
    Estimate
        Its quality falls exponentially in K: good for K up to 3 or so.

    Notes
    -----
    The nodes v.eta_k are those of the Gauss quadrature of the moments m_r, by the pencil
    of Hankel matrices ([m_{i+j+1}], [m_{i+j}]). That has K real, distinct solutions as long
    as the second is positive definite. Where it is not, the roots of the orthogonal
    polynomial are complex or coincide; then the largest order at which it is serves instead
    (measured, K = 3 and 4: nearer to the truth than the real parts of the roots).
    """
    notes: list[str] = []
    v = sums.directions[index]
    # 1. Moments of t = v.eta, and of t with the coordinates across v.
    moments, across = _along(sums, index, n_components, radius, notes)
    # 2. Centred and scaled, (t - centre) / spread instead of t, for the condition's sake.
    centre = moments[1]
    variance = moments[2] - centre**2 if n_components > 1 else 0.0
    one = variance <= _SINGULAR * (1 + centre**2)
    spread = 1.0 if one else float(np.sqrt(variance))
    to_scaled = _affine(len(moments), -centre, 1 / spread)
    moments = to_scaled @ moments
    # 3. Nodes of the largest order that the moments define.
    nodes = _nodes(moments, 1 if one else n_components)
    size = len(nodes)
    if size < n_components:
        notes.append(
            f"the moments along the direction define {size} of {n_components} distinct atoms; "
            "the heaviest were split"
        )
    line = _apart(centre + spread * nodes, radius, notes)
    # 4. Weights and coordinates across v, both through the Vandermonde matrix.
    vandermonde = np.vander((line - centre) / spread, size, increasing=True).T
    right = np.column_stack([moments[:size], to_scaled[:size, :size] @ across[:size]])
    solved = np.linalg.lstsq(vandermonde, right, rcond=None)[0]
    weights = _on_simplex(solved[:, 0], notes)
    atoms = np.outer(line, v) + solved[:, 1:] / weights[:, None]
    # 5. As many atoms as asked for, within the radius.
    weights, atoms = _split(weights, _within(atoms, radius, notes), n_components)
    return Estimate("moments", weights, _within(atoms, radius, []), tuple(notes))


def subspace_starts(
    subspace: Array,
    eigenvalues: Array,
    centre: Array,
    n_components: int,
    n_starts: int,
    radius: float,
    rng: np.random.Generator,
) -> list[Estimate]:
    """Random starts in the span of the atoms [1]_.

    Parameters
    ----------
    subspace : (L, d) array
    eigenvalues : (d,) array
        Both as `leading_subspace` returns them.
    centre : (L,) array
        Mean over draws of z, which the atoms average to.
    n_components, n_starts : int
    radius : float
        Largest norm of an atom.
    rng : Generator

    Returns
    -------
    list of Estimate
        Equal weights; atoms normal around the centre, with the second moments that
        the eigenvalues give.
    """
    notes: list[str] = []
    middle = centre @ subspace
    known = _identified(eigenvalues, n_components, notes)
    # The eigenvalues are about 0, not about the centre.
    variances = np.maximum(known - middle**2, _ALIGNED * known)
    spread = np.sqrt(np.where(known > 0, variances, _SPREAD**2))
    weights = np.full(n_components, 1 / n_components)
    starts = []
    for _ in range(n_starts):
        within = middle + spread * rng.standard_normal((n_components, len(spread)))
        atoms = _within(within, radius, []) @ subspace.T
        starts.append(Estimate("subspace", weights, atoms, tuple(notes)))
    return starts


def tensor_estimate(
    first: Array,
    second: Array,
    third: Array,
    basis: Array,
    n_draws: float,
    n_components: int,
    radius: float,
    rng: np.random.Generator,
) -> Estimate:
    """Tensor decomposition of the third moments, whitened by the second [2]_.

    Parameters
    ----------
    first : (L,) array
        sum_j n_j z_j.
    second : (L, L) array
        sum_j n_j z_j z_j^T.
    third : (d, d, d) array
        Third Hermite tensor of basis^T z, summed over draws.
    basis : (L, d) array
        As `leading_subspace` returns it.
    n_draws : float
    n_components : int
    radius : float
        Largest norm of an atom.
    rng : Generator
        Draws the initial vectors.

    Returns
    -------
    Estimate
        Needs K <= L and K linearly independent atoms; otherwise as many as there are
        independent directions are estimated and points spread out in their span added.
    """
    notes: list[str] = []
    matrix = _share(second, n_draws) - np.eye(len(second))
    matrix = _possible((matrix + matrix.T) / 2, radius**2, notes)
    tensor = _possible(_share(third, n_draws), radius**3, notes)
    # 1. Whiten: with y_k = B g_k, the vectors sqrt(alpha_k) g_k are orthonormal.
    values, vectors = np.linalg.eigh(basis.T @ matrix @ basis)
    known = _identified(values, n_components, notes)
    seen = known > 0
    spread = vectors[:, seen] * np.sqrt(known[seen])
    whitener = vectors[:, seen] / np.sqrt(known[seen])
    tensor = np.einsum("abc,ai,bj,ck->ijk", tensor, whitener, whitener, whitener, optimize=True)
    # 2. Components lambda_k g_k (x) g_k (x) g_k, with alpha_k = lambda_k^-2.
    sizes, axes = _components(tensor, min(len(tensor), n_components), rng)
    weak = sizes < _WEAK
    if weak.any():
        notes.append(
            f"{weak.sum()} of {n_components} components do not show in the third moments; "
            "they were given the weight 1 / K"
        )
        sizes[weak] = np.sqrt(n_components)
    weights = sizes**-2.0
    if len(weights) == n_components and not 0.5 < weights.sum() < 2:
        notes.append(f"the weights had sum {weights.sum():.3g}; they were scaled to 1")
    # 3. Back, completed and projected.
    atoms = _within((sizes[:, None] * axes) @ spread.T @ basis.T, radius, notes)
    centre = np.clip(_share(first, n_draws), -radius, radius)
    scale = np.sqrt(np.where(seen, known, _SPREAD**2))
    cloud = centre @ basis @ vectors + scale * rng.standard_normal((_CLOUD, len(scale)))
    atoms = _spread_out(atoms, _within(cloud, radius, []) @ (basis @ vectors).T, n_components)
    rest = np.full(n_components - len(weights), 1 / n_components)
    weights = np.append(weights * (1 - rest.sum()) / max(weights.sum(), 1e-300), rest)
    return Estimate("tensor", _on_simplex(weights, notes), atoms, tuple(notes))


def _along(
    sums: ProjectedMomentSums, index: int, n_components: int, radius: float, notes: list[str]
) -> tuple[Array, Array]:
    """Moments of v.eta, (2K,), and of it with the coordinates of eta across v, (K, L)."""
    v, n_draws = sums.directions[index], float(sums.hermite[index, 0])
    order = np.arange(2.0 * n_components)
    moments = _share(sums.hermite[index, : len(order)], n_draws)
    moments[0] = 1.0
    across = _share(sums.mixed[index, :n_components], n_draws)
    across -= np.outer(across @ v, v)
    return (
        _possible(moments, radius**order, notes),
        _possible(across, radius ** (order[:n_components, None] + 1), notes),
    )


def _affine(size: int, shift: float, scale: float) -> Array:
    """Matrix from moments of t to moments of (t + shift) * scale, (size, size)."""
    order = np.arange(size)
    lag = np.maximum(order[:, None] - order, 0)
    choose = pascal(size, kind="lower", exact=False)
    return np.asarray(choose * shift**lag * scale ** order[:, None])


def _nodes(moments: Array, largest: int) -> Array:
    """Gauss nodes, ascending, of the largest order <= ``largest`` that the moments have."""
    for size in range(largest, 1, -1):
        matrix = hankel(moments[:size], moments[size - 1 : 2 * size - 1])
        diagonal = np.diag(matrix)
        if (diagonal <= 0).any():
            continue
        unit = np.outer(diagonal**-0.5, diagonal**-0.5)
        if np.linalg.eigvalsh(matrix * unit)[0] > _SINGULAR:
            shifted = hankel(moments[1 : size + 1], moments[size : 2 * size])
            return np.asarray(eigh(shifted * unit, matrix * unit, eigvals_only=True))
    return moments[1:2]


def _apart(nodes: Array, radius: float, notes: list[str]) -> Array:
    """Ascending nodes moved into [-radius, radius], and apart from each other."""
    moved = np.clip(nodes, -radius, radius)
    apart = np.append(0.0, np.cumsum(np.maximum(np.diff(moved), _GAP)))
    apart += moved.mean() - apart.mean()
    apart *= min(1.0, radius / max(np.abs(apart).max(), 1e-300))
    if np.abs(apart - nodes).max() < 1e-9:
        return nodes
    notes.append("atoms coincided along the direction or left the radius; they were moved apart")
    return apart


def _components(tensor: Array, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Sizes (n,) and unit vectors (n, d) of a tensor, by power iterations and deflation."""
    size = len(tensor)
    sizes, axes = np.zeros(n), np.zeros((n, size))
    for k in range(n):
        flat = tensor.reshape(size, size * size).T
        g = _unit(rng.standard_normal((_TRIES * size, size)))
        for _ in range(_ITERATIONS):
            image = (g[:, :, None] * g[:, None, :]).reshape(len(g), -1) @ flat
            values, before, g = np.sum(g * image, axis=1), g, _unit(image)
        best = int(np.argmax(values))
        sizes[k], axes[k] = values[best], before[best]
        tensor = tensor - sizes[k] * np.einsum("i,j,k->ijk", axes[k], axes[k], axes[k])
    return sizes, axes


def _identified(eigenvalues: Array, n_components: int, notes: list[str]) -> Array:
    """Eigenvalues of the second moments, 0 where no atoms show; says if these are too few."""
    known = np.where(eigenvalues > _FLAT * eigenvalues.max(initial=1.0), eigenvalues, 0.0)
    n_known = np.count_nonzero(known)
    if n_known < n_components:
        notes.append(
            f"the second moments show atoms in {n_known} directions for {n_components} "
            "components; the rest was spread out at random"
        )
    return known


def _spread_out(atoms: Array, cloud: Array, n: int) -> Array:
    """Atoms completed to n by points of the cloud, each the farthest from those before."""
    while len(atoms) < n:
        between = np.linalg.norm(cloud[:, None] - atoms, axis=2)
        farthest = int(np.argmax(between.min(axis=1, initial=np.inf)))
        atoms = np.vstack([atoms, cloud[farthest]])
    return atoms


def _split(weights: Array, atoms: Array, n: int) -> tuple[Array, Array]:
    """Mixture of n atoms, the heaviest split in two as often as needed; always the same."""
    rng = np.random.default_rng(0)
    weights = weights.copy()
    while len(weights) < n:
        heaviest = int(np.argmax(weights))
        weights[heaviest] /= 2
        shift = _SPLIT * _unit(rng.standard_normal(atoms.shape[1]))
        atoms = np.vstack([atoms, atoms[heaviest] + shift])
        atoms[heaviest] -= shift
        weights = np.append(weights, weights[heaviest])
    return weights, atoms


def _on_simplex(weights: Array, notes: list[str]) -> Array:
    """Weights on the simplex, none too small: by Euclidean projection where some are."""
    least = _FLOOR / len(weights)
    if weights.min() < least:
        notes.append(f"weights below {least:.2g} were raised to it")
        ordered = np.sort(weights)[::-1]
        excess = (np.cumsum(ordered) - 1) / np.arange(1, len(weights) + 1)
        last = np.flatnonzero(ordered > excess).max(initial=0)
        weights = np.maximum(weights - excess[last], least)
    return np.asarray(weights / weights.sum())


def _within(atoms: Array, radius: float, notes: list[str]) -> Array:
    """Atoms shortened to the radius where they are longer."""
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    n_long = np.count_nonzero(norms > radius * (1 + 1e-9))
    if n_long:
        notes.append(f"atoms longer than the radius {radius:.3g} were shortened to it: {n_long}")
    return np.asarray(atoms * (radius / np.maximum(norms, radius)))


def _possible(moments: Array, bound: float | Array, notes: list[str]) -> Array:
    """Moments cut to what atoms within the radius can have."""
    cut = np.clip(moments, -bound, bound)
    if np.abs(moments - cut).max(initial=0.0) > 1e-9:
        note = "moments that no atoms within the radius have were cut"
        notes.extend({note}.difference(notes))
    return cut


def _share(sums: Array, n_draws: float) -> Array:
    """Turn sums over draws into averages; zero where there are no draws."""
    return sums / n_draws if n_draws > 0 else np.zeros_like(sums)


def _unit(vectors: Array) -> Array:
    """Vectors scaled to norm 1; those of norm 0 as they are."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)
