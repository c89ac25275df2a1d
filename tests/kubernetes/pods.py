"""The manifests for Kubernetes as documents, pods and containers."""

from collections.abc import Iterator
from typing import Any

import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "manifests" / "kubernetes"
OURS, WITH_PLUGIN = "registry.example.com/lora-cli:", "registry.example.com/vllm-lora-cli:"
Fields = dict[str, Any]


def documents() -> list[tuple[str, Fields]]:
    """Each document, with the name of its file."""
    files = sorted(FOLDER.glob("*.yaml"))
    return [(file.name, one) for file in files for one in yaml.load_all(file.read_text(), yaml.CSafeLoader)]


def pods() -> Iterator[tuple[str, Fields]]:
    """The pod of each workload, with the workload's name: those of templates, of a CronJob's, and pods themselves."""
    for _, document in documents():
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield document["metadata"]["name"], spec["template"]["spec"]
        elif document["kind"] == "Pod":
            yield document["metadata"]["name"], spec


def containers(pod: Fields) -> list[Fields]:
    """All containers of a pod, those that run first first."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def container(workload: str, name: str) -> tuple[Fields, Fields]:
    """One container, with its pod."""
    pod = dict(pods())[workload]
    return next(one for one in containers(pod) if one["name"] == name), pod


def ours(container: Fields) -> bool:
    """Whether a container runs our image."""
    return bool(container["image"].startswith(OURS))


def reads_our_variables(container: Fields) -> bool:
    """Whether a container runs our image, or an engine with our plugin."""
    return ours(container) or bool(container["image"].startswith(WITH_PLUGIN))
