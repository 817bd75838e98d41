"""Where the seconds of a whole fit go: each pass, and the driver after it, printed.

    python tests/bench/phases.py [p ...] [--profile]

L = 16, K = 5, N = 10 p, float32, Gaussian features, on two threads, from a data set on disk
that has been read before. The command is a process of its own, imports and saving included.
"""

import cProfile
import pstats
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from softmix_dist import open_dataset
from softmix_dist.engine import LocalEngine
from softmix_dist.fit import fit
from softmix_dist.results import Settings

SOFTMIX = [sys.executable, "-m", "softmix_dist"]
REPEATS = 3


class Timed(LocalEngine):
    """A local engine that keeps when each of its calls began and ended, by its kernel."""

    def __init__(self, n_threads: int):
        super().__init__(n_threads)
        self.calls: list[tuple[str, float, float]] = []

    def load(self, *arguments: Any) -> str:
        return self._timed("load", super().load, *arguments)

    def reduce(self, kernel: Any) -> Any:
        inner = kernel.func if isinstance(kernel, partial) else kernel
        return self._timed(inner.__name__.strip("_"), super().reduce, kernel)

    def _timed(self, name: str, call: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.calls.append((name, began, time.perf_counter()))


def phases(data: Path) -> tuple[dict[str, tuple[int, float]], float]:
    """Calls and seconds of each pass and of the driver after it, and all seconds."""
    engine = Timed(2)
    began = time.perf_counter()
    dataset = open_dataset(data)
    opened = time.perf_counter()
    fit(dataset, Settings(n_components=5), engine)
    ended = time.perf_counter()
    engine.close()
    found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    found["open"] = (1, opened - began)

    def add(name: str, seconds: float) -> None:
        found[name] = (found[name][0] + 1, found[name][1] + seconds)

    last, last_end = "open", opened
    for name, start, end in [*engine.calls, ("", ended, ended)]:
        add(f"driver after {last}", start - last_end)
        if name:
            add(name, end - start)
        last, last_end = name, end
    return dict(found), ended - began


def bench(p: int, folder: Path, profile: bool) -> None:
    data = folder / f"{p}.zarr"
    sizes = ["--candidates", p, "--features", 16, "--components", 5, "--draws", 10 * p]
    subprocess.run([*SOFTMIX, "simulate", data, *map(str, sizes)], check=True, capture_output=True)
    runs = sorted((phases(data) for _ in range(REPEATS)), key=lambda run: run[1])
    found, seconds = runs[0]
    print(f"\np = {p:,}: {seconds:.3f} s, best of {REPEATS}")
    for name, (calls, part) in found.items():
        print(f"  {name:<28}{calls:4d}{part:9.3f} s{part / seconds:7.1%}")
    command = [*SOFTMIX, "fit", data, "-k", "5", "--quiet", "--scheduler", "threads"]
    command += ["--workers", "2", "--overwrite", "-o", folder / f"{p}.model.zarr"]
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    print(f"  whole command{min(times):28.3f} s", flush=True)
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(phases, data)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    numbers = [int(float(word)) for word in sys.argv[1:] if word != "--profile"]
    with tempfile.TemporaryDirectory() as temporary:
        for number in numbers or [100_000, 1_000_000, 10_000_000]:
            bench(number, Path(temporary), "--profile" in sys.argv)
