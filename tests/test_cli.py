"""The command as a user meets it: what it prints, and where."""

from __future__ import annotations

import json
import subprocess
import sys

import dask
import numpy as np
import pytest
import reference
import yaml
import zarr
from click.testing import CliRunner
from command import COMMAND, softmix

from softmix_dist import write_dataset
from softmix_dist.cli import main

# What DESIGN.md promises of `softmix fit --json`.
FIT_KEYS = {
    "weights",
    "atoms",
    "log_likelihood",
    "n_draws",
    "n_passes",
    "converged",
    "standard_errors",
    "seconds",
    "starts",
    "warnings",
}


# ------------------------------------------------------------------ the main job


@pytest.mark.parametrize("init", ["auto", "random"])
def test_starts_find_what_the_truth_leads_to(init, data):
    told = [
        json.loads(softmix("fit", data, "-k", 3, "--json", *options).stdout)
        for options in (("--init", init, "--n-init", 20), ("--init", "truth"))
    ]
    found, best = told
    assert abs(found["log_likelihood"] - best["log_likelihood"]) < 1e-8
    assert found["converged"]
    assert best["converged"]
    assert found["n_draws"] == 1_000_000
    methods = [start["method"] for start in found["starts"]]
    every = ["moments", "search", "subspace", "tensor"]
    assert sorted(methods) == (every if init == "auto" else ["random"] * 20)
    raw = zarr.open_group(str(data), mode="r")
    independent = reference.log_likelihood(
        raw["features"][:], raw["counts"][:], found["weights"], found["atoms"]
    )
    assert abs(found["log_likelihood"] - independent) < 1e-8


def test_fit_prints_one_json_object(data):
    result = softmix("fit", data, "-k", 3, "--json")
    assert len(result.stdout.splitlines()) == 1
    told = json.loads(result.stdout)
    assert set(told) >= FIT_KEYS
    assert np.shape(told["standard_errors"]["atoms"]) == (3, 5)
    assert min(told["standard_errors"]["weights"]) > 0
    weights, atoms = np.array(told["weights"]), np.array(told["atoms"])
    assert weights.shape == (3,)
    assert atoms.shape == (3, 5)
    assert (np.diff(weights) <= 0).all()
    assert abs(weights.sum() - 1) < 1e-12
    assert told["n_passes"] >= told["history"][-1]["pass"]
    assert told["warnings"] == []
    assert "pass" in result.stderr


def test_a_table_for_people(data, model):
    told = softmix("fit", data, "-k", 3, "--init", "truth", "-q").stdout
    for word in ("3 components", "20,000 candidates", "1,000,000 draws", "converged", "x4"):
        assert word in told
    assert "NOT CONVERGED" not in told
    # What is shown later is what was printed then, but for the time it took.
    shown = softmix("show", model).stdout
    assert [line for line in shown.splitlines() if "passes in" not in line] == [
        line for line in told.splitlines() if "passes in" not in line
    ]


def test_show_repeats_the_report_of_the_fit(data):
    path = data.parent / "again.zarr"
    fitted = json.loads(softmix("fit", data, "-k", 2, "--json", "-o", path).stdout)
    assert json.loads(softmix("show", path, "--json").stdout) == fitted


def test_simulate_then_check(tmp_path):
    path = tmp_path / "new.zarr"
    sizes = ("--candidates", 500, "--features", 2, "--components", 2, "--draws", 9000)
    result = softmix("simulate", path, *sizes, "--samples", 3, "--feature-law", "uniform")
    assert result.stdout == ""
    assert str(path) in result.stderr
    told = json.loads(softmix("check", path, "--json").stdout)
    assert (told["candidates"], told["samples"], told["draws"]) == (500, 3, 9000)
    assert "9,000" in softmix("check", path).stdout
    softmix("simulate", path, *sizes, code=65)
    softmix("simulate", path, *sizes, "--overwrite")
    assert json.loads(softmix("check", path, "--json").stdout)["samples"] == 1


