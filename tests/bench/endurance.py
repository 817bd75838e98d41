"""Fits one after the other on one cluster whose workers are killed at random.

    python tests/bench/endurance.py [--minutes 30] [--every 8] [--seed 0]

Three workers under nannies, scheduler and driver are processes of their own. Every few seconds one
worker is killed (SIGKILL), sometimes two; fits keep their data and stream them in turn. All must
have the same bits, and memory and open files must not grow: resident MiB and file descriptors of
driver, scheduler and the nannies, a line a minute.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import dask
import numpy as np
import psutil
from distributed import Client

from softmix_dist import SoftmaxMixture, simulate

sys.path.insert(0, str(Path(__file__).parents[1]))

from engines import processes  # noqa: E402
from problems import signature  # noqa: E402


class Killer(threading.Thread):
    """Kills workers, the children of nannies, at random times until it is told to stop."""

    def __init__(self, nannies: list[psutil.Process], every: float, seed: int):
        super().__init__(daemon=True)
        self.nannies, self.every = nannies, every
        self.rng = np.random.default_rng(seed)
        self.stopped, self.killed = threading.Event(), 0

    def run(self) -> None:
        while not self.stopped.wait(self.rng.exponential(self.every)):
            for nanny in self.rng.choice(self.nannies, self.rng.choice([1, 1, 1, 2]), False):
                with suppress(psutil.NoSuchProcess):
                    for child in nanny.children():
                        # Not the resource tracker that each has as well.
                        if "spawn_main" in " ".join(child.cmdline()):
                            child.kill()
                            self.killed += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=8.0, help="mean seconds between kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    # As for the scheduler of a batch job: Dask gives up a task that four workers died at, and here
    # it is not the task's fault.
    os.environ["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "20"
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.zarr")
        simulate(data, 300_000, 6, 3, 3_000_000, seed=1)
        started = time.monotonic()
        with (
            processes(Path(folder, "cluster"), 3, nanny=True) as (address, scheduler),
            Client(address) as client,
        ):
            client.wait_for_workers(3)
            nannies = [
                process
                for process in psutil.Process().children()
                if "dask_worker" in " ".join(process.cmdline())
            ]
            watched = [psutil.Process(), psutil.Process(scheduler.pid), *nannies]
            killer = Killer(nannies, options.every, options.seed)
            killer.start()
            bits: Counter[bytes] = Counter()
            rows: list[list[float]] = []
            told = started + 60
            while time.monotonic() < started + 60 * options.minutes:
                keep = sum(bits.values()) % 2 == 0
                with dask.config.set({"softmix.engine.keep": keep}):
                    model = SoftmaxMixture(3, random_state=0, solver="em", tol=1e-3)
                    bits[signature(model.fit(data, client=client).result_)] += 1
                if time.monotonic() >= told:
                    told += 60
                    row = [process.memory_info().rss / 2**20 for process in watched]
                    row += [process.num_fds() for process in watched]
                    rows.append(row)
                    print(
                        f"{(time.monotonic() - started) / 60:5.1f} min: {sum(bits.values())} fits, "
                        f"{killer.killed} workers killed, {len(bits)} kind of bits; MiB "
                        + " ".join(f"{value:.0f}" for value in row[:5])
                        + "; files " + " ".join(f"{value:.0f}" for value in row[5:]),
                        flush=True,
                    )  # fmt: skip
            killer.stopped.set()
            killer.join()
            grown = np.subtract(rows[-1], rows[min(4, len(rows) - 1)])
            print("grown since the fifth minute: MiB "
                  + " ".join(f"{value:.1f}" for value in grown[:5])
                  + "; files " + " ".join(f"{value:.0f}" for value in grown[5:]))  # fmt: skip
            print(f"{len(bits)} kind of bits in {sum(bits.values())} fits")


if __name__ == "__main__":
    main()
