"""What pictures need of the candidates: the typical ones, and observed against expected draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softmix_dist.blocks import Array, RawBlock, candidate_totals
from softmix_dist.data.blockwise import Dataset
from softmix_dist.data.predict import Predictor
from softmix_dist.data.predictions import Visit, totals

# Bins of expected draws: so many for each factor of ten, between these powers of ten.
_PER_TEN, _LOWEST, _HIGHEST = 4, -12, 18


@dataclass(frozen=True)
class Typical:
    """A candidate that a component favours.

    Attributes
    ----------
    row : int
    label : str
        Its label in the data set, or its row number.
    share : float
        Of the component's draws.
    """

    row: int
    label: str
    share: float


@dataclass(frozen=True)
class Profile:
    """Candidates of a data set, as a fitted mixture sees them.

    Attributes
    ----------
    typical : list of list of Typical
        For each component the candidates with the largest shares, by decreasing share.
    expected, observed : (m,) arrays
        Mean draws of the candidates in each bin of expected draws.
    spread : (m,) array
        Standard deviation of the observed draws in it.
    number : (m,) array of int
        Candidates in it.
    n_draws : int
        0 where the data set has none; then ``observed`` means nothing.
    """

    typical: list[list[Typical]]
    expected: Array
    observed: Array
    spread: Array
    number: Array
    n_draws: int


@dataclass(frozen=True)
class _Look:
    """Task: the best of a block for each component, and sums by bin of expected draws."""

    predictor: Predictor
    n_draws: int
    most: int

    def __call__(self, raw: RawBlock) -> tuple[Array, Array, Array]:
        joint = self.predictor.log_joint(raw)
        # 1. The largest shares of each component, ties by row number.
        with np.errstate(divide="ignore"):
            shares = np.exp(joint - np.log(self.predictor.weights))
        best = np.argsort(-shares, axis=0, kind="stable")[: self.most]
        rows = raw.start + best
        # 2. Candidates, expected and observed draws, and squares, by bin.
        expected = self.n_draws * np.exp(joint).sum(axis=1)
        there = expected > 0
        observed = candidate_totals(raw.counts)[there] if self.n_draws else expected[there] * 0
        power = _PER_TEN * (np.log10(expected[there]) - _LOWEST)
        place = np.clip(power.astype(int), 0, _PER_TEN * (_HIGHEST - _LOWEST) - 1)
        sums = [
            np.bincount(place, values, minlength=_PER_TEN * (_HIGHEST - _LOWEST))
            for values in (np.ones(len(place)), expected[there], observed, observed**2)
        ]
        return rows, np.take_along_axis(shares, best, axis=0), np.stack(sums)


def profile(dataset: Dataset, predictor: Predictor, visit: Visit, n_typical: int = 10) -> Profile:
    """Look at all candidates, in two passes over the data set.

    Parameters
    ----------
    dataset : Dataset
    predictor : Predictor
    visit : callable
        Calls a task with every stored block of a data set, as engines do.
    n_typical : int
        Candidates of each component.

    Raises
    ------
    InputError, StoreError
        If the data cannot be used.
    """
    found = totals(dataset, predictor, visit)
    answers = visit(dataset, _Look(found.predictor, found.n_draws or 1, n_typical))
    rows = np.concatenate([answer[0] for answer in answers])
    shares = np.concatenate([answer[1] for answer in answers])
    best = np.argsort(-shares, axis=0, kind="stable")[:n_typical]
    chosen, kept = (np.take_along_axis(values, best, axis=0) for values in (rows, shares))
    wanted = sorted({int(row) for row in chosen.ravel()})
    labels = dict(zip(wanted, dataset.labels(wanted), strict=True))
    number, expected, observed, squares = sum(answer[2] for answer in answers)
    used = number > 0
    number, expected, observed, squares = (v[used] for v in (number, expected, observed, squares))
    return Profile(
        [
            [
                Typical(int(row), labels[int(row)], float(share))
                for row, share in zip(chosen[:, k], kept[:, k], strict=True)
            ]
            for k in range(chosen.shape[1])
        ],
        expected / number,
        observed / number,
        np.sqrt(np.maximum(squares / number - (observed / number) ** 2, 0.0)),
        number.astype(int),
        found.n_draws,
    )
