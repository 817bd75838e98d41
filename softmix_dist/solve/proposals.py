"""Atoms that a mixture lacks: where one more component would gain most.

Two ways find them, and neither does alone. Lindsay's gradient function D is what a component
of vanishing weight gains: its maxima show atoms that hide in others, but on heavy-tailed
features they sit on single candidates that are drawn once too often. EM of one new component
of a finite weight, the others fixed, finds what such features lack (measured: at an optimum
without its twentieth component, ascents of D found a third of the gain that was there).

Sources: Lindsay, Ann. Statist. 11 (1983), 86-94; Verbeek, Vlassis & Krose, Neural
Computation 15 (2003), 469-485, for EM of one component at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softmix_dist.model import Array, Mixture
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import Sample

# Atoms closer than this, in standard coordinates, are the same.
_SAME_ATOM = 0.3
# A gain below this, nats per draw, may be single precision's rounding.
_NOTHING = 1e-7
# Rows that the ascents look at: they only propose.
_ASCENT_ROWS = 6000
_SMALLEST_WEIGHT, _LARGEST_WEIGHT = 1e-5, 0.9
# Steps of EM grow and shrink by these.
_LONGER, _SHORTER = 1.5, 0.25
# Of one component that is grown anew.
_MOST_REGROWN = 3


@dataclass(frozen=True)
class Proposals:
    """How atoms are proposed.

    Attributes
    ----------
    rows : int
        Atoms that begin at rows with more draws than expected.
    around : int
        Atoms that begin near those that are there.
    cap : float
        Longest atom at a row, in radii: a plain row condenses in high dimension.
    ascents : int
        Steps of mean shift.
    grown : int
        Atoms that grow by EM, from rows, from anywhere and from those that are there.
    growth : int
        Steps of that EM.
    keep : int
        Distinct atoms that are returned.
    """

    rows: int = 24
    around: int = 0
    cap: float = 0.5
    ascents: int = 6
    grown: int = 32
    growth: int = 10
    keep: int = 3


# An atom with its weight.
New = tuple[float, Array]


def highest_atoms(
    sample: Sample,
    point: Point,
    rng: np.random.Generator,
    style: Proposals,
    least: float = _NOTHING,
) -> list[New]:
    """Find the atoms that a mixture lacks most, each with its best weight.

    Parameters
    ----------
    sample : Sample
    point : Point
        The current mixture.
    rng : Generator
    style : Proposals
    least : float
        Atoms that gain no more than this are left out, nats per draw.

    Returns
    -------
    list of (weight, (L,) array)
        Within the radius, those that alone would gain most first; empty where nothing gains.
    """
    density = sample.density(point.mixture)
    excess = np.maximum(sample.share - sample.base * density, 0).astype(np.float64)
    if not excess.any():
        return []
    excess /= excess.sum()
    # 1. Where the gradient function is highest, and where one more component grew.
    high = _ascended(sample, point, density, excess, rng, style)
    heights, _, _ = sample.tilts(high, density)
    grown, gains = _grown(sample, point, density, excess, rng, style)
    best_first = [
        [high[i] for i in np.argsort(-heights) if heights[i] > 1],
        [grown[i] for i in np.argsort(-gains) if gains[i] > 0],
    ]
    # 2. The best of each that are distinct, by what each gains at its best weight.
    chosen: list[Array] = []
    for atoms in best_first:
        most = len(chosen) + style.keep
        for atom in atoms:
            if len(chosen) < most and _is_new(atom, chosen):
                chosen.append(atom)
    found = [(*_best_weight(sample, density, atom), atom) for atom in chosen]
    found = [new for new in found if new[1] > least]
    found.sort(key=lambda new: -new[1])
    return [(weight, atom) for weight, _, atom in found[: style.keep]]


def _is_new(atom: Array, others: Sequence[Array]) -> bool:
    return all(np.linalg.norm(atom - other) > _SAME_ATOM for other in others)


def _ascended(
    sample: Sample, point: Point, density: Array, excess: Array, rng: np.random.Generator,
    style: Proposals,
) -> Array:  # fmt: skip
    """Atoms after some steps of mean shift uphill on the gradient function, (M, L)."""
    radius = sample.coordinates.radius
    # 1. Begin at rows with more draws than expected, and near the atoms that are there.
    rows = rng.choice(len(excess), size=style.rows, p=excess)
    atoms = sample.z[rows, 1:] * rng.uniform(0.3, 1.0, (len(rows), 1))
    atoms = within(atoms, style.cap * radius)
    near = point.mixture.atoms[rng.integers(point.mixture.n_components, size=style.around)]
    push = _directions(rng, near.shape) * rng.uniform(0.3, 1.5, (len(near), 1))
    atoms = np.concatenate([atoms, within(near + push, radius)])
    # 2. For Gaussian features the difference of the means is Newton's step.
    for _ in range(style.ascents):
        _, mean, tilted = sample.tilts(atoms, density, _ASCENT_ROWS)
        atoms = within(atoms + within(tilted - mean, 1.0), radius)
    return atoms


def _grown(
    sample: Sample, point: Point, density: Array, excess: Array, rng: np.random.Generator,
    style: Proposals,
) -> tuple[Array, Array]:  # fmt: skip
    """Atoms (M, L) after EM of one more component, the others fixed, and their gains (M,)."""
    radius, quarter = sample.coordinates.radius, style.grown // 4
    # Begin at rows, in their directions, in any direction, and near those that are there.
    rows = sample.z[rng.choice(len(excess), size=2 * quarter, p=excess), 1:].astype(np.float64)
    near = point.mixture.atoms[rng.integers(point.mixture.n_components, size=quarter)]
    push = _directions(rng, near.shape) * rng.uniform(0.3, 1.5, (quarter, 1))
    norms = rng.uniform(0.1, 0.5, (quarter, 1)) * radius
    atoms = np.concatenate(
        [
            within(rows[:quarter] * rng.uniform(0.3, 1.0, (quarter, 1)), 0.5 * radius),
            within(rows[quarter:], norms),
            _directions(rng, near.shape) * rng.uniform(0.1, 0.6, (quarter, 1)) * radius,
            within(near + push, radius),
        ]
    )
    return _grow(sample, density, atoms, 0.5 / (1 + point.mixture.n_components), style.growth)


def regrown(
    sample: Sample, point: Point, k: int, rng: np.random.Generator, n_atoms: int, n_steps: int
) -> list[Mixture]:
    """Put another component in the place of one: a few that differ, the best first.

    Parameters
    ----------
    sample : Sample
    point : Point
    k : int
        The component that goes.
    rng : Generator
    n_atoms, n_steps : int
        Atoms that grow, and steps of their EM.

    Returns
    -------
    list of Mixture
        At most three, none of which has the old atom.

    Notes
    -----
    A component that condenses is a choice of very few candidates. So atoms begin between two:
    one with more draws than the others expect, and any that was drawn.
    """
    others = without(point.mixture, k)
    (rest,) = sample.points([others])
    density = sample.density(others)
    excess = np.maximum(sample.share - sample.base * density, 0).astype(np.float64)
    share = sample.share.astype(np.float64)
    if not excess.any():
        return []
    first, second = (
        sample.z[rng.choice(len(p), size=n_atoms, p=p / p.sum()), 1:].astype(np.float64)
        for p in (excess, share)
    )
    between = within(first, 1.0) + rng.uniform(0, 1, (n_atoms, 1)) * within(second, 1.0)
    norms = sample.coordinates.radius * rng.uniform(0.3, 0.8, (n_atoms, 1))
    atoms, gains = _grow(
        sample, density, within(1e6 * between, norms), float(point.resp[k]), n_steps
    )
    chosen: list[Array] = []
    for atom in atoms[np.argsort(-gains)]:
        if len(chosen) < _MOST_REGROWN and _is_new(atom, [*chosen, point.mixture.atoms[k]]):
            chosen.append(atom)
    return [
        insert(sample, rest, [(_best_weight(sample, density, atom)[0], atom)]) for atom in chosen
    ]


def _grow(
    sample: Sample, density: Array, atoms: Array, weight: float, n_steps: int
) -> tuple[Array, Array]:
    """Atoms (M, L) after EM of one component of a mixture whose density is fixed, and gains."""
    radius = sample.coordinates.radius
    weight = float(np.clip(weight, _SMALLEST_WEIGHT, 0.5))
    # 1. Offsets for that weight: first below overflow, then exact.
    offsets = -sample.highest(atoms, _ASCENT_ROWS)
    now = sample.joined(atoms, offsets, density, _ASCENT_ROWS)
    offsets += np.log(weight / (1 - weight)) - np.log(now.mass)
    now = sample.joined(atoms, offsets, density, _ASCENT_ROWS)
    # 2. EM; a step that lost is tried again, shorter.
    lengths = np.ones(len(atoms))
    for _ in range(n_steps):
        shift = lengths[:, None] * within(now.resp_means - now.means, 1.0)
        moved = within(atoms + shift, radius)
        shift = moved - atoms
        weights = np.clip(now.resp, 1e-6, 1 - 1e-6)
        predicted = (
            np.log(now.mass) - offsets
            + np.sum(shift * now.means, axis=1) + 0.5 * np.sum(shift**2, axis=1)
        )  # fmt: skip
        moved_offsets = np.log(weights / (1 - weights)) - predicted
        tried = sample.joined(moved, moved_offsets, density, _ASCENT_ROWS)
        better = tried.gains > now.gains
        atoms = np.where(better[:, None], moved, atoms)
        offsets = np.where(better, moved_offsets, offsets)
        now = now.where(better, tried)
        lengths = np.where(better, np.minimum(_LONGER * lengths, 2.0), _SHORTER * lengths)
    return atoms, now.gains


def _directions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Directions uniform on the sphere."""
    directions = rng.standard_normal(shape)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def without(mixture: Mixture, k: int) -> Mixture:
    """Mixture without one component; the others share its weight."""
    return Mixture(np.delete(mixture.offsets, k), np.delete(mixture.atoms, k, axis=0))


