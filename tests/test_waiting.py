"""Waits for a cluster end: in a result, or in an error that says why there is none."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from dask import config
from distributed import Client
from engines import BLOCK_ROWS, cluster_of, fit_on, local, on_cluster
from problems import signature

from softmix_dist.engine import engine_for
from softmix_dist.errors import ClusterError, InputError
from softmix_dist.fit import Settings, fit


@pytest.fixture(scope="module")
def dataset(medium):
    return medium.dataset(BLOCK_ROWS)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cluster_that_loses_all_its_workers_ends_the_fit(dataset, streamed):
    with cluster_of(2) as client, on_cluster(client, streamed, stall_timeout=3.0) as engine:
        fit_on(engine, dataset)
        client.cluster.scale(0)
        began = time.monotonic()
        with pytest.raises(ClusterError, match="no running worker for 3 seconds"):
            fit_on(engine, dataset) if streamed else engine.reduce(len)
        assert time.monotonic() - began < 30


def test_a_killed_worker_changes_nothing(dataset):
    with cluster_of(2, processes=True, memory_limit="1GB") as client:
        pids = list(client.run(os.getpid).values())
        killed = []

        def kill(row):
            if row["phase"] == "pass" and not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(row["pass"])

        settings = Settings(3, n_init=3, tol=1e-3, sketch_rows=400)
        with on_cluster(client) as engine:
            found = signature(fit(dataset, settings, engine, kill))
            assert killed
        with on_cluster(client) as engine:
            assert signature(fit(dataset, settings, engine)) == found


def slow(block):
    time.sleep(0.1)
    return 1


def test_an_interrupted_pass_is_cancelled(dataset):
    with cluster_of(1) as client, on_cluster(client) as engine:
        fit_on(engine, dataset)
        scheduler = client.cluster.scheduler
        kept = len(scheduler.tasks)
        threading.Timer(0.4, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt) as interrupt:
            engine.reduce(slow)
        # The exception holds the frames of the pass, and with them its future.
        deadline = time.monotonic() + 10
        while len(scheduler.tasks) > kept:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert interrupt.traceback
        assert engine.reduce(slow) == 20


def test_a_lost_scheduler_ends_the_fit(dataset, tmp_path):
    # Its own process, and its worker one, so that it can be killed.
    found = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    options = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(found)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*dask, *options], **quiet)
    started = [scheduler]
    try:
        while not found.exists():
            time.sleep(0.05)
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard"]
        options = ["--no-nanny", "--nthreads", "1", "--scheduler-file", str(found)]
        started.append(subprocess.Popen([*worker, *options], **quiet))
        with (
            config.set({"distributed.comm.timeouts.connect": "2s"}),
            Client(scheduler_file=str(found), set_as_default=False, timeout="20s") as client,
        ):
            client.wait_for_workers(1, timeout=30)
            with on_cluster(client) as engine:

                def kill(row):
                    if row["phase"] == "pass":
                        scheduler.kill()

                began = time.monotonic()
                with pytest.raises(ClusterError):
                    fit(dataset, Settings(3, n_init=3, sketch_rows=400), engine, kill)
                assert time.monotonic() - began < 60
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_fit_in_a_running_event_loop_as_in_a_notebook(dataset):
    async def cell():
        with cluster_of(1) as client, on_cluster(client) as engine:
            return signature(fit_on(engine, dataset))

    with local(1) as engine:
        assert asyncio.run(cell()) == signature(fit_on(engine, dataset))


def test_an_asynchronous_client_is_refused(client):
    async def ask():
        async with Client(client.scheduler.address, asynchronous=True) as mine:
            with pytest.raises(InputError, match="asynchronous"):
                engine_for(mine)

    asyncio.run(ask())
