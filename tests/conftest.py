"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from command import softmix
from distributed import Client, LocalCluster
from problems import Problem, simulate

from softmix_dist.data.simulate import simulate as simulate_data
from softmix_dist.data.writer import write_dataset

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background jobs ignore interrupts, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("softmix", deadline=None, derandomize=True)
hypothesis.settings.load_profile("softmix")


@pytest.fixture(scope="session")
def small() -> Problem:
    """Two components that EM separates in a moment; float64 features."""
    return simulate(600, 2, 2, 50_000, seed=1, dtype="float64")


@pytest.fixture(scope="session")
def medium() -> Problem:
    """Three components over 5 037 candidates: several blocks, the last one ragged."""
    return simulate(5_037, 3, 3, 400_000, seed=2)


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two workers in this process; not the current client, so nobody takes it by accident."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a problem as a data set below ``tmp_path`` and return its path."""

    def write(problem: Problem, name: str = "data.zarr", **options: Any) -> Path:
        path = tmp_path / name
        options.setdefault("log_base", problem.log_base)
        options.setdefault("block_rows", 512)
        write_dataset(path, problem.features, problem.counts, **options)
        return path

    return write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set on disk whose maximum fits must find."""
    path = tmp_path_factory.mktemp("cli") / "data.zarr"
    simulate_data(path, 20_000, 5, 3, 1_000_000, norm=2.0, seed=3, block_rows=4096)
    return path


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    """A model fitted to it by the command."""
    path = data.parent / "model.zarr"
    softmix("fit", data, "-k", 3, "--init", "truth", "-o", path, "-q")
    return path
