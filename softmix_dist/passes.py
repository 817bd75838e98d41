"""Passes over the data: what all of them say of a point, and how many were made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from softmix_dist.blocks import Block
from softmix_dist.curvature import extent, information, information_product
from softmix_dist.engine import Engine
from softmix_dist.kernels import score
from softmix_dist.model import Coordinates, Mixture
from softmix_dist.solve.em import slope_at
from softmix_dist.solve.information import Curvature, observed_information, sketched_curvature
from softmix_dist.solve.krylov import ProductCurvature, curvature_at, exact_products
from softmix_dist.solve.point import Point, evaluate
from softmix_dist.solve.sample import Sample
from softmix_dist.sums import DesignSums, Extent, ProductSums, ScoreSums

# Where the sketch's information is too poor to go on, or to claim convergence, it is computed
# on all data: up to this many coefficients in one pass, which costs one large Gram; above,
# one pass for each of the products that conjugate gradients ask for.
_LARGEST_INFORMATION = 600


_Group = tuple[tuple[Mixture, ...], np.dtype[Any]]


def _score_groups(block: Block, groups: Sequence[_Group]) -> tuple[tuple[ScoreSums, ...], ...]:
    block.check()
    return tuple(score(block, mixtures, dtype) for mixtures, dtype in groups)


def _information(block: Block, mixture: Mixture) -> Any:
    block.check()
    return information(block, mixture)


def _information_product(block: Block, mixture: Mixture, direction: Mixture) -> ProductSums:
    block.check()
    return information_product(block, mixture, direction, np.dtype(np.float64))


class Passes:
    """Passes of one fit.

    Parameters
    ----------
    engine : Engine
    design : DesignSums
    coordinates : Coordinates
    sample : Sample or None
        The sketch, which no pass is made for where it is all data.
    l2 : float
    n_made : int
        Passes that were made before.
    """

    def __init__(
        self,
        engine: Engine,
        design: DesignSums,
        coordinates: Coordinates,
        sample: Sample | None,
        l2: float,
        n_made: int,
    ):
        self.engine = engine
        self.design = design
        self.coordinates = coordinates
        self.sample = sample
        self.l2 = l2
        self.n_made = n_made

    def points(self, proposals: Sequence[tuple[Mixture, np.dtype[Any]]]) -> list[Point]:
        """Evaluate mixtures, each in its precision, in one pass for all of them."""
        dtypes = sorted({dtype for _, dtype in proposals}, key=lambda dtype: dtype.itemsize)
        members = [[i for i, (_, of) in enumerate(proposals) if of == dtype] for dtype in dtypes]
        groups = [
            (tuple(self.coordinates.to_frame(proposals[i][0]) for i in group), dtype)
            for group, dtype in zip(members, dtypes, strict=True)
        ]
        sums = self._ask(partial(_score_groups, groups=groups))
        points = {
            i: evaluate(proposals[i][0], s, self.coordinates, self.design.n_draws, self.l2)
            for group, group_sums in zip(members, sums, strict=True)
            for i, s in zip(group, group_sums, strict=True)
        }
        return [points[i] for i in range(len(proposals))]

    def in_one(self, n_coefficients: int) -> bool:
        """Whether the information about so many coefficients takes one pass."""
        return n_coefficients <= _LARGEST_INFORMATION

    def curvature(
        self, point: Point, known: Curvature | ProductCurvature | None
    ) -> Curvature | ProductCurvature:
        """Curvature at a point, by passes over the data: one, or one a product."""
        if self.sample is not None and self.sample.is_all:
            return curvature_at(point, self.sample)
        if self.in_one(point.mixture.n_coefficients):
            return self.matrix(point)
        if self.sample is not None and (known is None or known.partial):
            known = curvature_at(point, self.sample)
        seen = None if known is None else known.seen(slope_at(point))
        return exact_products(point, self._product, self.coordinates, self.design.n_draws, seen)

    def matrix(self, point: Point) -> Curvature:
        """Curvature at a point, by one pass over the data."""
        if self.sample is not None and self.sample.is_all:
            return sketched_curvature(point, self.sample)
        sums = self._ask(partial(_information, mixture=self.coordinates.to_frame(point.mixture)))
        return Curvature.of(observed_information(point, sums, self.coordinates), point)

    def reach(self, directions: Mixture) -> Extent:
        """How far candidates and draws reach in some directions of standard coordinates."""
        ways = self.coordinates.to_frame(directions)
        found: Extent = self._ask(partial(extent, directions=ways))
        return found

    def _product(self, mixture: Mixture, direction: Mixture) -> ProductSums:
        kernel = partial(_information_product, mixture=mixture, direction=direction)
        sums: ProductSums = self._ask(kernel)
        return sums

    def _ask(self, kernel: Any) -> Any:
        sums = self.engine.reduce(kernel)
        self.n_made += 1
        return sums
