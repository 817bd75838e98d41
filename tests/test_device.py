"""Devices, without one: kernels on a stand-in for CuPy, transfers, and the path of the engine."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import standin
from command import softmix
from dask.sizeof import sizeof
from distributed import Client, Scheduler, SpecCluster
from distributed import Worker as DaskWorker
from engines import BLOCK_ROWS, cluster_of, fit_on, local, on_cluster
from fake_cuda import Cuda, Runtime, RuntimeFailure, installed, used
from problems import signature
from test_kernels import SINGLE, TOLERANCE, assert_sums, identity, mixture, oracle, rows

from softmix_dist import (
    SoftmaxMixture,
    arrays,
    curvature,
    kernels,
    lindsay,
    moments,
    robust,
    sketch,
    thinning,
)
from softmix_dist.arrays import host, namespace
from softmix_dist.batched import batched_score
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.writer import write_dataset
from softmix_dist.engine import LocalEngine, slabs
from softmix_dist.engine import device as device_module
from softmix_dist.engine.device import Device
from softmix_dist.engine.plan import Worker
from softmix_dist.engine.settings import EngineSettings
from softmix_dist.engine.slabs import choose_workers, plan_on_devices
from softmix_dist.errors import ClusterError, InputError, StoreError
from softmix_dist.fit import Settings, fit
from softmix_dist.kernels import prepare, score
from softmix_dist.model import Coordinates, Frame, Mixture
from softmix_dist.selection import select_components
from softmix_dist.survey import held_bytes

DOUBLE = np.dtype(np.float64)


def away(block, dtype=None):
    """A block as it lies on the stand-in: one slice, every array of it there."""
    x = np.ascontiguousarray(np.concatenate(block.slices))

    def move(values):
        return None if values is None else standin.ndarray(np.array(values))

    return replace(
        block,
        slices=(move(x if dtype is None else x.astype(dtype)),),
        draws=move(block.draws),
        log_base=move(block.log_base),
        multiplicity=move(block.multiplicity),
        observed=None,
    )


def of(p=9000, n_features=3, base=None, dtype=np.float64, density=0.7, seed=0):
    raw = rows(p, n_features, seed=seed, dtype=dtype, base=base, density=density)
    return raw, prepare(raw, identity(n_features, np.dtype(dtype)), 3)


def test_the_namespace_of_an_array_is_the_module_that_made_it():
    assert namespace(np.zeros(1)) is np
    assert namespace(standin.zeros(1)) is standin
    assert host(np.ones(2)).sum() == 2
    assert isinstance(host(standin.ones(2)), np.ndarray)


@pytest.mark.parametrize("refused", [
    lambda x: np.exp(x),
    lambda x: np.asarray(x),
    lambda x: x + np.ones(3),
    lambda x: x[np.arange(2)],
    lambda x: x.max(initial=0),
    lambda x: x.dtypes,
    lambda x: standin.exp(np.ones(3)),
    lambda x: standin.block([x, x]),
    lambda x: standin.sum(x, where=True),
])  # fmt: skip
def test_the_stand_in_refuses_what_cupy_does(refused):
    with pytest.raises((TypeError, AttributeError)):
        refused(standin.ones(3))


@pytest.mark.parametrize("base", [None, "some"])
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("p", [40, 4096, 9000])
def test_batched_sums_are_those_of_the_oracle(p, dtype, base):
    raw, block = of(p, base=base)
    at = mixture()
    found = batched_score(block, at, dtype)
    assert_sums(found, oracle(raw, at), TOLERANCE[dtype])


def test_batched_sums_with_multiplicity_are_those_of_the_sweep():
    _, block = of()
    block = replace(block, multiplicity=np.random.default_rng(1).uniform(1, 3, 9000))
    (wanted,) = score(block, [mixture()], DOUBLE)
    found = batched_score(block, mixture(), DOUBLE)
    for name in ("log_density", "candidates", "draws", "log_base"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-12)


def test_long_sums_in_single_precision_keep_their_digits():
    raw, block = of(300_000, dtype=np.float32)
    at = mixture()
    assert_sums(batched_score(away(block), at, SINGLE), oracle(raw, at), 3e-6)


def coordinates(n_features=3):
    rng = np.random.default_rng(3)
    factor = np.tril(rng.normal(0, 0.3, (n_features, n_features))) + np.eye(n_features)
    return Coordinates(identity(n_features), rng.normal(0, 1, n_features), factor, 9.0, 8.0)


def sampling(**more):
    return sketch.Sampling(7, 500, 9000, 9.0, 100_000, **more)


WAYS = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))[0]
KERNELS = {
    "survey": lambda block: kernels.survey(block)[0],
    "score": partial(score, mixtures=[mixture(), mixture(2, seed=5)], dtype=DOUBLE),
    "score far": partial(
        score, mixtures=[replace(mixture(), offsets=np.full(3, -750.0))], dtype=DOUBLE
    ),
    "information": partial(curvature.information, mixture=mixture()),
    "product": partial(
        curvature.information_product, mixture=mixture(), direction=mixture(seed=6), dtype=DOUBLE
    ),
    "extent": partial(curvature.extent, directions=Mixture(np.zeros(2), WAYS[:2])),
    "gradient": partial(lindsay.gradient_function, mixture=mixture(), atoms=mixture(2, seed=7)),
    "pearson": partial(robust.pearson, mixture=mixture(), n_draws=100_000),
    "second moments": partial(moments.second_moments, coordinates=coordinates()),
    "projected moments": partial(
        moments.projected_moments,
        coordinates=coordinates(), directions=WAYS, basis=WAYS[:, :2], n_components=2,
    ),
    "sketch": partial(sketch.draw, sampling=sampling()),
    "second sketch": partial(sketch.draw, sampling=sampling(mixture=mixture(), number=1)),
    "half": partial(
        thinning.on_half, kernel=lambda block: kernels.survey(block)[0], seed=5
    ),
    "held out": partial(thinning.held_out, mixtures=[mixture(), mixture(2, seed=8)], seed=5),
}  # fmt: skip


def numbers(sums):
    """All numbers of some sums, as they lie on the host."""
    if isinstance(sums, tuple):
        return [number for part in sums for number in numbers(part)]
    if hasattr(sums, "__dataclass_fields__"):
        return [n for name in sums.__dataclass_fields__ for n in numbers(getattr(sums, name))]
    return [] if sums is None else [sums]


@pytest.mark.parametrize("base", [None, "some"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_work_on_a_device_alone(name, base):
    _, block = of(base=base)
    wanted, found = (numbers(KERNELS[name](each)) for each in (block, away(block)))
    assert len(found) == len(wanted) > 0
    for got, expected in zip(found, wanted, strict=True):
        assert type(got) is type(expected)
        size = np.abs(np.asarray(expected)).max() if np.size(expected) else 1
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize("name", [name for name in KERNELS if name not in ("half", "held out")])
def test_only_sums_come_down_and_of_a_sketch_its_rows(name):
    there = away(of()[1])
    standin.moved.clear()
    found = KERNELS[name](there)
    # Numbers for each row: where rows are chosen, and where cells are joined.
    a_row = {"pearson": 2, "sketch": 1, "second sketch": 1 + 3}.get(name, 0)
    chosen = len(found.rows) if "sketch" in name else 0
    assert standin.moved["down"] <= 8 * (a_row * 9000 + 3 * chosen + 600)
    assert standin.moved["up"] <= 8 * (chosen + 100)


def test_a_pass_brings_down_its_sums_at_once():
    _, block = of(base="some")
    there = away(block)
    standin.transfers.clear()
    standin.moved.clear()
    score(there, [mixture()], SINGLE)
    assert dict(standin.transfers) == {"up": 1, "down": 1}
    assert standin.moved == {"up": 4 * 3 * 4, "down": 8 * (2 + 3 + 2 * 3 * 4)}


def test_features_of_half_precision_are_widened_for_the_arithmetic():
    raw, _ = of(dtype=np.float16)
    block = prepare(raw, identity(3, SINGLE), 3)
    assert_sums(
        score(away(block, np.float16), [mixture()], SINGLE)[0], oracle(raw, mixture()), 3e-6
    )


# ------------------------------------------------------------------ the engine


@pytest.fixture(scope="module")
def dataset(medium):
    return medium.dataset(BLOCK_ROWS)


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A device for this process, on which two blocks are a slab."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(slabs, "_SLAB", 2 * BLOCK_ROWS * 36)
    with fresh(monkeypatch, Runtime()):
        yield


@contextmanager
def fresh(monkeypatch, runtime, **options):
    """The device of a process that has not looked for one."""
    with installed(runtime, **options) as cupy:
        monkeypatch.setattr(device_module, "_cupy", lambda: cupy)
        device_module._gpu.cache_clear()
        try:
            yield
        finally:
            device_module._gpu.cache_clear()
            for file in device_module._taken:
                file.close()
            device_module._taken.clear()


@pytest.fixture(scope="module")
def on_host(dataset):
    with local(1) as engine:
        return fit_on(engine, dataset)


def test_a_fit_on_a_device_is_that_of_the_host(dataset, on_host, device):
    with local(2, device="gpu") as engine:
        found = fit_on(engine, dataset)
    assert used[0] > 10
    assert found.converged
    assert found.n_passes == on_host.n_passes
    np.testing.assert_allclose(found.log_likelihood, on_host.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(found.weights, on_host.weights, rtol=1e-6)
    np.testing.assert_allclose(found.atoms, on_host.atoms, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.covariance, on_host.covariance, rtol=1e-4, atol=1e-12)


@pytest.fixture(scope="module")
def bits():
    """Signatures of the same fit on devices, which are all one."""
    found = set()
    yield found
    assert len(found) <= 1


@pytest.mark.parametrize("blocks_per_shard", [1, 3, 20])
@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_same_bits_on_any_threads(dataset, device, bits, n_threads, streamed, blocks_per_shard):
    options = {"device": "gpu", "blocks_per_shard": blocks_per_shard}
    with local(n_threads, streamed, **options) as engine:
        bits.add(signature(fit_on(engine, dataset)))
    assert len(bits) == 1


@pytest.mark.parametrize("resources", [None, {"GPU": 1}])
@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
def test_the_same_bits_on_a_cluster(dataset, device, bits, streamed, resources):
    more = {} if resources is None else {"resources": resources}
    with cluster_of(2, **more) as client, on_cluster(client, streamed, device="gpu") as engine:
        bits.add(signature(fit_on(engine, dataset)))
    assert len(bits) == 1


def test_data_that_are_kept_go_up_once(dataset, device):
    with local(1, device="gpu") as engine:
        standin.moved.clear()
        fit_on(engine, dataset)
    held = dataset.n_candidates * (4 * (dataset.n_features + 1) + 8)
    assert held <= standin.moved["up"] < 1.2 * held


def test_streamed_data_go_up_in_every_pass(dataset, device):
    with local(1, streamed=True, device="gpu") as engine:
        standin.moved.clear()
        n_passes = fit_on(engine, dataset).n_passes
    assert standin.moved["up"] > n_passes * dataset.n_candidates * 4 * dataset.n_features


def blocks_on_device(data, **options):
    first = data.read_block(0)
    take = partial(prepare, frame=Frame.of(first.features, first.log_base), n_components=3)
    with local(1, device="gpu", **options) as engine:
        engine.load(data, take, held_bytes(data, first))
        return [block for shard in engine._shards for _, block in shard]


def test_half_precision_is_kept_where_that_is_exact(medium, device):
    exact = replace(medium, features=medium.features.astype(np.float16)).dataset(BLOCK_ROWS)
    assert {str(b.slices[0].dtype) for b in blocks_on_device(exact)} == {"float16"}
    assert {str(b.slices[0].dtype) for b in blocks_on_device(medium.dataset(BLOCK_ROWS))} == {
        "float32"
    }
    # Less a centre, which the first block alone decides, they are no halves any more.
    rng = np.random.default_rng(0)
    wide = rng.uniform(1, 900, medium.features.shape).astype(np.float16)
    wide[:BLOCK_ROWS] = rng.uniform(300, 302, (BLOCK_ROWS, wide.shape[1]))
    data = medium.dataset(BLOCK_ROWS, features=wide)
    found = blocks_on_device(data)
    assert {str(b.slices[0].dtype) for b in found} == {"float32"}
    with local(1, device="gpu") as engine:
        plan = engine.plan(data, held_bytes(data, data.read_block(0)))
    assert plan.nbytes >= sum(b.slices[0].nbytes + b.draws.nbytes for b in found)


def test_slabs_hold_the_rows_in_order(dataset, device):
    found = blocks_on_device(dataset, blocks_per_shard=6)
    assert [b.start for b in found] == list(range(0, dataset.n_candidates, 2 * BLOCK_ROWS))
    drawn = np.concatenate([host(b.draws) for b in found])
    np.testing.assert_array_equal(drawn, dataset.counts)


def test_what_is_wrong_with_the_data_is_told_as_ever(medium, device):
    features = medium.features.copy()
    features[700, 1] = np.nan
    broken = medium.dataset(BLOCK_ROWS, features=features)
    told = []
    for where in ("cpu", "gpu"):
        with local(2, device=where) as engine, pytest.raises(InputError) as caught:
            fit_on(engine, broken)
        told.append(str(caught.value))
    assert "candidate 700" in told[0]
    assert told[0] == told[1]


@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
@pytest.mark.parametrize("chunk", ["features/c/4/0", "features/c/5/0", "log_base/c/5"])
def test_chunks_that_cannot_be_read_are_told_as_ever(medium, written, device, streamed, chunk):
    # The first and the second block of a slab, or a base measure that others of the slab have.
    base = np.zeros(len(medium.features))
    path = written(replace(medium, log_base=base), block_rows=BLOCK_ROWS)
    (path / chunk).write_bytes(b"garbled")
    told = []
    for where in ("cpu", "gpu"):
        with local(1, streamed, device=where) as engine, pytest.raises(StoreError) as caught:
            fit_on(engine, open_dataset(path))
        told.append(str(caught.value))
    assert "the chunk cannot be read" in told[0]
    assert told[0] == told[1]


def test_a_chunk_that_is_garbled_under_a_fit_on_a_device(medium, written, device):
    path = written(medium, block_rows=BLOCK_ROWS)

    def garble(row):
        if row["phase"] == "survey":
            (path / "features" / "c" / "7" / "0").write_bytes(b"garbled")

    with (
        local(1, streamed=True, device="gpu") as engine,
        pytest.raises(StoreError, match="(?s)changed.*candidates 1792 to"),
    ):
        fit(open_dataset(path), Settings(3), engine, garble)


def test_the_estimator_takes_a_device(medium, device):
    def fitted_on(where):
        model = SoftmaxMixture(2, n_init=2)
        return model.fit(medium.features, medium.counts, n_threads=1, device=where)

    np.testing.assert_allclose(fitted_on("gpu").atoms_, fitted_on("cpu").atoms_, atol=1e-5)
    with pytest.raises(InputError, match="expected 'cpu' or 'gpu', found 'tpu'"):
        fitted_on("tpu")


def test_components_are_selected_on_a_device(medium, device):
    found, wanted = (
        select_components(
            medium.features, medium.counts, components=[1, 2], n_init=2, n_threads=1, device=where
        )
        for where in ("gpu", "cpu")
    )
    assert found.recommended == wanted.recommended
    for a, b in zip(found.candidates, wanted.candidates, strict=True):
        np.testing.assert_allclose(a.behind, b.behind, atol=1e-9)


# ------------------------------------------------------------------ plans and refusals

H200 = Device("NVIDIA H200", "0000:01", 141 << 30, 140 << 30)


@dataclass(frozen=True)
class Rows:
    """A source of so many rows."""

    n_candidates: int
    n_features: int = 32
    dtype: np.dtype = SINGLE
    reads_ahead: int = 1

    @property
    def n_blocks(self):
        return -(-self.n_candidates // 65_536)

    @property
    def block_bytes(self):
        return 65_536 * (self.n_features * self.dtype.itemsize + 4)


def planned(source, devices=(H200,), n_threads=1, **settings):
    nbytes = source.n_candidates * (4 * (source.n_features + 1) + 8)
    workers = [Worker(n_threads, 64 << 30, 1 << 28)] * len(devices)
    return plan_on_devices(source, nbytes, workers, list(devices), EngineSettings(**settings))


def test_data_stay_on_the_device_while_they_fit():
    assert planned(Rows(700_000_000)).keep
    assert not planned(Rows(1_000_000_000)).keep
    # They may not stay in half precision.
    assert not planned(Rows(1_000_000_000, dtype=np.dtype(np.float16))).keep
    assert planned(Rows(1_000_000_000, dtype=np.dtype(np.float16)), keep=True).keep
    assert planned(Rows(1_000_000_000), [H200, replace(H200, identity="0000:02")]).keep
    # Two workers on one device share it.
    assert not planned(Rows(1_000_000_000), [H200, H200]).keep
    assert not planned(Rows(700_000_000), device_share=0.5).keep


def test_a_device_whose_worker_has_more_threads_may_get_more_of_the_data():
    devices = [H200, replace(H200, identity="0000:02")]
    source = Rows(1_200_000_000)
    assert planned(source, devices).keep
    nbytes = source.n_candidates * (4 * (source.n_features + 1) + 8)
    workers = [Worker(6, 64 << 30), Worker(1, 64 << 30)]
    assert not plan_on_devices(source, nbytes, workers, devices, EngineSettings()).keep


def test_the_plan_tells_of_devices():
    told = str(planned(Rows(1_000_000)))
    assert "1 x NVIDIA H200, 141.00 GiB of device memory" in told
    assert "kept on the device" in told
    told = str(planned(Rows(1_000_000_000), [H200, H200]))
    assert "1 x NVIDIA H200" in told
    assert "streamed: read again by every pass" in told


def test_a_device_too_small_to_work_in_is_refused():
    small = replace(H200, name="Small", memory=4 << 30, free=3 << 30)
    with pytest.raises(ClusterError, match="too little device memory: 4 threads work in .* Small"):
        planned(Rows(100_000_000), [small], n_threads=4)


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
@pytest.mark.parametrize("full", ["device", "pinned"])
def test_memory_that_is_not_enough_is_told_and_the_thread_works_on(
    dataset, device, bits, monkeypatch, full, streamed
):
    def fails(*_):
        if full == "device":
            raise OutOfMemoryError("Out of memory allocating 1,024 bytes")
        raise RuntimeFailure("cudaErrorMemoryAllocation: out of memory")

    with local(1, streamed, device="gpu") as engine:
        with monkeypatch.context() as patched:
            if full == "device":
                patched.setattr(standin, "empty", fails, raising=False)
            else:
                patched.setattr(Cuda, "alloc_pinned_memory", staticmethod(fails))
            for _ in range(3):
                with pytest.raises(ClusterError, match="(?i)is full .*out of memory.*device-share"):
                    fit_on(engine, dataset)
        bits.add(signature(fit_on(engine, dataset)))
    assert len(bits) == 1


def test_a_kernel_without_memory_is_told(dataset, device):
    def fails(block):
        raise OutOfMemoryError("Out of memory allocating 1,024 bytes")

    with local(1, device="gpu") as engine:
        fit_on(engine, dataset)
        with pytest.raises(ClusterError, match="is full") as caught:
            engine.reduce(fails)
    # It reaches drivers without CuPy.
    assert caught.value.__context__ is None


HOST = "127.0.0.1"
ONE, NONE = Worker(1, None, declares_gpu=True), Worker(1, None)
LACKS = ClusterError("CuPy is not installed; pip install it")


def test_workers_with_a_device_are_chosen():
    every = {"a": ONE, "b": ONE}
    assert choose_workers(every, {"a": H200, "b": H200}, False) == (["a", "b"], {"GPU": 1.0})
    two = {"a": replace(ONE, n_threads=2), "b": ONE}
    assert choose_workers(two, {"a": H200, "b": H200}, False)[1] == {"GPU": 0.5}
    bare = {"a": NONE, "b": NONE}
    assert choose_workers(bare, {"a": H200, "b": H200}, False) == (["a", "b"], None)
    mixed = {"a": ONE, "b": NONE}
    assert choose_workers(mixed, {"a": H200, "b": LACKS}, True) == (["a"], {"GPU": 1.0})


@pytest.mark.parametrize(("workers", "told", "mixed", "message"), [
    ({"a": NONE}, {"a": LACKS}, False, "no worker has a GPU to use: CuPy is not installed; pip"),
    ({"a": ONE, "b": NONE}, {"a": H200, "b": LACKS}, False,
     "1 of 2 workers have no GPU to use .b: CuPy is not installed.*mixed-devices"),
    ({"a": NONE, "b": NONE}, {"a": H200, "b": LACKS}, True, "--resources GPU=1"),
    ({"a": ONE, "b": ONE}, {"a": H200, "b": LACKS}, True, "2 declare one"),
])  # fmt: skip
def test_clusters_that_are_mixed_are_refused(workers, told, mixed, message):
    with pytest.raises(ClusterError, match=message):
        choose_workers(workers, told, mixed)


def test_a_mixed_cluster_where_one_was_asked_for(dataset, device, bits, monkeypatch):
    """Of two workers one has no device: what computes is the other."""
    cpu = {"cls": DaskWorker, "options": {"nthreads": 1, "host": HOST}}
    gpu = {"cls": DaskWorker, "options": {"nthreads": 1, "host": HOST, "resources": {"GPU": 1}}}
    find = device_module.find_device

    def found(dask_worker):
        if dask_worker.state.total_resources.get("GPU"):
            return find()
        return LACKS

    monkeypatch.setattr("softmix_dist.engine.cluster.look_for_device", found)
    with (
        SpecCluster(
            {0: cpu, 1: gpu},
            scheduler={
                "cls": Scheduler,
                "options": {"host": HOST, "port": 0, "dashboard_address": ":0", "dashboard": False},
            },
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        with (
            on_cluster(client, device="gpu") as engine,
            pytest.raises(ClusterError, match="1 of 2 workers have no GPU"),
        ):
            fit_on(engine, dataset)
        with on_cluster(client, device="gpu", mixed_devices=True) as engine:
            bits.add(signature(fit_on(engine, dataset)))
            kept = {str(key): where for key, where in client.who_has().items()}
            assert {a for key, where in kept.items() if "load" in key for a in where} == {
                address
                for address, worker in client.scheduler_info()["workers"].items()
                if worker["resources"]
            }
    assert len(bits) == 1


@pytest.mark.parametrize(("runtime", "message"), [
    (Runtime(0), "no CUDA device is visible; look at CUDA_VISIBLE_DEVICES"),
    (Runtime(driver=0), "there is no CUDA driver here"),
    (Runtime(driver=12080), "the driver knows CUDA 12.8, and CuPy was built for 13.2 .*gpu-cuda12"),
])  # fmt: skip
def test_devices_that_cannot_be_used_are_refused(monkeypatch, tmp_path, runtime, message):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with fresh(monkeypatch, runtime), pytest.raises(ClusterError, match=message):
        device_module.find_device()


def test_a_device_that_does_not_compute_is_refused(monkeypatch, device):
    def fails(*_):
        raise RuntimeError("CuPy failed to load libnvrtc.so.13")

    monkeypatch.setattr(standin, "exp", fails, raising=False)
    with pytest.raises(ClusterError, match="does not compute .*libnvrtc.*pip install"):
        device_module.find_device()


def test_without_cupy_the_remedy_is_told():
    if find_spec("cupy") is not None:
        pytest.skip("CuPy is installed")
    device_module._gpu.cache_clear()
    with pytest.raises(
        ClusterError, match=r"CuPy is not installed; pip install 'softmix-dist\[gpu"
    ):
        device_module.find_device()


def test_processes_of_a_machine_take_devices_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with fresh(monkeypatch, Runtime(2)):
        assert device_module.find_device().identity == "0000:00:00.0"
    # Another process has the first.
    held = (tmp_path / "softmix-gpu-0000-00-00.0.lock").open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    with held:
        with fresh(monkeypatch, Runtime(2)):
            assert device_module.find_device().identity == "0000:01:00.0"
        # There is no other: they share it.
        with fresh(monkeypatch, Runtime(1)):
            assert device_module.find_device().identity == "0000:00:00.0"


def test_dask_is_told_the_size_of_blocks_in_its_memory(dataset):
    block = prepare(dataset.read_block(0), identity(dataset.n_features), 3)
    nbytes = BLOCK_ROWS * (4 * (dataset.n_features + 1) + 8)
    assert nbytes <= sizeof([(0, block)]) < nbytes + 1000
    assert sizeof([(0, away(block))]) < 1000


def test_the_command_says_what_a_device_needs(tmp_path, medium):
    data = tmp_path / "data.zarr"
    write_dataset(data, medium.features, medium.counts)
    if find_spec("cupy") is not None:
        pytest.skip("CuPy is installed")
    for more in ([], ["--plan"], ["--no-checkpoint"]):
        told = softmix("fit", data, "-k", 2, "--device", "gpu", *more, code=75)
        assert "CuPy is not installed; pip install 'softmix-dist[gpu]'" in told.stderr


def test_pieces_of_a_block_on_a_device_hold_its_rows(monkeypatch):
    monkeypatch.setattr(arrays, "_DEVICE_NUMBERS", 3 * 5000)
    _, block = of(10_000)
    pieces = list(away(block).pieces(3))
    assert [rows for rows, _ in pieces] == [
        slice(0, 4096), slice(4096, 8192), slice(8192, 10_000)
    ]  # fmt: skip
    assert [len(x) for _, x in pieces] == [4096, 4096, 1808]
    assert list(block.pieces(3)) == list(block.parts())


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_sum_over_pieces(monkeypatch, name):
    monkeypatch.setattr(arrays, "_DEVICE_NUMBERS", 3 * 5000)
    _, block = of(base="some")
    wanted, found = (numbers(KERNELS[name](each)) for each in (block, away(block)))
    for got, expected in zip(found, wanted, strict=True):
        size = np.abs(np.asarray(expected)).max() if np.size(expected) else 1
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * size)


def test_few_threads_work_in_the_memory_of_a_device(monkeypatch):
    monkeypatch.setattr("softmix_dist.engine.local.available_cpus", lambda: 64)
    for options, n_threads in (({"device": "gpu"}, 4), ({}, 64)):
        engine = LocalEngine(**options)
        assert engine.n_threads == n_threads
        engine.close()


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "pearson"])
def test_kernels_of_a_block_without_draws(name):
    _, block = of(p=300, density=0.0)
    wanted, found = (numbers(KERNELS[name](each)) for each in (block, away(block)))
    for got, expected in zip(found, wanted, strict=True):
        assert np.isfinite(np.asarray(expected)).all()
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-300)
