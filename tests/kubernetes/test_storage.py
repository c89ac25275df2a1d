"""No pod is evicted for what it is meant to write: sizes of volumes, and limits fit each other."""

import pytest
import torch
import yaml

from lora_cli.base.base_model import BaseModule
from lora_cli.documents.option_values import parse_size
from lora_cli.runtime.lora_slots import storage_bytes
from tests.conftest import ROOT
from tests.kubernetes.pods import Fields, containers, documents, pods, reads_our_variables

STORAGE = "ephemeral-storage"
CACHE = "LORA_CLI_CACHE_DIR"
BUDGET = "LORA_CLI_CACHE_BUDGET"
BOUNDS = (BUDGET, "LORA_CLI_MAX_BYTES")
"""Variables that bound what is written to the cache."""

PODS = list(pods())
each_pod = pytest.mark.parametrize("pod", [pytest.param(pod, id=name) for name, pod in PODS])


def disk_bytes(pod: Fields) -> int:
    """What a pod may write to disk volumes of its own; hostPath, claims and volumes in memory do not count."""
    volumes = [one["emptyDir"] for one in pod["volumes"] if "emptyDir" in one]
    return sum(parse_size(one["sizeLimit"]) for one in volumes if one.get("medium") != "Memory")


def pod_total(pod: Fields, kind: str, resource: str) -> int | None:
    """A pod's ``limits`` or ``requests``, None where no container declares any.

    As Kubernetes' ``resource.PodLimits`` has it: the containers and sidecars together, or where that is more, an init
    container with the sidecars that started before it. A container that declares nothing counts as 0.
    """
    found = [(one, one["resources"].get(kind, {}).get(resource)) for one in containers(pod)]
    if not any(declared for _, declared in found):
        return None
    running = most = 0
    for number, (one, declared) in enumerate(found):
        amount = parse_size(declared or 0)
        most = max(most, running + amount)
        if number >= len(pod.get("initContainers", ())) or one.get("restartPolicy") == "Always":
            running += amount
    return most


def evicted(pod: Fields) -> bool:
    """Whether the kubelet evicts a pod whose disk volumes are full: ``podEphemeralStorageLimitEviction``."""
    limit = pod_total(pod, "limits", STORAGE)
    return limit is not None and limit < disk_bytes(pod)


@each_pod
def test_a_pod_may_fill_its_disk_volumes_without_being_evicted(pod: Fields) -> None:
    assert not evicted(pod)
    assert (pod_total(pod, "requests", STORAGE) or 0) >= disk_bytes(pod), "evicted first when the node's disk is full"


def test_a_limit_of_one_container_is_that_of_the_whole_pod() -> None:
    small: Fields = {"resources": {"limits": {STORAGE: "64Mi"}}}
    none: Fields = {"resources": {"limits": {"memory": "1Gi"}}}
    disk = [{"emptyDir": {"sizeLimit": "1Gi"}}, {"emptyDir": {"medium": "Memory", "sizeLimit": "9Gi"}}]
    enough: Fields = {"resources": {"limits": {STORAGE: "1Gi"}}}

    assert evicted({"initContainers": [small], "containers": [none], "volumes": disk})
    assert evicted({"containers": [small, none], "volumes": disk})
    assert not evicted({"containers": [none], "volumes": disk})
    assert not evicted({"initContainers": [enough], "containers": [small], "volumes": disk})
    assert not evicted({"containers": [small], "volumes": [{"hostPath": {"path": "/var"}}, *disk[1:]]})
    sidecar = {"restartPolicy": "Always", **small}
    assert pod_total({"initContainers": [sidecar, small], "containers": [small]}, "limits", STORAGE) == 128 * 2**20


def test_a_disk_volume_without_a_size_is_not_taken() -> None:
    with pytest.raises(KeyError):
        disk_bytes({"volumes": [{"emptyDir": {}}]})


@each_pod
def test_volumes_in_memory_fit_the_memory_of_what_writes_them_beside_its_own(pod: Fields) -> None:
    sizes = {one["name"]: parse_size(one["emptyDir"]["sizeLimit"]) for one in pod["volumes"]
             if one.get("emptyDir", {}).get("medium") == "Memory"}  # fmt: skip
    for one in containers(pod):
        memory = {kind: parse_size(one["resources"][kind]["memory"]) for kind in ("limits", "requests")}
        written = sum(sizes.get(mount["name"], 0) for mount in one["volumeMounts"] if not mount.get("readOnly"))
        assert written + memory["requests"] <= memory["limits"], one["name"]


def test_a_warm_process_for_the_example_of_a_set_fits_its_memory() -> None:
    engine = yaml.safe_load((ROOT / "manifests" / "production.yaml").read_text())["engine"]
    layer = {"q": (4096, 4096), "k": (4096, 1024), "v": (4096, 1024), "o": (4096, 4096)}
    layer |= {"gate": (4096, 14336), "up": (4096, 14336), "down": (14336, 4096)}
    modules = {f"{number}.{name}": BaseModule(*shape) for number in range(32) for name, shape in layer.items()}
    one_bytes = storage_bytes(modules, 1, engine["max_lora_rank"], torch.float32)
    found = []
    for workload, pod in pods():
        memory = {one["name"]: parse_size(one["emptyDir"]["sizeLimit"]) for one in pod["volumes"]
                  if one.get("emptyDir", {}).get("medium") == "Memory"}  # fmt: skip
        for one in containers(pod):
            words = one.get("args", ())
            if "--serve" in words:
                slots = int(words[words.index("--max-loras") + 1]) * one_bytes
                volumes = sum(memory.get(mount["name"], 0) for mount in one["volumeMounts"])
                # Places take half of what the slots leave.
                left = (parse_size(one["resources"]["limits"]["memory"]) - slots) // 2
                assert "--max-cpu-loras" not in words
                assert max(one_bytes, volumes + parse_size("600MiB")) <= left, workload
                found.append(workload)
    assert sorted(found) == ["lora-node-cache", "vllm-warmed"]


def sizes_of_volumes(pod: Fields) -> dict[str, int]:
    """The size of each volume of a pod that has one."""
    claims = {one["metadata"]["name"]: parse_size(one["spec"]["resources"]["requests"]["storage"])
              for _, one in documents() if one["kind"] == "PersistentVolumeClaim"}  # fmt: skip
    found: dict[str, int] = {}
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            found[volume["name"]] = parse_size(volume["emptyDir"]["sizeLimit"])
        elif "persistentVolumeClaim" in volume:
            found[volume["name"]] = claims[volume["persistentVolumeClaim"]["claimName"]]
    return found


@each_pod
def test_what_our_containers_may_cache_fits_the_volume_that_the_cache_lies_on(pod: Fields) -> None:
    sizes, temporary = sizes_of_volumes(pod), {one["name"] for one in pod["volumes"] if "emptyDir" in one}
    for one in filter(reads_our_variables, containers(pod)):
        cache = next(variable["value"] for variable in one["env"] if variable["name"] == CACHE)
        mounts = [mount for mount in one["volumeMounts"] if f"{cache}/".startswith(f"{mount['mountPath']}/")]
        mount = max(mounts, key=lambda found: len(found["mountPath"]))
        given = {variable["name"]: variable["value"] for variable in one["env"] if variable["name"] in BOUNDS}
        for name, value in given.items():
            assert parse_size(value) < sizes.get(mount["name"], 1 << 62), (one["name"], name)
        if mount["name"] in temporary and not mount.get("readOnly"):
            assert BUDGET in given, f"{one['name']}: a cache that outgrows its emptyDir has the pod evicted"
