"""Engines at work: memory, tasks, clients, errors."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

import dask
import dask.array as da
import pytest
from distributed.diagnostics.plugin import SchedulerPlugin
from engines import BLOCK_ROWS, cluster_of, failing, fit_on, local, on_cluster, start_of

from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.engine import LocalEngine, engine_for
from softmix_dist.engine.cluster import ClusterEngine
from softmix_dist.errors import InputError, SoftmixError, StoreError
from softmix_dist.fit import Settings, fit


@pytest.fixture(scope="module")
def dataset(medium):
    return medium.dataset(BLOCK_ROWS)


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Lazy(ArrayDataset):
    """Refuses to be read once its Dask arrays were computed whole."""

    def read_block(self, index):
        if not hasattr(self.features, "compute"):
            raise MemoryError(f"{len(self.features)} rows were computed to read a block")
        return super().read_block(index)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("visit", [False, True])
def test_dask_arrays_are_computed_block_by_block(medium, client, streamed, visit):
    arrays = (da.from_array(values, chunks=100) for values in (medium.features, medium.counts))
    data = Lazy(**vars(ArrayDataset.of(*arrays, block_rows=BLOCK_ROWS)))
    with on_cluster(client, streamed) as engine:
        if visit:
            assert len(engine.visit(data, start_of)) == 20
        else:
            assert fit_on(engine, data).converged


# ---------------------------------------------------------------- tasks


class Counter(SchedulerPlugin):
    """Keys of the tasks that were computed, by their prefix."""

    name = "softmix-test-counter"

    def __init__(self):
        self.keys = {}

    def transition(self, key, start, finish, *args, **kwargs):
        if start == "processing" and finish == "memory":
            name = key[0] if isinstance(key, tuple) else key
            prefix = "-".join(name.split("-")[:2])
            self.keys.setdefault(prefix, set()).add(key)

    def count(self):
        return {prefix: len(keys) for prefix, keys in self.keys.items()}


def count_tasks(n_workers, data, n_passes):
    """Tasks of a fit with this many passes, by kind."""
    counter = Counter()
    with cluster_of(n_workers) as client, on_cluster(client) as engine:
        client.cluster.scheduler.add_plugin(counter)
        with pytest.warns(UserWarning, match="not converged"):
            result = fit_on(engine, data, max_passes=n_passes, init="random", n_init=1, solver="em")
        assert result.n_passes == n_passes + 1
    return counter.count()


def test_tasks_number_with_workers_and_not_with_blocks(medium):
    few, many = (count_tasks(2, medium.dataset(rows), 4) for rows in (256, 32))
    assert few == many
    assert set(few) >= {"softmix-load", "softmix-score", "softmix-merge"}
    # Five passes, the survey among them; about two shards a thread.
    assert few["softmix-load"] <= 4
    assert few["softmix-score"] <= 5 * 4
    assert sum(few.values()) <= 5 * (4 + 4)
    doubled = count_tasks(4, medium.dataset(32), 4)
    assert few["softmix-score"] < doubled["softmix-score"] <= 2 * few["softmix-score"]


def test_nothing_stays_on_the_cluster(dataset):
    with cluster_of(2) as client:
        scheduler = client.cluster.scheduler
        for _ in range(3):
            with on_cluster(client) as engine:
                fit_on(engine, dataset)
                # Between passes only the shards and nothing of the passes gone by.
                wait_until(lambda: len(scheduler.tasks) <= 4)
        gc.collect()
        wait_until(lambda: not scheduler.tasks)


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------- clients


def test_a_client_stays_open(dataset, client):
    with on_cluster(client) as engine:
        fit_on(engine, dataset)
    assert client.status == "running"
    assert client.submit(sum, [1, 2]).result() == 3


def test_without_a_client_there_are_threads():
    engine = engine_for(None)
    assert isinstance(engine, LocalEngine)
    engine.close()


def test_the_current_client_is_used(client):
    with client.as_current():
        engine = engine_for(None)
    assert isinstance(engine, ClusterEngine)
    assert engine.client is client
    given = engine_for(client)
    assert given.client is client


def test_a_cluster_without_workers_is_refused():
    with cluster_of(0) as client, pytest.raises(SoftmixError, match="no worker"):
        engine_for(client)


def test_the_workers_of_a_busy_client_are_seen():
    # The client refreshes what it knows of the scheduler, without workers, at this interval.
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        cluster_of(2) as client,
    ):
        for _ in range(1000):
            assert ClusterEngine(client).n_threads == 2


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "error", [StoreError("block 3 is gone"), InputError("block 3 is odd"), MemoryError("full")]
)
@pytest.mark.parametrize("where", ["threads", "cluster", "streamed"])
def test_errors_in_tasks_keep_their_type(dataset, client, where, error):
    chosen = local(2) if where == "threads" else on_cluster(client, where == "streamed")
    with chosen as engine, pytest.raises(type(error), match=str(error)):
        fit_on(engine, failing(dataset, error))


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_data_that_change_under_the_fit(medium, written, client, where):
    path = written(medium, block_rows=BLOCK_ROWS)

    def garble(row):
        if row["phase"] == "survey":
            (path / "features" / "c" / "7" / "0").write_bytes(b"garbled")

    chosen = local(2, streamed=True) if where == "threads" else on_cluster(client, streamed=True)
    with chosen as engine, pytest.raises(StoreError, match="(?s)changed.*candidates 1792 to"):
        fit(open_dataset(path), Settings(3), engine, garble)
    # The engine and the client can be used again.
    assert client.submit(sum, [1, 2]).result() == 3
