"""Changes of a problem, and what the mathematics says becomes of its fit.

Each takes a `Problem` and a generator, and returns the changed problem, whose truth is the same
mixture in its own coordinates, with what else follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from problems import Problem

Array = np.ndarray


@dataclass(frozen=True)
class Changed:
    """A changed problem, and how results of the first one become results of this one."""

    problem: Problem
    # To the log-likelihood, nats per draw.
    log_likelihood: float = 0.0
    # To the log-probabilities of the candidates, (p,) -> (p',).
    log_prob: Callable[[Array], Array] = field(default=lambda log_prob: log_prob)
    # (L, L): atoms are multiplied with it from the right.
    mix: Array | None = None
    # Draws are so many times as many.
    times: int = 1

    def atoms(self, atoms: Array) -> Array:
        """Atoms (K, L) in the coordinates of the changed features."""
        return atoms if self.mix is None else atoms @ self.mix

    def covariance(self, covariance: Array) -> Array:
        """Covariance of the weights, then the atoms row by row."""
        if self.mix is None:
            return covariance / self.times
        n_features = len(self.mix)
        n_components = len(covariance) // (n_features + 1)
        whole = np.eye(len(covariance))
        whole[n_components:, n_components:] = np.kron(np.eye(n_components), self.mix.T)
        return whole @ covariance @ whole.T / self.times


def _base(problem: Problem) -> Array:
    return np.zeros(len(problem.counts)) if problem.log_base is None else problem.log_base


def candidates_in_another_order(problem: Problem, rng: np.random.Generator) -> Changed:
    order = rng.permutation(len(problem.counts))
    base = None if problem.log_base is None else problem.log_base[order]
    moved = replace(
        problem, features=problem.features[order], counts=problem.counts[order], log_base=base
    )
    return Changed(moved, log_prob=lambda log_prob: log_prob[order])


def components_in_another_order(problem: Problem, rng: np.random.Generator) -> Changed:
    order = rng.permutation(len(problem.weights))
    return Changed(replace(problem, weights=problem.weights[order], atoms=problem.atoms[order]))


def shifted_features(problem: Problem, rng: np.random.Generator) -> Changed:
    """By years or prices: up to a thousand times their spread."""
    n_features = problem.features.shape[1]
    by = rng.choice([-2000.0, -1.5, 0.1, 3.0, 1990.0], n_features)
    return Changed(replace(problem, features=problem.features.astype(np.float64) + by))


def recombined_features(problem: Problem, rng: np.random.Generator) -> Changed:
    """Turned, stretched by up to 10 and expressed in other units, from 1e-6 to 1e6."""
    n_features = problem.features.shape[1]
    turn, _ = np.linalg.qr(rng.standard_normal((n_features, n_features)))
    stretch = rng.uniform(1, 10, n_features)
    units = 10.0 ** rng.integers(-6, 7, n_features)
    mix = turn * stretch[:, None] @ np.diag(units)
    back = np.linalg.inv(mix).T
    moved = replace(
        problem, features=problem.features.astype(np.float64) @ mix, atoms=problem.atoms @ back
    )
    return Changed(moved, mix=back)


def split_candidates(problem: Problem, rng: np.random.Generator) -> Changed:
    """Some become two, alike, with half the base measure each and the draws shared out anyhow."""
    p = len(problem.counts)
    chosen = rng.choice(p, rng.integers(1, min(p, 4) + 1), replace=False)
    drawn = problem.counts[chosen]
    kept = rng.binomial(drawn.astype(np.int64), rng.choice([0.0, 0.3, 0.5, 1.0], len(chosen)))
    counts, base = problem.counts.copy(), _base(problem).copy()
    counts[chosen] = kept
    base[chosen] -= np.log(2)
    moved = replace(
        problem,
        features=np.concatenate([problem.features, problem.features[chosen]]),
        counts=np.concatenate([counts, (drawn - kept).astype(counts.dtype)]),
        log_base=np.concatenate([base, base[chosen]]),
    )

    def log_prob(before: Array) -> Array:
        after = before.copy()
        after[chosen] -= np.log(2)
        return np.concatenate([after, after[chosen]])

    return Changed(moved, -np.log(2) * drawn.sum() / problem.counts.sum(), log_prob)


def more_draws(problem: Problem, rng: np.random.Generator) -> Changed:
    times = int(rng.choice([2, 3, 10, 1000]))
    return Changed(replace(problem, counts=problem.counts.astype(np.uint64) * times), times=times)


def unavailable_candidates(problem: Problem, rng: np.random.Generator) -> Changed:
    """Far off, anywhere among the others."""
    p, n_features = problem.features.shape
    n_gone = int(rng.integers(1, 9))
    gone = (1000 * rng.standard_normal((n_gone, n_features))).astype(problem.features.dtype)
    order = rng.permutation(p + n_gone)

    def join(values: Array, more: Array) -> Array:
        return np.concatenate([values, more])[order]

    nowhere = np.full(n_gone, -np.inf)
    moved = replace(
        problem,
        features=join(problem.features, gone),
        counts=join(problem.counts, np.zeros(n_gone, problem.counts.dtype)),
        log_base=join(_base(problem), nowhere),
    )
    return Changed(moved, log_prob=lambda log_prob: join(log_prob, nowhere))


def several_samples(problem: Problem, rng: np.random.Generator) -> Changed:
    """Draws dealt out to samples, in any order: merging them is what came before."""
    n_samples = int(rng.integers(1, 6))
    shares = rng.dirichlet(np.ones(n_samples))
    dealt = [rng.multinomial(int(n), shares) for n in problem.counts]
    return Changed(replace(problem, counts=np.array(dealt).T.astype(problem.counts.dtype)))


def higher_base_measure(problem: Problem, rng: np.random.Generator) -> Changed:
    return Changed(replace(problem, log_base=_base(problem) + rng.uniform(-50, 50)))


CHANGES = {
    change.__name__: change
    for change in (
        candidates_in_another_order,
        components_in_another_order,
        shifted_features,
        recombined_features,
        split_candidates,
        more_draws,
        unavailable_candidates,
        several_samples,
        higher_base_measure,
    )
}
