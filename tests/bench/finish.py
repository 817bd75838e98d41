"""Passes and time from the automatic start to the maximum, and how exact the end is.

    python tests/bench/finish.py [--problems passes,few-draws,times]

"short" is how far the fit ends below a fit with tol = 1e-5, in nats per draw; "passes" are
those after survey and start, "all" counts every one.
"""

import argparse
import time
import warnings
from functools import partial
from typing import Any

import numpy as np

from softmix_dist import SoftmaxMixture
from softmix_dist.data.simulate import _feature_law

# Rows, features, components, draws and law.
PASSES = [(1_000_000, 16, K, 20_000_000, law) for law in ("gaussian", "clusters") for K in (5, 8)]
FEW_DRAWS = [(300_000, 16, 5, 30_000, "gaussian"), (300_000, 16, 5, 30_000, "clusters")]
TIMES = [(100_000, 16, 5, 2_000_000, "gaussian"), (300_000, 10, 20, 10_000_000, "gaussian")]
SETS = {"passes": PASSES, "few-draws": FEW_DRAWS, "times": TIMES}
NORM = 2.0


def problem(p: int, L: int, K: int, N: int, law: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and counts."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(K, 5.0))
    atoms = rng.standard_normal((K, L))
    atoms *= NORM / np.linalg.norm(atoms, axis=1, keepdims=True)
    features = _feature_law(law, 7.0, L, rng)(rng, (p, L)).astype(np.float32)
    logits = features @ atoms.T.astype(np.float32)
    softmaxes = np.exp(logits - logits.max(axis=0), dtype=np.float64)
    shares = (softmaxes / softmaxes.sum(axis=0)) @ weights
    return features, rng.multinomial(N, shares / shares.sum())


def note(told: dict[str, float], row: dict[str, Any]) -> None:
    """Keep the time of the first row of each phase."""
    told.setdefault(row["phase"], row["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", default="passes,few-draws,times")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in asked.problems.split(","):
        print(name)
        for shape in SETS[name]:
            for seed in range(asked.seeds):
                features, counts = problem(*shape, seed)
                began = time.perf_counter()
                told: dict[str, float] = {}
                model = SoftmaxMixture(shape[2]).fit(
                    features,
                    counts,
                    progress=partial(note, told),
                )
                seconds = time.perf_counter() - began
                result = model.result_
                exact = SoftmaxMixture(
                    shape[2], init=(model.weights_, model.atoms_), tol=1e-5, precision="double"
                ).fit(features, counts)
                before = result.history[0]["pass"] - 1
                print(
                    f"  p {shape[0]}, L {shape[1]}, K {shape[2]}, N {shape[3]:.0e}, {shape[4]}, "
                    f"seed {seed}: {len(result.history)} passes, {model.n_passes_} in all "
                    f"({before} before), converged {model.converged_}, short "
                    f"{exact.log_likelihood_ - model.log_likelihood_:.1e}; start "
                    f"{told['starts'] - told['survey']:.2f} s, whole fit {seconds:.2f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
