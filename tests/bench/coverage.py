"""How often 95 % intervals hold the truth, by kind of standard error and law of the counts.

    python tests/bench/coverage.py [--data-sets 500] [--laws multinomial,dirichlet,weights]

Each data set has p = 2 000 candidates, 3 features, 2 components and 100 000 draws; the sketch
has about 800 rows, so that it is a sample. Laws of the counts:

* multinomial: the model is true;
* dirichlet: 100 samples, Dirichlet-multinomial, counts of a sample vary 5 times as much;
* weights: 100 samples, each with mixing weights of its own.

"mean" is the coverage over all parameters, "least" and "most" that of single ones; "ratio" is
the mean standard error over the spread of the estimates, smallest and largest. Weights have
their intervals on the logit scale. Fits begin at the truth. Not counted: those that did not
converge.
"""

import argparse
import time
import warnings
from collections.abc import Iterator

import numpy as np

from softmix_dist import SoftmaxMixture

P, L, K, N, S = 2_000, 3, 2, 100_000, 100
SKETCH_ROWS = 800
OVERDISPERSION, CONCENTRATION = 5.0, 30.0
# Kinds of standard errors that each law is tried with.
KINDS = {
    "multinomial": ("sketch", "exact", "scaled"),
    "dirichlet": ("sketch", "exact", "scaled", "clustered"),
    "weights": ("sketch", "exact", "scaled", "clustered"),
}
WEIGHTS = np.array([0.6, 0.4])


def design() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, atoms, and each component's probabilities (p, K)."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((P, L))
    atoms = rng.standard_normal((K, L))
    atoms *= 1.5 / np.linalg.norm(atoms, axis=1, keepdims=True)
    softmaxes = np.exp(features @ atoms.T)
    return features, atoms, softmaxes / softmaxes.sum(axis=0)


def counts_of(law: str, softmaxes: np.ndarray, number: int) -> np.ndarray:
    """Counts of one data set, (p,) or (S, p)."""
    rng = np.random.default_rng((sorted(KINDS).index(law), number))
    pi = softmaxes @ WEIGHTS
    if law == "multinomial":
        return rng.multinomial(N, pi)
    if law == "dirichlet":
        # A Dirichlet law by its gamma variables; its shapes make the variance as asked for.
        shapes = ((N // S - 1) / (OVERDISPERSION - 1) - 1) * pi
        rates = rng.standard_gamma(np.broadcast_to(shapes, (S, P)))
    else:
        rates = rng.dirichlet(CONCENTRATION * WEIGHTS, S) @ softmaxes.T
    return rng.multinomial(N // S, rates / rates.sum(axis=1, keepdims=True))


def parameters(model: SoftmaxMixture, atoms: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Estimates, errors and intervals (2,) of all parameters, in the order of the truth."""
    off = ((model.atoms_[:, None] - atoms) ** 2).sum(axis=2)
    order = [0, 1] if off.trace() <= off[::-1].trace() else [1, 0]
    intervals, errors = model.confidence_intervals(), model.standard_errors_
    for name, estimates in (("weights", model.weights_), ("atoms", model.atoms_)):
        yield (
            estimates[order].ravel(),
            errors[name][order].ravel(),
            intervals[name][order].reshape(-1, 2),
        )


def tried(law: str, n_data_sets: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Kind of error, estimates, errors and whether the truth was held, of each data set."""
    features, atoms, softmaxes = design()
    truth = np.append(WEIGHTS, atoms)
    for number in range(n_data_sets):
        counts = counts_of(law, softmaxes, number)
        for kind in KINDS[law]:
            model = SoftmaxMixture(
                K,
                init=(WEIGHTS, atoms),
                standard_errors=kind,
                sketch_rows=SKETCH_ROWS,
                random_state=number,
            ).fit(features, counts, n_threads=1)
            if not model.converged_:
                print(f"  {law} #{number}, {kind}: not converged", flush=True)
                continue
            if model.result_.errors_from != kind:
                # What a user gets, so it counts.
                print(f"  {law} #{number}: the sketch told too little, {kind} is exact")
            estimates, errors, sides = map(
                np.concatenate, zip(*parameters(model, atoms), strict=True)
            )
            yield kind, estimates, errors, (sides[:, 0] <= truth) & (truth <= sides[:, 1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-sets", type=int, default=500)
    parser.add_argument("--laws", default=",".join(KINDS))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{'counts':<12} {'errors':<10} {'fits':>5} {'mean':>7} {'least':>7} {'most':>7}  ratio")
    for law in asked.laws.split(","):
        began = time.perf_counter()
        found: dict[str, list[tuple[np.ndarray, ...]]] = {kind: [] for kind in KINDS[law]}
        for kind, *row in tried(law, asked.data_sets):
            found[kind].append(tuple(row))
        n_fits = 0
        for kind, rows in found.items():
            n_fits += len(rows)
            estimates, errors, held = (np.array(part) for part in zip(*rows, strict=True))
            ratio = errors.mean(axis=0) / estimates.std(axis=0)
            cover = 100 * held.mean(axis=0)
            print(
                f"{law:<12} {kind:<10} {len(rows):>5} {cover.mean():>5.1f} % {cover.min():>5.1f} % "
                f"{cover.max():>5.1f} %  {ratio.min():.3f} to {ratio.max():.3f}",
                flush=True,
            )
        print(f"  {n_fits / (time.perf_counter() - began):.1f} fits a second", flush=True)


if __name__ == "__main__":
    main()
