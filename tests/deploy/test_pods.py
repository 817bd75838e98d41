"""The Job's own commands, run as processes: a fit from and to an object store, through faults."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from certificates import certificates
from command import COMMAND, softmix
from endpoint import BUCKET, Proxy, free_port, s3_server
from kubelet import Node, Pod
from limits import hard_limit
from manifests import DEPLOY, one, overlay, pods_of, read, render
from problems import signature

from softmix_dist import SoftmaxMixture, simulate
from softmix_dist.engine.waiting import ask

LIMIT = 180
# Enough passes to strike in the middle of them.
SLOW = ["--solver=em-first-order", "--tol=1e-9", "--max-passes=120"]
STORE = {"AWS_ACCESS_KEY_ID": "fake-key", "AWS_SECRET_ACCESS_KEY": "fake-secret-0002"}
DATA = f"s3://{BUCKET}/choices.zarr"


@pytest.fixture(autouse=True)
def hard_timeout() -> Iterator[None]:
    with hard_limit(LIMIT):
        yield


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as port, pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                patch.delenv(name)
        url = f"http://127.0.0.1:{port}"
        for name, value in {**STORE, "AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        simulate(DATA, 40_000, 3, 3, 400_000, seed=3, block_rows=4096)
        yield url


@pytest.fixture(scope="module")
def expected(endpoint) -> bytes:
    """What the same command gives on threads."""
    place = f"s3://{BUCKET}/expected"
    softmix("fit", DATA, "-k", 3, *SLOW, "-q", "-o", place)
    return signature(SoftmaxMixture.load(place).result_)


@pytest.fixture
def node(endpoint, tmp_path, request) -> Iterator[Callable[..., Node]]:
    """Render an overlay as a user would change it, for two workers; nothing is left running."""
    nodes: list[Node] = []

    def make(base: str = "s3", args: list[str] = SLOW, **changes: str) -> Node:
        settings = {
            "SOFTMIX_DATA": DATA,
            "SOFTMIX_OUTPUT": place_of(request),
            "SOFTMIX_COMPONENTS": "3",
            "SOFTMIX_WORKERS": "2",
            "SOFTMIX_WAIT": "60 s",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
        } | changes
        port = free_port()
        patch: list[dict[str, Any]] = [
            {"op": "replace", "path": f"/spec/{count}", "value": 3}
            for count in ("completions", "parallelism")
        ]
        patch += [
            {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": arg}
            for arg in args
        ]
        # On one host names are of no use: all pods have its loopback address.
        small = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
        container = {
            "name": "softmix",
            "env": [{"name": "SOFTMIX_SCHEDULER", "value": f"127.0.0.1:{port}"}],
            "resources": small,
        }
        merged = {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "softmix"},
            "spec": {"template": {"spec": {"containers": [container]}}},
        }  # fmt: skip
        literals = [f"{name}={value}" for name, value in settings.items() if value]
        manifests = overlay(tmp_path / f"overlay-{len(nodes)}", base, {
            "configMapGenerator": [
                {"name": "softmix", "behavior": "merge", "literals": literals}
            ],
            "patches": [
                {"target": {"kind": "Job"}, "patch": json.dumps(patch)},
                {"patch": json.dumps(merged)},
            ],
        })  # fmt: skip
        for name, value in settings.items():
            if not value:
                for manifest in manifests:
                    manifest.get("data", {}).pop(name, None)
        found = Node(manifests, tmp_path, {"softmix-store": STORE})
        nodes.append(found)
        return found

    yield make
    for found in nodes:
        found.stop()


def place_of(request: Any) -> str:
    return f"s3://{BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}"


def fitted(request: Any) -> bytes:
    return signature(SoftmaxMixture.load(place_of(request)).result_)


def passes(log: str) -> int:
    return max(map(int, re.findall(r"^pass +(\d+) ", log, re.MULTILINE)), default=0)


def begun(node: Node, after: int = 20) -> tuple[Pod, Pod, Pod]:
    """Start all three pods, and return them after some passes."""
    driver, *workers = (node.run(index) for index in range(3))
    driver.until(lambda log: passes(log) >= after)
    return driver, *workers


def test_a_job_fits(node, expected, request):
    job = node()
    driver, *workers = (job.run(index) for index in range(3))
    assert driver.code() == 0, driver.log
    assert fitted(request) == expected
    assert "2 of 2 workers are here" in driver.log
    assert "2 workers, 2 threads, 1.70 GiB of memory" in driver.log
    assert "converged" in driver.log
    for worker in workers:
        # They look for a scheduler that comes back, until the Job, which is done, stops them.
        worker.until(lambda log: "waiting for it" in log)
        assert worker.terminate() == 75
        assert worker.lines[-1] == "told to stop\n"
    assert all(STORE["AWS_SECRET_ACCESS_KEY"] not in pod.log for pod in job.started)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_worker_that_is_killed(node, expected, request, replaced):
    job = node()
    driver, first, _ = begun(job)
    first.kill()
    if replaced:
        job.run(1)
    assert driver.code() == 0, driver.log
    assert fitted(request) == expected


def test_a_worker_that_is_retired_and_stopped(node, expected, request):
    """What Kubernetes does on a node that is drained: the preStop hook, then SIGTERM."""
    job = node()
    driver, first, second = begun(job)
    hook = job.container["lifecycle"]["preStop"]["exec"]["command"]
    address = f"tcp://{driver.environment['SOFTMIX_SCHEDULER']}"

    def held() -> dict[str, int]:
        """Shards of the data that each worker holds."""
        workers = ask(address, "identity", 10, n_workers=-1)["workers"]
        keys = ask(address, "has_what", 10, workers=list(workers))
        return {
            worker["name"]: sum("softmix-load" in str(key) for key in keys[place])
            for place, worker in workers.items()
        }

    before = held()
    assert before[first.name] > 0
    told = first.execute(hook)
    assert (told.returncode, told.stderr) == (0, f"{first.name}: retired\n")
    # They are the other's now, and not read again.
    assert held()[second.name] == sum(before.values())
    assert first.terminate() == 75
    # At the driver it does nothing, and without a scheduler it does not fail.
    assert driver.execute(hook).returncode == 0
    assert driver.code() == 0, driver.log
    assert fitted(request) == expected
    told = second.execute(hook)
    assert told.returncode == 0
    assert "not retired: no scheduler answers" in told.stderr


def test_index_0_is_stopped_and_the_job_goes_on(node, expected, request):
    job = node()
    driver, *workers = begun(job)
    assert driver.terminate() == 75
    assert f"the passes that were made are kept in {place_of(request)}.checkpoint" in driver.log
    again = job.run(0)
    assert again.code() == 0, again.log
    # What was known is not computed again.
    (known,) = re.findall(r"^going on from .*: its (\d+) passes", again.log, re.MULTILINE)
    assert passes(driver.log) <= int(known) < 120
    assert fitted(request) == expected
    # The workers are those of before; they waited, and lost no pod over it.
    assert all(worker.process.poll() is None for worker in workers)
    assert all("waiting for it" in worker.log for worker in workers)


def test_index_0_is_killed_and_the_job_goes_on(node, expected, request):
    job = node()
    driver, *workers = begun(job)
    driver.kill()
    again = job.run(0)
    assert again.code() == 0, again.log
    assert fitted(request) == expected
    assert all(worker.process.poll() is None for worker in workers)


def test_tls(node, expected, request, tmp_path, monkeypatch):
    """All of them speak TLS; who shows no certificate, or another's, is told so."""
    mine, other = certificates(tmp_path / "mine"), certificates(tmp_path / "other")
    job = node("tls")
    job.mounts["/etc/softmix-tls"] = mine
    driver, *_ = begun(job, 5)
    place = driver.environment["SOFTMIX_SCHEDULER"]
    fit = "fit", DATA, "-k", 2, "--scheduler"
    told = softmix(*fit, f"tls://{place}", code=75).stderr
    assert "asks for TLS, and no certificate is configured here" in told
    assert "ca-file, client.cert, client.key" in told
    told = softmix(*fit, f"tcp://{place}", code=75).stderr
    assert "does it ask for TLS (tls://)?" in told
    job.mounts["/etc/softmix-tls"] = other
    stranger = job.run(2)
    assert stranger.code() == 75
    assert "certificate verify failed" in stranger.lines[-1]
    own = Pod("client", ["softmix", *map(str, fit), f"tls://{place}"], stranger.environment)
    assert own.code() == 75
    assert "are these certificates signed by its authority?" in own.log
    assert driver.code() == 0, driver.log
    assert f"tls://127.0.0.1:{place.partition(':')[2]}" in "".join(job.started[1].lines)
    assert fitted(request) == expected


