"""The manifests: their schemas, and the rules that schemas do not know."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from typing import Any

import jsonschema
import pytest
import yaml
from manifests import (
    APPLIED,
    DEPLOY,
    OVERLAYS,
    RENDERED,
    Manifest,
    containers,
    one,
    overlay,
    pods_of,
    read,
    render,
)

# The oldest that has everything these manifests use switched on, and the newest that is known.
VERSIONS = "1.31", "1.37"
ALL = [*RENDERED, *APPLIED]
OVERLAYS_BY = {path.name: path for path in OVERLAYS}
JOBS = [*OVERLAYS, DEPLOY / "longlived/fit.yaml"]


def named(path: Any) -> str:
    return path.name if path.parent == DEPLOY else f"{path.parent.name}-{path.stem}"


every = pytest.mark.parametrize("path", ALL, ids=named)
every_job = pytest.mark.parametrize("path", JOBS, ids=named)


def validated(manifests: list[Manifest], version: str, tmp_path: Any) -> tuple[int, str]:
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(manifests))
    told = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version, str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return told.returncode, told.stdout + told.stderr


def of_kubernetes(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] != "DaskJob"]


@pytest.mark.parametrize("version", VERSIONS)
@every
def test_schemas_of_kubernetes(path, version, tmp_path):
    code, told = validated(of_kubernetes(read(path)), version, tmp_path)
    assert code == 0, told


def test_schemas_refuse_what_they_do_not_know(tmp_path):
    manifests = render(DEPLOY / "job/overlays/s3")
    one(manifests, "Job")["spec"]["template"]["spec"]["containers"][0]["securityContex"] = {}
    code, told = validated(manifests, VERSIONS[-1], tmp_path)
    assert code != 0
    assert "securityContex" in told


@pytest.fixture(scope="module")
def daskjob_schema():
    found = [
        path
        for path in distribution("dask-kubernetes").files or []
        if str(path).endswith("crds/daskjob.yaml")
    ]
    (version,) = yaml.safe_load(found[0].read_text())["spec"]["versions"]
    return strict(version["schema"]["openAPIV3Schema"])


def strict(schema: Any) -> Any:
    """Refuse unknown fields, as the API server drops them and ``kubectl`` warns."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict) and not found.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


def problems_of(daskjob: Manifest, schema: Any) -> list[str]:
    # These three are the API server's, in a schema of its own.
    own = {key: value for key, value in daskjob.items() if key in schema["properties"]}
    unknown = daskjob.keys() - {"apiVersion", "kind", "metadata"} - own.keys()
    found = jsonschema.Draft202012Validator(schema).iter_errors(own)
    return [*(error.message for error in found), *unknown]


def test_the_daskjob_has_the_schema_of_the_operator(daskjob_schema):
    daskjob = one(render(DEPLOY / "daskjob"), "DaskJob")
    assert problems_of(daskjob, daskjob_schema) == []
    for spoil in (
        lambda spec: spec["job"]["spec"]["containers"][0].update(comand=["x"]),
        lambda spec: spec["cluster"]["spec"]["worker"].update(replica=3),
        lambda spec: spec["cluster"]["spec"]["scheduler"]["spec"].update(securityContexts={}),
        lambda spec: spec.update(clusters={}),
    ):
        broken = copy.deepcopy(daskjob)
        spoil(broken["spec"])
        assert problems_of(broken, daskjob_schema) != []


@every
def test_every_mount_has_its_volume_and_every_pod_a_tmp(path):
    for spec in pods_of(read(path)):
        volumes = [volume["name"] for volume in spec.get("volumes", [])]
        assert len(volumes) == len(set(volumes))
        mounted = set()
        for container in containers(spec):
            mounts = container.get("volumeMounts", [])
            assert {mount["name"] for mount in mounts} <= set(volumes)
            places = [mount["mountPath"] for mount in mounts]
            assert len(places) == len(set(places))
            assert "/tmp" in places
            mounted |= {mount["name"] for mount in mounts}
        assert mounted == set(volumes)


