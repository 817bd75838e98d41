"""Whether one more component would help: the gap estimate after a fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from softmix_dist.blocks import Block
from softmix_dist.engine import Engine
from softmix_dist.kernels import score
from softmix_dist.lindsay import GradientSums, gradient_function
from softmix_dist.model import Coordinates, Mixture
from softmix_dist.solve.climb import best_of, climb
from softmix_dist.solve.point import Point, evaluate
from softmix_dist.solve.proposals import Proposals, highest_atoms, insert
from softmix_dist.solve.sample import Sample
from softmix_dist.sums import ScoreSums

# More atoms and longer ascents than the search takes: here the supremum itself is wanted.
_STYLE = Proposals(rows=32, around=16, cap=1.0, ascents=20, keep=8)
_STEPS = 60
# Fits with one more component, and numbers of the sketch times steps of all of them at most.
_REFITTED, _WORK = 2, 4e9
# They are fitted to a part of the gain that BIC asks for, and no finer than single precision.
_ENOUGH, _FINE = 0.02, 1e-7


@dataclass(frozen=True)
class Gap:
    """What further components could gain, found by search and so an estimate.

    Attributes
    ----------
    radius : float
        Atoms were looked for within this norm, in standard coordinates.
    bound : float
        log sup D over the atoms found, D evaluated on all data: no mixture of such atoms
        gains more, nats per draw. Loose where draws are few.
    gain : float
        Of a fit with one more component, at least: found on the sketch, evaluated on all
        data, nats per draw.
    bic : float
        BIC with one more component less BIC without, by that gain; negative speaks for it.
    """

    radius: float
    bound: float
    gain: float
    bic: float

    @property
    def suggests_more(self) -> bool:
        """Whether BIC prefers one more component."""
        return self.bic < 0


def estimate_gap(
    engine: Engine,
    sample: Sample,
    point: Point,
    coordinates: Coordinates,
    n_draws: int,
    rng: np.random.Generator,
) -> tuple[Gap, int]:
    """Estimate how far the likelihood is below that of any mixture.

    Parameters
    ----------
    engine : Engine
        With the data loaded.
    sample : Sample
        The sketch.
    point : Point
        The maximum that was found, on the whole data and without penalty.
    coordinates : Coordinates
    n_draws : int
    rng : Generator

    Returns
    -------
    Gap
    int
        Passes over the data, 0 or 1.

    Notes
    -----
    For any mixing measure G, l(G) - l <= log sup D by concavity of the logarithm (Lindsay,
    Ann. Statist. 11, 1983), D(theta) = sum_j q_j A_j(theta) / pi_j.
    """
    log_normalisers = point.log_normalisers - coordinates.log_candidates
    here = Mixture(np.log(point.weights) - log_normalisers, point.mixture.atoms)
    steps = int(np.clip(_WORK / (_REFITTED * sample.z.size), 10, _STEPS))
    radius = sample.coordinates.radius
    n_parameters = sample.z.shape[1]
    asked = n_parameters * float(np.log(float(n_draws))) / (2 * n_draws)
    tol = max(_ENOUGH * asked, _FINE)
    (own,) = climb(sample, [here], steps, tol)
    found = highest_atoms(sample, own, rng, _STYLE, least=-np.inf)
    if not found:
        return Gap(radius, 0.0, 0.0, n_parameters * float(np.log(float(n_draws)))), 0
    # 1. Two ways to have one more component: all refitted on the sketch, or only inserted.
    refitted = climb(sample, [insert(sample, own, [new]) for new in found[:_REFITTED]], steps, tol)
    (at_maximum,) = sample.points([here])
    more = [
        best_of(refitted).mixture,
        insert(sample, at_maximum, found[:1]),
    ]
    # 2. Their likelihood, and D at the highest atoms, by one pass over the data: the sketch
    #    overrates what was fitted to it.
    atoms = np.array([atom for _, atom in found])
    (predicted,) = sample.points([Mixture(-0.5 * np.sum(atoms**2, axis=1), atoms)])
    tried = Mixture(-predicted.log_normalisers, atoms)
    shift = coordinates.log_candidates
    scored, tried_in_frame = (
        [coordinates.to_frame(Mixture(m.offsets - shift, m.atoms)) for m in mixtures]
        for mixtures in (more, [tried])
    )
    kernel = partial(
        _look,
        mixture=coordinates.to_frame(point.mixture),
        atoms=tried_in_frame[0],
        more=scored,
    )
    sums, scores = engine.reduce(kernel)
    log_total = np.logaddexp.reduce(point.mixture.offsets + point.log_normalisers)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_d = np.log(sums.draws / n_draws) + log_total - np.log(sums.candidates)
    points = [
        evaluate(Mixture(m.offsets - shift, m.atoms), s, coordinates, n_draws, 0.0)
        for m, s in zip(more, scores, strict=True)
    ]
    gain = max(0.0, best_of(points).log_likelihood - point.log_likelihood)
    bic = n_parameters * float(np.log(float(n_draws))) - 2 * n_draws * gain
    return Gap(radius, float(np.max(log_d, initial=0.0, where=np.isfinite(log_d))), gain, bic), 1


def _look(
    block: Block, mixture: Mixture, atoms: Mixture, more: list[Mixture]
) -> tuple[GradientSums, tuple[ScoreSums, ...]]:
    block.check()
    gradients = gradient_function(block, mixture, atoms)
    return gradients, score(block, more, np.dtype(np.float64))
