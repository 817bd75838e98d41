"""Plans: what is kept, how many tasks, and what is refused."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass

import dask
import numpy as np
import pytest
from command import softmix
from engines import BLOCK_ROWS, cluster_of, fit_on, local, on_cluster

from softmix_dist.engine import LocalEngine
from softmix_dist.engine.local import memory_used
from softmix_dist.engine.plan import Worker, count_merges, count_shards, make_plan
from softmix_dist.engine.settings import EngineSettings
from softmix_dist.errors import InputError

MB = 10**6


@dataclass(frozen=True)
class Blocks:
    """A source of so many blocks of 16 MB."""

    n_blocks: int
    block_bytes: int = 16 * MB
    reads_ahead: int = 1


def plan_of(n_blocks, workers, **settings):
    return make_plan(Blocks(n_blocks), n_blocks * 16 * MB, workers, **settings)


def test_data_stay_in_memory_up_to_half_of_it():
    workers = [Worker(1, 1000 * MB)] * 2
    assert plan_of(62, workers).keep
    assert not plan_of(64, workers).keep
    # What the processes use already, and what tasks work in, is not there for data.
    busy = [Worker(1, 1000 * MB, 300 * MB)] * 2
    assert not plan_of(62, busy).keep
    assert plan_of(62, busy, keep=True).keep
    assert plan_of(10_000, [Worker(1, None)]).keep


def test_a_worker_with_more_threads_may_get_more_of_the_data():
    several, one = Worker(6, 4000 * MB), Worker(1, 4000 * MB)
    assert plan_of(120, [several, several]).keep
    assert plan_of(120, [several, one]).keep
    # 12 of 14 shards of 3 200 MB are more than half of the memory.
    assert not plan_of(200, [several, one]).keep
    assert not plan_of(200, [one, several]).keep
    # And one with fewer threads may get as much as the others.
    assert not plan_of(200, [several, several, Worker(1, 1000 * MB)]).keep


def test_the_number_of_tasks_is_that_of_the_threads():
    few = plan_of(100, [Worker(2, None)] * 2)
    many = plan_of(100_000, [Worker(2, None)] * 2)
    assert few.n_shards == many.n_shards == 8
    assert few.n_tasks == many.n_tasks == 8 + 1
    assert count_shards(3, 100) == 3
    assert count_shards(20, 4, blocks_per_shard=3) == 7
    assert [count_merges(n) for n in (1, 2, 16, 17, 256)] == [0, 1, 1, 3, 17]


def test_a_worker_without_room_for_its_blocks_is_refused_with_the_numbers():
    # Two blocks as stored, two as prepared, in each of four threads.
    enough, short = Worker(4, 300 * MB), Worker(4, 280 * MB)
    assert plan_of(8, [enough]).task_bytes == 64 * MB
    with pytest.raises(InputError, match="works in 61.04 MiB.*4 of them and 267.03 MiB of memory"):
        plan_of(8, [enough, short])


def test_a_plan_is_one_line():
    told = str(plan_of(360, [Worker(1, 1000 * MB)] * 2))
    assert told == (
        "2 workers, 2 threads, 1.86 GiB of memory; 5.36 GiB in 360 blocks, streamed: read again "
        "by every pass; 4 shards, 5 tasks a pass, 61.04 MiB a thread"
    )


def test_engines_plan_by_what_they_have(medium):
    data = medium.dataset(BLOCK_ROWS)
    with local(2) as engine:
        assert engine.plan(data, 10**6).n_shards == 4
    # These workers are in this process, whose memory all tests before have filled.
    with cluster_of(2, memory_limit="8GB") as client, on_cluster(client) as engine:
        found = engine.plan(data, 10**6)
        assert (found.n_workers, found.memory) == (2, 16 * 10**9)


def test_threads_keep_data_beside_what_their_process_uses(medium):
    # Of 0.65 of the memory 500 MB are left.
    before, data = memory_used(), medium.dataset(BLOCK_ROWS)
    with closing(LocalEngine(1, memory=int((before + 500 * MB) / 0.65))) as engine:
        assert engine.plan(data, 400 * MB).keep
        notebook = np.ones(300 * MB // 8)
        assert not engine.plan(data, 400 * MB).keep
    assert memory_used() - before >= 0.7 * notebook.nbytes


def test_threads_load_other_data_in_the_place_of_those_they_hold(medium, monkeypatch):
    data, held = medium.dataset(BLOCK_ROWS), []
    with local(1) as engine:
        fit_on(engine, data)
        monkeypatch.setattr(
            "softmix_dist.engine.local.memory_used", lambda: held.append(len(engine._shards)) or 0
        )
        fit_on(engine, data)
    assert held == [0]


def test_settings_come_from_the_configuration():
    with dask.config.set({"softmix.engine": {"keep": False, "stall-timeout": "2 minutes"}}):
        assert EngineSettings.configured() == EngineSettings(False, None, 120.0)
    wrong = {"keep": "maybe", "blocks-per-shard": 0, "stall-timeout": "soon", "patience": 3}
    with (
        dask.config.set({"softmix.engine": wrong}),
        pytest.raises(InputError, match="(?s)patience.*keep.*blocks-per-shard.*stall-timeout"),
    ):
        EngineSettings.configured()


def test_the_command_says_the_plan_without_fitting(data, tmp_path):
    target = tmp_path / "model.zarr"
    told = softmix("fit", data, "-k", 3, "--plan", "--workers", 2, "-o", target).stdout
    assert told.startswith("1 worker, 2 threads, ")
    assert "5 blocks, kept in memory; 4 shards, 5 tasks a pass" in told
    assert told.count("\n") == 1
    assert not target.exists()
    found = json.loads(softmix("fit", data, "-k", 3, "--plan", "--workers", 2, "--json").stdout)
    assert (found["n_threads"], found["n_shards"], found["keep"]) == (2, 4, True)
