"""Warm starts: a few passes over the data, then everything on the driver.

The likelihood has many maxima, and the start decides which one EM finds. The sketch is a
small problem of the same kind; starts are computed, polished and compared there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from softmix_dist import moments as latent
from softmix_dist.blocks import Array, Block
from softmix_dist.engine import Engine
from softmix_dist.model import Coordinates, Mixture
from softmix_dist.polishing import Polisher, agree, choose
from softmix_dist.results import Settings
from softmix_dist.sketch import Sampling, SketchRows, draw
from softmix_dist.sketching import is_wide, sample_of, sampling, sketch_rows
from softmix_dist.solve import moments
from softmix_dist.solve.climb import climb
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import Sample
from softmix_dist.solve.search import complete, refine, search
from softmix_dist.solve.starts import Start, mixture_at, random_starts, start_at
from softmix_dist.sums import DesignSums

# Directions along which the moment estimator is tried, the leading one first.
_DIRECTIONS = 4
_FIRST, _SHORT = 8, 60
# Estimates of one method that go on after the first steps.
_FINALISTS = 2
# Starts that are combined on the second sketch, where there are too many coefficients for all.
_COMBINED = 2


@dataclass(frozen=True)
class WarmStarts:
    """What the warm start found.

    Attributes
    ----------
    starts : list of Start
        Those that go on to the whole data first, best first.
    sample : Sample
        The sketch on which they were judged.
    n_passes : int
    kurtosis : (L,) array
        Of the whitened features over candidates.
    """

    starts: list[Start]
    sample: Sample
    n_passes: int
    kurtosis: Array


Remember = Callable[[str, Callable[[], Any]], Any]


def at_once(name: str, compute: Callable[[], Any]) -> Any:
    """Compute without remembering: where there is no checkpoint."""
    return compute()


class Warmer:
    """Computes the starts of one fit."""

    def __init__(
        self, engine: Engine, settings: Settings, design: DesignSums, coordinates: Coordinates,
        seed: int, remember: Remember = at_once,
    ):  # fmt: skip
        self.engine = engine
        self.settings = settings
        self.design = design
        self.coordinates = coordinates
        self.sampling = sampling(settings, design, coordinates, seed)
        self.rng = np.random.default_rng((seed, 1))
        self.polisher = Polisher(settings, coordinates, self.rng)
        self.n_passes = 0
        self._remember = remember

    def run(self, given: Start | None = None) -> WarmStarts:
        """Pass over the data, then compute the starts by the method asked for.

        A start that was given goes on as it is: only the sketch is drawn for it.
        """
        if given is not None:
            _, n_rows = sketch_rows(self.settings, len(self.coordinates.mean))
            self.sampling = replace(self.sampling, n_rows=n_rows)
        rows, second = self.look(self.engine)
        # Rows may be as large as the data: they are let go when they are a sample.
        sample = self.sample_of(rows)
        del rows
        if given is not None:
            return WarmStarts([given], sample, 1, _kurtosis(second))
        found = self.propose(sample, second)
        if self.needs_second:
            sample = self.sample_of(self.look_again(self.engine, found, agree(found)))
            found = self.judge(sample, found)
        return self.finished(sample, found, second)

    def look(self, engine: Engine) -> tuple[SketchRows, latent.SecondMomentSums]:
        """Draw the sketch and sum second moments of the draws, in one pass."""
        self.n_passes += 1
        kernel = partial(_first_look, sampling=self.sampling, coordinates=self.coordinates)
        rows, second = engine.reduce(kernel)
        return rows, second

    @property
    def needs_second(self) -> bool:
        """Whether the first sketch is a part of the data only."""
        return self.design.n_candidates > self.sampling.n_rows

    def sample_of(self, rows: SketchRows) -> Sample:
        """Turn rows of a sketch into the small problem of the driver."""
        return sample_of(rows, self.settings, self.design, self.coordinates)

    def propose(self, sample: Sample, second: latent.SecondMomentSums) -> list[Start]:
        """Compute the starts of every method that was asked for, on the first sketch."""
        # 1. One component has one maximum.
        method = "random" if self.settings.n_components == 1 else self.settings.init
        # 2. Moments along directions chosen from the second moments: exact ones by a pass of
        #    their own, for "auto" those of the sketch.
        values, subspace = moments.leading_subspace(
            second.first, second.second, second.n_draws, self.settings.n_components
        )
        directions = moments.directions(subspace, _DIRECTIONS, self.rng)
        project = partial(
            latent.projected_moments,
            directions=directions, basis=subspace, n_components=self.settings.n_components,
        )  # fmt: skip
        projected = None
        if method in ("moments", "tensor"):
            projected = self.engine.reduce(partial(project, coordinates=self.coordinates))
            self.n_passes += 1
        elif method == "auto":
            block = sample.blocks[np.dtype(np.float64)]
            projected = project(block, coordinates=sample.coordinates)
        # 3. Starts.
        estimates = self._estimates(method, sample, second, subspace, values, projected)
        return self._remembered("proposed starts", lambda: self._timed(estimates))

    def _timed(self, estimates: Iterator[tuple[str, Point, tuple[str, ...]]]) -> list[Start]:
        found = []
        began = time.perf_counter()
        for name, point, notes in estimates:
            now = time.perf_counter()
            found.append(start_at(name, point, self.coordinates, self.n_passes, now - began, notes))
            began = now
        return found

    def finished(
        self, sample: Sample, found: list[Start], second: latent.SecondMomentSums
    ) -> WarmStarts:
        """Polish the best, and choose those that go on to the whole data."""
        found.sort(key=lambda start: -start.objective)
        found = self._remembered("polished starts", lambda: self.polisher.refined(found, sample))
        return WarmStarts(choose(found, sample), sample, self.n_passes, _kurtosis(second))

    def _estimates(
        self, method: str, sample: Sample, second: Any, subspace: Array, values: Array,
        projected: Any,
    ) -> Iterator[tuple[str, Point, tuple[str, ...]]]:  # fmt: skip
        K, radius, rng = self.settings.n_components, sample.coordinates.radius, self.rng
        known = []
        if method in ("moments", "auto"):
            estimates = [
                moments.moment_estimate(projected, i, K, radius) for i in range(_DIRECTIONS)
            ]
            found = self._best("moments", sample, estimates)
            known.append(found[1])
            yield found
        if method in ("tensor", "auto"):
            estimate = moments.tensor_estimate(
                second.first, second.second, projected.third, subspace, second.n_draws, K,
                radius, rng,
            )  # fmt: skip
            found = self._best("tensor", sample, [estimate])
            known.append(found[1])
            yield found
        if method in ("subspace", "auto"):
            centre = second.first / second.n_draws
            estimates = moments.subspace_starts(
                subspace, values, centre, K, self.settings.n_init, radius, rng
            )
            found = self._best("subspace", sample, estimates)
            known.append(found[1])
            yield found
        if method == "random":
            equal = np.full(K, 1 / K)
            centre = second.first / second.n_draws
            atoms = random_starts(1 if K == 1 else self.settings.n_init, K, centre, radius, rng)
            mixtures = [mixture_at(equal, start, sample.coordinates) for start in atoms]
            for point in climb(sample, mixtures, _SHORT):
                yield "random", point, ()
        if method in ("search", "auto"):
            points = search(sample, K, rng, self.settings.n_init, known)
            for point in points[: self.polisher.most(sample)]:
                yield "search", point, ()

    def _best(
        self, name: str, sample: Sample, estimates: list[moments.Estimate]
    ) -> tuple[str, Point, tuple[str, ...]]:
        """Best of several estimates by short EM."""
        mixtures = [mixture_at(e.weights, e.atoms, sample.coordinates) for e in estimates]
        points = climb(sample, mixtures, _FIRST)
        order = sorted(range(len(points)), key=lambda i: -points[i].objective)[:_FINALISTS]
        ends = climb(sample, [points[i].mixture for i in order], _SHORT)
        best = max(range(len(ends)), key=lambda i: ends[i].objective)
        point, notes = ends[best], estimates[order[best]].notes
        missing = int((point.resp * sample.n_draws < 1).sum())
        if missing:
            notes = (
                *notes,
                f"{missing} of {len(point.resp)} components lost all draws and were placed anew",
            )
            point = complete(sample, point, self.settings.n_components, self.rng)
        return name, point, notes

    def look_again(self, engine: Engine, found: list[Start], agreed: bool = True) -> SketchRows:
        """Draw a second sketch, independent of the first, by what the starts expect.

        A search fits the noise of its own sketch: on the US names the best of the first one
        was 0.04 nats per draw short of a start that it ranked fourth. The second sketch is
        independent and holds the candidates on which the found atoms put their mass.
        """
        self.n_passes += 1
        pooled = Mixture(
            np.concatenate([-start.predicted for start in found]),
            np.concatenate([start.mixture.atoms for start in found]),
        )
        _, n_rows = sketch_rows(self.settings, len(self.coordinates.mean), agreed)
        sampling = replace(
            self.sampling, n_rows=n_rows, mixture=self.coordinates.to_frame(pooled), number=1
        )
        rows: SketchRows = engine.reduce(partial(_second_look, sampling=sampling))
        return rows

    def judge(self, sample: Sample, found: list[Start]) -> list[Start]:
        """Compare and combine the starts on the second sketch."""
        return self._remembered("judged starts", lambda: self._judged(sample, found))

    def _judged(self, sample: Sample, found: list[Start]) -> list[Start]:
        points = climb(sample, [start.on_sketch(self.coordinates) for start in found], _SHORT)
        again = [
            start_at(
                start.method, point, self.coordinates, start.passes + 1, start.seconds, start.notes
            )
            for start, point in zip(found, points, strict=True)
        ]
        if self.settings.init in ("auto", "search") and self.settings.n_components > 1:
            began, near = time.perf_counter(), points
            if is_wide(self.settings, sample.z.shape[1] - 1):
                # Each combination costs a hundred evaluations of all the rows.
                near = sorted(points, key=lambda point: -point.objective)[:_COMBINED]
            best = refine(sample, near, self.rng)
            if best.objective > max(point.objective for point in points):
                seconds = time.perf_counter() - began
                passes = again[0].passes
                again.append(start_at("search", best, self.coordinates, passes, seconds))
        return again

    def _remembered(self, name: str, compute: Callable[[], list[Start]]) -> list[Start]:
        """Remember starts that take long; the generator goes on from where it was then."""
        found: list[Start]
        found, state = self._remember(name, lambda: (compute(), self.rng.bit_generator.state))
        self.rng.bit_generator.state = state
        return found


def _kurtosis(second: latent.SecondMomentSums) -> Array:
    powers = second.powers / second.mass
    return np.asarray(powers[2] / powers[0] ** 2)


def _first_look(
    block: Block, sampling: Sampling, coordinates: Coordinates
) -> tuple[SketchRows, latent.SecondMomentSums]:
    block.check()
    return draw(block, sampling), latent.second_moments(block, coordinates)


def _second_look(block: Block, sampling: Sampling) -> SketchRows:
    block.check()
    return draw(block, sampling)
