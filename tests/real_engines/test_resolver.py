"""Adapters resolved by name in a real vLLM: from a Hub and from folders, at the first request for each."""

import concurrent.futures
import hashlib
import json
import re
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lora_cli.cli.main import main
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.hub_server import Fault, Hub
from tests.real_engines.agreement import TOLERANCE, distance
from tests.real_engines.bases import SERVED, save
from tests.real_engines.vllm_server import Reply, Server, meant, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]
ON_HUB, ALL = 6, 9
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Resolving:
    """vLLM with the plugin, and what PEFT answers with each adapter."""

    server: Server
    folder: Path
    meant: dict[str, Any]


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "README.md"}


def changed(directory: Path, copy: Path, weights: Mapping[str, Any] | None = None, **config: Any) -> Path:
    """A copy of an adapter with other tensors or another config."""
    shutil.copytree(directory, copy)
    if weights is not None:
        save_file(dict(weights), copy / WEIGHTS)
    fields = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**fields, **config}))
    return copy


def write_set(folder: Path, sources: Mapping[str, str], name: str = "set.yaml") -> None:
    entries = "".join(f"  - {{name: {one}, source: '{source}'}}\n" for one, source in sources.items())
    (folder / name).write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries}")


def plugin(folder: Path, hub: Hub) -> dict[str, str]:
    """What the plugin of an engine is told by its environment."""
    return {
        **{"LORA_CLI_MANIFEST": str(folder / "set.yaml"), "LORA_CLI_CACHE_DIR": str(folder / "cache")},
        **{"LORA_CLI_RETRIES": "1", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint},
    }


@pytest.fixture(scope="module")
def resolving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resolving]:
    folder = tmp_path_factory.mktemp("resolver")
    made, answers, sources = folder / "made", dict[str, Any](), dict[str, str]()
    save(LLAMA, folder / "base")
    for number in range(ALL):
        name = f"one-{number}"
        answers[name] = meant(write_adapter(LLAMA, options(LLAMA, {"lora_alpha": 8 + 2 * number}), made / name))
        sources[name] = f"hf://acme/{name}" if number < ON_HUB else str(made / name)
    factors = load_file(made / "one-0" / WEIGHTS)
    changed(made / "one-0", made / "refused", use_dora=True)
    for factor, name in ((np.nan, "not-a-number"), (2, "gone"), (3, "corrupt")):
        changed(made / "one-0", made / name, {key: tensor * np.float32(factor) for key, tensor in factors.items()})
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        for directory in made.iterdir():
            if sources.setdefault(directory.name, f"hf://acme/{directory.name}").startswith("hf"):
                hub.add(f"acme/{directory.name}", files_of(directory))
        write_set(folder, sources)
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["--cache-dir", str(folder / "locking"), "fetch", "-f", str(folder / "set.yaml")]) == 0
        del hub.repos["acme/gone"]
        corrupt = hashlib.sha256((made / "corrupt" / WEIGHTS).read_bytes()).hexdigest()
        hub.faults.append(Fault(f"acme/corrupt/.*{WEIGHTS}|{corrupt}", times=-1, flip_at=3000))
        environment = {**plugin(folder, hub), "LORA_CLI_TIMEOUT": "20s"}
        more = ("--max-loras", "2", "--max-cpu-loras", "4")
        with serving(folder / "base", folder / "vllm.log", *more, **environment) as running:
            yield Resolving(running, folder, answers)


def ask(server: Server, name: str, tokens: int = 1) -> Reply:
    return server.post("/v1/completions", {"model": name, "prompt": [1, 2, 3], "max_tokens": tokens, "temperature": 0})


def message(reply: Reply) -> str:
    return str(json.loads(reply.text)["error"]["message"])


def test_requests_at_once_for_names_not_seen_before_are_all_answered_as_peft_does(resolving: Resolving) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda name: ask(resolving.server, name), resolving.meant))
    assert {reply.status for reply in replies} == {200}
    for name, expected in resolving.meant.items():
        assert distance(resolving.server.answered(name), expected) < TOLERANCE, name


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("not-a-number", 422, "LC501"),
        ("refused", 422, "LC4"),
        ("gone", 404, "gone"),
        ("corrupt", 502, "corrupt"),
        ("nobody-has-this", 404, "does not exist"),
        ("/etc", 404, "does not exist"),
    ],
)
def test_what_cannot_be_served_is_told_by_status_and_message(
    resolving: Resolving, name: str, status: int, said: str
) -> None:
    server = resolving.server
    reply = ask(server, name)
    assert (reply.status, said in message(reply)) == (status, True), reply
    assert ask(server, "base").status == 200


def test_metrics_count_what_was_resolved_and_why_not(resolving: Resolving) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{resolving.server.port}/metrics") as response:
        text = response.read().decode()
    assert 'lora_cli_resolutions_total{outcome="resolved"}' in text
    assert re.search(r'lora_cli_adapter_failed\{adapter="[^"]+",rule="LC501"\} 1\.0', text)
    assert "lora_cli_downloaded_bytes_total" in text
