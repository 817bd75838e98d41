"""The image: built offline from its lock file on a Debian root, and run as a pod would be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires
from pathlib import Path

import pytest
from kubelet import Node, expand, quantity
from manifests import DEPLOY, containers, one, pods_of, render
from packaging.requirements import Requirement

from softmix_dist import __version__

TOOLS = "mmdebstrap", "buildah", "podman", "runc", "unshare"
IMAGE = "localhost/softmix-dist:test"


def locked(name: str) -> dict[str, str]:
    lines = (DEPLOY / name).read_text().splitlines()
    found = (line.split(" ")[0].split("==") for line in lines if "==" in line)
    return dict(found)


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.lock", {"", "stores", "dashboard"}),
        ("requirements-gpu.lock", {"", "stores", "dashboard", "gpu"}),
    ],
)
def test_the_lock_is_of_what_is_required(name, extras):
    found = locked(name)
    for required in map(Requirement, requires("softmix-dist") or []):
        marker = required.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras - {""}):
            version = found[required.name]
            assert required.specifier.contains(version), f"run deploy/lock.sh: {required}"
    text = (DEPLOY / name).read_text()
    # By hash, and from no index in particular.
    assert text.count("--hash=sha256:") >= len(found)
    assert "http" not in text


class Engine:
    """buildah and podman with a store of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = ["--storage-driver=vfs", f"--root={folder / 'root'}"]
        self.store += [f"--runroot={folder / 'run'}"]

    def call(self, *command: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            # The runtime leaves a file where it is, when a container runs out of memory.
            cwd=self.folder,
            **options,
        )  # type: ignore[call-overload,no-any-return]

    def checked(self, *command: object) -> str:
        told = self.call(*command)
        assert told.returncode == 0, told.stdout[-5000:] + told.stderr[-5000:]
        return told.stdout

    def run(self, command: list[str], memory: float, *options: str, seconds: float = 300) -> (
        subprocess.CompletedProcess[str]
    ):  # fmt: skip
        """Run a command as the restricted profile lets a pod run it."""
        limit = f"{int(memory)}"
        return self.call(
            "podman", *self.store, f"--runtime={Path(__file__).with_name('runtime.py')}", "run",
            "--rm", "--network=host", "--read-only", "--tmpfs=/tmp:rw,mode=1777,size=500m",
            f"--memory={limit}", f"--memory-swap={limit}", "--cap-drop=all",
            "--security-opt=no-new-privileges", *options, IMAGE, *command, timeout=seconds,
        )  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Iterator[Engine]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")
    folder = tmp_path_factory.mktemp("image")
    engine = Engine(folder)
    times = [time.monotonic()]
    # 1. A Debian root stands in for the base image.
    packages = "python3,python3-venv,ca-certificates"
    engine.checked(
        "mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", folder / "root.tar"
    )
    engine.checked("podman", *engine.store, "import", folder / "root.tar", "localhost/debian:test")
    times.append(time.monotonic())
    # 2. The wheels of the lock files, from where this machine takes its own.
    for lock in ("requirements.lock", "build.lock"):
        engine.checked(
            sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:",
            "--require-hashes", "-r", DEPLOY / lock, "-d", folder / "wheels",
        )  # fmt: skip
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /offline\n")
    times.append(time.monotonic())
    # 3. The build itself, without any network.
    engine.checked(
        "unshare", "--net", "buildah", *engine.store, "build", "--isolation=chroot",
        "--build-arg=BASE=localhost/debian:test", f"--volume={folder / 'wheels'}:/offline:ro",
        f"--volume={folder / 'pip.conf'}:/etc/pip.conf:ro", "-f", DEPLOY / "Dockerfile",
        "-t", IMAGE, DEPLOY.parent,
    )  # fmt: skip
    times.append(time.monotonic())
    sizes = [
        json.loads(engine.checked("podman", *engine.store, "image", "inspect", name))[0]["Size"]
        for name in ("localhost/debian:test", IMAGE)
    ]
    root, wheels, build = (after - before for before, after in zip(times, times[1:], strict=False))
    print(
        f"\nroot {root:.0f} s, wheels {wheels:.0f} s, build {build:.0f} s; "
        f"base {sizes[0] / 1e6:.0f} MB, image {sizes[1] / 1e6:.0f} MB"
    )
    yield engine
    engine.call("podman", *engine.store, "rmi", "--all", "--force")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.image
