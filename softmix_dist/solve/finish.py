"""The finish on the driver: Newton's method on the sketch, within a trust radius."""

from __future__ import annotations

import numpy as np

from softmix_dist.model import Mixture
from softmix_dist.solve import em
from softmix_dist.solve.climb import climb
from softmix_dist.solve.krylov import curvature_at
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import LARGEST_MATRIX, Sample

# In complete-data units: of the first step, and below which nothing more is tried.
_FIRST_RADIUS, _SMALLEST_RADIUS = 0.3, 1e-9
# Part of the predicted gain below which a step was too long, and above which longer ones go.
_POOR, _GOOD = 0.1, 0.5
# A component with less than this many draws has vanished.
_VANISHED = 1e-3
# Of a polish: Newton's steps at most; steps of EM before, many where Newton's are few.
_NEWTON, _FEW, _SHORT, _LONG = 40, 10, 60, 200
# EM before stops when less than this is left to gain, and Newton's method at a part of it.
_LEFT, _PART = 1e-9, 1e-4


def newton_steps(sample: Sample, n_components: int, work: float) -> int:
    """Newton's steps that cost no more than ``work`` multiplications, at most 40."""
    size = n_components * sample.z.shape[1]
    return min(_NEWTON, int(work // (len(sample.z) * size**2)))


def polish(sample: Sample, mixture: Mixture, work: float, bar: float = -np.inf) -> Point:
    """Go to the maximum near a mixture, on the sketch: EM in float64, then Newton's method.

    Parameters
    ----------
    sample : Sample
    mixture : Mixture
        In standard coordinates.
    work : float
        Multiplications that Newton's steps may cost; where they are few EM goes further.
    bar : float
        Stop when this objective cannot be expected to be passed.

    Returns
    -------
    Point
    """
    steps = newton_steps(sample, mixture.n_components, work)
    # Where no matrix fits EM's end is left to Newton's steps on the data: they are cheap beside it.
    wide = mixture.n_coefficients > LARGEST_MATRIX
    enough = _SHORT if steps > _FEW or wide else _LONG
    (point,) = climb(sample, [mixture], enough, _LEFT, dtype=np.float64)
    return finish(sample, point.mixture, steps, _PART * _LEFT, bar) if steps else point


def finish(sample: Sample, mixture: Mixture, steps: int, tol: float, bar: float = -np.inf) -> Point:
    """Go to the maximum near a mixture, on the sketch and in float64.

    Parameters
    ----------
    sample : Sample
    mixture : Mixture
        In standard coordinates.
    steps : int
        At most; one evaluation and one information matrix, or its products, each.
    tol : float
        Stop when less than this is left to gain, nats per draw.
    bar : float
        Stop when this objective cannot be expected to be passed.

    Returns
    -------
    Point

    Notes
    -----
    Where components nearly coincide the likelihood is flat, bends upwards here and there, and
    EM needs thousands of steps; the step may follow an upward bend (Nocedal & Wright,
    Numerical Optimization, 2006, section 4.3).
    """
    (point,) = sample.points([mixture], np.float64)
    if not np.isfinite(point.log_likelihood):
        return point
    rounding = 4 * float(np.finfo(np.float64).eps)
    radius, curvature = _FIRST_RADIUS, None
    for _ in range(steps):
        if (point.resp * sample.n_draws < _VANISHED).any() or radius < _SMALLEST_RADIUS:
            break
        curvature = curvature or curvature_at(point, sample)
        slope = em.slope_at(point)
        left = curvature.gain(slope)
        if left < tol or point.objective + 2 * left < bar:
            break
        step, expected, length = curvature.trusted(slope, radius)
        proposal, _ = em.shifted(point, step)
        (new,) = sample.points([proposal], np.float64)
        # A component that a step takes all draws from would never come back.
        lost = (new.resp * sample.n_draws < _VANISHED).any()
        gain = -np.inf if lost else new.objective - point.objective
        if not gain > _POOR * expected:
            radius = length / 3
        elif gain > _GOOD * expected and length > 0.9 * radius:
            radius = 2 * radius
        if gain > min(rounding, 1e-3 * expected):
            point, curvature = new, None
    return point
