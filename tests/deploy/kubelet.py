"""A kubelet of a few lines: runs a container of a rendered manifest as a local process.

Environment, command and arguments are those of the manifest. Two things differ from a pod: all
processes share the loopback address, and a mounted Secret lies in a folder of the test's.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests import Manifest, one

_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


def expand(text: str, environment: dict[str, str]) -> str:
    """Put variables in; what does not exist stays as it is, as in a pod."""
    return _REFERENCE.sub(lambda found: environment.get(found[1], found[0]), text)


def quantity(text: str) -> float:
    """Read a quantity of Kubernetes."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    units = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
    return float(number) * units[unit]


@dataclass
class Node:
    """Where the pods of one Job run.

    Attributes
    ----------
    manifests : list of dict
        Rendered.
    folder : Path
        For what the pods write.
    secrets : dict
        Of Secrets by name: their environment.
    mounts : dict
        Folders of the test by the path at which containers expect them.
    """

    manifests: list[Manifest]
    folder: Path
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    mounts: dict[str, Path] = field(default_factory=dict)
    started: list[Pod] = field(default_factory=list)

    @property
    def container(self) -> Manifest:
        (found,) = one(self.manifests, "Job")["spec"]["template"]["spec"]["containers"]
        return found

    def environment(self, container: Manifest, name: str, **given: str) -> dict[str, str]:
        """Environment of a container in the pod of a name; some of it is ``given`` by others."""
        jobs = [m["metadata"]["name"] for m in self.manifests if m["kind"] == "Job"]
        fields = {
            "metadata.name": name,
            "metadata.labels['batch.kubernetes.io/job-name']": jobs[0] if jobs else "",
        }
        found = dict(given)
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                config = one(self.manifests, "ConfigMap")
                assert source["configMapRef"]["name"] == config["metadata"]["name"]
                found |= config["data"]
            else:
                secret = source["secretRef"]
                assert secret["name"] in self.secrets or secret["optional"]
                found |= self.secrets.get(secret["name"], {})
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if "fieldRef" in source:
                value = fields[source["fieldRef"]["fieldPath"]]
            elif "resourceFieldRef" in source:
                kind, _, resource = source["resourceFieldRef"]["resource"].partition(".")
                value = str(math.ceil(quantity(container["resources"][kind][resource])))
            else:
                value = expand(variable["value"], found)
            for place, folder in self.mounts.items():
                value = value.replace(place, str(folder))
            found[variable["name"]] = value
        return found

    def run(self, index: int) -> Pod:
        """Start the pod of an index of the Job, under a name of its own."""
        name = f"softmix-{index}-{len(self.started)}"
        return self.start(self.container, name, JOB_COMPLETION_INDEX=str(index))

    def start(self, container: Manifest, name: str, *more: str, **given: str) -> Pod:
        """Start a container, with ``more`` arguments and an environment that is ``given``."""
        # What an image would set comes first.
        image = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        environment = image | self.environment(container, name, **given)
        command = [*container["command"], *container.get("args", []), *more]
        pod = Pod(name, [expand(part, environment) for part in command], environment)
        self.started.append(pod)
        return pod

    def stop(self) -> None:
        """Kill what is left."""
        for pod in self.started:
            pod.kill()


class Pod:
    """A container that runs, with all of its processes.

    Attributes
    ----------
    lines : list of str
        Of standard output and standard error, so far.
    """

    def __init__(self, name: str, command: list[str], environment: dict[str, str]):
        self.name, self.environment, self.lines = name, environment, list[str]()
        self.process = subprocess.Popen(
            command, env=environment, text=True, errors="replace", start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def until(self, holds: Callable[[str], Any], seconds: float = 60.0) -> None:
        """Wait until something holds of the log."""
        last = time.monotonic() + seconds
        while not holds(self.log):
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log}"
            assert time.monotonic() < last, f"{self.name} did not say so:\n{self.log}"
            time.sleep(0.02)

    def code(self, seconds: float = 90.0) -> int:
        """Wait for the end, and return the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        assert self.process.stdout
        self.process.stdout.close()
        return code

    def execute(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its hooks are run."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def terminate(self) -> int:
        """Stop it as a kubelet does: its first process is told, and waited for."""
        self.process.send_signal(signal.SIGTERM)
        return self.code()

    def kill(self) -> None:
        """Take all of its processes at once, as when its node is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.code(10)
