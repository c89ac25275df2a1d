"""Adapters resolved by name in a real vLLM: from a Hub, from S3 and from folders, at the first request for each."""

import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import signal
import time
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
from tests.hub_faults import Fault
from tests.hub_server import Hub
from tests.object_servers import S3Server
from tests.real_engines.bases import SERVED, save
from tests.real_engines.effects import TOLERANCE, distance
from tests.real_engines.test_published import answered
from tests.real_engines.vllm_oracle import meant
from tests.real_engines.vllm_server import Reply, Server, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]
ON_HUB, ON_S3, IN_FOLDERS = 10, 6, 4
WEIGHTS = "adapter_model.safetensors"


@dataclass
class Origins:
    """Where the adapters of the test are, and what PEFT answers with each."""

    folder: Path
    hub: Hub
    s3: S3Server
    bucket: str
    meant: dict[str, Any]

    def environ(self, **more: str) -> dict[str, str]:
        """What vLLM is started with."""
        return {
            "LORA_CLI_MANIFEST": str(self.folder / "set.yaml"),
            "LORA_CLI_CACHE_DIR": str(self.folder / "cache"),
            "LORA_CLI_RETRIES": "1",
            "LORA_CLI_TIMEOUT": "20s",
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": self.hub.endpoint,
            **self.s3.environ,
            **more,
        }


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


def write_set(folder: Path, sources: Mapping[str, str]) -> None:
    entries = "".join(f"  - {{name: {name}, source: '{source}'}}\n" for name, source in sources.items())
    (folder / "set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries}")


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory, seaweed_server: S3Server) -> Iterator[Origins]:
    folder = tmp_path_factory.mktemp("resolver")
    save(LLAMA, folder / "base")
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        place = seaweed_server.place()
        answers, sources = dict[str, Any](), dict[str, str]()
        for number in range(ON_HUB + ON_S3 + IN_FOLDERS):
            name, directory = f"one-{number}", folder / "made" / f"one-{number}"
            answers[name] = meant(write_adapter(LLAMA, options(LLAMA, {"lora_alpha": 8 + 2 * number}), directory))
            if number < ON_HUB:
                hub.add(f"acme/{name}", files_of(directory))
                sources[name] = f"hf://acme/{name}"
            elif number < ON_HUB + ON_S3:
                seaweed_server.put(f"{place}/{name}", files_of(directory))
                sources[name] = f"s3://{place}/{name}"
            else:
                sources[name] = str(directory)
        first = folder / "made" / "one-0"
        factors = load_file(first / WEIGHTS)
        poisoned = {name: np.full_like(tensor, np.nan) for name, tensor in factors.items()}
        bad = {
            "not-a-number": changed(first, folder / "made" / "not-a-number", poisoned),
            "refused": changed(first, folder / "made" / "refused", use_dora=True),
        }
        for number, name in enumerate(("gone", "corrupt", "slow"), 2):
            own = {key: tensor * np.float32(number) for key, tensor in factors.items()}
            bad[name] = changed(first, folder / "made" / name, own)
        for name, directory in bad.items():
            hub.add(f"acme/{name}", files_of(directory))
            sources[name] = f"hf://acme/{name}"
        write_set(folder, sources)
        for name, value in {"HF_ENDPOINT": hub.endpoint, **seaweed_server.environ}.items():
            patch.setenv(name, value)
        assert main(["--cache-dir", str(folder / "locking"), "fetch", "-f", str(folder / "set.yaml")]) == 0
        del hub.repos["acme/gone"]
        corrupt = hashlib.sha256((bad["corrupt"] / WEIGHTS).read_bytes()).hexdigest()
        hub.faults.append(Fault(f"acme/corrupt/.*{WEIGHTS}|{corrupt}", times=-1, flip_at=3000))
        hub.faults.append(Fault("acme/slow/resolve", times=-1, delay_s=7))
        yield Origins(folder, hub, seaweed_server, place, answers)


@pytest.fixture(scope="module")
def server(origins: Origins) -> Iterator[Server]:
    more = ("--max-loras", "2", "--max-cpu-loras", "4")
    environment = origins.environ(LORA_CLI_RESOLVE_TIMEOUT="4s")
    with serving(origins.folder / "base", origins.folder / "vllm.log", *more, **environment) as running:
        yield running


def ask(server: Server, name: str, tokens: int = 1) -> Reply:
    return server.post("/v1/completions", {"model": name, "prompt": [1, 2, 3], "max_tokens": tokens, "temperature": 0})


def message(reply: Reply) -> str:
    return str(json.loads(reply.text)["error"]["message"])


def test_the_first_request_for_each_of_twenty_adapters_answers_as_peft_does(origins: Origins, server: Server) -> None:
    for name, expected in origins.meant.items():
        assert distance(answered(server, name), expected) < TOLERANCE, name