def test_what_the_image_holds(image):
    config = json.loads(image.checked("podman", *image.store, "image", "inspect", IMAGE))[0]
    assert config["Config"]["User"] == "10001:10001"
    script = """
import os, shutil, json
from importlib.metadata import distributions
def fails(path):
    try:
        open(path, "w").close()
    except OSError:
        return True
    return False
found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "tools": [t for t in ("gcc", "cc", "g++", "make", "pip", "curl") if shutil.which(t)],
    "root": [fails("/x"), fails("/opt/softmix/x")], "tmp": fails("/tmp/x"), "packages": found,
}))
"""
    told = image.run(["python", "-c", script], 2**30)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["ids"] == [10001, 10001]
    assert found["tools"] == []
    assert found["root"] == [True, True]
    assert not found["tmp"]
    wanted = {**locked("requirements.lock"), "softmix-dist": __version__}
    assert found["packages"] == {name.replace("_", "-"): v for name, v in wanted.items()}


@pytest.mark.image
def test_the_memory_limit_is_one(image):
    code = image.run(["python", "-c", "bytearray(3 << 29)"], 2**30).returncode
    assert code == 137


@pytest.mark.image
def test_the_demo_in_one_gibibyte(image):
    start = time.monotonic()
    told = image.run(["softmix", "demo", "-o", "/tmp/demo"], 2**30)
    assert told.returncode == 0, told.stderr
    assert "Robert, Richard, Charles" in told.stdout
    print(f"\ndemo in 1 GiB: {time.monotonic() - start:.0f} s")


@pytest.mark.image
def test_the_small_job_in_containers(image, tmp_path):
    """The dev overlay as it is: what comes first, then index 0 and two workers."""
    manifests = render(DEPLOY / "job/overlays/dev")
    node = Node(manifests, tmp_path)
    # One network for all, and a folder for each, that user 10001 may write to.
    (spec,) = pods_of(manifests)
    first, main = containers(spec)
    memory = quantity(main["resources"]["limits"]["memory"])
    assert memory == 2**30

    def pod(index: int) -> subprocess.CompletedProcess[str]:
        data = tmp_path / f"data-{index}"
        data.mkdir()
        shutil.chown(data, 10001, 10001)
        mount = f"--volume={data}:/data"
        told = image.run([*first["command"], *first["args"]], memory, mount)
        assert told.returncode == 0, told.stderr
        environment = node.environment(main, f"softmix-{index}", JOB_COMPLETION_INDEX=str(index))
        environment["SOFTMIX_SCHEDULER"] = "127.0.0.1:18786"
        values = [f"--env={name}={value}" for name, value in environment.items()]
        command = [expand(part, environment) for part in [*main["command"], *main["args"]]]
        return image.run(command, memory, mount, f"--name=softmix-{index}", *values)

    start = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(pod, index) for index in range(3)]
        driver = running[0].result()
        print(f"\nthe dev overlay in three containers: {time.monotonic() - start:.0f} s")
        # The Job is done: Kubernetes stops the rest.
        for index in (1, 2):
            image.checked("podman", *image.store, "stop", "--time=30", f"softmix-{index}")
        codes = [running[index].result().returncode for index in (1, 2)]
    assert driver.returncode == 0, driver.stderr
    assert "2 of 2 workers are here" in driver.stderr
    assert "converged" in driver.stdout
    assert codes == [75, 75]
    settings = one(manifests, "ConfigMap")["data"]
    output = Path(settings["SOFTMIX_OUTPUT"]).name
    assert (tmp_path / "data-0" / output).is_dir()
