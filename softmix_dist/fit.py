"""The one loop: survey, starts, passes, stop.

A fit reads the data through an engine. Every iteration of every start alive is part of
one pass; starts that lag are dropped; the leader goes on until what is left to gain is
less than a small part of what the data can tell.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from softmix_dist.blocks import Array
from softmix_dist.checkpoint import open_journal
from softmix_dist.covariance import check_samples, estimate_covariance
from softmix_dist.data.blockwise import Dataset
from softmix_dist.data.place import Place
from softmix_dist.engine import Engine, single_blas_thread
from softmix_dist.errors import (
    CondensedComponentWarning,
    ConvergenceWarning,
    InputError,
    NumericalError,
    SoftmixWarning,
    StandardErrorWarning,
    StoreError,
    WarmStartWarning,
)
from softmix_dist.gap import Gap, estimate_gap
from softmix_dist.journal import Journal, Journalled
from softmix_dist.race import Race, run_races
from softmix_dist.results import FitResult, Settings
from softmix_dist.runs import DOUBLE, SINGLE, Run, Stepper
from softmix_dist.solve.design import draws_mean
from softmix_dist.solve.inference import Inference, reordered
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import LARGEST_MATRIX, Sample
from softmix_dist.solve.starts import (
    Start,
    explicit_start,
    plain_start,
    random_starts,
)
from softmix_dist.sums import DesignSums
from softmix_dist.survey import survey
from softmix_dist.warm import Warmer, WarmStarts, at_once

logger = logging.getLogger("softmix_dist")

Progress = Callable[[dict[str, Any]], None]


def fit(
    dataset: Dataset,
    settings: Settings,
    engine: Engine,
    progress: Progress | None = None,
    checkpoint: Place | None = None,
) -> FitResult:
    """Fit a softmax mixture.

    Parameters
    ----------
    dataset : Dataset
    settings : Settings
    engine : Engine
        The result has the same bits on every one.
    progress : callable, optional
        Called with a dict after each pass: what the log line says.
    checkpoint : Place, optional
        Where the answer of each pass is kept; a fit of the same data and settings goes on from
        there, to the same bits. It is left there at the end.

    Returns
    -------
    FitResult

    Raises
    ------
    InputError, StoreError
        If the data, the settings or the checkpoint cannot be used; lists every problem.
    NumericalError
        If no start has a finite likelihood.

    Warns
    -----
    ConvergenceWarning
        If the passes ran out before the criterion was met.
    CondensedComponentWarning
        If a component sits on hardly any candidates.
    StandardErrorWarning
        If there are no standard errors, or they rest on too few samples.
    CheckpointWarning
        If the checkpoint is damaged in part, or was written where bits may differ.
    """
    settings.check()
    with single_blas_thread():
        journal = None if checkpoint is None else open_journal(checkpoint, dataset, settings)
        return _Fit(dataset, settings, engine, progress or (lambda row: None), journal).run()


class _Fit:
    """One fit: fixed data in ``__init__``, changing runs in `run`."""

    def __init__(
        self, dataset: Dataset, settings: Settings, engine: Engine, progress: Progress,
        journal: Journal | None,
    ):  # fmt: skip
        self.settings = settings
        self.journal = journal
        self.engine = engine if journal is None else Journalled(engine, journal)
        self.progress = progress
        self.began = time.perf_counter()
        self.n_passes = 0
        self.n_before = 0
        self.warnings: list[str] = []
        self.dataset = dataset
        self.seed = settings.drawn_seed() if journal is None else journal.seed
        self.sample: Sample | None = None
        self.kurtosis: list[float] | None = None

    def run(self) -> FitResult:
        check_samples(self.dataset, self.settings)
        if self.journal is not None and self.journal.n_known:
            self._event("resume", checkpoint=self.journal.place.name, known=self.journal.n_known)
        # 1. Survey: check, load, whiten.
        try:
            self.design, self.coordinates = survey(
                self.dataset, self.engine, self.settings.n_components, self._surveyed
            )
        except (InputError, StoreError):
            # Where passes are known the data were good: it is their store that fails.
            if self.journal is not None and not self.journal.n_known:
                self._forget()
            raise
        if self.settings.n_components > self.design.n_observed:
            raise InputError(
                f"n_components: {self.settings.n_components} components, but only "
                f"{self.design.n_observed} distinct candidates were observed; use fewer"
            )
        # 2. All starts move together: one pass evaluates the next step of each.
        runs = self._starts()
        self.n_before = self.n_passes
        stepper = self.stepper = Stepper(
            self.engine, self.settings, self.design, self.coordinates, self.sample,
            self.dataset.feature_names, self.began, self.n_passes,
        )  # fmt: skip
        self.n_told = self.n_passes
        race = Race(runs)
        run_races(stepper, [race], self._passes_left, self._tell)
        # 3. The best of them.
        best = race.leader
        if best is None or best.state is None:
            self._forget()
            raise NumericalError(
                "no start has a finite likelihood; atoms may be far outside the radius "
                f"{self.coordinates.radius:.2g} in standard coordinates, or features have "
                "extreme outliers: rescale them or give another init"
            )
        gap = self._gap(best.state.point)
        return self._result(best, runs, gap)

    def _gap(self, point: Point) -> Gap | None:
        """Whether one more component would help, where a sketch was drawn."""
        if self.sample is None or self.settings.l2 > 0:
            return None
        rng = np.random.default_rng((self.seed, 2))
        gap, n_passes = estimate_gap(
            self.engine, self.sample, point, self.coordinates, self.design.n_draws, rng
        )
        self.stepper.passes.n_made += n_passes
        return gap

    def _inference(self, best: Run) -> Inference:
        """Covariance of the estimates, in the order of the run."""
        assert best.state is not None
        how = self.settings.standard_errors
        found = self.stepper.information_at(best, how)
        if found is None:
            size = best.state.point.mixture.n_coefficients
            if how != "none" and size > LARGEST_MATRIX:
                self._warn(
                    StandardErrorWarning,
                    f"no standard errors: {size} coefficients, and they are computed for "
                    f"{LARGEST_MATRIX} at most; standard_errors='none' says that none are wanted",
                )
            return Inference(None, "none")
        inference, n_passes = estimate_covariance(
            self.engine, self.dataset, how, best.state.point, *found, self.coordinates,
            self.design.n_draws,
        )  # fmt: skip
        self.stepper.passes.n_made += n_passes
        if inference.problem:
            self._warn(StandardErrorWarning, f"no standard errors: {inference.problem}")
        if inference.doubt:
            self._warn(StandardErrorWarning, inference.doubt)
        return inference

    def _forget(self) -> None:
        """Delete what would be refused again after the data, or the settings, were mended."""
        if self.journal is not None:
            self.journal.forget()

    def _passes_left(self) -> bool:
        return self.stepper.passes.n_made < self.settings.max_passes + self.n_before

    def _starts(self) -> list[Run]:
        """Find the starts; those that do not go on to the data stay in the report."""
        settings = self.settings
        n_components, n_features = settings.n_components, self.dataset.n_features
        given = None
        if not isinstance(settings.init, str):
            start = explicit_start(settings.init, n_components, n_features, self.coordinates)
            given = plain_start("given", *start, self.coordinates)
        if settings.solver.startswith("em") and (given or settings.init == "random"):
            # EM as published: from the start to the end on the data.
            found = [given] if given else self._random_starts()
        else:
            remember = at_once if self.journal is None else self.journal.recall
            warmer = Warmer(
                self.engine, settings, self.design, self.coordinates, self.seed, remember
            )
            warm = warmer.run(given)
            self.n_passes += warm.n_passes
            self.sample = warm.sample
            self.kurtosis = warm.kurtosis.tolist()
            self._warm_started(warm)
            found = warm.starts
        # A start that was polished on all data is past what single precision can tell.
        polished = self.sample is not None and self.sample.is_all and given is None
        exact = settings.precision == "double" or (settings.precision == "auto" and polished)
        dtype = DOUBLE if exact else SINGLE
        runs = [
            Run(start, number, start.mixture, start.predicted, dtype)
            for number, start in enumerate(found)
        ]
        if self.sample is not None:
            for run in runs:
                run.stopped = None if run.start.chosen else "behind on the sketch"
        return runs

    def _random_starts(self) -> list[Start]:
        settings, coordinates = self.settings, self.coordinates
        n_components = settings.n_components
        rng = np.random.default_rng(self.seed)
        centre = draws_mean(self.design, coordinates)
        equal = np.full(n_components, 1 / n_components)
        n_starts = 1 if n_components == 1 else settings.n_init
        found = random_starts(n_starts, n_components, centre, coordinates.radius, rng)
        return [plain_start("random", equal, atoms, coordinates) for atoms in found]

    def _warm_started(self, warm: WarmStarts) -> None:
        best = warm.starts[0]
        for start in warm.starts:
            # Among several methods a degenerate one is no matter; its row in the report says it.
            if start.notes and self.settings.init == start.method:
                self._warn(WarmStartWarning, f"init={start.method!r}: " + "; ".join(start.notes))
        missing = self.settings.n_components - best.mixture.n_components
        if missing:
            self._warn(
                WarmStartWarning,
                f"the search found no place for {missing} of {self.settings.n_components} "
                "components: no further atom raises the likelihood; use fewer",
            )
        self._event(
            "starts", best=best.method, n_starts=len(warm.starts),
            agree=sum(start.agrees for start in warm.starts),
            sketch_rows=len(warm.sample.z),
        )  # fmt: skip

    def _warn(self, kind: type[SoftmixWarning], message: str) -> None:
        self.warnings.append(message)
        warnings.warn(message, kind, stacklevel=5)

    def _tell(self, race: Race, alive: int) -> None:
        """Report every pass since the last report, one row each."""
        leader = race.leader
        if leader is None:
            return
        rows = {row["pass"]: row for row in leader.history}
        weights = [] if leader.state is None else leader.state.point.weights.tolist()
        for number in range(self.n_told + 1, self.stepper.passes.n_made + 1):
            row = {**rows.get(number, leader.history[-1]), "pass": number}
            self._event("pass", start=leader.number, alive=alive, weights=weights, **row)
        self.n_told = self.stepper.passes.n_made

    def _surveyed(self, sums: DesignSums, plan: str) -> None:
        self.n_passes += 1
        self._event("survey", plan=plan, n_draws=sums.n_draws, n_candidates=sums.n_candidates)

    def _event(self, phase: str, **what: Any) -> None:
        row = {"phase": phase, **what, "seconds": time.perf_counter() - self.began}
        logger.info("%s", row, extra={"softmix": row})
        self.progress(row)

    def _result(self, best: Run, runs: list[Run], gap: Gap | None) -> FitResult:
        assert best.state is not None
        point = best.state.point
        order = np.argsort(-point.weights, kind="stable")
        effective = np.exp(point.entropies)[order]
        distance = self.stepper.distance(best.state.remaining)
        for kind, message in self._doubts(best, point.weights[order], effective, distance):
            self._warn(kind, message)
        atoms = point.mixture.atoms[order]
        inference = reordered(self._inference(best), order, atoms.shape[1])
        self._event(
            "end", converged=best.converged, distance=distance, objective=point.objective,
            n_passes=self.stepper.passes.n_made,
        )  # fmt: skip
        return FitResult(
            weights=point.weights[order],
            atoms=self.coordinates.to_features(atoms),
            standard_atoms=atoms,
            log_likelihood=point.log_likelihood,
            objective=point.objective,
            effective_candidates=effective,
            converged=best.converged,
            verified=best.verified,
            distance=distance,
            n_passes=self.stepper.passes.n_made,
            n_draws=self.design.n_draws,
            n_candidates=self.design.n_candidates,
            feature_names=list(self.dataset.feature_names),
            history=best.history,
            starts=[_start_row(run, best) for run in runs],
            gap=None if gap is None else asdict(gap) | {"suggests_more": gap.suggests_more},
            sketch_rows=0 if self.sample is None else len(self.sample.z),
            kurtosis=self.kurtosis,
            covariance=inference.covariance,
            errors_from=inference.source,
            dispersion=inference.dispersion,
            warnings=self.warnings,
            seconds=time.perf_counter() - self.began,
        )

    def _doubts(
        self, best: Run, weights: Array, effective: Array, distance: float
    ) -> Iterator[tuple[type[SoftmixWarning], str]]:
        """Say what about the best run is to be doubted."""
        floor = min(10.0, 0.1 * float(np.exp(self.coordinates.base_entropy)))
        for k in np.flatnonzero(effective < floor):
            message = (
                f"component {k} (weight {weights[k]:.2g}) sits on "
                f"{effective[k]:.1f} effective candidates, so its atom is hardly identified; "
                "use l2 > 0 or fewer components"
            )
            yield CondensedComponentWarning, message
        if best.dropped:
            message = (
                f"{best.dropped} of {self.settings.n_components} components lost all their draws "
                "and were dropped; use fewer components or another start"
            )
            yield WarmStartWarning, message
        if not best.converged:
            reason = best.stopped or f"max_passes={self.settings.max_passes} ran out"
            message = (
                f"not converged: {reason}, at an estimated {distance:.2g} standard errors from "
                f"the maximum (tol={self.settings.tol}); the estimate may still move"
            )
            yield ConvergenceWarning, message


def _start_row(run: Run, best: Run) -> dict[str, Any]:
    return {
        "method": run.start.method,
        "sketch_log_likelihood": run.start.sketch_log_likelihood,
        "agrees": run.start.agrees,
        "start_passes": run.start.passes,
        "start_seconds": run.start.seconds,
        "notes": list(run.start.notes),
        "log_likelihood": run.state.point.log_likelihood if run.state else None,
        "objective": run.objective if run.state else None,
        "passes": len(run.history),
        "converged": run.converged,
        "stopped": run.stopped,
        "best": run is best,
    }
