"""Cost of a streamed pass against the number of candidates, overhead subtracted.

    python tests/bench/scale.py [--largest 100000000] [--folder FOLDER]

L = 8 in float32, K = 4, a local cluster of two. Overhead is the wall time of a pass in as many
shards whose blocks are read nowhere and hold nothing. Sizes take turns; medians of the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from streaming import cluster_of, kernel_of, seconds, take_of, write

from softmix_dist.blocks import RawBlock
from softmix_dist.data.dataset import open_dataset
from softmix_dist.engine.cluster import ClusterEngine

N_FEATURES, N_COMPONENTS = 8, 4
SIZES = (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000)


@dataclass(frozen=True)
class Nothing:
    """A source of one row a block, at hand."""

    n_blocks: int
    block_bytes: int = 64
    reads_ahead: int = 0

    def read_block(self, index: int) -> RawBlock:
        return RawBlock(index, np.zeros((1, N_FEATURES), np.float32), np.ones(1, np.uint32))

    def part(self, start: int, stop: int) -> Nothing:
        return self


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for the data; default: a temporary one")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.largest]
    kernel = kernel_of(N_COMPONENTS, N_FEATURES)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, cluster_of("4GiB") as client:
        engines = {}
        for size in sizes:
            path = Path(folder) / f"{size}.zarr"
            write(path, size, N_FEATURES)
            data = open_dataset(path)
            take = take_of(data, N_COMPONENTS)
            engines[size] = ClusterEngine(client, keep=False), ClusterEngine(client, keep=False)
            for engine, source in zip(engines[size], (data, Nothing(4)), strict=True):
                engine.load(source, take, 4 * size * (N_FEATURES + 3))
                engine.reduce(kernel)
            print(f"p = {size:.0e}: {data.n_blocks} blocks", flush=True)
        found = {size: ([], []) for size in sizes}
        for _ in range(options.rounds):
            # Small ones more often, for they are noisier.
            for size in sizes:
                for _ in range(max(1, min(10, 10**7 // size))):
                    for times, engine in zip(found[size], engines[size], strict=True):
                        times.append(seconds(lambda engine=engine: engine.reduce(kernel)))
        per_row = {}
        for size, (passes, empty) in found.items():
            wall, overhead = np.median(passes), np.median(empty)
            per_row[size] = 1e9 * (wall - overhead) / size
            print(f"p = {size:.0e}: pass {wall:.3f} s, overhead {1e3 * overhead:.0f} ms, "
                  f"{per_row[size]:.1f} ns a row")  # fmt: skip
        mean = np.mean(list(per_row.values()))
        spread = [f"{value / mean - 1:+.0%}" for value in per_row.values()]
        print(f"around their mean: {', '.join(spread)}")


if __name__ == "__main__":
    main()
