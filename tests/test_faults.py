"""Faults: workers that die in any phase, or join; a driver and a scheduler that are killed.

Each fit ends with the same bits, or with the stated exit code and a checkpoint from which it
goes on; and within a hard limit of time.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from command import COMMAND, softmix
from distributed import Client, get_worker
from engines import BLOCK_ROWS, cluster_of, fit_on, local, on_cluster, processes
from limits import hard_limit
from problems import signature

from softmix_dist import SoftmaxMixture, sums
from softmix_dist.codec import encode, same
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.errors import ClusterError
from softmix_dist.fit import Settings, fit
from softmix_dist.kernels import prepare, score
from softmix_dist.model import Frame, Mixture

LIMIT = 120


@pytest.fixture(autouse=True)
def hard_timeout() -> Iterator[None]:
    with hard_limit(LIMIT):
        yield


@pytest.fixture(scope="module")
def dataset(medium):
    return medium.dataset(BLOCK_ROWS)


@pytest.fixture(scope="module")
def expected(dataset):
    with local(1) as engine:
        return signature(fit_on(engine, dataset))


@pytest.fixture
def three() -> Iterator[Client]:
    with cluster_of(3, processes=True, memory_limit="1GB") as client:
        yield client


@dataclass(frozen=True)
class Blow:
    """Kills worker processes from inside a task of some kind, once: while its token lies there.

    Without pids only the process of the task.
    """

    token: Path
    kind: str
    pids: tuple[int, ...] = ()

    def strike(self) -> None:
        try:
            key = get_worker().get_current_task()
        except ValueError:
            # The driver adds what is left at the end.
            return
        if not str(key[0]).startswith(f"softmix-{self.kind}-"):
            return
        try:
            self.token.unlink()
        except FileNotFoundError:
            return
        own = os.getpid()
        for pid in (*(pid for pid in self.pids if pid != own), own):
            os.kill(pid, signal.SIGKILL)
        time.sleep(60)


@dataclass(frozen=True)
class Fragile:
    """A sum whose addition strikes."""

    value: Any
    blow: Blow

    def __add__(self, other: Fragile) -> Fragile:
        self.blow.strike()
        return Fragile(sums.add(self.value, other.value), self.blow)


def struck(block: Any, take: Any, blow: Blow, after: int = 2000, **more: Any) -> Any:
    if block.start >= after:
        blow.strike()
    return take(block, **more)


def struck_later(block: Any, kernel: Any, blow: Blow) -> Fragile:
    return Fragile(kernel(block), blow)


class Struck:
    """An engine that is struck in one phase: as it loads, or in its fourth pass."""

    def __init__(self, engine: Any, blow: Blow, phase: str):
        self.engine, self.blow, self.phase = engine, blow, phase
        self.plan, self.n_passes, self.bytes_read = engine.plan, 0, 0

    def load(self, source: Any, prepare: Any, nbytes: int) -> str:
        if self.phase == "load":
            prepare = partial(struck, take=prepare, blow=self.blow)
        return self.engine.load(source, prepare, nbytes)

    def reduce(self, kernel: Any) -> Any:
        self.n_passes += 1
        if self.phase == "load" or self.n_passes != 4:
            return self.engine.reduce(kernel)
        if self.phase == "score":
            return self.engine.reduce(partial(struck, take=kernel, blow=self.blow))
        return self.engine.reduce(partial(struck_later, kernel=kernel, blow=self.blow)).value


@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
@pytest.mark.parametrize("phase", ["load", "score", "merge"])
@pytest.mark.parametrize("n_killed", [1, 3])
def test_workers_killed_in_any_phase(dataset, expected, three, tmp_path, n_killed, phase, streamed):
    pids = list(three.run(os.getpid).values())
    # Streamed data are loaded where they are scored.
    kind = "score" if streamed and phase == "load" else phase
    blow = Blow(tmp_path / "token", kind, tuple(pids if n_killed == 3 else []))
    blow.token.write_text("")
    with on_cluster(three, streamed, blocks_per_shard=2) as engine:
        found = fit_on(Struck(engine, blow, phase), dataset)
    assert not blow.token.exists(), f"no {kind} task was struck"
    assert signature(found) == expected
    wait_until(lambda: sum(map(psutil.pid_exists, pids)) == 3 - n_killed)


@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
def test_large_parameters_and_a_worker_killed_with_them(three, tmp_path, streamed):
    # 27 MB, a node of the graph of their own, which the dead worker may have held alone.
    n_features, n_components = 4096, 64
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, n_features), dtype=np.float32)
    data = ArrayDataset.of(x, rng.poisson(1, 512).astype(np.uint32), block_rows=128)
    frame = Frame(np.zeros(n_features), np.ones(n_features))
    take = partial(prepare, frame=frame, n_components=n_components)
    atoms = rng.standard_normal((13, n_components, n_features)) / n_features
    mixtures = [Mixture(np.zeros(n_components), a) for a in atoms]
    kernel = partial(score, mixtures=mixtures, dtype=np.dtype(np.float32))
    assert len(pickle.dumps(kernel)) > 25e6
    blow = Blow(tmp_path / "token", "score")
    found = []
    for where in (local(1, streamed), on_cluster(three, streamed)):
        with where as engine:
            engine.load(data, take, x.nbytes)
            found.append(encode(engine.reduce(kernel)))
    with on_cluster(three, streamed) as engine:
        engine.load(data, take, x.nbytes)
        blow.token.write_text("")
        found.append(encode(engine.reduce(partial(struck, take=kernel, blow=blow, after=256))))
    assert not blow.token.exists()
    assert same(found[1], found[0])
    assert same(found[2], found[0])


def who(block: Any) -> Counter[str]:
    time.sleep(0.05)
    return Counter([get_worker().address])


def test_a_worker_that_joins_takes_its_share(dataset, expected):
    with cluster_of(1) as client, on_cluster(client, streamed=True) as engine:

        def grow(row):
            if row.get("pass") == 5:
                client.cluster.scale(3)
                client.wait_for_workers(3, timeout=60)

        settings = Settings(3, n_init=3, tol=1e-3, sketch_rows=400)
        assert engine.n_threads == 1
        assert signature(fit(dataset, settings, engine, grow)) == expected
        assert engine.n_threads == 3
        assert len(engine.reduce(who)) == 3


def broken(block):
    raise OSError(f"disk of block {block.start // BLOCK_ROWS} is on fire")


def deadly(block):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_always_fails_surfaces_its_cause(dataset, three):
    with on_cluster(three) as engine:
        fit_on(engine, dataset)
        with pytest.raises(OSError, match="disk of block .* is on fire"):
            engine.reduce(broken)
        with pytest.raises(ClusterError, match="workers died one after .*allowed-failures"):
            engine.reduce(deadly)


def test_nothing_is_left_on_the_cluster(dataset, three):
    with on_cluster(three) as engine:
        fit_on(engine, dataset)
    wait_until(lambda: n_tasks(three) == 0)
    assert three.status == "running"


def n_tasks(client: Client) -> int:
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


def wait_until(holds: Any) -> None:
    # Under the hard limit of each test.
    while not holds():
        time.sleep(0.05)


ENDLESS = ("-k", 3, "--solver", "em-first-order", "--tol", 1e-9, "--max-passes", 120)


@pytest.fixture(scope="module")
def reference(data):
    path = data.parent / "uninterrupted.zarr"
    softmix("fit", data, *ENDLESS, "-q", "-o", path)
    return signature(SoftmaxMixture.load(path).result_)


@contextmanager
def fit_until(n_passes: int, *arguments: Any) -> Iterator[subprocess.Popen[str]]:
    """Run ``softmix fit`` as a process; enter after so many passes."""
    quick = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}
    command = [*COMMAND, "fit", *arguments, "--log-json"]
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quick,
    ) as process:  # fmt: skip
        assert process.stderr
        try:
            for line in process.stderr:
                if line.startswith("{") and json.loads(line).get("pass", 0) >= n_passes:
                    break
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("killed", ["driver", "driver, at once", "scheduler"])
def test_a_fit_goes_on_after_its_driver_or_scheduler_was_killed(data, reference, tmp_path, killed):
    path = tmp_path / "model.zarr"
    kept = Path(f"{path}.checkpoint")
    with processes(tmp_path / "cluster", 2) as (address, scheduler):
        where = ("--scheduler", address, "-o", path)
        with fit_until(30, data, *ENDLESS, *where) as process:
            if killed == "scheduler":
                scheduler.kill()
            else:
                process.send_signal(signal.SIGTERM if killed == "driver" else signal.SIGKILL)
            _, err = process.communicate(timeout=60)
            code = process.returncode
        assert code == (-signal.SIGKILL if killed == "driver, at once" else 75)
        assert not path.exists()
        assert len(list(kept.glob("*.npz"))) >= 30
        if killed != "driver, at once":
            assert f"the passes that were made are kept in {kept}" in err
            # The last word is ours; Dask's log of a lost scheduler comes before.
            assert json.loads(err.splitlines()[-1])["phase"] in ("error", "interrupted")
        if killed != "scheduler":
            # The cluster is clean, and the same command goes on there.
            with Client(address, set_as_default=False) as client:
                wait_until(lambda: n_tasks(client) == 0)
            softmix("fit", data, *ENDLESS, *where)
        else:
            softmix("fit", data, *ENDLESS, *where, code=75)
            softmix("fit", data, *ENDLESS, "-o", path)
    assert signature(SoftmaxMixture.load(path).result_) == reference
    assert not kept.exists()