@pytest.mark.parametrize("form", ["daskjob", "longlived"])
def test_the_other_forms(endpoint, expected, request, tmp_path, form):
    """Scheduler, workers and driver have templates of their own."""
    manifests = render(DEPLOY / form)
    # Two workers here, of three.
    if form == "daskjob":
        one(manifests, "ConfigMap")["data"] |= {"SOFTMIX_WORKERS": "2", "SOFTMIX_COMPONENTS": "3"}
    fit = [] if form == "daskjob" else read(DEPLOY / "longlived/fit.yaml")
    parts = {
        container["name"]: container
        for spec in pods_of([*manifests, *fit])
        for container in spec["containers"]
    }
    port = free_port()
    address = f"127.0.0.1:{port}"
    # What the operator sets; and where there are no names.
    given = {"DASK_SCHEDULER_ADDRESS": f"tcp://{address}"}
    for part in parts.values():
        for variable in part.get("env", []):
            if variable["name"] == "SOFTMIX_SCHEDULER":
                assert variable["value"] == "softmix-cluster:8786"
                variable["value"] = address
            if variable["name"] == "SOFTMIX_WORKERS":
                variable["value"] = "2"
    store = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", **STORE}
    place = place_of(request)
    node = Node(manifests, tmp_path, {"softmix-store": store})
    try:
        dashboard = "--dashboard-address=127.0.0.1:0"
        scheduler = node.start(parts["scheduler"], "scheduler", f"--port={port}", dashboard)
        scheduler.until(lambda log: "Scheduler at" in log)
        assert "Run preload setup: softmix_dist.dashboard" in scheduler.log
        for name in ("one", "two"):
            node.start(parts["worker"], name, DASK_WORKER_NAME=name, **given)
        settings = {**given, "SOFTMIX_WORKERS": "2"}
        parts["fit"]["args"][1] = DATA
        parts["fit"]["args"][-2] = f"--output={place}"
        driver = node.start(parts["fit"], "fit", "-k3", *SLOW, **settings)
        assert driver.code() == 0, driver.log
        assert "of 2 workers are here" in driver.log
    finally:
        node.stop()
    assert fitted(request) == expected


