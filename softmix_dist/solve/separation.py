"""Separation: components whose maximum lies at infinity.

Where all draws of a component sit at the extreme of a combination of features, its likelihood
rises along that combination without end, ever more slowly, and the information about it
vanishes. It shows on the way: the component expects next to no draws off the extreme, and the
slope still points outwards. A flat likelihood alone does not say so, for components that
nearly coincide have one as well.

Sources: Albert & Anderson, Biometrika 71 (1984) for the logit model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softmix_dist.model import Array, Coordinates, Mixture
from softmix_dist.solve.information import Curvature
from softmix_dist.solve.point import Point
from softmix_dist.sums import Extent

# Standard error, in standard coordinates, from which a direction is looked at.
_VAGUE = 0.5
# Draws that a separated component expects off the extreme, at most, in units of the reach.
_OFF = 0.05
# Part of the component's shortfall of the extreme that its draws fall short of it less.
_RISE = 0.05
# Part of the reach that is rounding.
_ROUNDING = 1e-13
# A feature with less than this part of the leading one's share is not worth a word.
_SHARE = 0.3


@dataclass(frozen=True)
class Suspect:
    """A component that draws tell next to nothing about in some directions.

    Attributes
    ----------
    component : int
    direction : (L,) array
        Where its atom points among these, in standard coordinates.
    """

    component: int
    direction: Array


def suspects(point: Point, curvature: Curvature, n_draws: int) -> list[Suspect]:
    """Components that may run off, by the information about their own atoms.

    Parameters
    ----------
    point : Point
    curvature : Curvature
        There or near, from the sketch or exact.
    n_draws : int
    """
    n_components, n_features = point.mixture.atoms.shape
    found = []
    for k, atom in enumerate(point.mixture.atoms):
        rows = slice(n_components + k * n_features, n_components + (k + 1) * n_features)
        part = curvature.vectors[rows]
        values, vectors = np.linalg.eigh((part * curvature.values) @ part.T)
        vague = np.count_nonzero(np.abs(values) * point.weights[k] * n_draws < _VAGUE**-2)
        # The weakest first, then more of them: draws may hold on to some.
        weakest = vectors[:, np.argsort(np.abs(values), kind="stable")]
        for n in range(1, vague + 1):
            direction = weakest[:, :n] @ (weakest[:, :n].T @ atom)
            if np.linalg.norm(direction) > 0:
                found.append(Suspect(k, direction / np.linalg.norm(direction)))
    return found


def directions(found: Sequence[Suspect]) -> Mixture:
    """Return the directions of suspects as atoms, without offsets, in standard coordinates."""
    return Mixture(np.zeros(len(found)), np.array([suspect.direction for suspect in found]))


def running_off(
    point: Point, found: Sequence[Suspect], extent: Extent, n_draws: int
) -> Suspect | None:
    """Return the heaviest component that is separated, if there is one.

    Parameters
    ----------
    point : Point
        An accepted point, without penalty.
    found : sequence of Suspect
    extent : Extent
        Of their directions over all available candidates.
    n_draws : int
    """
    separated = []
    for suspect, low, high in zip(found, extent.low, extent.high, strict=True):
        k, v = suspect.component, suspect.direction
        reach, resp = high - low, point.resp[k]
        # 1. How far the component falls short of the extreme, in the mean, and its draws.
        short = high - v @ point.means[k]
        drawn = high - v @ point.resp_sums[k] / resp
        # 2. Next to nothing off the extreme, and still outwards.
        lonely = n_draws * resp >= 1 and n_draws * resp * short < _OFF * reach
        if lonely and drawn < (1 - _RISE) * short + _ROUNDING * reach:
            separated.append(suspect)
    return max(separated, key=lambda suspect: point.weights[suspect.component], default=None)


def in_words(
    suspect: Suspect, point: Point, coordinates: Coordinates, feature_names: Sequence[str]
) -> str:
    """Why the maximum lies at infinity: component, by rank, and leading feature."""
    k = suspect.component
    rank = int(np.argsort(np.argsort(-point.weights, kind="stable"), kind="stable")[k])
    slopes = coordinates.to_frame(directions([suspect])).atoms[0]
    shares = slopes * np.linalg.norm(coordinates.factor, axis=1)
    lead = int(np.argmax(np.abs(shares)))
    several = np.count_nonzero(np.abs(shares) >= _SHARE * np.abs(shares[lead])) > 1
    side = "largest" if shares[lead] > 0 else "smallest"
    extreme = (
        f"the extreme of a combination of features led by {feature_names[lead]!r}"
        if several
        else f"the {side} values of feature {feature_names[lead]!r}"
    )
    return (
        f"the maximum lies at infinity (separation): all draws of component {rank} (weight "
        f"{point.weights[k]:.2g}) sit at {extreme}, so that its coefficient grows without "
        "end; use l2 > 0"
    )
