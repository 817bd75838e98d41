"""The command when something is wrong: exit codes, messages, and what stays as it was."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import distributed
import pytest
import zarr
from broken import BROKEN
from command import COMMAND, softmix

# ------------------------------------------------------------------ exit code 65


@pytest.mark.parametrize("name", BROKEN)
def test_bad_data(name, tmp_path):
    case, path = BROKEN[name], tmp_path / "data.zarr"
    case.build(path)
    result = softmix("fit", path, "-k", case.n_components, "--json", code=65)
    assert [fragment for fragment in case.fragments if fragment not in result.stderr] == []
    assert "Traceback" not in result.stderr


def test_check_names_every_problem(tmp_path):
    case, path = BROKEN["several-problems"], tmp_path / "data.zarr"
    case.build(path)
    told = softmix("check", path, code=65).stderr
    assert [fragment for fragment in case.fragments if fragment not in told] == []
    assert told.count("\n- ") == 4


def test_settings_out_of_range_are_all_named(data):
    told = softmix("fit", data, "-k", 0, "--l2", -1, "--tol", 0, "--n-init", 0, code=65).stderr
    assert [s for s in ("n_components", "l2", "tol", "n_init") if s not in told] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "DATA", "-k", 2, "--seed", -1),
        ("fit", "DATA", "-k", 2, "--scheduler", "local", "--memory-limit", "lots"),
        ("simulate", "NEW", "--candidates", 9, "--features", 1, "--components", 1, "--draws", 9)
        + ("--seed", -1),
        ("simulate", "NEW", "--candidates", 9, "--features", 1, "--components", 1, "--draws", 2)
        + ("--samples", 3, "--overdispersion", 2),
        (
            "simulate",
            "s3://me:word@bucket/new.zarr",
            "--candidates",
            9,
            "--features",
            1,
            "--components",
            1,
        )
        + ("--draws", 9),
    ],
    ids=["seed", "memory-limit", "seed-of-simulate", "sample-without-draws", "remote-store"],
)
def test_no_argument_ends_in_a_traceback(arguments, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"DATA": data, "NEW": tmp_path / "new.zarr"}
    softmix(*(places.get(str(argument), argument) for argument in arguments), code=None)
    # A scheme is not a folder's name.
    assert not (tmp_path / "s3:").exists()


def test_an_existing_output_is_refused_before_the_work(data, model):
    for arguments in (
        ("fit", data, "-k", 2, "-o", model),
        ("predict", model, data, "-o", model),
        # Nor is what is no Zarr group ever replaced.
        ("fit", data, "-k", 2, "-o", Path(__file__).parent, "--overwrite"),
    ):
        told = softmix(*arguments, code=65).stderr
        assert "exist" in told or "not a Zarr group" in told
        assert "log-likelihood" not in told
    path = data.parent / "replaced.zarr"
    softmix("fit", data, "-k", 2, "-o", path)
    softmix("fit", data, "-k", 1, "-o", path, "--overwrite")
    assert len(json.loads(softmix("show", path, "--json").stdout)["weights"]) == 1


@pytest.mark.parametrize(
    ("command", "victim"),
    [("fit", "data"), ("predict", "data"), ("predict", "model"), ("simulate", "model")],
)
def test_overwrite_replaces_only_its_own_kind(command, victim, data, model, tmp_path):
    places = {"data": tmp_path / "data.zarr", "model": tmp_path / "model.zarr"}
    shutil.copytree(data, places["data"])
    shutil.copytree(model, places["model"])
    sizes = ("--candidates", 9, "--features", 1, "--components", 1, "--draws", 9)
    arguments = {
        "fit": (places["data"], "-k", 1, "-o", places[victim]),
        "predict": (places["model"], places["data"], "-o", places[victim]),
        "simulate": (places[victim], *sizes),
    }[command]
    softmix(command, *arguments, "--overwrite", code=65)
    softmix("check", places["data"])
    softmix("show", places["model"])


# ------------------------------------------------------------------ other exit codes
@pytest.mark.parametrize(
    "arguments",
    [
        ("fit",),
        ("fit", "data.zarr"),
        ("fit", "data.zarr", "-k", "many"),
        ("fit", "data.zarr", "-k", 2, "--solver", "magic"),
        ("fit", "data.zarr", "-k", 2, "--workers", 0),
        ("check", "data.zarr", "another.zarr"),
        ("predict", "model.zarr", "data.zarr"),
        ("predict", "model.zarr", "data.zarr", "-o", "new.zarr", "--worst", -1),
        ("predict", "model.zarr", "data.zarr", "-o", "new.zarr", "--by", "size"),
        ("select", "data.zarr", "--plot", "picture.zarr"),
        ("select", "data.zarr", "--plot", "no/such/folder/picture.png"),
        ("simulate", "data.zarr", "--candidates", 10),
        ("melt", "data.zarr"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_wrong_usage(arguments):
    assert "Usage: " in softmix(*arguments, code=2).stderr


def test_a_start_beyond_all_numbers_is_a_numerical_failure(data, tmp_path):
    path = tmp_path / "far.zarr"
    shutil.copytree(data, path)
    stored = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    stored["truth/atoms"][...] = 1e6
    assert "finite" in softmix("fit", path, "-k", 3, "--init", "truth", code=70).stderr


def test_an_unreachable_scheduler_may_be_retried(data, monkeypatch):
    class Impatient(distributed.Client):
        def __init__(self, address, timeout):
            assert timeout
            super().__init__(address, timeout="1s")

    monkeypatch.setattr(distributed, "Client", Impatient)
    told = softmix("fit", data, "-k", 2, "--scheduler", "tcp://127.0.0.1:1", code=75).stderr
    assert "tcp://127.0.0.1:1" in told


def test_termination_ends_a_long_fit_at_once(data):
    endless = ("--solver", "em-first-order", "--tol", "1e-9", "--max-passes", "1000000")
    with subprocess.Popen(
        [*COMMAND, "fit", data, "-k", "8", *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if line.startswith("pass"):
                    break
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == (75, "")
    assert "interrupted" in err
    assert "Traceback" not in err


def test_termination_while_opening_is_not_bad_data(data, monkeypatch):
    def terminated(*arguments, **more):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(zarr, "open_group", terminated)
    softmix("check", data, code=75)


def test_a_name_that_is_too_long_is_no_traceback(data):
    told = softmix("check", "a" * 3000, code=65).stderr
    assert "does not exist" in told
    softmix("fit", data, "-k", 1, "-q", "-o", "a" * 3000, code=65)


def test_an_http_server_as_the_scheduler_is_said_to_be_none(data):
    # As where the address of the dashboard is given.
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 100)
            connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        told = softmix("fit", data, "-k", 1, "--scheduler", address, code=75).stderr
        thread.join(5)
    assert f"no Dask scheduler answers at '{address}'" in told
    assert "the address of the dashboard?" in told
