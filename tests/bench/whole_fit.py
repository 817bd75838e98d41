"""Whole commands as a user runs them: time and memory, printed.

    python tests/bench/whole_fit.py [fit] [simulate] [start]

Memory is the peak over time of the resident memory of the command and all its children,
sampled every 20 ms; shared pages count once for each process, so it is an upper bound.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from softmix_dist import SoftmaxMixture, open_dataset
from softmix_dist.engine import LocalEngine, single_blas_thread
from softmix_dist.kernels import prepare, score
from softmix_dist.model import Frame, Mixture

SOFTMIX = [sys.executable, "-m", "softmix_dist"]


def measured(*arguments: object) -> tuple[float, float]:
    """Seconds and peak megabytes of a command with its children."""
    began = time.perf_counter()
    process = psutil.Popen(
        [*SOFTMIX, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        total = 0
        for member in (process, *children(process)):
            try:
                total += member.memory_info().rss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with exit code {process.returncode}")
    return time.perf_counter() - began, peak / 1e6


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def bench_fit(folder: Path) -> None:
    """p = 1e6, L = 16, K = 5, float32: memory of the command, and a pass against the kernel."""
    data = folder / "fit.zarr"
    sizes = ["--candidates", 1_000_000, "--features", 16, "--components", 5]
    measured("simulate", data, *sizes, "--draws", 10_000_000, "--seed", 1)
    for scheduler in ("threads", "local"):
        options = ["-k", 5, "--quiet", "--scheduler", scheduler, "--workers", 2]
        seconds, peak = measured("fit", data, *options)
        print(f"softmix fit --scheduler {scheduler:<8} {seconds:6.1f} s  peak {peak:6.0f} MB")
    dataset = open_dataset(data)
    first = dataset.read_block(0)
    frame = Frame.of(first.features)
    take = partial(prepare, frame=frame, n_components=5)
    blocks = [take(dataset.read_block(i)) for i in range(dataset.n_blocks)]
    rng = np.random.default_rng(0)
    mixture = Mixture(np.full(5, -15.0), rng.standard_normal((5, 16)) / 2)
    engine = LocalEngine(2)
    engine.load(dataset, take, 1)
    for dtype in (np.float32, np.float64):
        kernel = partial(score, mixtures=[mixture], dtype=np.dtype(dtype))
        alone, passes = np.inf, np.inf
        with single_blas_thread():
            for _ in range(40):
                began = time.perf_counter()
                for block in blocks:
                    kernel(block)
                middle = time.perf_counter()
                engine.reduce(kernel)
                alone = min(alone, middle - began)
                passes = min(passes, time.perf_counter() - middle)
        print(
            f"pass on two threads, {np.dtype(dtype).name}: {passes * 1e3:6.1f} ms; kernel on one "
            f"thread {alone * 1e3:6.1f} ms; ratio to its half {2 * passes / alone:.2f}"
        )
    engine.close()
    model = SoftmaxMixture(5).fit(dataset, n_threads=2)
    print(
        f"whole fit: {model.n_passes_} passes in {model.result_.seconds:.2f} s, {model.converged_}"
    )


def bench_simulate(folder: Path) -> None:
    """Memory of the simulator must not depend on p."""
    for p in (100_000, 1_000_000, 10_000_000):
        sizes = ["--features", 16, "--components", 5, "--draws", 10 * p]
        seconds, peak = measured("simulate", folder / f"{p}.zarr", "--candidates", p, *sizes)
        print(f"softmix simulate p = {p:>10,}  {seconds:6.1f} s  peak {peak:6.0f} MB", flush=True)


def bench_start(folder: Path) -> None:
    """Time to import and to print the help, best of five processes."""
    commands = {
        "import softmix_dist": [sys.executable, "-c", "import softmix_dist"],
        "softmix --help": [*SOFTMIX, "--help"],
        "from softmix_dist import SoftmaxMixture": [
            sys.executable,
            "-c",
            "from softmix_dist import SoftmaxMixture",
        ],
        "python itself": [sys.executable, "-c", "pass"],
    }
    for name, command in commands.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
        print(f"{name:<42}{min(times):6.2f} s")


if __name__ == "__main__":
    benches = {"start": bench_start, "fit": bench_fit, "simulate": bench_simulate}
    with tempfile.TemporaryDirectory() as temporary:
        for chosen in sys.argv[1:] or benches:
            benches[chosen](Path(temporary))
