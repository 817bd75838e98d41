"""How many components: fits of K = 1, 2, ... in the same passes, and what they say.

Held-out likelihood is by binomial thinning: every draw goes to one of two halves with
probability 1/2, which gives independent counts for fitting and for testing without dropping a
candidate. The fits of one half are the starts of those of all draws, never the other way round.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from softmix_dist.blocks import Array
from softmix_dist.data.dataset import as_dataset
from softmix_dist.engine import Engine, engine_for, single_blas_thread
from softmix_dist.errors import InputError, NumericalError
from softmix_dist.kernels import survey as survey_block
from softmix_dist.model import Coordinates, Mixture
from softmix_dist.race import Race, run_races
from softmix_dist.recommendation import Candidate, Selection
from softmix_dist.results import Settings
from softmix_dist.runs import DOUBLE, SINGLE, Run, Stepper
from softmix_dist.sketching import sample_of
from softmix_dist.solve.climb import best_of, climb
from softmix_dist.solve.point import Point
from softmix_dist.solve.proposals import Proposals, highest_atoms, insert
from softmix_dist.solve.sample import Sample
from softmix_dist.solve.starts import Start, start_at
from softmix_dist.sums import DesignSums, HeldOutSums
from softmix_dist.survey import survey
from softmix_dist.thinning import held_out, on_half
from softmix_dist.warm import Warmer

if TYPE_CHECKING:
    from distributed import Client

# Steps of EM on the sketch, at most, and while components are still to be put in.
_STEPS, _FEW = 100, 20
# Objectives on the sketch that differ by less are those of one optimum, nats per draw.
_SAME = 1e-7


class _Half:
    """An engine whose draws are the first half."""

    def __init__(self, engine: Engine, seed: int):
        self._engine, self._seed = engine, seed
        self.bytes_read = engine.bytes_read

    def reduce(self, kernel: Any) -> Any:
        return self._engine.reduce(partial(on_half, kernel=kernel, seed=self._seed))


def select_components(
    data: Any,
    counts: Any = None,
    *,
    components: Iterable[int] = range(1, 9),
    log_base: Any = None,
    feature_names: Sequence[str] | None = None,
    client: Client | None = None,
    n_threads: int | None = None,
    device: str | None = None,
    **parameters: Any,
) -> Selection:
    """Choose the number of components.

    Parameters
    ----------
    data, counts, log_base, feature_names, client, n_threads, device
        As for `SoftmaxMixture.fit`.
    components : iterable of int
        The numbers to try, in the same passes.
    **parameters
        Of `SoftmaxMixture`; ``init`` must be "auto", "search", "subspace" or "random".

    Returns
    -------
    Selection

    Raises
    ------
    InputError, StoreError
        If the data or the parameters cannot be used.
    NumericalError
        If no start of some K has a finite likelihood.
    ClusterError
        If the cluster was lost, or a GPU was asked for that cannot be used.

    Examples
    --------
    >>> selection = select_components(features, counts, components=[1, 2])
    >>> selection.recommended
    1
    """
    numbers = sorted(set(components))
    if not numbers:
        raise InputError("components: expected at least one number")
    every = [Settings(n_components=K, **parameters) for K in numbers]
    for settings in every:
        settings.check()
    if every[0].init not in ("auto", "search", "subspace", "random"):
        raise InputError(
            f"init: expected auto, search, subspace or random, found {every[0].init!r}"
        )
    with closing(engine_for(client, n_threads, device)) as engine, single_blas_thread():
        dataset = as_dataset(data, counts, log_base, feature_names)
        return _Path(dataset, every, engine).run()


class _Path:
    """The fits of all K."""

    def __init__(self, dataset: Any, settings: list[Settings], engine: Engine):
        self.dataset, self.engine = dataset, engine
        # The sketch of the largest K serves them all.
        self.settings = settings
        self.largest = settings[-1]
        self.seed = self.largest.drawn_seed()
        self.began = time.perf_counter()

    def run(self) -> Selection:
        # 1. Survey; the design of the first half.
        design, coordinates = survey(self.dataset, self.engine, self.largest.n_components)
        if self.largest.n_components > design.n_observed:
            raise InputError(
                f"components: {self.largest.n_components}, but only {design.n_observed} distinct "
                "candidates were observed; use fewer"
            )
        half = _Half(self.engine, self.seed)
        half_design, _ = half.reduce(survey_block)
        n_passes = 2
        # 2. Fits of the first half, from starts on its sketch.
        starts, sample, looked = self._starts(half, half_design, coordinates)
        stepper = self._stepper(half, half_design, coordinates, sample, n_passes + looked)
        halves = self._race(stepper, starts)
        # 3. Their likelihood of the second half.
        first = [self._point(race) for race in halves]
        scores = self._held_out(first, coordinates)
        # 4. Fits of all draws, from there, and from those of fewer components.
        warmer = Warmer(self.engine, self.largest, design, coordinates, self.seed)
        found = [Start("half", point.mixture, point.log_normalisers) for point in first]
        rows = (
            warmer.look_again(self.engine, found)
            if warmer.needs_second
            else warmer.look(self.engine)[0]
        )
        sample = sample_of(rows, self.largest, design, coordinates)
        whole = self._stepper(self.engine, design, coordinates, sample, stepper.passes.n_made + 2)
        races = self._race(whole, self._extended(found, sample, coordinates))
        return self._selection(halves, races, scores, design, coordinates, whole.passes.n_made)

    def _starts(
        self, half: Any, design: DesignSums, coordinates: Coordinates
    ) -> tuple[list[list[Start]], Any, int]:
        warmers = [
            Warmer(half, settings, design, coordinates, self.seed) for settings in self.settings
        ]
        rows, second = warmers[-1].look(half)
        samples = [warmer.sample_of(rows) for warmer in warmers]
        proposed = [
            warmer.propose(sample, second) for warmer, sample in zip(warmers, samples, strict=True)
        ]
        if warmers[-1].needs_second:
            every = [start for found in proposed for start in found]
            rows = warmers[-1].look_again(half, every)
            samples = [warmer.sample_of(rows) for warmer in warmers]
            proposed = [
                warmer.judge(sample, found)
                for warmer, sample, found in zip(warmers, samples, proposed, strict=True)
            ]
        warm = [
            warmer.finished(sample, found, second)
            for warmer, sample, found in zip(warmers, samples, proposed, strict=True)
        ]
        chosen = [[start for start in w.starts if start.chosen] for w in warm]
        return chosen, warm[-1].sample, warmers[-1].n_passes

    def _extended(
        self, found: list[Start], sample: Sample, coordinates: Coordinates
    ) -> list[list[Start]]:
        """Begin all draws at the fit of half of them, and where that is higher at a smaller K.

        What half of the draws put into one component more than they have may be noise, of which
        all draws know nothing: such fits ended below those of fewer components.
        """
        rng = np.random.default_rng((self.seed, 3))
        starts: list[list[Start]] = []
        best: Point | None = None
        for settings, start in zip(self.settings, found, strict=True):
            K = settings.n_components
            (own,) = climb(sample, [start.on_sketch(coordinates)], _STEPS)
            # A fit of half of the draws may have lost components.
            fewer = [p for p in (best, own) if p is not None and p.mixture.n_components < K]
            ends = [end for p in fewer if (end := _grown(p, K, sample, rng)) is not None]
            starts.append([start])
            best = best_of([own, *ends, *([best] if best else [])])
            if ends and best_of(ends).objective > own.objective + _SAME:
                starts[-1].append(start_at("grown", best_of(ends), coordinates, 0, 0.0))
        return starts

    def _stepper(
        self, engine: Any, design: DesignSums, coordinates: Coordinates, sample: Any, n_passes: int
    ) -> Stepper:
        return Stepper(
            engine, self.largest, design, coordinates, sample, self.dataset.feature_names,
            self.began, n_passes,
        )  # fmt: skip

    def _race(self, stepper: Stepper, starts: list[list[Start]]) -> list[Race]:
        dtype = DOUBLE if self.largest.precision == "double" else SINGLE
        races = [
            Race([Run(s, i, s.mixture, s.predicted, dtype) for i, s in enumerate(found)])
            for found in starts
        ]
        most = stepper.passes.n_made + self.largest.max_passes
        run_races(stepper, races, lambda: stepper.passes.n_made < most, lambda race, n: None)
        return races

    def _point(self, race: Race) -> Point:
        leader = race.leader
        if leader is None or leader.state is None:
            raise NumericalError("no start has a finite likelihood; rescale the features")
        return leader.state.point

    def _held_out(self, points: list[Point], coordinates: Coordinates) -> tuple[Array, Array, int]:
        """Mean log-likelihoods of the second half, (n,), covariance of a draw's, and draws."""
        mixtures = []
        for point in points:
            total = np.logaddexp.reduce(point.mixture.offsets + point.log_normalisers)
            normalised = Mixture(point.mixture.offsets - total, point.mixture.atoms)
            mixtures.append(coordinates.to_frame(normalised))
        sums: HeldOutSums = self.engine.reduce(partial(held_out, mixtures=mixtures, seed=self.seed))
        mean = sums.first / sums.n_draws
        return mean, sums.second / sums.n_draws - np.outer(mean, mean), sums.n_draws

    def _selection(
        self, halves: list[Race], races: list[Race], scores: tuple[Array, Array, int],
        design: DesignSums, coordinates: Coordinates, n_passes: int,
    ) -> Selection:  # fmt: skip
        mean, spread, n_test = scores
        fits = [race.leader for race in races]
        both = [
            _whole(half.leader, settings.n_components) and _whole(fit, settings.n_components)
            for settings, half, fit in zip(self.settings, halves, fits, strict=True)
        ]
        eligible = np.flatnonzero(both)
        best = int(eligible[np.argmax(mean[eligible])]) if eligible.size else int(np.argmax(mean))
        paired = np.diag(spread) + spread[best, best] - 2 * spread[best]
        errors = np.sqrt(np.maximum(paired, 0) / n_test)
        behind = mean[best] - mean
        candidates = []
        for i, (settings, race) in enumerate(zip(self.settings, races, strict=True)):
            point = self._point(race)
            order = np.argsort(-point.weights, kind="stable")
            size = settings.n_components * (len(coordinates.mean) + 1) - 1
            fit = -2 * design.n_draws * point.log_likelihood
            candidates.append(
                Candidate(
                    settings.n_components,
                    size,
                    point.log_likelihood,
                    fit + 2 * size,
                    fit + size * float(np.log(float(design.n_draws))),
                    float(mean[i]),
                    float(behind[i]),
                    float(errors[i]),
                    both[i],
                    point.weights[order],
                    coordinates.to_features(point.mixture.atoms[order]),
                )
            )
        seconds = time.perf_counter() - self.began
        return Selection.of(candidates, design.n_draws, n_passes, seconds)


def _whole(run: Run | None, n_components: int) -> bool:
    """Whether a run converged, with all the components that it was asked for."""
    return run is not None and run.converged and run.proposal.n_components == n_components


def _grown(
    point: Point, n_components: int, sample: Sample, rng: np.random.Generator
) -> Point | None:
    """Fit on the sketch of more components than a point has; None where no more were found."""
    while (missing := n_components - point.mixture.n_components) > 0:
        style = Proposals(keep=max(Proposals.keep, missing))
        found = highest_atoms(sample, point, rng, style, least=-np.inf)
        if not found:
            return None
        together = [found[:missing]] if missing > 1 else [[new] for new in found]
        tried = [insert(sample, point, news) for news in together]
        done = len(together[0]) == missing
        point = best_of(climb(sample, tried, _STEPS if done else _FEW))
    return point
