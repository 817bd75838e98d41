"""Waits for a cluster end: in a result, or in an error that says why there is none."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from distributed import Client
from engines import BLOCK_ROWS, cluster_of, fit_on, on_cluster
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


def test_an_interrupted_pass_is_cancelled(dataset, monkeypatch):
    with cluster_of(1) as client, on_cluster(client) as engine:
        fit_on(engine, dataset)
        scheduler = client.cluster.scheduler
        kept = len(scheduler.tasks)

        def interrupted(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr("softmix_dist.engine.waiting._wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.reduce(time.sleep)
        deadline = time.monotonic() + 10
        while len(scheduler.tasks) > kept:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_asynchronous_client_is_refused(client):
    async def ask():
        async with Client(client.scheduler.address, asynchronous=True) as mine:
            with pytest.raises(InputError, match="asynchronous"):
                engine_for(mine)

    asyncio.run(ask())
