"""Residuals of candidates, and the additive sums that tell how well a mixture fits.

The draws n_j of a candidate are held against mu_j = N pi_j, as Poisson counts: given their
total they are multinomial, and at the maximum the totals agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from softmix_dist.blocks import Array
from softmix_dist.sums import PearsonSums

# Relative distance from the expected draws below which the logarithm is taken of 1 + delta.
_NEAR = 0.5


def pearson_residuals(draws: Array, log_expected: Array) -> Array:
    """(n - mu) / sqrt(mu), (rows,); 0 for candidates that are not available.

    Parameters
    ----------
    draws : (rows,) array
        n, draws.
    log_expected : (rows,) array
        log mu, mu in draws; -inf: not available.
    """
    there = log_expected > -np.inf
    # The root by its own exponential: mu itself may be too small for a number.
    root = np.exp(np.where(there, log_expected, 0.0) / 2)
    with np.errstate(over="ignore"):
        return np.where(there, draws / root - root, 0.0)


def deviance_residuals(draws: Array, log_expected: Array) -> Array:
    """sign(n - mu) sqrt(2 (n log(n / mu) - (n - mu))), (rows,); arguments as for Pearson's."""
    there = log_expected > -np.inf
    log_mu = np.where(there, log_expected, 0.0)
    mu = np.exp(log_mu)
    excess = draws - mu
    near = np.abs(excess) < _NEAR * mu
    # n log(n / mu) - (n - mu) loses its digits where n is near mu; log1p keeps most of them.
    ratio = np.divide(excess, mu, out=np.zeros_like(mu), where=near)
    log_ratio = np.where(near, draws * np.log1p(ratio), xlogy(draws, draws) - draws * log_mu)
    unit = np.maximum(log_ratio - excess, 0.0)
    return np.where(there, np.sign(excess) * np.sqrt(2 * unit), 0.0)


@dataclass(frozen=True)
class Worst:
    """Candidates with the largest residuals, by decreasing size, ties by row number.

    Attributes
    ----------
    most : int
        How many are kept at most.
    size : (m,) array
        |residual|, what they are ordered by.
    rows : (m,) array of int
    observed, expected : (m,) arrays
        Draws.
    pearson, deviance : (m,) arrays
        Residuals.
    """

    most: int
    size: Array
    rows: Array
    observed: Array
    expected: Array
    pearson: Array
    deviance: Array

    @classmethod
    def of(cls, most: int, *columns: Array) -> Worst:
        """Keep the worst of some rows; columns are the attributes from ``size`` on."""
        size, rows = columns[:2]
        order = np.lexsort((rows, -size))[:most]
        return cls(most, *(column[order] for column in columns))

    @property
    def columns(self) -> tuple[Array, ...]:
        """The attributes from ``size`` on."""
        return self.size, self.rows, self.observed, self.expected, self.pearson, self.deviance

    def __add__(self, other: Worst) -> Worst:
        pairs = zip(self.columns, other.columns, strict=True)
        return Worst.of(self.most, *(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class FitSums:
    """Sums over candidates that tell how well a mixture fits.

    Attributes
    ----------
    log_prob, log_draws, log_base : float
        sum_j n_j log pi_j, sum_j n_j log n_j and sum_j n_j log u_j, in draws times nats.
    pearson, deviance : float
        Sums of the squared residuals.
    n_observed, n_available : int
        Candidates with draws, and those that may be chosen.
    cells : PearsonSums
        Pearson's statistic where neighbours are joined until enough draws are expected.
    worst : Worst
    """

    log_prob: float
    log_draws: float
    log_base: float
    pearson: float
    deviance: float
    n_observed: int
    n_available: int
    cells: PearsonSums
    worst: Worst

    def __add__(self, other: FitSums) -> FitSums:
        return FitSums(
            self.log_prob + other.log_prob,
            self.log_draws + other.log_draws,
            self.log_base + other.log_base,
            self.pearson + other.pearson,
            self.deviance + other.deviance,
            self.n_observed + other.n_observed,
            self.n_available + other.n_available,
            self.cells + other.cells,
            self.worst + other.worst,
        )


def fit_sums(
    draws: Array,
    log_prob: Array,
    log_base: Array | None,
    residuals: tuple[Array, Array],
    n_draws: int,
    start: int,
    n_worst: int,
    by: str,
) -> FitSums:
    """Return the sums of one block.

    Parameters
    ----------
    draws, log_prob : (rows,) arrays
        n_j and log pi_j.
    log_base : (rows,) array or None
    residuals : pair of (rows,) arrays
        Pearson and deviance residuals.
    n_draws : int
        N, of all blocks.
    start : int
        Row number of the first candidate.
    n_worst : int
        Candidates to keep.
    by : {"deviance", "pearson"}
        The residual that decides which are worst.
    """
    pearson, deviance = residuals
    seen, there = draws > 0, np.flatnonzero(log_prob > -np.inf)
    size = np.abs(deviance if by == "deviance" else pearson)
    with np.errstate(over="ignore"):
        squares = float(pearson @ pearson)
    expected = np.exp(log_prob + np.log(float(n_draws)))
    return FitSums(
        float(draws[seen] @ log_prob[seen]),
        float(xlogy(draws, draws).sum()),
        0.0 if log_base is None else float(draws[seen] @ log_base[seen]),
        squares,
        float(deviance @ deviance),
        int(seen.sum()),
        len(there),
        PearsonSums.of(draws, expected),
        Worst.of(
            n_worst,
            size[there],
            there + start,
            draws[there],
            expected[there],
            pearson[there],
            deviance[there],
        ),
    )
