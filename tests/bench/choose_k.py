"""How often the number of components behind the draws is chosen, by BIC and by held-out draws.

    python tests/bench/choose_k.py [--problems 100] [--max-passes 60]

Atoms are separated: each pair at least 1.5 apart in standard coordinates, norms of 2. Numbers
above the right one make flat likelihoods, where a fit may want hundreds of passes; a user caps
them, so does this, and "unconverged" counts the fits that were cut short.
"""

import argparse
import time
import warnings

import numpy as np

from softmix_dist import select_components
from softmix_dist.recommendation import Selection

RIGHT = (1, 3, 5)
N_CANDIDATES, N_DRAWS = 5_000, 200_000
NORM, APART, LEAST_WEIGHT = 2.0, 1.5, 0.1


def problem(n_components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of 4 or 5 columns and counts, from well-separated atoms."""
    rng = np.random.default_rng(seed)
    n_features = 4 + seed % 2
    features = rng.standard_normal((N_CANDIDATES, n_features))
    while True:
        atoms = rng.standard_normal((n_components, n_features))
        atoms *= NORM / np.linalg.norm(atoms, axis=1, keepdims=True)
        gaps = np.linalg.norm(atoms[:, None] - atoms, axis=2) + 1e9 * np.eye(n_components)
        weights = rng.dirichlet(np.full(n_components, 5.0))
        if gaps.min() >= APART and weights.min() >= LEAST_WEIGHT:
            break
    softmaxes = np.exp(features @ atoms.T)
    shares = (softmaxes / softmaxes.sum(axis=0)) @ weights
    return features, rng.multinomial(N_DRAWS, shares / shares.sum())


def told(right: int, seed: int, found: Selection) -> str:
    """One line of a problem."""
    cut = [c.n_components for c in found.candidates if not c.converged]
    miss = "" if found.recommended == found.by_bic == right else "  MISS"
    return (
        f"K {right}, seed {seed}: held-out {found.recommended}, BIC {found.by_bic}, "
        f"{found.n_passes} passes, {found.seconds:.0f} s, unconverged {cut or '-'}{miss}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=7, help="largest number that is tried")
    parser.add_argument("--max-passes", type=int, default=60)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    right = {name: dict.fromkeys(RIGHT, 0) for name in ("held-out", "BIC")}
    tried, cut = dict.fromkeys(RIGHT, 0), dict.fromkeys(range(1, asked.most + 1), 0)
    for seed in range(asked.first, asked.first + asked.problems):
        K = RIGHT[seed % len(RIGHT)]
        found = select_components(
            *problem(K, seed),
            components=range(1, asked.most + 1),
            max_passes=asked.max_passes,
            n_threads=1,
        )
        tried[K] += 1
        right["held-out"][K] += found.recommended == K
        right["BIC"][K] += found.by_bic == K
        for c in found.candidates:
            cut[c.n_components] += not c.converged
        print(told(K, seed, found), flush=True)
    print(f"\n{'right K':<10}" + "".join(f"{K:>12}" for K in RIGHT) + f"{'all':>12}")
    for name, hits in right.items():
        cells = [f"{hits[K]} of {tried[K]}" for K in RIGHT]
        cells.append(f"{sum(hits.values())} of {sum(tried.values())}")
        print(f"{name:<10}" + "".join(f"{cell:>12}" for cell in cells))
    print(f"unconverged fits by K (of {asked.problems} each): {cut}")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
