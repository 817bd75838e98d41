"""How often each start reaches the maximum that EM from the truth reaches.

    python tests/bench/starts.py [--laws gaussian,student] [--inits auto,tensor] [--problems 60]

Success: the final log-likelihood is within 1e-6 nats per draw of a fit that started at the
truth, or above it. Problems are drawn from their law and number alone, so that parts of the
grid can be run apart. Each miss is printed with the shape of its problem.
"""

import argparse
import time
import warnings
from functools import partial

import numpy as np

from softmix_dist import SoftmaxMixture
from softmix_dist.data.simulate import FEATURE_LAWS, _feature_law

WITHIN = 1e-6
CANDIDATES = 20_000, 50_000, 100_000
FEATURES = 2, 3, 5, 8, 10, 16, 20, 32, 50
COMPONENTS = 2, 3, 4, 5, 6, 8, 10, 12, 16, 20
NORMS = 1.5, 2.0, 2.5, 3.0
DRAWS = 1_000_000, 10_000_000
DEGREES = 7.0
STARTS = {"random": 20}


def problem(law: str, number: int) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Description, features, counts, weights and atoms of one problem."""
    rng = np.random.default_rng((FEATURE_LAWS.index(law), number))
    p, L, K, norm, N = (
        options[rng.integers(len(options))]
        for options in (CANDIDATES, FEATURES, COMPONENTS, NORMS, DRAWS)
    )
    weights = np.sort(rng.dirichlet(np.full(K, 5.0)))[::-1]
    atoms = rng.standard_normal((K, L))
    atoms *= norm / np.linalg.norm(atoms, axis=1, keepdims=True)
    features = _feature_law(law, DEGREES, L, rng)(rng, (p, L)).astype(np.float32)
    logits = features.astype(float) @ atoms.T
    softmaxes = np.exp(logits - logits.max(axis=0))
    shares = (softmaxes / softmaxes.sum(axis=0)) @ weights
    counts = rng.multinomial(N, shares / shares.sum())
    text = f"{law} #{number}: p {p}, L {L}, K {K}, norm {norm}, N {N:.0e}"
    return text, features, counts, weights, atoms


def fit(
    features: np.ndarray, counts: np.ndarray, K: int, most: int, init: object, n_init: int = 8
) -> SoftmaxMixture:
    model = SoftmaxMixture(K, init=init, n_init=n_init, max_passes=most)
    return model.fit(features, counts, n_threads=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--laws", default=",".join(FEATURE_LAWS))
    parser.add_argument("--inits", default="auto,search,tensor,subspace,moments,random")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--max-passes", type=int, default=1500)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    table = {}
    for law in asked.laws.split(","):
        won = dict.fromkeys(asked.inits.split(","), 0)
        seconds = dict.fromkeys(won, 0.0)
        for number in range(asked.first, asked.first + asked.problems):
            text, features, counts, weights, atoms = problem(law, number)

            fitted = partial(fit, features, counts, len(weights), asked.max_passes)
            truth = fitted((weights, atoms))
            for init in won:
                began = time.perf_counter()
                model = fitted(init, STARTS.get(init, 8))
                seconds[init] += time.perf_counter() - began
                gap = truth.log_likelihood_ - model.log_likelihood_
                won[init] += gap <= WITHIN
                if gap > WITHIN:
                    print(
                        f"  miss: {text}; {init} {gap:.1e} below in {model.n_passes_} passes, "
                        f"converged {model.converged_} (truth: {truth.n_passes_} passes, "
                        f"{truth.converged_})",
                        flush=True,
                    )
        table[law] = won, seconds
        row = "  ".join(
            f"{init} {won[init]}/{asked.problems} ({seconds[init] / asked.problems:.1f} s)"
            for init in won
        )
        print(f"{law:<9} {row}", flush=True)


if __name__ == "__main__":
    main()
