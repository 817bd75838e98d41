"""The manifests in deploy/, rendered as kubectl does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = sorted((DEPLOY / "job/overlays").iterdir())
RENDERED = [*OVERLAYS, DEPLOY / "daskjob", DEPLOY / "longlived"]
APPLIED = [DEPLOY / "longlived/fit.yaml"]

Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    """Render a kustomization."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        # On the machine that decides what lands, these tests are not to be missing.
        assert "CI" not in os.environ, "kubectl is not installed"
        pytest.skip("kubectl is not installed")
    told = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    # Deprecated fields are told on standard error.
    assert told.stderr == ""
    return list(yaml.safe_load_all(told.stdout))


def read(path: Path) -> list[Manifest]:
    """Read the manifests of a file, or those of a folder rendered."""
    return render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def overlay(folder: Path, base: str, kustomization: Manifest) -> list[Manifest]:
    """Render an overlay of a user's own on one in deploy/job/overlays."""
    folder.mkdir()
    resource = os.path.relpath(DEPLOY / "job/overlays" / base, folder.resolve())
    text = yaml.safe_dump({"resources": [resource], **kustomization})
    (folder / "kustomization.yaml").write_text(text)
    return render(folder)


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """Pick the only manifest of a kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod_specs(manifest: Manifest) -> Iterator[Manifest]:
    """All specifications of pods in a manifest, however deep."""
    if isinstance(manifest, dict):
        if "containers" in manifest:
            yield manifest
        for value in manifest.values():
            yield from pod_specs(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from pod_specs(value)


def containers(spec: Manifest) -> list[Manifest]:
    """Containers of a pod, those that come first included."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def pods_of(manifests: list[Manifest]) -> list[Manifest]:
    return [spec for manifest in manifests for spec in pod_specs(manifest)]
