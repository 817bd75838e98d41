"""Waits for a cluster end: in a result, or in an error that says why there is none."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from dask import config
from distributed import Client
from distributed.core import Status
from distributed.scheduler import KilledWorker
from engines import BLOCK_ROWS, cluster_of, fit_on, local, on_cluster, processes
from problems import signature

from softmix_dist.engine import engine_for, waiting
from softmix_dist.engine.waiting import cluster_errors
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


def test_a_task_that_workers_died_at_names_memory_and_the_setting_for_lost_nodes():
    last = SimpleNamespace(address="tcp://10.0.0.7:4000")
    told = r"tcp://10\.0\.0\.7:4000.*memory.*distributed\.scheduler\.allowed-failures"
    with pytest.raises(ClusterError, match=told), cluster_errors():
        raise KilledWorker("shard-3", last, 3)


def test_workers_that_come_and_go_without_end_are_an_error(monkeypatch):
    monkeypatch.setattr(waiting, "_LOOK", 0.001)
    ports = itertools.count(1)
    running = SimpleNamespace(ncores_running=lambda: {f"tcp://a:{next(ports)}": 1, "tcp://b:1": 1})
    client = SimpleNamespace(scheduler=running, sync=lambda ask, callback_timeout: ask())
    future = SimpleNamespace(done=lambda: False, result=never, status="pending", key="k")
    with pytest.raises(ClusterError, match="41 workers came and went, 2 at a time.*memory"):
        waiting.result_of(client, future, 60.0)


def never(timeout):
    raise TimeoutError


def pause(dask_worker):
    # Else its own look at the memory, which is there, would let it run again.
    dask_worker.memory_manager.memory_pause_fraction = False
    dask_worker.status = Status.paused


def test_workers_without_memory_are_told_from_none(dataset):
    with cluster_of(2) as client, on_cluster(client, stall_timeout=3.0) as engine:
        fit_on(engine, dataset)
        client.run(pause)
        with pytest.raises(ClusterError, match="2 of 2 are paused, their memory nearly full"):
            engine.reduce(len)


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
    with (
        processes(tmp_path, 1) as (address, scheduler),
        config.set({"distributed.comm.timeouts.connect": "2s"}),
        Client(address, set_as_default=False, timeout="20s") as client,
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


@pytest.mark.parametrize("streamed", [False, True])
def test_a_frozen_scheduler_ends_the_fit(dataset, tmp_path, streamed):
    with (
        processes(tmp_path, 1) as (address, scheduler),
        Client(address, set_as_default=False, timeout="20s") as client,
    ):
        client.wait_for_workers(1, timeout=30)
        with on_cluster(client, streamed, stall_timeout=3.0) as engine:
            expected = signature(fit_on(engine, dataset))
            scheduler.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(ClusterError, match="scheduler did not answer for 3 seconds"):
                    engine.reduce(len)
                with pytest.raises(ClusterError, match="scheduler did not answer for 3 seconds"):
                    on_cluster(client, stall_timeout=3.0).__enter__()
            finally:
                scheduler.send_signal(signal.SIGCONT)
            assert signature(fit_on(engine, dataset)) == expected


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_gave_up_its_scheduler_ends_the_fit(dataset, streamed):
    with cluster_of(1) as client, on_cluster(client, streamed) as engine:
        fit_on(engine, dataset)
        client.close()
        with pytest.raises(ClusterError, match="lost its scheduler; start a new cluster"):
            engine.reduce(len)


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
