"""Ways out of an optimum that is nearly the best.

Where the search misses, it mostly misses by a component or two of which the draws tell little
(measured: six of seven misses): one that condenses on very few candidates, whose atom EM cannot
bring back from the wrong side; one that runs off to where the likelihood is flat; some that
share their draws. Two moves mend what they can:

* *relax*: under a small penalty such components have short atoms, and EM without penalty goes
  on from there;
* *regrow*: take one out, and grow another in its place from pairs of candidates.

Every end is polished, for these optima differ by as little as 1e-6 nats per draw.

Source: this project's own; the first is continuation in the penalty.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from softmix_dist.model import Array, Mixture
from softmix_dist.solve.climb import best_of, climb
from softmix_dist.solve.finish import newton_steps, polish
from softmix_dist.solve.information import FLAT, sketched_curvature
from softmix_dist.solve.point import Point
from softmix_dist.solve.proposals import regrown
from softmix_dist.solve.sample import Sample

# Penalties, nats per draw, that are laid on and taken off again.
_PENALTIES = 1e-3, 1e-4
# A component is in doubt when the draws tell less than this part of what they would tell if the
# component of each were known.
_TOLD = 1e-3
# Components that are grown anew in one round at most, atoms that grow, and steps of their EM.
_MOST, _ATOMS, _STEPS = 4, 48, 15
_CLIMB = 60
# What short EM leaves to gain, nats per draw: from further below no end is polished.
_UNSETTLED = 2e-4
# A round has gained when the objective rose by this, nats per draw.
_GAIN = 1e-7
# Rounds at most, and the fewest steps of Newton's method that a polish needs.
_ROUNDS, _NEWTON = 3, 10


def escape(sample: Sample, point: Point, rng: np.random.Generator, work: float) -> Point:
    """Try the ways out of an optimum until none leads higher, three rounds at most.

    Parameters
    ----------
    sample : Sample
    point : Point
        A maximum, evaluated in float64.
    rng : Generator
    work : float
        Multiplications that Newton's steps of one polish may cost; where that is not enough
        for a few of them nothing is tried, nor where no component is in doubt.

    Returns
    -------
    Point
        With an objective at least as high.
    """
    n_components = point.mixture.n_components
    # One component has one maximum.
    if n_components == 1 or newton_steps(sample, n_components, work) < _NEWTON:
        return point
    best = point
    for _ in range(_ROUNDS):
        before = best
        if not doubtful(sample, best).size:
            break
        for penalty in _PENALTIES if sample.l2 == 0 else ():
            begin = _relaxed(sample, best, penalty)
            best = best_of([best, polish(sample, begin, work, best.objective)])
        for place in range(_MOST):
            doubts = doubtful(sample, best)
            if place < len(doubts):
                again = _regrown(sample, best, int(doubts[place]), rng)
                if again is not None:
                    best = best_of([best, polish(sample, again, work, best.objective)])
        if best.objective - before.objective < _GAIN:
            break
    return best


def doubtful(sample: Sample, point: Point) -> Array:
    """Components of which the draws tell little, the least known first.

    Parameters
    ----------
    sample : Sample
    point : Point

    Returns
    -------
    array of int
        Those with a parameter whose variance is more than a thousand times as large as if the
        component of every draw were known.
    """
    curvature = sketched_curvature(point, sample)
    n_components, n_features = point.mixture.atoms.shape
    inflation = (curvature.vectors**2 / np.maximum(curvature.values, FLAT)).sum(axis=1)
    by_atom = inflation[n_components:].reshape(n_components, n_features)
    worst = np.maximum(inflation[:n_components], by_atom.max(axis=1))
    order = np.argsort(-worst, kind="stable")
    return order[worst[order] > 1 / _TOLD]


def _relaxed(sample: Sample, point: Point, penalty: float) -> Mixture:
    """Where EM leads under a small penalty."""
    penalised = replace(sample, l2=penalty)
    return climb(penalised, [point.mixture], _CLIMB, dtype=np.float64)[0].mixture


def _regrown(sample: Sample, point: Point, k: int, rng: np.random.Generator) -> Mixture | None:
    """Where EM leads when one component is grown anew; None where that is far below."""
    bar = point.objective - _UNSETTLED
    ends = climb(sample, regrown(sample, point, k, rng, _ATOMS, _STEPS), _CLIMB, bar=bar)
    end = best_of(ends) if ends else None
    return end.mixture if end is not None and end.objective > bar else None
