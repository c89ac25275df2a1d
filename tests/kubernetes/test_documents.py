"""Every document is one that Kubernetes takes, and what its schema lets through is looked at here."""

import re
from collections import Counter
from typing import Any

import kubernetes_validate
import pytest

from lora_cli.cli.main import KNOWN_VARIABLES
from tests.kubernetes.pods import FOLDER, Fields, containers, documents, pods, reads_our_variables

VERSION = "1.33"
DOCUMENTS = documents()
ALL = [(workload, one["name"], one, pod) for workload, pod in pods() for one in containers(pod)]
named = pytest.mark.parametrize(
    ("container", "pod"), [pytest.param(one, pod, id=f"{workload}/{name}") for workload, name, one, pod in ALL]
)

THEIRS = {
    "HF_TOKEN",
    "HOME",
    "VLLM_API_KEY",
    "VLLM_PLUGINS",
    "VLLM_LORA_RESOLVER_CACHE_DIR",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
}
"""Variables that are not ours: the Hub's, the system's, vLLM's (``vllm/envs.py``)."""


OPERATORS = "monitoring.coreos.com/v1"
"""Kinds of the Prometheus operator, which Kubernetes has no schema of."""


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(one, id=f"{file}/{one['metadata']['name']}")
        for file, one in DOCUMENTS
        if one["apiVersion"] != OPERATORS
    ],
)
def test_a_document_is_valid_by_the_schema_of_its_version_to_the_letter(document: Fields) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_names_are_taken_once_and_selectors_find_their_pods() -> None:
    names = Counter((document["kind"], document["metadata"]["name"]) for _, document in DOCUMENTS)
    assert set(names.values()) == {1}
    labels = []
    for _, document in DOCUMENTS:
        if "template" in document["spec"]:
            labels.append(document["spec"]["template"]["metadata"]["labels"])
            selector = document["spec"].get("selector", {}).get("matchLabels", {})
            assert selector.items() <= labels[-1].items()
    for _, document in DOCUMENTS:
        if document["kind"] == "NetworkPolicy":
            wanted = document["spec"]["podSelector"]["matchLabels"].items()
            assert any(wanted <= one.items() for one in labels), document["metadata"]["name"]


@pytest.mark.parametrize("pod", [pytest.param(pod, id=name) for name, pod in pods()])
def test_a_pod_runs_as_nobody_in_particular_and_without_a_token_of_the_cluster(pod: Fields) -> None:
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert min(context["runAsUser"], context["runAsGroup"]) > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


@named
def test_a_container_can_do_no_more_than_it_must(container: Fields, pod: Fields) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert container["terminationMessagePath"] == "/dev/termination-log"
    words = {*container.get("args", ())}
    assert "--publish" not in words or "--keep-going" in words, "one broken adapter must not keep a pod from starting"
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+(-\w+)?(@sha256:[0-9a-f]{64})?", container["image"])


@named
def test_what_is_mounted_is_there_and_each_volume_is_mounted(container: Fields, pod: Fields) -> None:
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = container["volumeMounts"]
    assert {mount["name"] for mount in mounts} <= volumes
    assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
    assert {mount["name"] for one in containers(pod) for mount in one["volumeMounts"]} == volumes
    sized = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
    assert all("sizeLimit" in volume for volume in sized)


@named
def test_no_secret_stands_in_a_manifest(container: Fields, pod: Fields) -> None:
    for variable in container["env"]:
        secret = re.search(r"TOKEN|KEY|PASSWORD", variable["name"])
        assert ("valueFrom" in variable) == bool(secret), variable["name"]


@named
def test_a_variable_is_an_option_and_a_path_in_it_is_mounted(container: Fields, pod: Fields) -> None:
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    for variable in container["env"]:
        assert variable["name"] in KNOWN_VARIABLES | THEIRS, variable["name"]
        assert reads_our_variables(container) or variable["name"] in THEIRS
    words: list[Any] = [*container.get("args", ()), *(one.get("value", "") for one in container["env"])]
    paths = [found for word in words for found in re.findall(r"(?:^|[:=])(/(?!/)[\w./-]+)", word)]
    for path in paths:
        assert any(path == place or path.startswith(f"{place}/") for place in mounted), path


def test_containers_of_one_pod_that_share_the_cache_see_it_at_the_same_path() -> None:
    for workload, pod in pods():
        at = {mount["mountPath"] for one in containers(pod) for mount in one["volumeMounts"] if mount["name"] == "lora"}
        assert at == {"/lora"} or workload == "lora-fleet", workload


def test_the_job_fetches_each_part_before_it_validates_it_and_both_take_the_same_part() -> None:
    for _, document in DOCUMENTS:
        if document["kind"] == "Job":
            spec = document["spec"]
            both = containers(spec["template"]["spec"])
            assert [one["args"][0] for one in both] == ["fetch", "validate"]
            for one in both:
                assert one["args"][one["args"].index("--shard") + 1] == f"$(JOB_COMPLETION_INDEX)/{spec['completions']}"
            assert (spec["completionMode"], spec["template"]["spec"]["restartPolicy"]) == ("Indexed", "Never")
            for rule in spec["podFailurePolicy"]["rules"]:
                assert "containerName" not in rule["onExitCodes"], "it holds for both"
            assert spec["maxFailedIndexes"] <= spec["completions"]


def test_a_claim_of_a_pod_is_one_of_ours_and_fits_its_volume() -> None:
    by_kind = {kind: {one["metadata"]["name"]: one["spec"] for _, one in DOCUMENTS if one["kind"] == kind}
               for kind in ("PersistentVolumeClaim", "PersistentVolume")}  # fmt: skip
    claims, volumes = by_kind["PersistentVolumeClaim"], by_kind["PersistentVolume"]
    asked = {one["persistentVolumeClaim"]["claimName"] for _, pod in pods() for one in pod["volumes"]
             if "persistentVolumeClaim" in one}  # fmt: skip
    assert asked == claims.keys()
    for name, claim in claims.items():
        volume = volumes[claim["volumeName"]]
        assert volume["claimRef"]["name"] == name
        assert volume["storageClassName"] == claim["storageClassName"]
        assert volume["accessModes"] == claim["accessModes"] == ["ReadWriteMany"]
        assert volume["capacity"]["storage"] == claim["resources"]["requests"]["storage"]


def test_every_file_is_a_document_that_is_tested() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {file for file, _ in DOCUMENTS}


def test_the_monitor_finds_the_pods_of_the_plugin_and_the_alert_asks_for_a_metric_that_there_is() -> None:
    from lora_cli.plugins.metrics import FAILED

    monitor = next(one for _, one in DOCUMENTS if one["kind"] == "PodMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    ports = {port["name"] for _, pod in pods() for one in containers(pod) for port in one.get("ports", ())}
    labels = [one["spec"]["template"]["metadata"]["labels"] for _, one in DOCUMENTS if "template" in one["spec"]]
    assert any(wanted <= one.items() for one in labels)
    assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= ports
    rule = next(one for _, one in DOCUMENTS if one["kind"] == "PrometheusRule")
    (alert,) = rule["spec"]["groups"][0]["rules"]
    (family,) = FAILED.collect()
    assert family.name in alert["expr"]