def test_requests_at_once_for_names_not_seen_before_are_all_answered(origins: Origins, server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda name: ask(server, name), origins.meant))
    assert {reply.status for reply in replies} == {200}


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("not-a-number", 422, "LC501"),
        ("refused", 422, "LC4"),
        ("gone", 404, "gone"),
        ("corrupt", 502, "corrupt"),
        ("nobody-has-this", 404, "does not exist"),
        ("../one-0", 404, "does not exist"),
        ("/etc", 404, "does not exist"),
    ],
)
def test_what_cannot_be_served_is_told_by_status_and_message(server: Server, name: str, status: int, said: str) -> None:
    reply = ask(server, name)
    assert (reply.status, said in message(reply)) == (status, True), reply
    assert ask(server, "base").status == 200


def test_a_slow_origin_is_told_at_the_deadline_and_served_later(server: Server) -> None:
    began = time.monotonic()
    reply = ask(server, "slow")
    assert reply.status == 503
    assert "still being fetched" in message(reply)
    assert 3.5 < time.monotonic() - began < 8
    while ask(server, "slow").status != 200:
        assert time.monotonic() - began < 60
        time.sleep(0.5)


def test_a_thousand_unknown_names_harm_nobody(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(32) as threads:
        replies = list(threads.map(lambda number: ask(server, f"made-up-{number}"), range(1000)))
    assert {reply.status for reply in replies} == {404}
    assert ask(server, "one-0").status == 200


def test_metrics_count_what_was_resolved_and_why_not(server: Server) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
        text = response.read().decode()
    assert 'lora_cli_resolutions_total{outcome="resolved"}' in text
    assert re.search(r'lora_cli_adapter_failed\{adapter="[^"]+",rule="LC501"\} 1\.0', text)
    assert "lora_cli_downloaded_bytes_total" in text


def test_gc_removes_nothing_that_the_engine_uses(origins: Origins, server: Server) -> None:
    assert ask(server, "one-0").status == 200
    cache = str(origins.folder / "cache")
    assert main(["--cache-dir", cache, "cache", "gc", "--max-bytes", "0"]) in {0, 1}
    # Two slots and four places: most of these are read from disk again.
    for name, expected in origins.meant.items():
        assert distance(answered(server, name), expected) < TOLERANCE, name


def test_a_name_that_the_manifest_gets_later_is_served(origins: Origins, server: Server) -> None:
    assert ask(server, "later").status == 404
    text = (origins.folder / "set.yaml").read_text()
    (origins.folder / "set.yaml").write_text(f"{text}  - {{name: later, source: '{origins.folder}/made/one-3'}}\n")
    time.sleep(1.1)
    assert distance(answered(server, "later"), origins.meant["one-3"]) < TOLERANCE
    (origins.folder / "set.yaml").write_text("not: [a manifest")
    time.sleep(1.1)
    assert ask(server, "later").status == 200
    assert ask(server, "one-1").status == 200
    (origins.folder / "set.yaml").write_text(text)


def test_a_killed_engine_resumes_the_download(origins: Origins, tmp_path: Path) -> None:
    folder, cache = origins.folder, tmp_path / "cache"
    shape = load_file(folder / "made" / "one-0" / WEIGHTS)
    big = changed(folder / "made" / "one-0", tmp_path / "big", {**shape, "padding": np.ones(6_000_000, np.float32)})
    origins.hub.add("acme/big", files_of(big))
    write_set(tmp_path, {"big": "hf://acme/big"})
    shutil.copytree(folder / "base", tmp_path / "base")
    stalled = Fault("GET cdn", times=-1, after=2, stall_at=1_000_000, stall_s=60)
    origins.hub.faults.insert(0, stalled)
    environment = origins.environ(LORA_CLI_MANIFEST=str(tmp_path / "set.yaml"), LORA_CLI_CACHE_DIR=str(cache))
    with (
        serving(tmp_path / "base", tmp_path / "vllm.log", **environment) as server,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
    ):
        asked = threads.submit(ask, server, "big")
        deadline = time.monotonic() + 30
        while not any(path.stat().st_size for path in cache.glob("tmp/*/*") if path.is_file()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)
        os.killpg(server.process.pid, signal.SIGKILL)
        assert asked.exception(timeout=30) is not None
    origins.hub.faults.remove(stalled)
    sent = len(origins.hub.requests)
    with serving(tmp_path / "base", tmp_path / "vllm.log", **environment) as server:
        reply = ask(server, "big")
        assert reply.status in {200, 422}, reply
    ranges = [one.range for one in origins.hub.requests[sent:] if one.origin == "cdn"]
    assert ranges
    assert not any(one.startswith("bytes=0-") for one in ranges), ranges
