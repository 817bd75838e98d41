"""What a pass costs beside its arithmetic: wall time less kernel time, on processes.

    python tests/bench/overhead.py [--workers 2] [--passes 60]

The kernels time themselves; their seconds are added like any sum. Overhead is what remains of
the wall time after the arithmetic, evenly shared by the workers: the client, the scheduler,
messages, unpickling, merges, and imbalance. The client and the scheduler are this process, the
workers are not, so that its processor time is what they take. From both the time of a pass over
p = 1e9 is projected for larger clusters: one shard a thread; overhead that of 8 shards, and for
each further shard the time of client and scheduler, none of it hidden behind the arithmetic.
What no two workers show is left out: reading, the network, and messages that come one by one
from many workers and not in batches from two.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

from softmix_dist.data.memory import ArrayDataset
from softmix_dist.engine.cluster import ClusterEngine
from softmix_dist.engine.plan import count_shards
from softmix_dist.kernels import prepare, score
from softmix_dist.model import Frame, Mixture
from softmix_dist.sums import add


@dataclass(frozen=True)
class Timed:
    value: Any
    seconds: float

    def __add__(self, other: Timed) -> Timed:
        return Timed(add(self.value, other.value), self.seconds + other.seconds)


def timed(block: Any, mixtures: tuple[Mixture, ...]) -> Timed:
    began = time.perf_counter()
    value = score(block, mixtures, np.dtype(np.float32))
    return Timed(value, time.perf_counter() - began)


def problem(n_blocks: int, rows: int, n_features: int) -> ArrayDataset:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_blocks * rows, n_features)).astype(np.float32)
    counts = rng.poisson(1.0, len(features)).astype(np.uint32)
    return ArrayDataset.of(features, counts, block_rows=rows)


def mixture(n_components: int, n_features: int) -> Mixture:
    rng = np.random.default_rng(1)
    atoms = rng.standard_normal((n_components, n_features)) / n_features
    return Mixture(np.zeros(n_components), atoms)


def passes(engine: Any, kernel: Any, number: int) -> tuple[float, float, float]:
    """Median seconds of a pass: wall, kernels, processor of this process."""
    found = []
    for _ in range(number):
        began, worked = time.perf_counter(), time.process_time()
        sums = engine.reduce(kernel)
        wall, work = time.perf_counter() - began, time.process_time() - worked
        found.append((wall, sums.seconds, work))
    return tuple(np.median(np.array(found[number // 4 :]), axis=0))


def measure(
    client: Client, data: ArrayDataset, kernel: Any, shards: int, number: int
) -> tuple[float, float]:
    """Seconds of a pass: overhead, and client and scheduler."""
    engine = ClusterEngine(client, blocks_per_shard=-(-data.n_blocks // shards))
    take = partial(prepare, frame=Frame(np.zeros(data.n_features), np.ones(data.n_features)),
                   n_components=8)  # fmt: skip
    engine.load(data, take, data.features.nbytes)
    passes(engine, kernel, 4)
    wall, arithmetic, work = passes(engine, kernel, number)
    overhead = wall - arithmetic / engine.n_threads
    print(
        f"{data.n_blocks:>5} blocks of {data.block_rows:>6} rows in {shards:>4} shards: wall "
        f"{1e3 * wall:6.1f} ms, kernels {1e3 * arithmetic / engine.n_threads:6.1f} ms a worker, "
        f"overhead {1e3 * overhead:6.1f} ms; client and scheduler {1e3 * work:6.1f} ms",
        flush=True,
    )
    engine.close()
    return overhead, work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--passes", type=int, default=60)
    options = parser.parse_args()
    kernel = partial(timed, mixtures=(mixture(8, 32),))
    with (
        LocalCluster(n_workers=options.workers, threads_per_worker=1, processes=True,
                     dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        # 1. Few blocks and many, in as many shards.
        few, _ = measure(client, problem(8, 16_384, 32), kernel, 8, options.passes)
        measure(client, problem(512, 2048, 32), kernel, 8, options.passes)
        # 2. What one more shard costs: kernels of no size.
        small = problem(512, 8, 32)
        measured = [measure(client, small, kernel, n, options.passes) for n in (8, 64, 512)]
        both, per_shard = (np.array(measured[2]) - measured[0]) / (512 - 8)
        print(
            f"one more shard: {1e3 * per_shard:.2f} ms of client and scheduler; {1e3 * both:.2f} "
            f"ms with {options.workers} workers' share, on the cores of this machine"
        )
        # 3. A large parameter.
        wide = problem(8, 64, 4096)
        large = partial(timed, mixtures=(mixture(64, 4096),) * 12)
        measure(client, wide, large, 8, 8)
        # 4. Projection: arithmetic shared by the workers, tasks handled by one scheduler.
        block = problem(1, 65_536, 32)
        raw = prepare(block.read_block(0), Frame(np.zeros(32), np.ones(32)), 8)
        row = min(timed(raw, (mixture(8, 32),)).seconds for _ in range(20)) / 65_536
        print(f"kernel: {1e9 * row:.0f} ns a row; pass over p = 1e9, L = 32, K = 8, in memory:")
        for workers in (64, 256, 1000):
            arithmetic = 1e9 * row / workers
            overhead = few + per_shard * max(0, count_shards(10**9, workers) - 8)
            print(
                f"{workers:>6} workers of 1 thread: arithmetic {arithmetic:.2f} s, overhead "
                f"{overhead:.2f} s ({overhead / (arithmetic + overhead):.0%} of the pass)"
            )


if __name__ == "__main__":
    # Imported, so that the kernel goes by name, as the package's own do, and not by value.
    from overhead import main as run

    run()
