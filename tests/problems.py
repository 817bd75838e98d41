"""Small problems with a known truth, and how the tests fit them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softmix_dist.data.memory import ArrayDataset
from softmix_dist.engine import LocalEngine
from softmix_dist.fit import FitResult, Settings, fit


@dataclass(frozen=True)
class Problem:
    """Features (p, L), counts (p,), and the mixture that they were drawn from."""

    features: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    atoms: np.ndarray
    log_base: np.ndarray | None = None

    @property
    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        return self.weights, self.atoms

    def dataset(self, block_rows: int | None = None, **changes: Any) -> ArrayDataset:
        changed = replace(self, **changes)
        return ArrayDataset.of(
            changed.features, changed.counts, changed.log_base, block_rows=block_rows
        )


def simulate(
    n_candidates: int,
    n_features: int,
    n_components: int,
    n_draws: int,
    *,
    norm: float = 2.0,
    seed: int = 0,
    dtype: Any = np.float32,
    base: bool = False,
    law: str = "gaussian",
) -> Problem:
    """Features of some law, atoms of one norm, multinomial counts."""
    rng = np.random.default_rng(seed)
    features = draw_features(law, (n_candidates, n_features), rng).astype(dtype)
    atoms = rng.standard_normal((n_components, n_features))
    atoms *= norm / np.linalg.norm(atoms, axis=1, keepdims=True)
    weights = rng.dirichlet(np.full(n_components, 5.0))
    log_base = rng.normal(0.0, 0.5, n_candidates) if base else None
    logits = features.astype(float) @ atoms.T
    if log_base is not None:
        logits += log_base[:, None]
    softmaxes = np.exp(logits - logits.max(axis=0))
    pi = (softmaxes / softmaxes.sum(axis=0)) @ weights
    counts = rng.multinomial(n_draws, pi / pi.sum()).astype(np.uint32)
    return Problem(features, counts, weights, atoms, log_base)


def draw_features(law: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    if law == "student":
        return rng.standard_t(4, shape)
    if law == "binary":
        return (rng.random(shape) < 0.3).astype(float)
    if law == "clusters":
        centres = 1.5 * rng.standard_normal((8, shape[1]))
        return centres[rng.integers(0, 8, shape[0])] + 0.5 * rng.standard_normal(shape)
    return rng.standard_normal(shape)


def fitted(data: Any, n_components: int, engine: Any = None, **settings: Any) -> FitResult:
    """Fit a problem or a data set, on two threads of this process unless told otherwise."""
    dataset = data.dataset(block_rows=512) if isinstance(data, Problem) else data
    own = LocalEngine(2) if engine is None else engine
    try:
        return fit(dataset, Settings(n_components, **settings), own)
    finally:
        if engine is None:
            own.close()


def signature(result: FitResult) -> bytes:
    """Everything of a result that must have the same bits wherever it was computed."""
    history = np.array([row["log_likelihood"] for row in result.history])
    parts = (result.weights, result.atoms, result.log_likelihood, history, result.covariance)
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts if part is not None)


def assert_never_falls(result: FitResult) -> None:
    """The objective rises along the history, up to the rounding that each row admits."""
    rows = result.history
    assert rows
    for before, after in zip(rows, rows[1:], strict=False):
        assert after["objective"] >= before["objective"] - after["rounding"]
        if "rejected" not in after["step"]:
            size = max(abs(row["log_likelihood"]) for row in (before, after))
            assert 0 < after["rounding"] < 1e-6 * (1 + size)
