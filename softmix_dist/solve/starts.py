"""Where iterations begin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softmix_dist.errors import InputError
from softmix_dist.model import Array, Coordinates, Mixture
from softmix_dist.solve.point import Point

# Norms of random atoms: below, components are hardly told apart; above, they condense.
_NORMS = 0.5, 2.5


@dataclass
class Start:
    """One start, in standard coordinates.

    Attributes
    ----------
    method : str
    mixture : Mixture
        Its offsets are those of the whole data.
    predicted : (K,) array
        Log normalisers of the whole data, as the sketch has them.
    sketch_log_likelihood, objective : float
        On the sketch after short EM, nats per draw.
    passes : int
        Over the data, shared by the starts of one fit.
    seconds : float
        On the driver.
    notes : tuple of str
        What was degenerate, and what was done instead.
    chosen : bool
        Whether it goes on to the whole data.
    agrees : bool
        Whether it reached the best optimum of the sketch.
    """

    method: str
    mixture: Mixture
    predicted: Array
    sketch_log_likelihood: float | None = None
    objective: float = -np.inf
    passes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    chosen: bool = True
    agrees: bool = False

    def on_sketch(self, coordinates: Coordinates) -> Mixture:
        """Return the mixture with offsets for a sketch, whose candidates have mass 1 in all."""
        return Mixture(self.mixture.offsets + coordinates.log_candidates, self.mixture.atoms)


def start_at(
    method: str,
    point: Point,
    coordinates: Coordinates,
    passes: int,
    seconds: float,
    notes: tuple[str, ...] = (),
) -> Start:
    """Start at a point of a sketch, with the offsets of the whole data."""
    predicted = coordinates.log_candidates + point.log_normalisers
    mixture = Mixture(np.log(point.weights) - predicted, point.mixture.atoms)
    on_sketch = point.log_likelihood - coordinates.log_candidates
    return Start(method, mixture, predicted, on_sketch, point.objective, passes, seconds, notes)


def plain_start(method: str, weights: Array, atoms: Array, coordinates: Coordinates) -> Start:
    """Start at given weights and standardised atoms, which no sketch has seen."""
    predicted = predicted_normalisers(atoms, coordinates)
    return Start(method, mixture_at(weights, atoms, coordinates), predicted)


def mixture_at(weights: Array, atoms: Array, coordinates: Coordinates) -> Mixture:
    """Mixture with given weights and standardised atoms, normalisers as for Gaussian features.

    Parameters
    ----------
    weights : (K,) array
    atoms : (K, L) array
        In standard coordinates.
    coordinates : Coordinates

    Returns
    -------
    Mixture
    """
    predicted = predicted_normalisers(atoms, coordinates)
    return Mixture(np.log(weights) - predicted, atoms)


def predicted_normalisers(atoms: Array, coordinates: Coordinates) -> Array:
    """Log normalisers log Z_k that Gaussian features would have, (K,)."""
    return np.asarray(coordinates.log_candidates + 0.5 * np.sum(atoms**2, axis=1))


def random_starts(
    n_starts: int, n_components: int, centre: Array, radius: float, rng: np.random.Generator
) -> list[Array]:
    """Random atoms around the mean of the draws, in standard coordinates.

    Parameters
    ----------
    n_starts, n_components : int
    centre : (L,) array
        Mean over draws of the standardised features, which the atoms average to.
    radius : float
        Norm beyond which atoms condense.
    rng : Generator

    Returns
    -------
    list of (K, L) arrays
        Directions uniform on the sphere, distances uniform in [0.5, 2.5].
    """
    low, high = _NORMS
    starts = []
    for _ in range(n_starts):
        directions = rng.standard_normal((n_components, len(centre)))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        atoms = centre + directions * rng.uniform(low, high, (n_components, 1))
        norms = np.linalg.norm(atoms, axis=1, keepdims=True)
        starts.append(atoms * np.minimum(1.0, radius / np.maximum(norms, radius)))
    return starts


def given_arrays(init: object) -> tuple[Array, ...]:
    """Arrays of a start that the user gave: weights and atoms, or atoms alone.

    Raises
    ------
    InputError
        If they are not numbers.
    """
    parts = init if isinstance(init, tuple) and len(init) == 2 else (init,)
    try:
        return tuple(np.asarray(part, dtype=np.float64) for part in parts)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"init: expected atoms, or (weights, atoms), as numbers: {error}"
        ) from error


def explicit_start(
    init: object, n_components: int, n_features: int, coordinates: Coordinates
) -> tuple[Array, Array]:
    """Weights and standardised atoms of a start that the user gave.

    Parameters
    ----------
    init : (K, L) array, or (weights, atoms)
        Atoms in the features' own coordinates; weights default to equal.
    n_components, n_features : int
    coordinates : Coordinates

    Returns
    -------
    weights : (K,) array
    atoms : (K, L) array
        In standard coordinates.

    Raises
    ------
    InputError
        If the shapes do not fit or the weights are not on the simplex.
    """
    *given, atoms = given_arrays(init)
    weights = given[0] if given else np.full(n_components, 1 / n_components)
    if atoms.shape != (n_components, n_features):
        raise InputError(
            f"init: expected atoms of shape ({n_components}, {n_features}), found {atoms.shape}"
        )
    if weights.shape != (n_components,):
        raise InputError(f"init: expected {n_components} weights, found shape {weights.shape}")
    if not (np.isfinite(atoms).all() and (weights > 0).all() and abs(weights.sum() - 1) < 1e-6):
        raise InputError(
            "init: atoms must be finite, weights positive with sum 1, "
            f"found weights {np.array2string(weights, precision=4)}"
        )
    return weights / weights.sum(), coordinates.from_features(atoms)