@every
def test_every_container_satisfies_the_restricted_profile(path):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, and a fixed root."""
    specs = pods_of(read(path))
    assert specs
    for spec in specs:
        for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
            assert not spec.get(forbidden)
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] == 10001
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        allowed = {"emptyDir", "secret", "configMap", "persistentVolumeClaim", "projected"}
        for volume in spec.get("volumes", []):
            assert volume.keys() - {"name"} <= allowed
        for container in containers(spec):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert own["readOnlyRootFilesystem"] is True
            assert not own.get("privileged")
            assert own.get("runAsNonRoot", True) is True
            assert own.get("runAsUser", 10001) == 10001
            assert all("hostPort" not in port for port in container.get("ports", []))


@every
def test_every_container_asks_for_what_it_may_use(path):
    for spec in pods_of(read(path)):
        assert spec["automountServiceAccountToken"] is False
        for container in containers(spec):
            resources = container["resources"]
            assert resources["requests"].keys() >= {"cpu", "memory"}
            # Memory beyond what was asked for is taken back by killing.
            assert resources["limits"]["memory"] == resources["requests"]["memory"]


@every_job
def test_failures_are_handled_by_the_documented_codes(path):
    spec = one(read(path), "Job")["spec"]
    # Without it the API server refuses podFailurePolicy and backoffLimitPerIndex.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    rules = spec["podFailurePolicy"]["rules"]
    names = {container["name"] for container in spec["template"]["spec"]["containers"]}
    for rule in rules:
        codes = rule.get("onExitCodes")
        if codes:
            assert codes["values"] == sorted(set(codes["values"]))
            assert 0 not in codes["values"]
            assert codes["containerName"] in names

    def action(code: int, disrupted: bool = False) -> str:
        for rule in rules:
            if "onPodConditions" in rule and disrupted:
                return rule["action"]
            if code in rule.get("onExitCodes", {}).get("values", []):
                return rule["action"]
        return "Count"

    assert [action(code) for code in (2, 65, 70)] == ["FailJob"] * 3
    # 75, killed for its memory, an error of Python's: again, but not for ever.
    assert [action(code) for code in (75, 137, 1)] == ["Count"] * 3
    assert action(75, disrupted=True) == action(2, disrupted=True) == "Ignore"
    assert spec["podReplacementPolicy"] == "Failed"


@pytest.mark.parametrize("path", OVERLAYS, ids=named)
def test_the_indexed_job(path):
    manifests = render(path)
    spec = one(manifests, "Job")["spec"]
    settings = one(manifests, "ConfigMap")["data"]
    assert spec["completionMode"] == "Indexed"
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert spec["parallelism"] == spec["completions"] == int(settings["SOFTMIX_WORKERS"]) + 1
    assert spec["maxFailedIndexes"] <= spec["completions"]
    assert "backoffLimit" not in spec
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    # The preStop hook and the driver's last pass.
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["softmix", "pod", "retire"]
    # What the arguments name is set somewhere, and earlier than it is used.
    known = {*settings, "JOB_COMPLETION_INDEX"}
    for variable in container["env"]:
        assert references(variable.get("value", "")) <= known
        known.add(variable["name"])
    assert set().union(*map(references, container["args"])) <= known


def references(text: str) -> set[str]:
    return {part.partition(")")[0] for part in text.split("$(")[1:]}


def pod_labels(manifest: Manifest) -> dict[str, str]:
    # Kubernetes adds it to the pods of a Job.
    name = {"batch.kubernetes.io/job-name": manifest["metadata"]["name"]}
    template = manifest["spec"]["template"]
    own = template.get("metadata", {}).get("labels", {})
    return {**own, **name} if manifest["kind"] == "Job" else own


@pytest.mark.parametrize("suffix", ["", "-monday"])
@pytest.mark.parametrize("path", OVERLAYS, ids=named)
def test_all_of_a_job_has_its_name(path, suffix, tmp_path):
    """Also under a nameSuffix: pods find index 0, and only they talk to each other."""
    manifests = overlay(tmp_path / "own", path.name, {"nameSuffix": suffix} if suffix else {})
    job, service = one(manifests, "Job"), one(manifests, "Service")
    policy = one(manifests, "NetworkPolicy")["spec"]
    assert job["metadata"]["name"] == f"softmix{suffix}"
    labels = pod_labels(job)
    only = {"batch.kubernetes.io/job-name": f"softmix{suffix}"}
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    values = {v["name"]: v.get("value") for v in pod["containers"][0]["env"]}
    assert values["SOFTMIX_SERVICE"] == service["metadata"]["name"]
    assert pod["serviceAccountName"] == one(manifests, "ServiceAccount")["metadata"]["name"]
    assert policy["podSelector"] == {"matchLabels": only}
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": only}}]}]
    assert policy["egress"][0] == {"to": [{"podSelector": {"matchLabels": only}}]}
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    ports = [port["port"] for rule in policy["egress"][1:] for port in rule["ports"]]
    stores = path.name in ("s3", "tls", "gpu")
    assert ports == [53, 53, 443] if stores else ports == [53, 53]


def names_of(manifests: list[Manifest]) -> set[tuple[str, str]]:
    found = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    for kind, name in list(found):
        if kind == "DaskJob":
            # What the operator makes of it.
            found |= {("Service", f"{name}-scheduler"), ("Deployment", f"{name}-scheduler")}
    return found


def test_the_forms_live_in_one_namespace():
    """They share neither names nor pods: one's policy says nothing of another's."""
    job, dask, stays = (
        render(DEPLOY / form) for form in ("job/overlays/s3", "daskjob", "longlived")
    )
    stays += read(DEPLOY / "longlived/fit.yaml")
    for one_form, other in ((job, dask), (job, stays), (dask, stays)):
        assert not names_of(one_form) & names_of(other)
    pods = {"job": [pod_labels(one(job, "Job"))]}
    pods["stays"] = [
        pod_labels(manifest) for manifest in stays if manifest["kind"] in ("Deployment", "Job")
    ]
    for own, other, form in ((job, "stays", "job"), (stays, "job", "stays")):
        selected = one(own, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
        assert all(selected <= labels.items() for labels in pods[form])
        assert not any(selected <= labels.items() for labels in pods[other])


def test_a_suffix_reaches_all_of_a_daskjob(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    resource = os.path.relpath(DEPLOY / "daskjob", folder.resolve())
    (folder / "kustomization.yaml").write_text(f"resources: [{resource}]\nnameSuffix: -monday\n")
    daskjob = one(render(folder), "DaskJob")
    name = daskjob["metadata"]["name"]
    assert name == "softmix-dask-monday"
    scheduler = daskjob["spec"]["cluster"]["spec"]["scheduler"]
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == name


@pytest.mark.parametrize("base", ["s3", "gpu"])
def test_a_gpu_has_the_image_for_it(base, tmp_path):
    """However components are put together, and whatever the images are called."""
    components = os.path.relpath(DEPLOY / "job/components", tmp_path.resolve() / "own")
    own = {
        "components": [f"{components}/tls", f"{components}/gpu"],
        "images": [
            {"name": "softmix-dist-gpu", "newName": "registry.example.com/own", "newTag": "1-gpu"}
        ],
    }
    manifests = overlay(tmp_path / "own", base, own) if base == "s3" else render(OVERLAYS_BY["gpu"])
    (container,) = pods_of(manifests)[0]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith("-gpu")


@pytest.mark.parametrize("base", ["s3", "gpu"])
def test_the_overlay_of_the_page_and_its_toleration(base, tmp_path):
    """Patches as deploy/README.md has them add to what is there, a component's included."""
    own, spot = (
        yaml.safe_load(block)
        for block in re.findall(r"```yaml\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    )
    own.pop("resources")
    own["patches"].append({"target": {"kind": "Job"}, "patch": yaml.safe_dump(spot)})
    manifests = overlay(tmp_path / "own", base, own)
    job = one(manifests, "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [found["key"] for found in pod["tolerations"]] == [
        *(["nvidia.com/gpu"] if base == "gpu" else []),
        "cloud.google.com/gke-spot",
    ]
    assert container["args"][-1] == "--log-json"
    settings = one(manifests, "ConfigMap")["data"]
    assert int(settings["SOFTMIX_WORKERS"]) == job["spec"]["completions"] - 1
    if base == "s3":
        assert container["image"] == "ghcr.io/own/softmix-dist:0.1.0"
    for version in VERSIONS:
        code, told = validated(manifests, version, tmp_path)
        assert code == 0, told


def test_the_cluster_that_stays_selects_its_own_pods():
    manifests = render(DEPLOY / "longlived")
    deployments = [found for found in manifests if found["kind"] == "Deployment"]
    assert len(deployments) == 2
    policy = one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    (fit,) = read(DEPLOY / "longlived/fit.yaml")
    service = one(manifests, "Service")
    for deployment in deployments:
        labels = pod_labels(deployment)
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert policy.items() <= labels.items()
        selected = service["spec"]["selector"].items() <= labels.items()
        assert selected == (deployment["metadata"]["name"] == "softmix-cluster")
    assert policy.items() <= pod_labels(fit).items()
    for spec in pods_of([*deployments, fit]):
        for container in spec["containers"]:
            values = {v["name"]: v.get("value") for v in container.get("env", [])}
            where = values.get("SOFTMIX_SCHEDULER", "softmix-cluster:8786")
            assert where == f"{service['metadata']['name']}:8786"
            command = container["command"]
            assert command[:2] == ["dask", "scheduler"] or command[:2] == ["softmix", "pod"]
    scheduler = pods_of(deployments)[0]["containers"][0]
    assert scheduler["command"][-2:] == ["--preload", "softmix_dist.dashboard"]


@every
def test_no_secret_is_written_down(path):
    """Credentials are those of the service account, or come as a Secret's environment."""
    manifests = read(path)
    assert all(manifest["kind"] != "Secret" for manifest in manifests)
    for manifest in manifests:
        text = yaml.safe_dump(manifest).upper()
        assert "SECRET_ACCESS_KEY" not in text
        assert "PASSWORD" not in text


@every
def test_images_are_of_one_release(path):
    for spec in pods_of(read(path)):
        for container in containers(spec):
            name, _, tag = container["image"].rpartition(":")
            assert name.endswith("softmix-dist")
            on_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert tag.endswith("-gpu") == on_gpu
            assert tag not in ("", "latest")