# Bad input: the variable or the resource is named, and the code is as documented.


@pytest.mark.parametrize("name", ["SOFTMIX_DATA", "SOFTMIX_COMPONENTS", "SOFTMIX_WORKERS"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_variable_is_missing(node, name, index):
    pod = node(**{name: ""}).run(index)
    assert pod.code() == 2
    assert name in pod.lines[-1]


def test_a_variable_has_no_value(node):
    job = node()
    for manifest in job.manifests:
        if manifest["kind"] == "ConfigMap":
            manifest["data"]["SOFTMIX_DATA"] = ""
    pod = job.run(0)
    assert pod.code() == 2
    assert "an argument of the command is empty" in pod.lines[-1]


@pytest.mark.parametrize(
    ("name", "value", "code", "told"),
    [
        ("SOFTMIX_WAIT", "soon", 2, "expected a time such as 10 minutes, found 'soon'"),
        ("SOFTMIX_WORKERS", "two", 2, "'two' is not a valid integer"),
        ("SOFTMIX_COMPONENTS", "two", 2, "'two' is not a valid integer"),
        ("SOFTMIX_COMPONENTS", "-1", 65, "n_components"),
    ],
)
def test_a_variable_that_makes_no_sense(node, name, value, code, told):
    job = node(**{name: value})
    pod = job.run(0)
    if code == 65:
        # What only the fit knows, once it has its workers.
        job.run(1), job.run(2)
    assert pod.code() == code
    assert told in pod.log


@pytest.mark.parametrize("place", ["a..b:8786", "host:99999", "host", "two words:1"])
def test_a_scheduler_that_is_no_place(place):
    environment = {**os.environ, "SOFTMIX_SCHEDULER": place, "SOFTMIX_SCHEDULER_WAIT": "1 s"}
    pod = Pod("pod", [*COMMAND, "pod", "work"], environment)
    assert pod.code() == 2
    assert "SOFTMIX_SCHEDULER" in pod.lines[-1]


@pytest.mark.parametrize("command", [["fitt"], ["show", "model"], ["fit", "--no-such"]])
def test_a_command_that_cannot_run_waits_for_nobody(command):
    environment = {
        **os.environ, "SOFTMIX_SCHEDULER": f"127.0.0.1:{free_port()}", "SOFTMIX_WORKERS": "2",
        "JOB_COMPLETION_INDEX": "0",
    }  # fmt: skip
    pod = Pod("pod", [*COMMAND, "pod", "run", "--", *command], environment)
    assert pod.code() == 2
    if command[0] == "fit":
        assert "Try 'softmix fit --help'" in pod.log


def test_a_scheduler_that_hangs(node, tmp_path):
    """Neither the preStop hook nor SIGTERM waits for it."""
    job = node()
    driver, worker = job.run(0), job.run(1)
    worker.until(lambda log: "Registered to" in log)
    (scheduler,) = psutil.Process(driver.process.pid).children()
    scheduler.suspend()
    told = worker.execute(job.container["lifecycle"]["preStop"]["exec"]["command"])
    assert told.returncode == 0
    assert "not retired" in told.stderr
    assert worker.terminate() == 75


@pytest.mark.parametrize("stopped", [False, True])
def test_a_scheduler_goes_while_a_worker_begins(node, stopped):
    job = node(SOFTMIX_SCHEDULER_WAIT="60 s" if stopped else "4 s")
    driver = job.run(0)
    driver.until(lambda log: "workers are here" in log)
    worker = job.run(1)
    worker.until(lambda log: "Start Nanny at" in log)
    driver.kill()
    assert (worker.terminate() if stopped else worker.code()) == 75
    assert ("told to stop" if stopped else "no scheduler at") in worker.log


def test_too_few_workers(node):
    job = node(SOFTMIX_MIN_WORKERS="2", SOFTMIX_WAIT="3 s")
    driver, _ = job.run(0), job.run(1)
    assert driver.code() == 75
    (told,) = [line for line in driver.lines if line.startswith("error: ")]
    assert "of at least 2 workers came" in told
    assert "within 3 s; look at the pods of the other indexes" in told


def test_enough_workers(node, expected, request):
    job = node(SOFTMIX_WAIT="3 s")
    driver, _ = job.run(0), job.run(1)
    assert driver.code() == 0, driver.log
    assert "1 of 2 workers came within 3 s; going on" in driver.log
    assert fitted(request) == expected


def test_no_scheduler(node):
    pod = node(SOFTMIX_SCHEDULER_WAIT="1 s").run(1)
    assert pod.code() == 75
    assert re.search(r"error: no scheduler at tcp://127.0.0.1:\d+ within 1 s", pod.lines[-1])


def test_a_scheduler_whose_name_is_not_found():
    """A Service or DNS that is missing is not a port that is closed."""
    environment = {
        **os.environ, "SOFTMIX_SCHEDULER": "softmix-0.softmix.invalid:8786",
        "SOFTMIX_SCHEDULER_WAIT": "1 s",
    }  # fmt: skip
    pod = Pod("pod", [*COMMAND, "pod", "work"], environment)
    assert pod.code() == 75
    assert "the name softmix-0.softmix.invalid is not found" in pod.lines[-1]


def test_a_worker_is_stopped_while_it_waits(node):
    pod = node().run(1)
    # Its handlers are there once it has something to say.
    pod.until(lambda log: "waiting for the scheduler" in log)
    assert pod.terminate() == 75


def test_data_cannot_be_reached(node):
    job = node(AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")
    driver, *_ = (job.run(index) for index in range(3))
    assert driver.code() == 75
    (told,) = [line for line in driver.lines if line.startswith("error: ")]
    assert "s3://" in told


def test_data_are_not_there(node):
    job = node(SOFTMIX_DATA=f"s3://{BUCKET}/nothing.zarr")
    driver, *_ = (job.run(index) for index in range(3))
    assert driver.code() == 65
    (told,) = [line for line in driver.lines if line.startswith("error: ")]
    assert f"s3://{BUCKET}/nothing.zarr" in told


def test_credentials_are_wrong(node, endpoint):
    proxy = Proxy(int(endpoint.rpartition(":")[2]))
    proxy.fails, proxy.status = (lambda method, path: True), 403
    proxy.body = b"<Error><Code>InvalidAccessKeyId</Code></Error>"
    try:
        job = node(AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.port}")
        driver, *_ = (job.run(index) for index in range(3))
        assert driver.code() == 65
    finally:
        proxy.close()
    (told,) = [line for line in driver.lines if line.startswith("error: ")]
    assert "AWS_SECRET_ACCESS_KEY" in told
    assert STORE["AWS_SECRET_ACCESS_KEY"] not in driver.log


def test_no_driver_takes_the_scheduler_of_another(node):
    job = node()
    first = job.run(0)
    first.until(lambda log: "workers are here" in log)
    second = job.run(0)
    assert second.code() == 75
    assert "something listens at" in second.lines[-1]
