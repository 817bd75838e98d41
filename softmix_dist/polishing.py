"""Starts on a sketch: polished, compared, and those chosen that go on to the whole data."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from softmix_dist.model import Coordinates
from softmix_dist.results import Settings
from softmix_dist.solve.escape import doubtful, escape
from softmix_dist.solve.finish import newton_steps, polish
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import Sample
from softmix_dist.solve.starts import Start, start_at

# Short EM leaves an objective this far from its maximum, nats per draw.
_UNSETTLED = 2e-4
# Atoms within this of each other's are on their way to the same optimum.
_ALIKE = 0.05
# Starts that differ by less on the sketch, in nats per draw, are the same optimum.
_SAME = 1e-6
# Before they are polished they agree when they differ by less.
_CLOSE = 1e-5
# Multiplications that Newton's steps of one polish may cost; where so many steps are not to be
# had, fewer starts are polished.
_FINISHED, _POLISH_STEPS = 2e10, 40
# The same where only the best start is polished, again and again.
_ESCAPED = 1e11
# Starts that go on to the whole data at most.
_MOST_KEPT = 6
# Starts that are polished at most.
_MOST_POLISHED = 8
# Standard deviations of a difference on the sketch within which it decides nothing.
_DOUBT = 3.0


class Polisher:
    """Polishes the starts of one fit.

    Parameters
    ----------
    settings : Settings
    coordinates : Coordinates
    rng : Generator
    """

    def __init__(self, settings: Settings, coordinates: Coordinates, rng: np.random.Generator):
        self.settings = settings
        self.coordinates = coordinates
        self.rng = rng

    def most(self, sample: Sample) -> int:
        """Return how many starts of one method are worth polishing at most."""
        few = newton_steps(sample, self.settings.n_components, _FINISHED) < _POLISH_STEPS
        return _MOST_KEPT if few else _MOST_POLISHED

    def refined(self, found: list[Start], sample: Sample) -> list[Start]:
        """Polish what may be the best, best first, and look for ways out of that."""
        if self._plain(found, sample):
            return found
        return self._escaped(self._settled(found, sample), sample)

    def _plain(self, found: list[Start], sample: Sample) -> bool:
        """Whether a part of the data shows one optimum only, of which the draws tell enough.

        Then there is nothing to compare, and the passes over all data go on from short EM.
        """
        near = [start for start in found if _in_reach(found[0], start, sample, _UNSETTLED)]
        one = len(near) > 1 and all(_alike(found[0], start) for start in near)
        if sample.is_all or not one:
            return False
        affordable = newton_steps(sample, self.settings.n_components, _ESCAPED) > 0
        return affordable and not doubtful(sample, self._point(found[0], sample)).size

    def _settled(self, found: list[Start], sample: Sample) -> list[Start]:
        """Polish the starts that may belong to the best optimum, each optimum once.

        Short EM leaves where components nearly coincide further to go than optima differ:
        on one problem six starts, 1e-5 to 1e-4 nats per draw short, ended within 3e-6 of
        each other, and the last of them was the best.
        """
        best = found[0]
        polished: list[tuple[Start, Start]] = []
        for i, start in enumerate(found):
            if len(polished) == self.most(sample):
                break
            if not _in_reach(best, start, sample, _UNSETTLED):
                continue
            twin = next((end for begin, end in polished if _alike(begin, start)), None)
            if twin is None:
                found[i] = self._polished(start, sample, best.objective)
                best = max(best, found[i], key=lambda start: start.objective)
                polished.append((start, found[i]))
            else:
                found[i] = replace(
                    twin, method=start.method, seconds=start.seconds, notes=start.notes
                )
        return sorted(found, key=lambda start: -start.objective)

    def _escaped(self, found: list[Start], sample: Sample) -> list[Start]:
        """Look for ways out of the best optimum, even where several methods found it."""
        best = found[0]
        if self.settings.init not in ("auto", "search"):
            return found
        began = time.perf_counter()
        higher = escape(sample, self._point(best, sample), self.rng, _ESCAPED)
        if higher.objective <= best.objective:
            return found
        seconds = time.perf_counter() - began
        return [start_at("search", higher, self.coordinates, best.passes, seconds), *found]

    def _polished(self, start: Start, sample: Sample, bar: float) -> Start:
        point = polish(sample, start.on_sketch(self.coordinates), _FINISHED, bar)
        return start_at(
            start.method, point, self.coordinates, start.passes, start.seconds, start.notes
        )

    def _point(self, start: Start, sample: Sample) -> Point:
        return sample.points([start.on_sketch(self.coordinates)], np.float64)[0]


def agree(starts: list[Start]) -> bool:
    """Whether more than one method came near the best objective."""
    best = max(start.objective for start in starts)
    return len({start.method for start in starts if best - start.objective < _CLOSE}) > 1


def choose(found: list[Start], sample: Sample) -> list[Start]:
    """Mark those that go on to the whole data, and those that agree with the best; sort them.

    Parameters
    ----------
    found : list of Start
        Best first.
    sample : Sample

    Returns
    -------
    list of Start
        Those that go on first, each by its objective.
    """
    _mark(found, sample)
    found.sort(key=lambda start: (not start.chosen, -start.objective))
    for start in found:
        start.agrees = found[0].objective - start.objective < _SAME
    return found


def _mark(starts: list[Start], sample: Sample) -> None:
    """Mark, best first, the starts that go on to the whole data.

    The best one, and those at other optima which the sketch cannot tell from it.
    """
    best = starts[0]
    kept: list[Start] = []
    for start in starts:
        same = any(abs(start.objective - other.objective) < _SAME for other in kept)
        start.chosen = len(kept) < _MOST_KEPT and not same and _in_reach(best, start, sample)
        kept += [start] if start.chosen else []


def _alike(a: Start, b: Start) -> bool:
    """Whether two starts are on their way to the same optimum."""
    if abs(a.objective - b.objective) > _SAME or a.mixture.n_components != b.mixture.n_components:
        return False
    gaps = np.linalg.norm(a.mixture.atoms[:, None] - b.mixture.atoms[None], axis=2)
    return bool(max(gaps.min(axis=0).max(), gaps.min(axis=1).max()) < _ALIKE)


def _in_reach(best: Start, start: Start, sample: Sample, within: float = 0.0) -> bool:
    """Whether a start may be the best on all data, for all that a sample can tell."""
    behind = best.objective - start.objective
    return behind <= within or behind <= _DOUBT * sample.noise(best.mixture, start.mixture)
