"""Ingest: events of many draws in Parquet, counted and matched; rate and peak memory.

    python tests/bench/ingest.py [--events 100000000] [--candidates 1000000] [--text] [--samples 0]

Events are drawn by a power law, in row groups of a million in ten files, snappy as pandas writes
them. The ingest runs in a process of its own, on the threads of this machine; its peak is that of
its resident memory. Generating is not counted.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_FILES, _GROUP = 10, 1_000_000


def generate(folder: Path, n_events: int, p: int, text: bool, samples: int) -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(p)
    names = pa.array([f"candidate-{i:09d}" for i in ids]) if text else pa.array(ids)
    columns = {"id": names, **{f"x{i}": rng.standard_normal(p) for i in range(8)}}
    pq.write_table(pa.table({**columns, "group": rng.choice(list("abcdef"), p)}),
                   folder / "features.parquet", row_group_size=100_000)  # fmt: skip
    (folder / "events").mkdir()
    for i in range(_FILES):
        writer = None
        for _ in range(0, n_events // _FILES, _GROUP):
            place = (p * rng.random(min(_GROUP, n_events // _FILES)) ** 3).astype(np.int64)
            rows = {"id": names.take(pa.array(place))}
            if samples:
                rows["sample"] = pa.array(rng.integers(samples, size=len(place)))
            table = pa.table(rows)
            writer = writer or pq.ParquetWriter(folder / "events" / f"{i}.parquet", table.schema)
            writer.write_table(table)
        writer.close()


def run(folder: Path, samples: int) -> None:
    from softmix_dist.data.ingest import ingest

    report = ingest(folder / "data.zarr", folder / "features.parquet", folder / "events",
                    sample="sample" if samples else None)  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(report)
    print(
        f"{report.n_rows / report.seconds / 1e6:.1f} million events a second, peak {peak:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--text", action="store_true", help="ids are text")
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.samples)
        return
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name), options.events, options.candidates, options.text, options.samples)
        command = [sys.executable, __file__, "--run", name, "--samples", str(options.samples)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
