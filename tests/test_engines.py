"""Every engine, the same bits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import dask.array as da
import numpy as np
import pytest
from engines import BLOCK_ROWS, cluster_of, failing, fit_on, local, on_cluster, start_of
from problems import fitted, signature, simulate
from threadpoolctl import threadpool_limits

from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.engine import LocalEngine
from softmix_dist.engine.cluster import ClusterEngine
from softmix_dist.engine.shards import Shard
from softmix_dist.errors import StoreError
from softmix_dist.kernels import prepare, survey
from softmix_dist.model import Frame, block_dtype


@pytest.fixture(scope="module")
def dataset(medium):
    """Twenty blocks, the last one ragged."""
    found = medium.dataset(BLOCK_ROWS)
    assert found.n_blocks == 20
    assert found.n_candidates % BLOCK_ROWS
    return found


@pytest.fixture(scope="module")
def expected(dataset):
    with local(1) as engine:
        result = fit_on(engine, dataset)
    assert result.converged
    assert len(result.history) > 5
    return signature(result)


@dataclass(frozen=True)
class Waiting(ArrayDataset):
    """Reads its first block at once, and the others when it is told."""

    told: Any = None
    reads_ahead = 2

    def read_block(self, index):
        assert index == 0 or self.told.wait(20)
        return super().read_block(index)


def test_a_shard_that_is_dropped_does_not_wait_for_its_reads(dataset):
    # Not even where the garbage collector drops it: it would hold locks that the reads need.
    told = threading.Event()
    blocks = iter(Shard(Waiting(**vars(dataset), told=told), 0, 9, start_of))
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(next, blocks).result(10) == (0, 0)
            pool.submit(blocks.close).result(10)
            assert not told.is_set()
            told.set()
    finally:
        told.set()


@pytest.mark.parametrize("streamed", [False, True])
def test_after_an_error_no_thread_takes_a_block_more(dataset, streamed):
    taken, other, told = [], threading.Event(), threading.Event()

    def kernel(block):
        taken.append(block.start)
        if block.start == 0:
            assert other.wait(20)
            raise ArithmeticError
        other.set()
        assert told.wait(20)
        return 1

    take = partial(prepare, frame=Frame(np.zeros(3), np.ones(3)), n_components=3)
    with local(2, streamed, blocks_per_shard=10) as engine:
        engine.load(dataset, take, 10_000)
        with pytest.raises(ArithmeticError):
            engine.reduce(kernel)
        told.set()
    assert sorted(taken) == [0, 10 * BLOCK_ROWS]


@pytest.fixture(scope="module")
def wide():
    """Twenty blocks, the last one ragged, whose bits two BLAS threads would change."""
    found = simulate(9_765, 32, 3, 400_000, seed=4).dataset(512)
    assert found.n_blocks == 20
    assert found.n_candidates % 512
    return found


@pytest.fixture(scope="module")
def clusters():
    """Clusters of 1, 2 and 4 workers, by their number."""
    with cluster_of(1) as one, cluster_of(2) as two, cluster_of(4) as four:
        yield {1: one, 2: two, 4: four}


@pytest.fixture(scope="module")
def hashes():
    """Of all results so far."""
    return set()


@pytest.mark.parametrize("blas_threads", [1, 2])
@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
@pytest.mark.parametrize("blocks_per_shard", [1, 3, 8, 20])
@pytest.mark.parametrize("n_workers", [1, 2, 4])
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_one_hash(
    wide, hashes, clusters, where, n_workers, blocks_per_shard, streamed, blas_threads
):
    how = {"streamed": streamed, "blocks_per_shard": blocks_per_shard}
    chosen = (
        local(n_workers, **how) if where == "threads" else on_cluster(clusters[n_workers], **how)
    )
    with threadpool_limits(blas_threads), chosen as engine:
        result = fitted(wide, 3, engine, init="subspace", n_init=2, tol=1e-3, sketch_rows=2048)
    assert result.converged
    assert len(result.history) > 5
    hashes.add(sha256(signature(result)).hexdigest())
    assert len(hashes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
def test_forty_tiny_workers(written, medium, expected, streamed):
    path = written(medium, block_rows=BLOCK_ROWS)
    with cluster_of(40, processes=True, memory_limit="256MB") as client:
        client.wait_for_workers(40)
        with on_cluster(client, streamed, blocks_per_shard=1) as engine:
            assert engine.n_threads == 40
            assert signature(fit_on(engine, open_dataset(path))) == expected


def test_worker_processes(dataset, expected, written, medium):
    path = written(medium, block_rows=BLOCK_ROWS)
    with cluster_of(2, processes=True, memory_limit="1GB") as client:
        for data in (dataset, open_dataset(path)):
            with on_cluster(client) as engine:
                assert signature(fit_on(engine, data)) == expected
        # Errors cross processes as they are.
        (path / "counts" / "c" / "5").write_bytes(b"garbled")
        with on_cluster(client) as engine, pytest.raises(StoreError, match="candidates 1280 to"):
            fit_on(engine, open_dataset(path))
        with on_cluster(client) as engine, pytest.raises(StoreError, match="block 3 is gone"):
            fit_on(engine, failing(dataset, StoreError("block 3 is gone")))


@pytest.mark.parametrize("where", ["threads", "cluster", "streamed"])
@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_where_the_data_lie(medium, expected, written, client, where, kind):
    if kind == "zarr":
        data = open_dataset(written(medium, block_rows=BLOCK_ROWS))
    else:
        wrap = partial(da.from_array, chunks=700) if kind == "dask" else np.asarray
        data = ArrayDataset.of(wrap(medium.features), wrap(medium.counts), block_rows=BLOCK_ROWS)
    engine = local(2) if where == "threads" else on_cluster(client, where == "streamed")
    with engine as chosen:
        assert signature(fit_on(chosen, data)) == expected


@pytest.mark.parametrize("p", [1, 100, 256, 257, 512, 2048])
def test_sums_of_any_number_of_blocks(medium, client, p):
    data = ArrayDataset.of(medium.features[:p], medium.counts[:p], block_rows=64)
    take = partial(prepare, frame=Frame(np.zeros(3), np.ones(3)), n_components=3)
    found = []
    for engine in (
        LocalEngine(1),
        LocalEngine(3),
        LocalEngine(2, keep=False),
        ClusterEngine(client),
    ):
        engine.load(data, take, 10_000)
        sums, findings = engine.reduce(survey)
        assert not findings
        found.append(sums.gram.tobytes() + sums.draws.tobytes())
        assert sums.n_candidates == p
        engine.close()
    assert len(set(found)) == 1


def test_another_block_size_is_another_result(medium, expected):
    # Part of the definition: the test of the bits would notice a different order.
    with local(1) as engine:
        assert signature(fit_on(engine, medium.dataset(512))) != expected


@pytest.mark.parametrize("where", ["threads", "cluster", "streamed"])
def test_an_engine_can_be_loaded_again(dataset, expected, client, where):
    other = simulate(5_037, 3, 3, 400_000, seed=3).dataset(BLOCK_ROWS)
    chosen = local(2) if where == "threads" else on_cluster(client, where == "streamed")
    with chosen as engine:
        assert signature(fit_on(engine, other)) != expected
        assert signature(fit_on(engine, dataset)) == expected


def test_visit_answers_in_the_order_of_blocks(dataset, client):
    starts = [index * BLOCK_ROWS for index in range(20)]
    for engine in (local(3), on_cluster(client)):
        with engine as chosen:
            assert chosen.visit(dataset, start_of) == starts


@pytest.mark.parametrize("streamed", [False, True])
def test_a_pass_says_what_it_read(dataset, streamed):
    with local(2, streamed) as engine:
        result = fit_on(engine, dataset)
    # Features with their ones, and draws, as blocks hold them.
    width = (dataset.n_features + 1) * block_dtype(dataset.dtype).itemsize + 8
    read = width * dataset.n_candidates if streamed else 0
    assert {row["bytes_read"] for row in result.history} == {read}
