"""Additive statistics, and the one order in which they are added.

Floating-point addition is not associative, so blocks are added in one canonical
dyadic order, ((0+1)+(2+3))+..., an odd last node passing up unchanged. A task may
hold any contiguous range of blocks as long as it returns its maximal aligned
partial sums: nodes of that tree.

>>> def node(*numbers): return [Node(0, i, str(i)) for i in numbers]
>>> add = lambda a, b: f"({a}+{b})"
>>> left, right = merge(node(0, 1, 2), add), merge(node(3, 4), add)
>>> [n.value for n in left], [n.value for n in right]
(['(0+1)', '2'], ['3', '4'])
>>> total(merge(left + right, add), add)
'(((0+1)+(2+3))+4)'
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ScoreSums:
    """Sums of one pass for one mixture (b, theta), lambda_j = u_j sum_k exp(b_k + x_j.theta_k).

    Attributes
    ----------
    log_density : float
        sum_j n_j log lambda_j, in draws times nats.
    candidates : (K, L + 1) array
        sum_j u_j exp(b_k + x_j.theta_k) (1, x_j): sums over candidates.
    draws : (K, L + 1) array
        sum_j n_j r_jk (1, x_j): sums over draws, r the responsibilities.
    log_base : (K,) array
        sum_j u_j exp(b_k + x_j.theta_k) log u_j.
    """

    log_density: float
    candidates: Array
    draws: Array
    log_base: Array

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(
            self.log_density + other.log_density,
            self.candidates + other.candidates,
            self.draws + other.draws,
            self.log_base + other.log_base,
        )


@dataclass(frozen=True)
class DesignSums:
    """Sums that describe the design, taken once.

    Attributes
    ----------
    gram : (L + 1, L + 1) array
        sum_j u_j (1, x_j)(1, x_j)^T.
    draws : (L + 1,) array
        sum_j n_j (1, x_j).
    log_base : float
        sum_j u_j log u_j.
    n_draws, n_observed, n_candidates : int
        Draws, candidates with at least one draw, candidates; exact.
    """

    gram: Array
    draws: Array
    log_base: float
    n_draws: int
    n_observed: int
    n_candidates: int

    def __add__(self, other: DesignSums) -> DesignSums:
        return DesignSums(
            self.gram + other.gram,
            self.draws + other.draws,
            self.log_base + other.log_base,
            self.n_draws + other.n_draws,
            self.n_observed + other.n_observed,
            self.n_candidates + other.n_candidates,
        )


@dataclass(frozen=True)
class InformationSums:
    """Sums for the observed information at one mixture.

    Attributes
    ----------
    candidates : (K, L + 1, L + 1) array
        sum_j u_j exp(b_k + x_j.theta_k) (1, x_j)(1, x_j)^T.
    pairs : (K (L + 1), K (L + 1)) array
        sum_j n_j (r_j (x) (1, x_j)) (r_j (x) (1, x_j))^T. The Gram of one component's
        responsibilities, sum_j n_j r_jk (1, x_j)(1, x_j)^T, is a row of its blocks added up.
    """

    candidates: Array
    pairs: Array

    def __add__(self, other: InformationSums) -> InformationSums:
        return InformationSums(self.candidates + other.candidates, self.pairs + other.pairs)


@dataclass(frozen=True)
class ProductSums:
    """Sums for the product of the observed information at one mixture with one direction.

    Attributes
    ----------
    candidates : (K, L + 1) array
        sum_j u_j exp(b_k + x_j.theta_k) t_jk (1, x_j), t_jk = (1, x_j).direction_k.
    draws : (K, L + 1) array
        sum_j n_j r_jk (t_jk - sum_m r_jm t_jm) (1, x_j).
    """

    candidates: Array
    draws: Array

    def __add__(self, other: ProductSums) -> ProductSums:
        return ProductSums(self.candidates + other.candidates, self.draws + other.draws)


@dataclass(frozen=True)
class HeldOutSums:
    """Sums over held-out draws for several mixtures.

    Attributes
    ----------
    first : (n,) array
        sum_j n_j log pi_j of each mixture.
    second : (n, n) array
        sum_j n_j log pi_j log pi'_j of each pair.
    n_draws : int
    """

    first: Array
    second: Array
    n_draws: int

    def __add__(self, other: HeldOutSums) -> HeldOutSums:
        return HeldOutSums(
            self.first + other.first, self.second + other.second, self.n_draws + other.n_draws
        )


# Expected draws of a cell of Pearson's statistic, at least (Cochran, Biometrics 10, 1954).
LEAST_EXPECTED = 5.0


@dataclass(frozen=True)
class PearsonSums:
    """Sums for Pearson's statistic, over cells of candidates with enough expected draws.

    Attributes
    ----------
    statistic : float
        sum (n - E)^2 / E over the cells.
    n_cells : int
    rest, rest_expected : float
        Draws, and expected draws, of the candidates that filled no cell in their block.
    """

    statistic: float
    n_cells: int
    rest: float
    rest_expected: float

    @classmethod
    def of(cls, draws: Array, expected: Array) -> PearsonSums:
        """Join neighbours in pairs until every cell, but one rest, expects enough draws."""
        statistic, n_cells = 0.0, 0
        while True:
            full = expected >= LEAST_EXPECTED
            off = draws[full] - expected[full]
            statistic += float(np.sum(off**2 / expected[full]))
            n_cells += len(off)
            draws, expected = draws[~full], expected[~full]
            if len(draws) < 2:
                return cls(statistic, n_cells, float(draws.sum()), float(expected.sum()))
            pairs = np.arange(0, len(draws), 2)
            draws, expected = (np.add.reduceat(values, pairs) for values in (draws, expected))

    def dispersion(self, n_coefficients: int) -> float | None:
        """Return the statistic over its degrees of freedom; None if there are none left.

        Of the ``n_coefficients`` K (L + 1) one is determined by the others, as one cell is by
        the total.
        """
        statistic, n_cells = self.statistic, self.n_cells
        if self.rest_expected >= LEAST_EXPECTED:
            statistic += (self.rest - self.rest_expected) ** 2 / self.rest_expected
            n_cells += 1
        freedom = n_cells - n_coefficients
        return statistic / freedom if freedom > 0 else None

    def __add__(self, other: PearsonSums) -> PearsonSums:
        return PearsonSums(
            self.statistic + other.statistic,
            self.n_cells + other.n_cells,
            self.rest + other.rest,
            self.rest_expected + other.rest_expected,
        )


@dataclass(frozen=True)
class Extent:
    """Smallest and largest utility along some directions; adding is joining.

    Attributes
    ----------
    low, high : (n,) arrays
        Of x_j.v over the available candidates, for each direction v.
    """

    low: Array
    high: Array

    def __add__(self, other: Extent) -> Extent:
        return Extent(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


class Node(NamedTuple):
    """Sum of the blocks number * 2^level, ..., (number + 1) * 2^level - 1."""

    level: int
    number: int
    value: Any


def add(left: Any, right: Any) -> Any:
    """Add two statistics; tuples are added entry by entry."""
    if isinstance(left, tuple):
        return tuple(add(a, b) for a, b in zip(left, right, strict=True))
    return operator.add(left, right)


def merge(nodes: Iterable[Node], add: Callable[[Any, Any], Any] = add) -> list[Node]:
    """Combine neighbouring nodes, given in order, as far as the tree allows.

    Parameters
    ----------
    nodes : iterable of Node
        A contiguous range of blocks, in order.
    add : callable
        Adds two values, the earlier blocks first.

    Returns
    -------
    list of Node
        The maximal aligned partial sums of the range, at most 2 log2(blocks).
    """
    stack: list[Node] = []
    for node in nodes:
        while stack and node.number % 2 and stack[-1][:2] == (node.level, node.number - 1):
            left = stack.pop()
            node = Node(node.level + 1, node.number // 2, add(left.value, node.value))
        stack.append(node)
    return stack


def total(nodes: list[Node], add: Callable[[Any, Any], Any] = add) -> Any:
    """Sum of all blocks, from the merged nodes of the whole range.

    Parameters
    ----------
    nodes : list of Node
        As `merge` returns them for all blocks; levels decrease strictly.
    add : callable

    Returns
    -------
    value
        Odd last nodes pass up unchanged, which is adding from the right.
    """
    *rest, last = nodes
    value = last.value
    for node in reversed(rest):
        value = add(node.value, value)
    return value
