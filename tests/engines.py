"""Engines for the tests: opened, used, closed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster
from problems import fitted

from softmix_dist.blocks import RawBlock
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.engine import LocalEngine
from softmix_dist.engine.cluster import ClusterEngine
from softmix_dist.fit import FitResult

BLOCK_ROWS = 256


@contextmanager
def cluster_of(n_workers: int, processes: bool = False, **options: Any) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=processes,
            dashboard_address=":0",
            scheduler_kwargs={"dashboard": False},
            **options,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def processes(
    folder: Path, n_workers: int, nanny: bool = False
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A cluster none of whose processes is this one: its address, and its scheduler."""
    folder.mkdir(exist_ok=True)
    found = folder / "scheduler.json"
    options = ["--no-dashboard", "--scheduler-file", str(found)]
    where = ["--host", "127.0.0.1", "--port", "0"]
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, *more: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *options, *more]
        with (folder / f"{len(started)}.log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder))

    try:
        start("scheduler", *where)
        while not found.exists():
            time.sleep(0.05)
        for _ in range(n_workers):
            watched = "--nanny" if nanny else "--no-nanny"
            start("worker", watched, "--nthreads", "1", "--memory-limit", "1GB")
        yield json.loads(found.read_text())["address"], started[0]
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def local(n_threads: int, streamed: bool = False, **settings: Any) -> Iterator[LocalEngine]:
    engine = LocalEngine(n_threads, keep=not streamed, **settings)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def on_cluster(client: Client, streamed: bool = False, **settings: Any) -> Iterator[ClusterEngine]:
    engine = ClusterEngine(client, keep=not streamed, **settings)
    try:
        yield engine
    finally:
        engine.close()


def fit_on(engine: Any, data: Any, **settings: Any) -> FitResult:
    # A sketch of a part, so that the finish takes several passes.
    options = {"n_init": 3, "tol": 1e-3, "sketch_rows": 400} | settings
    return fitted(data, 3, engine=engine, **options)


def start_of(raw: RawBlock) -> int:
    return raw.start


@dataclass(frozen=True)
class Failing(ArrayDataset):
    """Raises an error when its fourth block is read."""

    error: Exception | None = None

    def read_block(self, index):
        if index == 3:
            raise self.error
        return super().read_block(index)


def failing(dataset, error):
    return Failing(**vars(dataset), error=error)
