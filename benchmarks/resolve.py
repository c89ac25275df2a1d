"""The first request for an adapter that a real vLLM has not seen: lora-cli's plugin beside vLLM's own Hub resolver.

    make test-engines          # once: installs vLLM for the CPU into .venv-vllm
    python benchmarks/resolve.py [--adapters 12] [--rounds 3]

Each round starts one vLLM 0.32 for each way, with an empty cache, behind one small Hub on loopback: (a) the plugin with
a locked manifest, which verifies and validates; (b) ``lora_hf_hub_resolver``, which downloads; (c)
``/v1/load_lora_adapter`` with a folder on this disk, which neither downloads nor validates. Half of the adapters are
asked for one after the other, half all at once. The goal is that (a) is not slower than (b).
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from fetching.servers import ROOT
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(ROOT))

from lora_cli.cli.main import main as lora_cli
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.hub_server import Hub
from tests.real_engines.bases import SERVED, save
from tests.real_engines.vllm_server import Server, serving

WAYS = ("plugin", "hub resolver", "load by API")
WEIGHTS = "adapter_model.safetensors"
GOAL = 1.0


def main() -> None:
    """Prints the median of each way's first request, alone and beside others, and the ratio to the peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    alone: dict[str, list[float]] = {way: [] for way in WAYS}
    together: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, _origin(Path(folder), asked.adapters) as endpoint:
        for number in range(asked.rounds):
            for way in WAYS:
                with _vllm(Path(folder), way, endpoint, number, asked.adapters) as server:
                    _measure(Path(folder), server, way, asked.adapters, alone[way], together[way])
    print(f"{'first request':16}{'alone, ms':>12}{'all at once, ms':>18}")
    for way in WAYS:
        print(f"{way:16}{statistics.median(alone[way]):12.0f}{statistics.median(together[way]):18.0f}")
    ratios = [statistics.median(one["plugin"]) / statistics.median(one["hub resolver"]) for one in (alone, together)]
    told = ", ".join(f"{ratio:.2f} {'met' if ratio <= GOAL else 'MISSED'}" for ratio in ratios)
    print(f"plugin / hub resolver: {told} (goal {GOAL:g})")


@contextmanager
def _origin(folder: Path, adapters: int) -> Iterator[str]:
    """Adapters of a tiny base on a Hub, and a manifest with its lock."""
    base = save(SERVED["llama"], folder / "base")
    first = folder / "first"
    write_adapter(SERVED["llama"], options(SERVED["llama"], {"r": 8}), first)
    factors = load_file(first / WEIGHTS)
    for number in range(adapters):
        directory = folder / "hub" / "acme" / _name(number)
        shutil.copytree(first, directory)
        # Other weights for each: what is cached is not downloaded again.
        save_file({key: one * (1 + number / 100) for key, one in factors.items()}, directory / WEIGHTS)
        path = directory / "adapter_config.json"
        fields = json.loads(path.read_text())
        # vLLM's own resolvers compare the base with --model.
        path.write_text(json.dumps({**fields, "lora_alpha": 8 + number, "base_model_name_or_path": str(base)}))
    entries = "".join(f"  - {{name: {_name(n)}, source: 'hf://acme/{_name(n)}'}}\n" for n in range(adapters))
    text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries}"
    (folder / "set.yaml").write_text(text)
    with Hub(folder / "hub") as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint
        words = ["--cache-dir", str(folder / "locking"), "--quiet"]
        assert lora_cli([*words, "fetch", "-f", str(folder / "set.yaml")]) == 0
        yield hub.endpoint


@contextmanager
def _vllm(folder: Path, way: str, endpoint: str, number: int, adapters: int) -> Iterator[Server]:
    own = folder / f"{way.replace(' ', '-')}-{number}"
    own.mkdir()
    environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_HOME": str(own / "hf")}
    if way == "plugin":
        environment |= {"LORA_CLI_MANIFEST": str(folder / "set.yaml"), "LORA_CLI_CACHE_DIR": str(own / "cache")}
    elif way == "hub resolver":
        repositories = ",".join(f"acme/{_name(one)}" for one in range(adapters))
        environment |= {"VLLM_PLUGINS": "lora_hf_hub_resolver", "VLLM_LORA_RESOLVER_HF_REPO_LIST": repositories}
    more = ("--max-loras", "4", "--max-cpu-loras", "64")
    with serving(folder / "base", own / "vllm.log", *more, **environment) as server:
        yield server


def _measure(folder: Path, server: Server, way: str, adapters: int, alone: list[float], together: list[float]) -> None:
    """The first request of half of the adapters in turn, then of the other half at once; milliseconds."""
    ask: Callable[[int], float] = lambda number: _first(folder, server, way, number)  # noqa: E731
    assert server.post("/v1/completions", _request("base")).status == 200
    # One adapter ahead: whatever each way does once.
    ask(0)
    half = adapters // 2
    alone += [ask(number) for number in range(1, half)]
    with ThreadPoolExecutor(adapters) as threads:
        together += threads.map(ask, range(half, adapters))


def _first(folder: Path, server: Server, way: str, number: int) -> float:
    name = f"acme/{_name(number)}" if way == "hub resolver" else _name(number)
    began = time.perf_counter()
    if way == "load by API":
        assert server.load(name, folder / "hub" / "acme" / name).status == 200
    reply = server.post("/v1/completions", _request(name))
    assert reply.status == 200, reply
    return (time.perf_counter() - began) * 1e3


def _request(model: str) -> dict[str, object]:
    return {"model": model, "prompt": [1, 2, 3], "max_tokens": 1, "temperature": 0}


def _name(number: int) -> str:
    return f"one-{number}"


if __name__ == "__main__":
    main()
