"""The information at a point: curvature of the likelihood, exact or from the sketch.

Everything is in the solvers' coordinates x = (log weights, atoms), where the complete-data
information is block diagonal and the step of EM is nearly a diagonal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from softmix_dist.curvature import information
from softmix_dist.model import Array, Coordinates, Mixture
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import Sample
from softmix_dist.sums import InformationSums

# Eigenvalues relative to the complete-data information: 1 - eigenvalue is EM's rate.
FLAT = 1e-9
# A step treats eigenvalues below this, or negative ones, as this large.
_FLOOR = 1e-6


@dataclass(frozen=True)
class Curvature:
    """Observed information at a point, with its eigenvalues in units of the complete data.

    Attributes
    ----------
    values : (d,) array
        Ascending; d = K (L + 1). The common shift of the log weights has the value 1.
    vectors : (d, d) array
    unit : (d,) array
        Square roots of the diagonal of the complete-data information.
    x : (d,) array
        Where it was taken: log weights, then atoms.
    noise : (d,) array
        Standard error of each eigenvalue by the sampling of the rows; 0 where it is exact.
    """

    values: Array
    vectors: Array
    unit: Array
    x: Array
    noise: Array

    @classmethod
    def of(cls, matrix: Array, point: Point, halves: Sequence[Array] = ()) -> Curvature:
        """Decompose the information, (d, d), in (log weights, atoms).

        ``halves`` are the same matrix from either half of the sampled rows: half of their
        difference has the spread of the whole.
        """
        n_features = point.mixture.atoms.shape[1]
        mass = np.concatenate([point.weights, np.repeat(point.weights + point.l2, n_features)])
        unit = np.sqrt(mass)
        scaled = matrix / np.outer(unit, unit)
        # Sums that overflowed tell nothing of any direction.
        known = bool(np.isfinite(scaled).all())
        whole = (scaled + scaled.T) / 2 if known else np.zeros_like(scaled)
        values, vectors = np.linalg.eigh(whole)
        x = np.concatenate([np.log(point.weights), point.mixture.atoms.ravel()])
        noise = np.zeros(len(values))
        if halves and known:
            spread = (halves[0] - halves[1]) / 2 / np.outer(unit, unit)
            noise = np.abs(np.einsum("ia,ij,ja->a", vectors, spread, vectors, optimize=True))
        return cls(values, vectors, unit, x, noise)

    @property
    def lowest(self) -> float:
        """Smallest eigenvalue: how much the draws tell about the least known direction."""
        return float(self.values[0])

    @property
    def curved(self) -> bool:
        """Whether the likelihood bends downwards in every direction."""
        return self.lowest > FLAT

    def seen(self, slope: Array) -> Curvature:
        """Return the information as far as a slope shows it: all of it."""
        return self

    def knows(self, x: Array) -> bool:
        """Whether no history of steps can add to it at x: a matrix takes what there is."""
        return False

    @property
    def lapses(self) -> bool:
        """Whether it means nothing at another point."""
        return self.partial

    @property
    def partial(self) -> bool:
        """Whether it shows the likelihood along one slope only, see `ProductCurvature`."""
        return len(self.values) < len(self.unit)

    @property
    def sampled(self) -> bool:
        """Whether it has errors by the sampling of the rows."""
        return bool(self.noise.any())

    @property
    def weakest(self) -> Array:
        """Direction of the smallest eigenvalue, (d,)."""
        return self.vectors[:, 0] / self.unit

    def along(self, slope: Array) -> Array:
        """Components of a slope by eigenvectors, (d,)."""
        return self.vectors.T @ (slope / self.unit)

    def solve(self, slope: Array, damping: float = 0.0) -> Array:
        """Newton's step, (d,), damped by a multiple of the complete-data information.

        Where the likelihood is flat, bends upwards or is known too poorly, the step goes by
        the size of the bend, or of its error.
        """
        return self.vectors @ (self.along(slope) / (self.bends + damping)) / self.unit

    @property
    def flat(self) -> bool:
        """Whether some direction bends neither way, and none upwards."""
        return bool(abs(self.lowest) <= FLAT)

    def gain(self, slope: Array, flat: bool = False) -> float:
        """Gain that is left by the quadratic model, nats per draw; infinite if not curved.

        With ``flat``, what is left in the directions that do bend.
        """
        if flat:
            bent = self.values > FLAT
            return 0.5 * float(np.sum(self.along(slope)[bent] ** 2 / self.values[bent]))
        if not self.curved:
            return np.inf
        return 0.5 * float(np.sum(self.along(slope) ** 2 / self.values))

    def most(self, slope: Array) -> float:
        """Bound the gain: every eigenvalue lowered by two standard errors."""
        lowered = self.values - 2 * self.noise
        if not lowered.min() > FLAT:
            return np.inf
        return 0.5 * float(np.sum(self.along(slope) ** 2 / lowered))

    def damping(self, slope: Array, radius: float) -> float:
        """Damping at which the step is as long as ``radius``, in complete-data units."""
        return _damping(self.along(slope), self.bends, radius, 0.0)

    def trusted(self, slope: Array, radius: float) -> tuple[Array, float, float]:
        """Best step of the quadratic model within a radius, where it may bend upwards.

        Returns
        -------
        step : (d,) array
        gain : float
            By the model, nats per draw.
        length : float
        """
        along = self.along(slope)
        damping = _damping(along, self.values, radius, max(0.0, FLAT - self.lowest))
        step = along / (self.values + damping)
        gain = float(along @ step - 0.5 * np.sum(self.values * step**2))
        return self.vectors @ step / self.unit, gain, float(np.linalg.norm(step))

    @property
    def bends(self) -> Array:
        """Sizes of the eigenvalues that a step goes by, (d,)."""
        return np.maximum(np.maximum(np.abs(self.values), self.noise), _FLOOR)


def _damping(along: Array, bends: Array, radius: float, least: float) -> float:
    """Smallest damping, at least ``least``, at which along / (bends + damping) is in a ball."""

    def inside(damping: float) -> bool:
        return bool(np.linalg.norm(along / (bends + damping)) <= radius)

    if inside(least):
        return least
    low, high = least, least + float(np.linalg.norm(along)) / radius
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if inside(middle) else (middle, high)
    return high


# Where sums overflowed it is not finite, and `Curvature.of` says that nothing is known.
@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def observed_information(point: Point, sums: InformationSums, coordinates: Coordinates) -> Array:
    """Minus the second derivatives of the objective by (log weights, atoms), (d, d).

    Parameters
    ----------
    point : Point
    sums : InformationSums
        At that point, in the frame.
    coordinates : Coordinates
    """
    n_components, n_features = point.mixture.atoms.shape
    weights, means = point.weights, point.means
    shape = n_components, n_features + 1, n_components, n_features + 1
    # 1. Products of (1, z) instead of (1, x).
    to_standard = coordinates.homogeneous()
    mass = sums.candidates[:, 0, 0]
    spreads = to_standard @ (sums.candidates / mass[:, None, None]) @ to_standard.T
    pairs = sums.pairs.reshape(shape) / sums.pairs[:: n_features + 1, :: n_features + 1].sum()
    pairs = np.einsum("ai,kimj,bj->kamb", to_standard, pairs, to_standard, optimize=True)
    # 2. By (b, atoms): blockdiag_k(alpha_k E[zz]) - sum_j q_j (diag r - rr) (x) zz, (1, z) for
    #    z. Without - hh of METHOD section 7 a common shift of b has the eigenvalue 1, not 0.
    own = pairs.sum(axis=2)
    resp = own[:, 0, 0]
    information = pairs
    for k in range(n_components):
        information[k, :, k] += weights[k] * spreads[k] - own[k]
    # 3. By (log weights, atoms): db_k = dlog alpha_k - m_k.dtheta_k, which also bends.
    information[:, 1:] -= means[:, :, None, None] * information[:, :1]
    information[:, :, :, 1:] -= information[:, :, :, :1] * means
    for k in range(n_components):
        spread = spreads[k, 1:, 1:] - np.outer(spreads[k, 0, 1:], spreads[k, 0, 1:])
        information[k, 1:, k, 1:] += (resp[k] - weights[k]) * spread
        information[k, 1:, k, 1:] += point.l2 * np.eye(n_features)
    # 4. In the order of x.
    order = np.arange(n_components * (n_features + 1)).reshape(n_components, n_features + 1)
    order = np.concatenate([order[:, 0], order[:, 1:].ravel()])
    return information.reshape(len(order), len(order))[np.ix_(order, order)]


def sketched_curvature(point: Point, sample: Sample) -> Curvature:
    """Curvature at a point of the whole data, from the sketch.

    Parameters
    ----------
    point : Point
    sample : Sample

    Returns
    -------
    Curvature
        Without noise where the sketch is all data.
    """
    # 1. The mixture on the sketch: same weights and atoms, the sketch's normalisers.
    begin = Mixture(-point.log_normalisers, point.mixture.atoms)
    (there,) = sample.points([begin], np.float64)
    offsets = np.log(point.weights) - there.log_normalisers
    mixture = Mixture(offsets, point.mixture.atoms)
    at = replace(point, means=there.means)
    # 2. Sums over one half of the rows, and over the other.
    block = sample.blocks[np.dtype(np.float64)]
    sums = [information(half, mixture) for half in block.halves()]
    whole = observed_information(at, sums[0] + sums[1], sample.coordinates)
    if sample.is_all:
        return Curvature.of(whole, point)
    halves = [observed_information(at, part, sample.coordinates) for part in sums]
    return Curvature.of(whole, point, halves)
