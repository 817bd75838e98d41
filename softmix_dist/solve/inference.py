"""Inference: covariance of the estimates from the information at the maximum.

sqrt(N) (estimate - truth) tends to N(0, I^-1); the delta method carries it from
(log weights, standardised atoms) to the weights and the atoms in the features' own coordinates.
Where that is too little to say, there are the sandwich of a penalised estimate, I_pen^-1 I
I_pen^-1, the one of scores clustered over samples, and the dispersion of quasi-likelihood.

Sources: Huber, Proc. 5th Berkeley Symp. (1967) and White, Econometrica 50 (1982) for the
sandwich; Liang & Zeger, Biometrika 73 (1986) for clusters; McCullagh & Nelder, Generalized
Linear Models (1989), sections 4.5 and 9.2, for the dispersion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from softmix_dist.model import Array, Coordinates
from softmix_dist.solve.information import FLAT, Curvature
from softmix_dist.solve.point import Point
from softmix_dist.sums import LEAST_EXPECTED

# Relative standard error of an eigenvalue above which a sketch does not know it.
_UNKNOWN = 0.3
# Parameters of a direction that are named: those at least this part of the largest.
_NAMED, _MOST_NAMED = 0.3, 4


@dataclass(frozen=True)
class Inference:
    """Covariance of the estimates.

    Attributes
    ----------
    covariance : (d, d) array or None
        Of the weights, then the atoms row by row, in the features' own coordinates;
        d = K (L + 1). NaN where the information is singular, None where none was asked for.
    source : str
        "sketch", "exact", "clustered", "scaled" or "none".
    problem : str or None
        Why it is NaN.
    dispersion : float or None
        By which it was multiplied, where that was asked for.
    doubt : str or None
        Why it may be wrong.
    """

    covariance: Array | None
    source: str
    problem: str | None = None
    dispersion: float | None = None
    doubt: str | None = None


def known_well(curvature: Curvature) -> bool:
    """Whether a sketch tells each eigenvalue of the information, or that it is exact."""
    return bool((curvature.noise <= _UNKNOWN * np.maximum(curvature.values, 0)).all())


def infer(
    curvature: Curvature,
    weights: Array,
    coordinates: Coordinates,
    n_draws: int,
    feature_names: Sequence[str],
    source: str,
    scores: Array | None = None,
    l2: float = 0.0,
) -> Inference:
    """Covariance of weights and atoms at a maximum.

    Parameters
    ----------
    curvature : Curvature
        There.
    weights : (K,) array
    coordinates : Coordinates
    n_draws : int
    feature_names : sequence of str
        For the message.
    source : str
        Where the curvature came from.
    scores : (d, d) array, optional
        Covariance of the sum of all scores, by (log weights, standardised atoms); default:
        N times the information without the penalty, as the model has it.
    l2 : float
        Penalty that the curvature includes, nats per draw. The estimate is then biased
        towards 0, which no covariance shows.

    Returns
    -------
    Inference
    """
    n_components, n_features = len(weights), len(coordinates.mean)
    size = n_components * (n_features + 1)
    if not curvature.lowest > FLAT:
        direction = _in_words(curvature.weakest, weights, feature_names)
        problem = (
            "the information is singular: the draws do not tell apart "
            f"{direction}; use fewer components, l2 > 0 or more draws"
        )
        return Inference(np.full((size, size), np.nan), source, problem)
    # 1. Inverse information; the common shift of the log weights is no parameter.
    root = curvature.vectors / np.sqrt(curvature.values)
    bread = root @ root.T
    bread /= np.outer(curvature.unit, curvature.unit) * n_draws
    bread[:n_components] -= weights @ bread[:n_components]
    bread[:, :n_components] -= (bread[:, :n_components] @ weights)[:, None]
    if scores is None and l2 > 0:
        scores = n_draws * _unpenalised(curvature, n_components, l2)
    covariance = bread if scores is None else bread @ scores @ bread
    # 2. To the weights and to the features' own coordinates.
    jacobian = to_parameters(weights, coordinates)
    return Inference(jacobian @ covariance @ jacobian.T, source)


def _unpenalised(curvature: Curvature, n_components: int, l2: float) -> Array:
    """Information without the penalty, (d, d), by (log weights, standardised atoms)."""
    penalty = np.zeros(len(curvature.unit))
    penalty[n_components:] = l2
    scaled = (curvature.vectors * curvature.values) @ curvature.vectors.T
    values, vectors = np.linalg.eigh(scaled - np.diag(penalty / curvature.unit**2))
    # Where only the penalty makes the objective bend downwards, draws tell nothing.
    scaled = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return np.asarray(scaled * np.outer(curvature.unit, curvature.unit))


def clustered_scores(sums: Array, point: Point, coordinates: Coordinates) -> Array:
    """Covariance of the sum of all scores by their scatter over samples, (d, d).

    Parameters
    ----------
    sums : (S, K, L + 1) array
        Of each sample, in the frame, see `softmix_dist.robust.sample_sums`.
    point : Point
        The maximum.
    coordinates : Coordinates

    Returns
    -------
    (d, d) array
        S / (S - 1) sum_s g_s g_s^T, g_s the score of sample s by (log weights, standardised
        atoms). The factor is the usual one of clustered maximum likelihood.
    """
    n_samples, n_components, columns = sums.shape
    resp = sums[:, :, 0]
    draws = resp.sum(axis=1, keepdims=True)
    resp_sums = coordinates.standardise(sums.reshape(-1, columns))
    by_atoms = resp_sums.reshape(n_samples, n_components, -1) - resp[..., None] * point.means
    scores = np.concatenate([resp - draws * point.weights, by_atoms.reshape(n_samples, -1)], axis=1)
    # Each draw bears its part of the penalty: the scores of all samples then sum to zero.
    scores -= draws / draws.sum() * scores.sum(axis=0)
    return np.asarray(n_samples / (n_samples - 1) * (scores.T @ scores))


def scaled(inference: Inference, dispersion: float | None) -> Inference:
    """Multiply a covariance by the dispersion."""
    assert inference.covariance is not None
    if dispersion is None:
        problem = inference.problem or (
            "the dispersion cannot be estimated: there are no more cells of at least "
            f"{LEAST_EXPECTED:.0f} expected draws than coefficients; "
            "use standard_errors='sketch'"
        )
        nothing = np.full_like(inference.covariance, np.nan)
        return replace(inference, covariance=nothing, source="scaled", problem=problem)
    return replace(
        inference,
        covariance=dispersion * inference.covariance,
        source="scaled",
        dispersion=dispersion,
    )


def to_parameters(weights: Array, coordinates: Coordinates) -> Array:
    """Return the derivatives of (weights, atoms) by (log weights, standardised atoms), (d, d)."""
    n_components, n_features = len(weights), len(coordinates.mean)
    size = n_components * (n_features + 1)
    jacobian = np.zeros((size, size))
    jacobian[:n_components, :n_components] = np.diag(weights)
    own = coordinates.to_features(np.eye(n_features)).T
    for k in range(n_components):
        part = slice(n_components + k * n_features, n_components + (k + 1) * n_features)
        jacobian[part, part] = own
    return jacobian


def reordered(inference: Inference, order: Array, n_features: int) -> Inference:
    """Put the components in another order."""
    if inference.covariance is None:
        return inference
    atoms = len(order) + order[:, None] * n_features + np.arange(n_features)
    places = np.concatenate([order, atoms.ravel()])
    return replace(inference, covariance=inference.covariance[np.ix_(places, places)])


def _in_words(direction: Array, weights: Array, feature_names: Sequence[str]) -> str:
    """Parameters that a direction moves most, named."""
    n_components = len(weights)
    rank = np.empty(n_components, int)
    rank[np.argsort(-weights, kind="stable")] = np.arange(n_components)
    names = [f"the weight of component {k}" for k in rank]
    names += [f"feature {name!r} of component {k}" for k in rank for name in feature_names]
    moved = np.abs(direction)
    places = np.argsort(-moved, kind="stable")[:_MOST_NAMED]
    return ", ".join(names[i] for i in places if moved[i] >= _NAMED * moved.max())