def insert(sample: Sample, point: Point, news: Sequence[New]) -> Mixture:
    """Mixture with further components, at weights that leave the others at least 0.3."""
    atoms = np.array([atom for _, atom in news])
    weights = np.array([weight for weight, _ in news])
    weights /= max(1.0, weights.sum() / 0.7)
    tried = Mixture(-0.5 * np.sum(atoms**2, axis=1), atoms)
    log_normalisers = sample.points([tried])[0].log_normalisers
    total = np.logaddexp.reduce(point.mixture.offsets + point.log_normalisers)
    return Mixture(
        np.concatenate(
            [
                point.mixture.offsets - total + np.log1p(-weights.sum()),
                np.log(weights) - log_normalisers,
            ]
        ),
        np.concatenate([point.mixture.atoms, atoms]),
    )


def within(atoms: Array, radius: float | Array) -> Array:
    """Atoms (M, L) with their norms cut to a radius."""
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return np.asarray(atoms * np.minimum(1, radius / np.maximum(norms, 1e-300)))


def _best_weight(sample: Sample, density: Array, atom: Array) -> tuple[float, float]:
    """Weight of a new component that gains most, and the gain; it is concave in the weight."""
    seen = sample.share > 0
    q = sample.share[seen].astype(np.float64)
    ratio = sample.component(atom)[seen].astype(np.float64) / density[seen] - 1
    weight = 0.05
    for _ in range(20):
        term = ratio / (1 + weight * ratio)
        bend = float(q @ term**2)
        if bend == 0:
            # The atom has the density of the mixture wherever draws fell.
            break
        new = weight + float(q @ term) / bend
        new = float(np.clip(new, weight / 4, (1 + weight) / 2))
        done = abs(new - weight) < 1e-2 * weight
        weight = new
        if done:
            break
    weight = float(np.clip(weight, _SMALLEST_WEIGHT, _LARGEST_WEIGHT))
    return weight, float(q @ np.log1p(weight * ratio))
