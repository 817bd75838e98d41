"""Inference: covariance of the estimates from the information at the maximum.

sqrt(N) (estimate - truth) tends to N(0, I^-1); the delta method carries it from
(log weights, standardised atoms) to the weights and the atoms in the features' own coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softmix_dist.model import Array, Coordinates
from softmix_dist.solve.information import FLAT, Curvature

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
        "sketch", "exact", "clustered" or "none".
    problem : str or None
        Why it is NaN.
    """

    covariance: Array | None
    source: str
    problem: str | None = None


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
        Sum over samples of the outer products of their scores, by (log weights, standardised
        atoms): for the clustered sandwich.

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
    covariance = bread if scores is None else bread @ scores @ bread
    # 2. To the weights and to the features' own coordinates.
    jacobian = to_parameters(weights, coordinates)
    return Inference(jacobian @ covariance @ jacobian.T, source)


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
    return Inference(
        inference.covariance[np.ix_(places, places)], inference.source, inference.problem
    )


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
