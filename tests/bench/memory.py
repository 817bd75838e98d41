"""Memory over many passes: driver, scheduler and workers, each a process of its own.

    python tests/bench/memory.py [--passes 500]

Resident memory in MiB after 50 passes, and then every hundred.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from distributed import Client
from overhead import problem

from softmix_dist.engine.cluster import ClusterEngine
from softmix_dist.kernels import prepare
from softmix_dist.model import Frame

sys.path.insert(0, str(Path(__file__).parents[1]))

from engines import processes  # noqa: E402
from streaming import kernel_of  # noqa: E402

WARM_UP, EVERY = 50, 100


def resident() -> float:
    """Of this process, MiB."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=500)
    options = parser.parse_args()
    data = problem(64, 1024, 32)
    take = partial(prepare, frame=Frame(np.zeros(32), np.ones(32)), n_components=8)
    with (
        tempfile.TemporaryDirectory() as folder,
        processes(Path(folder), 2) as (address, _),
        Client(address) as client,
    ):
        client.wait_for_workers(2)
        for keep in (True, False):
            engine = ClusterEngine(client, keep=keep)
            print(engine.load(data, take, data.features.nbytes))
            rows = []
            for number in range(options.passes + WARM_UP + 1):
                if number >= WARM_UP and (number - WARM_UP) % EVERY == 0:
                    scheduler = client.run_on_scheduler(resident)
                    rows.append((resident(), scheduler, *client.run(resident).values()))
                    print(f"{number - WARM_UP:>5} passes: driver, scheduler, workers "
                          + ", ".join(f"{mib:.1f}" for mib in rows[-1]), flush=True)  # fmt: skip
                engine.reduce(kernel_of(8, 32))
            engine.close()
            grown = np.subtract(rows[-1], rows[0])
            print("grown by " + ", ".join(f"{mib:.1f}" for mib in grown) + " MiB")


if __name__ == "__main__":
    main()
