"""Streaming: data larger than the memory of all workers, and a pass against a bare loop.

    python tests/bench/streaming.py [--candidates 52000000] [--folder FOLDER]

Two workers with 1 GiB each; L = 32 in float32, 6.2 GB as stored. A pass of the engine and a bare
loop (two processes, each reads half of the blocks, prepares them and runs the same kernel; no
Dask, nothing read ahead) take turns, after one pass that brings the files into the page cache
where it has room. Then one whole fit. Peak memory is that of the worker processes, spilled bytes
are Dask's count, restarts those of their nannies.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

from softmix_dist import SoftmaxMixture
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.stored import ZarrDataset
from softmix_dist.data.writer import new_dataset
from softmix_dist.engine import single_blas_thread
from softmix_dist.engine.cluster import ClusterEngine
from softmix_dist.kernels import prepare, score
from softmix_dist.model import Frame, Mixture

N_FEATURES, N_COMPONENTS = 32, 8


def write(path: Path, n_candidates: int, n_features: int, seed: int = 0) -> None:
    """Write features that do not compress, and counts of a mixture of two."""
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_features, 2)) / np.sqrt(n_features)
    with new_dataset(path, n_candidates, n_features) as writer:
        for i, start in enumerate(range(0, n_candidates, writer.block_rows)):
            rows = min(writer.block_rows, n_candidates - start)
            features = rng.standard_normal((rows, n_features), dtype=np.float32)
            rate = 0.5 * np.exp(features @ atoms).mean(axis=1)
            writer.write_block(i, features=features, counts=rng.poisson(rate).astype(np.uint32))


def kernel_of(n_components: int, n_features: int) -> Callable[[Any], Any]:
    rng = np.random.default_rng(1)
    atoms = rng.standard_normal((n_components, n_features)) / n_features
    mixture = Mixture(np.zeros(n_components), atoms)
    return partial(score, mixtures=(mixture,), dtype=np.dtype(np.float32))


def take_of(data: ZarrDataset, n_components: int) -> Callable[[Any], Any]:
    first = data.read_block(0)
    return partial(prepare, frame=Frame.of(first.features), n_components=n_components)


def bare(path: str, start: int, stop: int, take: Any, kernel: Any) -> Any:
    data = open_dataset(path)
    with single_blas_thread():
        found = [kernel(take(data.read_block(i))) for i in range(start, stop)]
    return len(found)


@contextmanager
def cluster_of(memory: str = "1GiB") -> Any:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, memory_limit=memory,
                     dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client


def peak() -> int:
    """Peak memory of this process, bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition("VmHWM:")[2].split()[0])


def spilled(dask_worker: Any) -> float:
    """Bytes that a worker ever wrote to its disk."""
    told = dask_worker.digests_total.items()
    return sum(value for key, value in told if "disk-write" in key and key[-1] == "bytes")


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=52_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the data; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "data.zarr"
        print(f"written in {seconds(lambda: write(path, options.candidates, N_FEATURES)):.0f} s")
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        data = open_dataset(path)
        take, kernel = take_of(data, N_COMPONENTS), kernel_of(N_COMPONENTS, N_FEATURES)
        half = data.n_blocks // 2
        parts = [(str(path), *part, take, kernel) for part in ((0, half), (half, data.n_blocks))]
        spawn = multiprocessing.get_context("spawn")
        with cluster_of() as client, spawn.Pool(2) as pool:
            before = client.run(os.getpid)
            engine = ClusterEngine(client)
            plan = engine.load(data, take, 4 * data.n_candidates * (N_FEATURES + 3))
            print(f"{stored / 1e9:.2f} GB in {data.n_blocks} blocks; {plan}")
            engine.reduce(kernel)
            pool.starmap(bare, parts)
            passes, loops = [], []
            for _ in range(options.rounds):
                passes.append(seconds(lambda: engine.reduce(kernel)))
                loops.append(seconds(lambda: pool.starmap(bare, parts)))
                print(f"pass {passes[-1]:.2f} s, bare loop {loops[-1]:.2f} s", flush=True)
            share = np.median(loops) / np.median(passes)
            rate = 1e-6 * data.n_candidates / np.median(passes)
            print(f"throughput: {share:.0%} of the bare loop, {rate:.1f} million rows a second")
            engine.close()
            model = SoftmaxMixture(2, sketch_rows=20_000)
            took = seconds(lambda: model.fit(path, client=client))
            print(f"fit: {model.n_passes_} passes in {took:.0f} s, converged: {model.converged_}")
            restarts = len(set(before.values()) - set(client.run(os.getpid).values()))
            peaks = ", ".join(f"{most / 2**20:.0f} MiB" for most in client.run(peak).values())
            print(f"peak memory of the workers: {peaks} of 1024; restarts: {restarts}; "
                  f"spilled bytes: {sum(client.run(spilled).values()):.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