def test_predict_is_the_same_from_threads_and_workers(data, model):
    threads, workers = data.parent / "threads.zarr", data.parent / "workers.zarr"
    result = softmix("predict", model, data, "-o", threads)
    assert str(threads) in result.stderr
    done = subprocess.run(
        [*COMMAND, "predict", model, data, "-o", workers, "--scheduler", "local", "--workers", "2"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, result.stdout), done.stderr
    first, second = (zarr.open_group(str(path), mode="r") for path in (threads, workers))
    log_prob, resp = first["log_prob"][:], first["responsibilities"][:]
    assert abs(np.exp(log_prob).sum() - 1) < 1e-12
    np.testing.assert_allclose(resp.sum(axis=1), 1, rtol=1e-14)
    assert set(first) == set(second)
    assert len(set(first)) == 4
    for name in first:
        np.testing.assert_array_equal(first[name][:], second[name][:])


def test_predict_tells_how_well_the_model_fits(data, model, tmp_path):
    told = softmix("predict", model, data, "-o", tmp_path / "a.zarr", "--worst", 2).stdout
    assert "entropy bound" in told
    options = "--worst", 3, "--by", "pearson", "--json"
    result = softmix("predict", model, data, "-o", tmp_path / "b.zarr", *options)
    assert len(result.stdout.splitlines()) == 1
    fit = json.loads(result.stdout)["goodness_of_fit"]
    stored = zarr.open_group(str(tmp_path / "b.zarr"), mode="r")["pearson_residuals"][:]
    worst = np.argsort(-np.abs(stored), kind="stable")[:3]
    assert [misfit["row"] for misfit in fit["worst"]] == worst.tolist()
    assert fit["entropy_bound"] < fit["perplexity"] < fit["null_perplexity"]
    fitted = json.loads(softmix("show", model, "--json").stdout)
    assert fit["log_likelihood"] == pytest.approx(fitted["log_likelihood"], abs=1e-11)


def test_predict_without_draws_tells_nothing_of_the_fit(data, model, tmp_path):
    stored = zarr.open_group(str(data), mode="r")
    write_dataset(tmp_path / "new.zarr", stored["features"][:100], np.zeros(100, np.uint8))
    path = tmp_path / "predictions.zarr"
    assert softmix("predict", model, tmp_path / "new.zarr", "-o", path).stdout == ""
    again = "predict", model, tmp_path / "new.zarr", "-o", path, "--overwrite", "--json"
    assert json.loads(softmix(*again).stdout) == {
        "predictions": str(path),
        "goodness_of_fit": None,
    }


# ------------------------------------------------------------------ progress and warnings


def test_quiet_says_nothing_but_the_result(data):
    assert softmix("fit", data, "-k", 2, "--quiet").stderr == ""
    assert softmix("fit", data, "-k", 2, "--quiet", "--json").stderr == ""


def test_log_lines_are_json(data):
    result = softmix("fit", data, "-k", 2, "--log-json")
    rows = [json.loads(line) for line in result.stderr.splitlines()]
    passes = ["pass"] * (len(rows) - 3)
    assert [row["phase"] for row in rows] == ["survey", "starts", *passes, "end"]
    assert rows[-2]["log_likelihood"] >= rows[2]["log_likelihood"]
    assert rows[-1]["converged"]


def test_warnings_and_what_was_written_are_json_lines_too(data, tmp_path):
    short = "--solver", "em", "--init", "random", "--max-passes", 3
    result = softmix("fit", data, "-k", 3, *short, "-o", tmp_path / "m.zarr", "--log-json")
    rows = [json.loads(line) for line in result.stderr.splitlines()]
    (warning,) = (row for row in rows if row["phase"] == "warning")
    assert "not converged" in warning["message"]
    assert rows[-1] == {"phase": "written", "message": f"model written to {tmp_path / 'm.zarr'}"}


def test_errors_are_json_lines_too(tmp_path):
    result = softmix("fit", tmp_path / "none.zarr", "-k", 3, "--log-json", code=65)
    (row,) = (json.loads(line) for line in result.stderr.splitlines())
    assert (row["phase"], row["exit_code"]) == ("error", 65)
    assert "none.zarr" in row["message"]


@pytest.mark.parametrize("seed", range(4))
def test_every_line_of_progress_is_a_pass_of_its_own(seed, data):
    told = softmix("fit", data, "-k", 3, "--seed", seed, "--log-json").stderr
    rows = [json.loads(line) for line in told.splitlines()]
    passes = [row["pass"] for row in rows if row["phase"] == "pass"]
    assert passes == list(range(passes[0], passes[0] + len(passes)))


def test_running_out_of_passes_is_said_and_is_no_failure(data):
    short = "--solver", "em", "--init", "random", "--max-passes", 3
    result = softmix("fit", data, "-k", 3, *short, "--json", "--quiet")
    told = json.loads(result.stdout)
    assert told["converged"] is False
    assert len(told["warnings"]) == 1
    assert "not converged" in told["warnings"][0]
    assert result.stderr == f"warning: {told['warnings'][0]}\n"
    assert "NOT CONVERGED" in softmix("fit", data, "-k", 3, *short).stdout


# ------------------------------------------------------------------ help
@pytest.mark.parametrize("command", [(), *((name,) for name in sorted(main.commands))])
def test_help(command):
    assert softmix(*command, "--help").stdout.startswith("Usage: ")
    assert softmix(*command, "-h").stdout.startswith("Usage: ")


def test_help_imports_nothing_heavy():
    heavy = ["numpy", "scipy", "zarr", "dask", "distributed", "matplotlib", "pandas"]
    script = f"""
import sys
from softmix_dist.cli import main
main(["--help"], standalone_mode=False)
print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.startswith("Usage: ")
    assert done.stderr.strip() == "[]"


def test_it_is_a_plug_in_of_the_dask_command():
    done = subprocess.run(
        [sys.executable, "-m", "dask", "softmix", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


# ------------------------------------------------------------------ select
def test_select_recommends_a_number_of_components(data, tmp_path):
    picture = tmp_path / "path.png"
    options = "--components", "2:3", "--json", "--plot", picture
    result = softmix("select", data, *options)
    told = json.loads(result.stdout)
    assert told["recommended"] == 3
    assert [row["n_components"] for row in told["candidates"]] == [2, 3]
    assert "K = 3" in softmix("select", data, "--components", "2:3").stdout
    assert str(picture) in result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_standard_errors_of_every_kind(tmp_path):
    path = tmp_path / "samples.zarr"
    sizes = ("--candidates", 2000, "--features", 2, "--components", 2, "--draws", 200_000)
    softmix("simulate", path, *sizes, "--samples", 60, "--overdispersion", 4)
    for kind in ("clustered", "scaled"):
        options = ("-k", 2, "--init", "truth", "--standard-errors", kind)
        told = json.loads(softmix("fit", path, *options, "--json").stdout)
        assert told["errors_from"] == kind
        assert (told["dispersion"] or 0) == pytest.approx(4 if kind == "scaled" else 0, abs=1)
    softmix("simulate", path, *sizes, "--overwrite")
    result = softmix("fit", path, *options[:-1], "clustered", code=65)
    assert "found 1 sample" in result.stderr


def test_what_is_configured_is_told():
    with dask.config.set({"softmix.engine.device": "gpu", "softmix.engine.keep": False}):
        told = json.loads(softmix("config", "--json").stdout)["softmix.engine"]
        assert (told["device"], told["keep"], told["stall-timeout"]) == ("gpu", False, 300.0)
        text = softmix("config").stdout
    # What is printed may be put into a file of Dask's.
    assert yaml.safe_load(text)["softmix"]["engine"] == told
    with dask.config.set({"softmix.engine.devices": 3}):
        assert "devices: no such setting" in softmix("config", code=65).stderr


def test_the_shell_completes_commands(tmp_path):
    script = softmix("completion", "bash").stdout
    assert "_SOFTMIX_COMPLETE=bash_complete" in script
    answer = CliRunner().invoke(
        main,
        prog_name="softmix",
        env={"_SOFTMIX_COMPLETE": "bash_complete", "COMP_WORDS": "softmix s", "COMP_CWORD": "1"},
    )
    assert {"plain,select", "plain,show", "plain,simulate"} <= set(answer.output.split())
    assert "Usage" in softmix("completion", "powershell", code=2).stderr


def test_the_command_is_one_of_dask():
    command = [sys.executable, "-m", "dask", "softmix", "config"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "stall-timeout: 300.0" in told.stdout
