"""Short EM on the sketch, of several mixtures at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softmix_dist.model import Mixture
from softmix_dist.solve import em
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import Sample

_SETTINGS = em.EMSettings()
# The estimate of what is left to gain means something after as many steps.
_HEARD = 5
# A component with less than this many draws has vanished.
_VANISHED = 1e-3


def climb(
    sample: Sample,
    mixtures: Sequence[Mixture],
    steps: int,
    tol: float = 1e-7,
    bar: float = -np.inf,
    dtype: Any = np.float32,
) -> list[Point]:
    """Accelerated EM from several mixtures.

    Parameters
    ----------
    sample : Sample
    mixtures : sequence of Mixture
        In standard coordinates.
    steps : int
        At most; one evaluation each.
    tol : float
        A mixture stops when less than this is left to gain, nats per draw.
    bar : float
        A mixture that cannot be expected to pass this objective stops early.
    dtype : dtype
        Precision of the arithmetic.

    Returns
    -------
    list of Point
        The last accepted one of each.
    """
    # Sums over a sample lose far less than one rounding of each term.
    rounding = float(np.finfo(dtype).eps) / 4
    points = sample.points(mixtures, dtype)
    states = {
        i: em.start(point, _SETTINGS)
        for i, point in enumerate(points)
        if np.isfinite(point.log_likelihood)
    }
    alive = list(states)
    for step in range(steps):
        if not alive:
            break
        evaluated = sample.points([states[i].proposal for i in alive], dtype)
        going = []
        for i, point in zip(alive, evaluated, strict=True):
            states[i] = state = em.advance(states[i], point, _SETTINGS, rounding)
            points[i] = state.point
            hopeless = step >= _HEARD and state.point.objective + 2 * state.remaining < bar
            vanished = (state.point.resp * sample.n_draws < _VANISHED).any()
            if not (state.stuck or state.remaining < tol or hopeless or vanished):
                going.append(i)
        alive = going
    return points


def best_of(points: Sequence[Point]) -> Point:
    """Return the point with the largest objective, the first of equals."""
    return max(points, key=lambda point: point.objective)
