"""The one loop: survey, starts, passes, stop.

A fit reads the data through an engine. Every iteration of every start alive is part of
one pass; starts that lag are dropped; the leader goes on until what is left to gain is
less than a small part of what the data can tell.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from softmix_dist.blocks import Array, Block
from softmix_dist.curvature import information
from softmix_dist.data.dataset import Dataset
from softmix_dist.engine import Engine, single_blas_thread
from softmix_dist.errors import (
    CondensedComponentWarning,
    ConvergenceWarning,
    InputError,
    NumericalError,
    SoftmixWarning,
    WarmStartWarning,
)
from softmix_dist.gap import Gap, estimate_gap
from softmix_dist.kernels import score
from softmix_dist.model import Coordinates, Mixture
from softmix_dist.results import FitResult, Settings
from softmix_dist.solve import em
from softmix_dist.solve.design import draws_mean
from softmix_dist.solve.newton import newton_step
from softmix_dist.solve.point import Point, evaluate
from softmix_dist.solve.sample import Sample
from softmix_dist.solve.starts import (
    explicit_start,
    mixture_at,
    predicted_normalisers,
    random_starts,
)
from softmix_dist.sums import DesignSums, ScoreSums
from softmix_dist.survey import survey
from softmix_dist.warm import Start, Warmer, WarmStarts

logger = logging.getLogger("softmix_dist")

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# Passes between two rounds in which the worse half of the starts is dropped.
_ROUND = 10
# Up to this many coefficients a claim of convergence is verified by the exact information;
# its pass costs K (K + 1) / 2 weighted Grams.
_LARGEST_INFORMATION = 600
# A component far outside the radius whose information is as small as this has no maximum.
_SEPARATED = 1e-4
_STUCK = "no step raised the likelihood"
# A start whose objective was never finite is moved at most this often.
_RESCUES = 8


@dataclass
class _Run:
    """One start on its way."""

    start: Start
    number: int
    proposal: Mixture
    predicted: Array
    dtype: np.dtype[Any]
    state: em.EMState | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    rounding: float = 0.0
    rescues: int = 0
    # Settled by EM's own estimate; converged when the exact information says so as well.
    settled: bool = False
    converged: bool = False
    verified: bool = False
    refuted: Point | None = None
    dropped: int = 0
    stopped: str | None = None

    @property
    def objective(self) -> float:
        return self.state.point.objective if self.state else -np.inf

    @property
    def alive(self) -> bool:
        return self.stopped is None

    @property
    def unproven(self) -> bool:
        return self.alive and self.settled and not self.converged


Progress = Callable[[dict[str, Any]], None]
_Group = tuple[tuple[Mixture, ...], np.dtype[Any]]


def _score_groups(block: Block, groups: Sequence[_Group]) -> tuple[tuple[ScoreSums, ...], ...]:
    block.check()
    return tuple(score(block, mixtures, dtype) for mixtures, dtype in groups)


def fit(
    dataset: Dataset, settings: Settings, engine: Engine, progress: Progress | None = None
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

    Returns
    -------
    FitResult

    Raises
    ------
    InputError, StoreError
        If the data or the settings cannot be used; lists every problem.
    NumericalError
        If no start has a finite likelihood.

    Warns
    -----
    ConvergenceWarning
        If the passes ran out before the criterion was met.
    CondensedComponentWarning
        If a component sits on hardly any candidates.
    """
    settings.check()
    with single_blas_thread():
        return _Fit(dataset, settings, engine, progress or (lambda row: None)).run()


