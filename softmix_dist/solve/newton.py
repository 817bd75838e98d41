"""The observed information: how far the maximum is, and the step that goes there.

N times the slope times the inverse information times the slope is the squared distance
to the maximum in standard errors. EM's own estimate of it cannot see directions in which
it hardly moves, so claims of convergence are proven on this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softmix_dist.model import Array, Coordinates, Mixture
from softmix_dist.solve.point import Point
from softmix_dist.sums import InformationSums

# Eigenvalues relative to the complete-data information: 1 - eigenvalue is EM's rate.
_FLAT = 1e-9


@dataclass(frozen=True)
class NewtonStep:
    """What the information tells at a point.

    Attributes
    ----------
    gain : float
        What is left to gain by the quadratic model, nats per draw; infinite where the
        likelihood is flat or bends upwards.
    lowest : float
        Smallest eigenvalue of the information relative to that of the complete data, its one
        null direction aside.
    curved : bool
        Whether that is positive.
    mixture : Mixture
        Where the step leads, in standard coordinates.
    predicted : (K,) array
        Log normalisers there, to second order.
    """

    gain: float
    lowest: float
    curved: bool
    mixture: Mixture
    predicted: Array


def newton_step(
    point: Point, sums: InformationSums, coordinates: Coordinates, n_draws: int
) -> NewtonStep:
    """Solve for Newton's step from an evaluated point.

    Parameters
    ----------
    point : Point
    sums : InformationSums
        At that point, in the frame.
    coordinates : Coordinates
    n_draws : int

    Returns
    -------
    NewtonStep
    """
    n_components, n_features = point.mixture.atoms.shape
    size = n_components * (n_features + 1)
    # 1. Grams of (1, z) instead of (1, x).
    to_standard = coordinates.homogeneous()
    mass = sums.candidates[:, 0, 0]
    over_candidates = to_standard @ (sums.candidates / mass[:, None, None]) @ to_standard.T
    upper = to_standard @ (sums.draws / n_draws) @ to_standard.T
    # 2. blockdiag(alpha E[zz]) - hh - sum_j q_j (diag r - rr) (x) zz, with (1, z) for z.
    information = np.zeros((n_components, n_features + 1, n_components, n_features + 1))
    for k in range(n_components):
        information[k, :, k] += point.weights[k] * over_candidates[k]
        information[k, 1:, k, 1:] += point.l2 * np.eye(n_features)
        for m in range(k, n_components):
            information[k, :, m] -= upper[k, m]
            if m > k:
                information[m, :, k] -= upper[k, m]
    matrix = information.reshape(size, size)
    h = (point.weights[:, None] * over_candidates[:, 0]).ravel()
    matrix -= np.outer(h, h)
    # 3. In units of the complete data; a common shift of b is no direction at all.
    unit = np.sqrt(np.repeat(point.weights + point.l2, n_features + 1))
    shift = np.zeros((n_components, n_features + 1))
    shift[:, 0] = 1
    null = shift.ravel() * unit
    null /= np.linalg.norm(null)
    scaled = matrix / np.outer(unit, unit) + np.outer(null, null)
    values, vectors = np.linalg.eigh((scaled + scaled.T) / 2)
    by_b, by_atoms = point.gradient
    slope = np.concatenate([by_b[:, None], by_atoms], axis=1).ravel() / unit
    along = vectors.T @ slope
    # 4. Where it bends the wrong way, or not at all, the step goes by the size of the bend.
    curved = bool(values[0] > _FLAT)
    step = vectors @ (along / np.maximum(np.abs(values), 1e-6)) / unit
    delta = step.reshape(n_components, n_features + 1)
    means, spread = over_candidates[:, 0, 1:], over_candidates[:, 1:, 1:]
    moved = delta[:, 1:]
    predicted = (
        point.log_normalisers
        + np.sum(moved * means, axis=1)
        + 0.5 * np.einsum("ki,kij,kj->k", moved, spread, moved)
        - 0.5 * np.sum(moved * means, axis=1) ** 2
    )
    return NewtonStep(
        gain=0.5 * float(along @ (along / values)) if curved else np.inf,
        lowest=float(values[0]),
        curved=curved,
        mixture=Mixture(point.mixture.offsets + delta[:, 0], point.mixture.atoms + moved),
        predicted=predicted,
    )
