"""Starts on their way: each step of each, its precision, and the claim that it converged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from softmix_dist.blocks import Array
from softmix_dist.engine import Engine
from softmix_dist.model import Coordinates, Mixture
from softmix_dist.passes import Passes
from softmix_dist.results import Settings
from softmix_dist.solve import em
from softmix_dist.solve.finish import finish
from softmix_dist.solve.inference import known_well
from softmix_dist.solve.information import Curvature, sketched_curvature
from softmix_dist.solve.krylov import ProductCurvature, curvature_at
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import LARGEST_MATRIX, Sample
from softmix_dist.solve.separation import directions, in_words, running_off, suspects
from softmix_dist.solve.starts import Start
from softmix_dist.sums import DesignSums

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# Curvature taken nearer than this, in complete-data units, is that of the point.
_NEAR = 0.05
# The sketch's curvature is good enough while what is left to gain shrinks by this in as many
# passes.
_SHRINKS, _WITHIN = 0.1, 5
# Newton's steps on the driver that a slow run may ask for: how often, how many at a time, and
# rows times squared coefficients times steps at most.
_FINISHES, _FINISH_STEPS, _FINISH_WORK = 10, 100, 2e11
# A fit that did not converge has standard errors where it is as near, in standard errors.
_NEAR_ENOUGH = 1.0
# A slow run is looked at for separation again when its largest norm has grown by this.
_GROWN = 1.02
_STUCK = "no step raised the likelihood"
# A start whose objective was never finite is moved at most this often.
_RESCUES = 8


@dataclass
class Run:
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
    # Settled by the estimate at hand; converged when what it rests on was verified as well.
    settled: bool = False
    converged: bool = False
    verified: bool = False
    refuted: Point | None = None
    # The exact curvature that was last taken, and where.
    proof: tuple[Point, Curvature] | None = None
    dropped: int = 0
    stopped: str | None = None
    finishes: int = 0
    # Largest norm at which separation was last looked for.
    looked: float = 0.0
    # What was left to gain at each accepted point since the curvature was last renewed.
    left: list[float] = field(default_factory=list)

    @property
    def objective(self) -> float:
        """Of the last accepted point, nats per draw."""
        return self.state.point.objective if self.state else -np.inf

    @property
    def alive(self) -> bool:
        """Whether it still moves."""
        return self.stopped is None

    @property
    def unproven(self) -> bool:
        """Whether it claims to have converged, and nobody looked."""
        return self.alive and self.settled and not self.converged


class Stepper:
    """Moves runs, a pass at a time.

    Attributes
    ----------
    passes : Passes
        Over the data so far: those before it was made, ``n_passes``, and its own.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        design: DesignSums,
        coordinates: Coordinates,
        sample: Sample | None,
        feature_names: Sequence[str],
        began: float,
        n_passes: int,
    ):
        self.engine = engine
        self.settings = settings
        self.design = design
        self.coordinates = coordinates
        self.sample = sample
        self.feature_names = feature_names
        self.began = began
        self.passes = Passes(engine, design, coordinates, sample, settings.l2, n_passes)
        self.em = em.EMSettings(first_order=settings.solver == "em-first-order")

    def step(self, runs: Sequence[Run]) -> None:
        """Move each by one step: one pass over the data for all of them."""
        points = self.passes.points([(run.proposal, run.dtype) for run in runs])
        for run, point in zip(runs, points, strict=True):
            self._advance(run, point)

    def distance(self, remaining: float) -> float:
        """Distance to the maximum in standard errors, from what is left to gain."""
        return float(np.sqrt(2 * self.design.n_draws * max(remaining, 0.0)))

    def information_at(self, run: Run, source: str) -> tuple[Curvature, str] | None:
        """Curvature at the final point: from the sketch where that is good enough, or exact.

        None where none was asked for, the matrix would be too large, or the point is too far
        from the maximum for it to mean anything.
        """
        assert run.state is not None
        point = run.state.point
        size = point.mixture.n_coefficients
        far = not (run.converged or self.distance(run.state.remaining) < _NEAR_ENOUGH)
        if source == "none" or size > LARGEST_MATRIX:
            return None
        proven = run.proof is not None and run.proof[0] is point
        if run.proof is not None and proven and (run.proof[1].flat or not far):
            return run.proof[1], "exact"
        if far:
            return None
        # The sandwich has the curvature twice, so that a sketch's error would count double.
        if source in ("sketch", "scaled") and self.sample is not None:
            curvature = sketched_curvature(point, self.sample)
            if known_well(curvature) or not self.passes.in_one(size):
                return curvature, "exact" if self.sample.is_all else "sketch"
        return self.passes.matrix(point), "exact"

    def verify(self, run: Run) -> None:
        """Claim convergence, or go on, by curvature that is known well enough."""
        assert run.state is not None
        state, point = run.state, run.state.point
        # 1. By the sketch, where its errors leave no doubt.
        known, slope = state.curvature, em.slope_at(point)
        if known is not None and not (known.partial or state.stuck) and em.moved(state) <= _NEAR:
            most = known.most(slope)
            if self.distance(most) < self.settings.tol:
                run.converged = run.verified = not self._separated(run, state.curvature)
                return
        # 2. By all data, in passes more, and their row.
        whole = self.passes.curvature(state.point, state.curvature)
        gain = whole.gain(slope) if self._bends_down(state) else whole.most(slope)
        exact = whole.seen(slope)
        run.proof = None if exact.partial else (point, exact)
        run.state = replace(run.state, remaining=gain)
        self._record(run, "information", True, run.rounding)
        ended = self.distance(gain) < self.settings.tol or exact.flat or state.stuck
        if ended and self._separated(run, exact):
            return
        run.converged = run.verified = self.distance(gain) < self.settings.tol
        if run.converged:
            return
        if exact.flat and self.distance(exact.gain(slope, flat=True)) < self.settings.tol:
            run.stopped = "the likelihood is flat in some direction there"
            return
        run.settled, run.refuted = False, point
        if self.settings.solver == "em-first-order":
            run.state = replace(run.state, remaining=np.inf)
            return
        if state.stuck and not exact.curved and run.dtype == DOUBLE:
            run.stopped = "the likelihood is flat or has a saddle there"
            return
        if state.stuck and state.curvature is not None and not state.curvature.sampled:
            run.stopped = _STUCK
            return
        run.state = em.bent(replace(run.state, radius=np.inf), exact, self.em)
        run.proposal, run.predicted = run.state.proposal, run.state.predicted
        run.left = []

    def _advance(self, run: Run, point: Point) -> None:
        rounding = _rounding(point, run.dtype)
        if run.state is None:
            if not self._begin(run, point):
                return
        else:
            kind = run.state.kind
            # The likelihood of the last point may still be one of single precision.
            tolerance = max(rounding, run.rounding)
            if kind == "again":
                tolerance = max(tolerance, abs(point.objective - run.objective))
            run.state = em.advance(run.state, point, self.em, tolerance)
            accepted = run.state.point is point
            if accepted and run.rounding > 2 * rounding:
                run.state = replace(run.state, gains=())
            self._record(run, kind, accepted, tolerance)
            if not accepted and run.rounding > 2 * _rounding(run.state.point, run.dtype):
                # The last point was judged in single precision: perhaps it is not so high.
                run.state = em.revisit(run.state)
                run.proposal, run.predicted = run.state.proposal, run.state.predicted
                return
            run.rounding = rounding if accepted else run.rounding
        assert run.state is not None
        vanished = run.state.point.resp * self.design.n_draws < 1e-6
        if vanished.any():
            run.dropped += int(vanished.sum())
            run.state = em.drop_components(run.state, ~vanished, self.em)
        self._renew(run)
        run.proposal, run.predicted = run.state.proposal, run.state.predicted
        left = run.state.remaining
        if run.dtype == SINGLE and (left < 10 * rounding or run.state.stuck):
            if self.settings.precision == "single":
                run.stopped = "reached the noise of single precision"
                return
            # From here on float64: what is left to gain is less than float32 can tell.
            run.dtype = DOUBLE
            run.state = em.again(run.state, self.em)
            run.proposal, run.predicted = run.state.proposal, run.state.predicted
        elif run.dtype == DOUBLE and (self.distance(left) < self.settings.tol or run.state.stuck):
            # What was refuted at a point is not claimed there again.
            run.settled = run.state.stuck or run.state.point is not run.refuted

    def _renew(self, run: Run) -> None:
        """Take the curvature at the accepted point, where that helps."""
        assert run.state is not None
        state = run.state
        if self.settings.solver not in ("auto", "newton") or self.sample is None:
            return
        size = state.point.mixture.n_coefficients
        run.left.append(state.remaining)
        slow = len(run.left) > _WITHIN and not run.left[-1] < _SHRINKS * run.left[-1 - _WITHIN]
        norm = float(np.linalg.norm(state.point.mixture.atoms, axis=1).max())
        if slow and run.dtype == DOUBLE and norm > _GROWN * run.looked:
            run.looked = norm
            if self._separated(run, state.curvature):
                return
        if slow and run.dtype == DOUBLE and self._finish(run):
            return
        on_data = self.passes.in_one(size) or not self.sample.is_all
        if slow and on_data and run.dtype == DOUBLE:
            exact = self.passes.curvature(state.point, state.curvature)
            run.state = em.bent(state, exact.seen(em.slope_at(state.point)), self.em)
            self._record(run, "information", True, run.rounding)
            run.left = []
            return
        known, moved = state.curvature, em.moved(state)
        better = known is None or known.sampled or self.sample.is_all
        if moved > _NEAR and better:
            run.state = em.bent(state, curvature_at(state.point, self.sample), self.em)

    def _finish(self, run: Run) -> bool:
        """Propose the end of Newton's steps on the driver, where the sketch is all data."""
        assert run.state is not None
        sample, point = self.sample, run.state.point
        size = point.mixture.n_coefficients
        if sample is None or not sample.is_all or run.finishes == _FINISHES:
            return False
        steps = int(_FINISH_WORK // (len(sample.z) * size**2))
        if not steps:
            return False
        run.finishes += 1
        shift = self.coordinates.log_candidates
        begin = Mixture(np.log(point.weights) - point.log_normalisers + shift, point.mixture.atoms)
        tol = 0.5 * (0.1 * self.settings.tol) ** 2 / self.design.n_draws
        end = finish(sample, begin, min(steps, _FINISH_STEPS), tol)
        if not end.objective - shift > point.objective + run.rounding:
            # It stands still there: again would cost as much and bring as little.
            run.finishes = _FINISHES
            return False
        predicted = end.log_normalisers + shift
        proposal = Mixture(np.log(end.weights) - predicted, end.mixture.atoms)
        # The curvature here says nothing of the end: it is taken when that is accepted.
        run.state = replace(
            em.start(point, self.em),
            kind="newton",
            proposal=proposal,
            predicted=predicted,
            remaining=np.inf,
        )
        run.left = []
        return True

    def _bends_down(self, state: em.EMState) -> bool:
        """Whether the sketch says so, for directions that the slope does not show."""
        curvature, slope = state.curvature, em.slope_at(state.point)
        return curvature is not None and np.isfinite(curvature.most(slope))

    def _separated(self, run: Run, curvature: Curvature | ProductCurvature | None) -> bool:
        """Stop a run one of whose components has its maximum at infinity.

        Products show no direction but that of the slope, which does not say it.
        """
        assert run.state is not None
        point = run.state.point
        if self.settings.l2 > 0 or not isinstance(curvature, Curvature) or curvature.partial:
            return False
        found = suspects(point, curvature, self.design.n_draws)
        if not found:
            return False
        # One pass: whether all draws sit at the extreme is for all candidates to say.
        reach = self.passes.reach(directions(found))
        suspect = running_off(point, found, reach, self.design.n_draws)
        if suspect is not None:
            run.stopped = in_words(suspect, point, self.coordinates, self.feature_names)
        return suspect is not None

    def _begin(self, run: Run, point: Point) -> bool:
        """Accept a start when its normalisers were predicted well enough, else repeat it."""
        off = em.surprise(point, run.predicted)
        if off > em.MAX_SURPRISE and run.rescues < _RESCUES:
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

    def _record(self, run: Run, kind: str, accepted: bool, rounding: float) -> None:
        assert run.state is not None
        point = run.state.point
        slopes = np.concatenate([part.ravel() for part in point.gradient])
        run.history.append(
            {
                "pass": self.passes.n_made,
                "log_likelihood": point.log_likelihood,
                "objective": point.objective,
                "gradient": float(np.abs(slopes).max()),
                "distance": self.distance(run.state.remaining),
                "step": kind if accepted else f"{kind} rejected",
                "precision": run.dtype.name,
                "rounding": rounding,
                "bytes_read": self.engine.bytes_read,
                "seconds": time.perf_counter() - self.began,
            }
        )


def _rounding(point: Point, dtype: np.dtype[Any]) -> float:
    """Bound on the rounding error of the objective between two passes, nats per draw."""
    if not np.isfinite(point.log_likelihood):
        return 0.0
    return 8 * float(np.finfo(dtype).eps) * (1 + abs(point.log_likelihood))
