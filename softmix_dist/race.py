"""Starts against each other: every iteration of all of them is part of one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from softmix_dist.runs import Run, Stepper

# Passes between two rounds in which the worse half of the starts is dropped.
_ROUND = 10


class Race:
    """The starts of one fit.

    Attributes
    ----------
    runs : list of Run
    """

    def __init__(self, runs: list[Run]):
        self.runs = runs
        self._passes = 0

    @property
    def leader(self) -> Run | None:
        """The best that was evaluated; None before the first pass."""
        # A start that was dropped may look better by the rounding of single precision.
        scored = [run for run in self.runs if run.state is not None and run.stopped != "behind"]
        return max(scored, key=lambda run: (run.objective, -run.number), default=None)

    @property
    def active(self) -> list[Run]:
        """Those that the next pass moves; none when it is decided."""
        moving = [run for run in self.runs if run.alive and not run.settled]
        return [] if self._decided() else moving

    def _decided(self) -> bool:
        """Whether the leader converged and nobody alive can be expected to pass it."""
        leader = self.leader
        if leader is None or not leader.converged:
            return False
        return all(
            run.settled
            or (run.state is not None and run.objective + run.state.remaining < leader.objective)
            for run in self.runs
            if run.alive
        )

    def passed(self) -> None:
        """Drop the worse half of the starts alive, every so many passes."""
        self._passes += 1
        if self._passes % _ROUND:
            return
        alive = sorted((run for run in self.runs if run.alive), key=lambda run: -run.objective)
        for run in alive[(len(alive) + 1) // 2 :]:
            run.stopped = "behind"


def run_races(
    stepper: Stepper,
    races: Sequence[Race],
    passes_left: Callable[[], bool],
    tell: Callable[[Race, int], None],
) -> None:
    """Move all runs of all races, a pass at a time, until each race is decided.

    Parameters
    ----------
    stepper : Stepper
    races : sequence of Race
    passes_left : callable
        Whether one more pass may be made.
    tell : callable
        Called with each race and the number of runs that moved, after each pass.
    """
    while passes_left():
        active = [race.active for race in races]
        moving = [run for runs in active for run in runs]
        if not moving:
            break
        stepper.step(moving)
        for race, runs in zip(races, active, strict=True):
            if not runs:
                continue
            tell(race, len(runs))
            leader = race.leader
            if leader is not None and leader.unproven and passes_left():
                stepper.verify(leader)
                tell(race, len(runs))
            race.passed()
