"""A fit of thousands of coefficients: passes, seconds, distance, and memory of the driver.

    python tests/bench/wide.py [--laws gaussian,clusters] [--workers 2]

The data are on disk and in the workers of a cluster, so that the driver's memory is seen alone:
"driver" is the peak of this process, which holds the client, the scheduler and the sketch;
"before" is what it had before the fit. "short" is how far the fit ends below one with
tol = 1e-4 that begins there, in nats per draw, and what ``tol`` allows.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from softmix_dist import SoftmaxMixture

P, L, K, N = 200_000, 512, 8, 10_000_000


def peak() -> float:
    """Largest resident memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def note(told: dict[str, float], row: dict[str, Any]) -> None:
    """Keep the time of the first row of each phase."""
    told.setdefault(row["phase"], row["seconds"])


def simulate(path: Path, law: str) -> None:
    """Write the data set by the command, in a process of its own."""
    sizes = ["--candidates", P, "--features", L, "--components", K, "--draws", N, "--seed", 0]
    options = ["--norm", 2, "--feature-law", law, "--dtype", "float32"]
    command = [sys.executable, "-m", "softmix_dist", "simulate", path, *sizes, *options]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def report(path: Path, law: str, client: Client) -> None:
    """Fit, print, and fit on from there."""
    told: dict[str, float] = {}
    before, began = peak(), time.perf_counter()
    model = SoftmaxMixture(K).fit(str(path), client=client, progress=partial(note, told))
    seconds, driver, result = time.perf_counter() - began, peak(), model.result_
    exact = SoftmaxMixture(K, init=(model.weights_, model.atoms_), tol=1e-4)
    exact.fit(str(path), client=client)
    allowed = model.tol**2 / (2 * result.n_draws)
    print(
        f"p {P}, L {L}, K {K}, N {N:.0e}, {law}: {len(result.history)} passes, "
        f"{model.n_passes_} in all, converged {model.converged_}, verified {result.verified}, "
        f"distance {result.distance:.1e}; short "
        f"{exact.log_likelihood_ - model.log_likelihood_:.1e} of {allowed:.1e} allowed; "
        f"starts {told['starts'] - told['survey']:.0f} s, to the last pass "
        f"{result.history[-1]['seconds']:.0f} s, whole fit {seconds:.0f} s; driver {driver:.2f} GB "
        f"(before {before:.2f}, data {P * (L + 1) * 4 / 1e9:.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--laws", default="gaussian,clusters")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for law in asked.laws.split(","):
            path = Path(folder) / f"{law}.zarr"
            simulate(path, law)
            with (
                LocalCluster(
                    asked.workers, threads_per_worker=1, dashboard_address=None
                ) as cluster,
                Client(cluster) as client,
            ):
                report(path, law, client)


if __name__ == "__main__":
    main()