class _Fit:
    """One fit: fixed data in ``__init__``, changing runs in `run`."""

    def __init__(self, dataset: Dataset, settings: Settings, engine: Engine, progress: Progress):
        self.settings = settings
        self.engine = engine
        self.progress = progress
        self.began = time.perf_counter()
        self.n_passes = 0
        self.n_before = 0
        self.warnings: list[str] = []
        self.dataset = dataset
        self.em = em.EMSettings(first_order=settings.solver == "em-first-order")
        seed = settings.random_state
        self.seed = int(np.random.default_rng().integers(2**63)) if seed is None else int(seed)
        self.sample: Sample | None = None
        self.kurtosis: list[float] | None = None

    def run(self) -> FitResult:
        # 1. Survey: check, load, whiten.
        self.design, self.coordinates = survey(
            self.dataset, self.engine, self.settings.n_components, self._surveyed
        )
        if self.settings.n_components > self.design.n_observed:
            raise InputError(
                f"n_components: {self.settings.n_components} components, but only "
                f"{self.design.n_observed} distinct candidates were observed; use fewer"
            )
        # 2. All starts move together: one pass evaluates the next step of each.
        runs = self._starts()
        self.n_before = self.n_passes
        rounds = 0
        while self._passes_left():
            active = [run for run in runs if run.alive and not run.settled]
            if not active or self._decided(runs):
                break
            for run, point in zip(active, self._evaluate(active), strict=True):
                self._advance(run, point)
            leader = self._leader(runs)
            self._tell(leader, len(active))
            if leader is not None and leader.unproven and self._passes_left():
                self._verify(leader)
                self._tell(leader, len(active))
            rounds += 1
            if rounds % _ROUND == 0:
                self._halve(runs)
        # 3. The best of them.
        best = self._leader(runs)
        if best is None or best.state is None:
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
        self.n_passes += n_passes
        return gap

    def _passes_left(self) -> bool:
        return self.n_passes < self.settings.max_passes + self.n_before

    def _starts(self) -> list[_Run]:
        """Find the starts; those that do not go on to the data stay in the report."""
        settings = self.settings
        n_components, n_features = settings.n_components, self.dataset.n_features
        dtype = _DOUBLE if settings.precision == "double" else _SINGLE
        if not isinstance(settings.init, str):
            given = explicit_start(settings.init, n_components, n_features, self.coordinates)
            found = [_plain_start("given", *given, self.coordinates)]
        elif settings.init == "random" or n_components == 1:
            rng = np.random.default_rng(self.seed)
            centre = draws_mean(self.design, self.coordinates)
            equal = np.full(n_components, 1 / n_components)
            n_starts = 1 if n_components == 1 else settings.n_init
            found = [
                _plain_start("random", equal, atoms, self.coordinates)
                for atoms in random_starts(
                    n_starts, n_components, centre, self.coordinates.radius, rng
                )
            ]
        else:
            warmer = Warmer(self.engine, settings, self.design, self.coordinates, self.seed)
            warm = warmer.run()
            self.n_passes += warm.n_passes
            self.sample = warm.sample
            self.kurtosis = warm.kurtosis.tolist()
            self._warm_started(warm)
            found = warm.starts
        runs = [
            _Run(start, number, start.mixture, start.predicted, dtype)
            for number, start in enumerate(found)
        ]
        if self.sample is not None:
            for run in runs:
                run.stopped = None if run.start.chosen else "behind on the sketch"
        return runs

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

    def _evaluate(self, runs: list[_Run]) -> list[Point]:
        """One pass over the data for the proposals of all runs."""
        dtypes = sorted({run.dtype for run in runs}, key=lambda dtype: dtype.itemsize)
        members = [[run for run in runs if run.dtype == dtype] for dtype in dtypes]
        groups = [
            (tuple(self.coordinates.to_frame(run.proposal) for run in group), dtype)
            for group, dtype in zip(members, dtypes, strict=True)
        ]
        sums = self.engine.reduce(partial(_score_groups, groups=groups))
        self.n_passes += 1
        points = {
            run.number: evaluate(
                run.proposal, s, self.coordinates, self.design.n_draws, self.settings.l2
            )
            for group, group_sums in zip(members, sums, strict=True)
            for run, s in zip(group, group_sums, strict=True)
        }
        return [points[run.number] for run in runs]

    def _advance(self, run: _Run, point: Point) -> None:
        rounding = _rounding(point, run.dtype)
        if run.state is None:
            if not self._begin(run, point):
                return
        else:
            kind = run.state.kind
            # The likelihood of the last point may still be one of single precision.
            tolerance = max(rounding, run.rounding)
            run.state = em.advance(run.state, point, self.em, tolerance)
            accepted = run.state.point is point
            if accepted and run.rounding > 2 * rounding:
                run.state = replace(run.state, gains=(), remaining=np.inf)
            self._record(run, kind, accepted, tolerance)
            run.rounding = rounding if accepted else run.rounding
        assert run.state is not None
        vanished = run.state.point.resp * self.design.n_draws < 1e-6
        if vanished.any():
            run.dropped += int(vanished.sum())
            run.state = em.drop_components(run.state, ~vanished, self.em)
        run.proposal, run.predicted = run.state.proposal, run.state.predicted
        left = run.state.remaining
        if run.dtype == _SINGLE and (left < 10 * rounding or run.state.stuck):
            if self.settings.precision == "single":
                run.stopped = "reached the noise of single precision"
                return
            # From here on float64: what is left to gain is less than float32 can tell.
            run.dtype = _DOUBLE
            run.state = em.start(run.state.point, self.em)
            run.proposal, run.predicted = run.state.proposal, run.state.predicted
        elif run.dtype == _DOUBLE and (self._distance(left) < self.settings.tol or run.state.stuck):
            # What was refuted at a point is not claimed there again.
            run.settled = run.state.stuck or run.state.point is not run.refuted

    def _verify(self, run: _Run) -> None:
        """Claim convergence, or go on, by the exact information at the accepted point."""
        assert run.state is not None
        point, settings = run.state.point, self.settings
        if point.mixture.atoms.size > _LARGEST_INFORMATION:
            run.converged = self._distance(run.state.remaining) < settings.tol
            run.stopped = None if run.converged or not run.state.stuck else _STUCK
            return
        # One pass more, and its row.
        mixture = self.coordinates.to_frame(point.mixture)
        sums = self.engine.reduce(partial(information, mixture=mixture))
        self.n_passes += 1
        step = newton_step(point, sums, self.coordinates, self.design.n_draws)
        run.state = replace(run.state, remaining=step.gain)
        self._record(run, "information", True, run.rounding)
        norms = np.linalg.norm(point.mixture.atoms, axis=1)
        far = norms > 2 * self.coordinates.radius
        if settings.l2 == 0 and far.any() and step.lowest < _SEPARATED:
            k = int(np.argmax(norms))
            feature = self.dataset.feature_names[int(np.argmax(np.abs(point.mixture.atoms[k])))]
            run.stopped = (
                f"the maximum lies at infinity (separation): the component of weight "
                f"{point.weights[k]:.2g} runs off along feature {feature!r}; use l2 > 0"
            )
            return
        run.converged = run.verified = self._distance(step.gain) < settings.tol
        if run.converged:
            return
        if settings.solver == "em-first-order":
            run.settled, run.refuted = False, point
            run.state = replace(run.state, remaining=np.inf)
            return
        if run.state.stuck:
            run.stopped = _STUCK if step.curved else "the likelihood is flat or has a saddle there"
            return
        run.settled, run.refuted = False, point
        run.state = em.follow(run.state, step.mixture, step.predicted)
        run.proposal, run.predicted = run.state.proposal, run.state.predicted

    def _begin(self, run: _Run, point: Point) -> bool:
        """Accept a start when its normalisers were predicted well enough, else repeat it."""
        off = em.surprise(point, run.predicted)
        if off > em.MAX_SURPRISE and run.rescues < _RESCUES and self._passes_left():
            run.rescues += 1
            # The next pass has the wanted weights exactly; where the sums overflowed or
            # vanished, the offsets are moved until they do neither.
            shift = np.where(np.isfinite(point.log_normalisers), 0.0, 600.0)
            shift = np.where(point.log_normalisers == -np.inf, -600.0, shift)
            exact = np.where(shift == 0, point.log_normalisers, run.predicted + shift)
            run.proposal = Mixture(run.proposal.offsets + run.predicted - exact, run.proposal.atoms)
            run.predicted = exact
            return False
        if not np.isfinite(point.log_likelihood):
            run.stopped = "the likelihood is not finite"
            return False
        run.state = em.start(point, self.em)
        run.rounding = _rounding(point, run.dtype)
        self._record(run, "start", True, run.rounding)
        return True

    def _record(self, run: _Run, kind: str, accepted: bool, rounding: float) -> None:
        assert run.state is not None
        point = run.state.point
        slopes = np.concatenate([part.ravel() for part in point.gradient])
        run.history.append(
            {
                "pass": self.n_passes,
                "log_likelihood": point.log_likelihood,
                "objective": point.objective,
                "gradient": float(np.abs(slopes).max()),
                "distance": self._distance(run.state.remaining),
                "step": kind if accepted else f"{kind} rejected",
                "precision": run.dtype.name,
                "rounding": rounding,
                "seconds": time.perf_counter() - self.began,
            }
        )

    def _distance(self, remaining: float) -> float:
        """Distance to the maximum in standard errors, from what is left to gain."""
        return float(np.sqrt(2 * self.design.n_draws * max(remaining, 0.0)))

    def _leader(self, runs: list[_Run]) -> _Run | None:
        # A start that was dropped may look better by the rounding of single precision.
        scored = [run for run in runs if run.state is not None and run.stopped != "behind"]
        return max(scored, key=lambda run: (run.objective, -run.number), default=None)

    def _decided(self, runs: list[_Run]) -> bool:
        """Whether the leader converged and nobody alive can be expected to pass it."""
        leader = self._leader(runs)
        if leader is None or not leader.converged:
            return False
        return all(
            run.settled
            or (run.state is not None and run.objective + run.state.remaining < leader.objective)
            for run in runs
            if run.alive
        )

    def _halve(self, runs: list[_Run]) -> None:
        """Drop the worse half of the starts alive."""
        alive = sorted((run for run in runs if run.alive), key=lambda run: -run.objective)
        for run in alive[(len(alive) + 1) // 2 :]:
            run.stopped = "behind"

    def _warn(self, kind: type[SoftmixWarning], message: str) -> None:
        self.warnings.append(message)
        warnings.warn(message, kind, stacklevel=5)

    def _tell(self, leader: _Run | None, alive: int) -> None:
        if leader is not None:
            row = {**leader.history[-1], "pass": self.n_passes}
            self._event("pass", start=leader.number, alive=alive, **row)

    def _surveyed(self, sums: DesignSums, plan: str) -> None:
        self.n_passes += 1
        self._event("survey", plan=plan, n_draws=sums.n_draws, n_candidates=sums.n_candidates)

    def _event(self, phase: str, **what: Any) -> None:
        row = {"phase": phase, **what, "seconds": time.perf_counter() - self.began}
        logger.info("%s", row, extra={"softmix": row})
        self.progress(row)

    def _result(self, best: _Run, runs: list[_Run], gap: Gap | None) -> FitResult:
        assert best.state is not None
        point = best.state.point
        order = np.argsort(-point.weights, kind="stable")
        effective = np.exp(point.entropies)[order]
        floor = min(10.0, 0.1 * float(np.exp(self.coordinates.base_entropy)))
        for k in np.flatnonzero(effective < floor):
            self._warn(
                CondensedComponentWarning,
                f"component {k} (weight {point.weights[order][k]:.2g}) sits on "
                f"{effective[k]:.1f} effective candidates, so its atom is hardly identified; "
                "use l2 > 0 or fewer components",
            )
        if best.dropped:
            self._warn(
                WarmStartWarning,
                f"{best.dropped} of {self.settings.n_components} components lost all their draws "
                "and were dropped; use fewer components or another start",
            )
        distance = self._distance(best.state.remaining)
        if not best.converged:
            reason = best.stopped or f"max_passes={self.settings.max_passes} ran out"
            self._warn(
                ConvergenceWarning,
                f"not converged: {reason}, at an estimated {distance:.2g} standard errors from "
                f"the maximum (tol={self.settings.tol}); the estimate may still move",
            )
        atoms = point.mixture.atoms[order]
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
            n_passes=self.n_passes,
            n_draws=self.design.n_draws,
            n_candidates=self.design.n_candidates,
            feature_names=list(self.dataset.feature_names),
            history=best.history,
            starts=[_start_row(run, best) for run in runs],
            gap=None if gap is None else asdict(gap) | {"suggests_more": gap.suggests_more},
            sketch_rows=0 if self.sample is None else len(self.sample.z),
            kurtosis=self.kurtosis,
            warnings=self.warnings,
            seconds=time.perf_counter() - self.began,
        )


def _plain_start(method: str, weights: Array, atoms: Array, coordinates: Coordinates) -> Start:
    mixture = mixture_at(weights, atoms, coordinates)
    return Start(method, mixture, predicted_normalisers(atoms, coordinates))


def _start_row(run: _Run, best: _Run) -> dict[str, Any]:
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


def _rounding(point: Point, dtype: np.dtype[Any]) -> float:
    """Bound on the rounding error of the objective between two passes, nats per draw."""
    if not np.isfinite(point.log_likelihood):
        return 0.0
    return 8 * float(np.finfo(dtype).eps) * (1 + abs(point.log_likelihood))
