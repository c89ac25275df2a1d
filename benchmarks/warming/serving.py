"""``warm --serve`` while others load; many adapters into running servers, beside a loop of ``hf download`` and curl."""

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from fetching.servers import hub

from tests.making import write_adapter
from tests.real_engines import vllm_server
from tests.warm.running import Running

from .pairs import Goal, line

BIN = Path(sys.executable).parent
COLD, HOT_S = 20, 4.0
MANY, MANY_VLLM = 200, 50


def lines(model: Path, folder: Path, *, quick: bool) -> Iterator[str]:
    """Every row of the serving table."""
    for number in range(1 if quick else 3):
        yield from _hot_while_cold(model, folder / f"hot-{number}")
    yield from _many_into_ours(folder / "ours", 20 if quick else MANY)
    if vllm_server.PYTHON.is_file():
        yield from _many_into_vllm(folder / "vllm", 5 if quick else MANY_VLLM)
    else:
        yield "many adapters into vLLM: not installed (make test-engines does that)"


def _hot_while_cold(model: Path, folder: Path) -> Iterator[str]:
    """One adapter that is asked for all the time, alone and while 20 others are loaded; from the same client."""
    from .forward import write_adapters

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapters = write_adapters(model, folder / "adapters", [16] * (COLD + 1), targets)
    limits = ["--max-loras", 8, "--max-cpu-loras", 64, "--forward", "model"]
    with Running(folder, adapters[0], "--base", model, "--root", folder / "adapters", *limits) as server:
        server.until_ready()
        name = adapters[0].name
        _probed(server, name, 1.0)
        quiet = _probed(server, name, HOT_S)
        with ThreadPoolExecutor(1) as loads:
            loading = loads.submit(lambda: [server.load(one.name, one).status_code for one in adapters[1:]])
            busy: list[float] = []
            while not loading.done():
                busy += _probed(server, name, 0.0)
            assert set(loading.result()) == {200}
    found = _p99(busy) / _p99(quiet)
    note = f"p99 {_p99(busy) * 1e3:.1f} ms of {len(busy)}, quiet {_p99(quiet) * 1e3:.1f} ms"
    yield line("p99 of a hot adapter while 20 cold ones load", note, (found, found, found), Goal(1.5))


def _probed(server: Running, name: str, seconds: float) -> list[float]:
    """Seconds of each answer of one token, one after the other for so long, over one connection; at least one."""
    import httpx2

    took: list[float] = []
    until = time.perf_counter() + seconds
    with httpx2.Client(timeout=60) as client:
        url, body = f"http://127.0.0.1:{server.port}/v1/completions", {"model": name, "prompt": [5], "max_tokens": 1}
        client.post(url, json=body)
        while not took or time.perf_counter() < until:
            began = time.perf_counter()
            client.post(url, json=body).raise_for_status()
            took.append(time.perf_counter() - began)
    return took


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[-1] if len(values) > 1 else values[0]


def _many_into_ours(folder: Path, count: int) -> Iterator[str]:
    names = _written(folder, count)
    with ExitStack() as stack:
        endpoint = stack.enter_context(hub(folder / "hub")).endpoint
        argv = ["--base", folder / "base", "--root", folder / "peer", "--max-loras", 8, "--max-cpu-loras", count]
        (folder / "peer").mkdir()
        first = stack.enter_context(Running(_made(folder / "one"), *argv)).until_ready()
        second = stack.enter_context(Running(_made(folder / "two"), *argv)).until_ready()
        ours = _ours(folder, endpoint, first.port, "--no-prove", cache=folder / "one" / "cache")
        assert len(first.status()["adapters"]) == count
        peer = _loop(folder, endpoint, second.port, names)
        assert len(second.status()["adapters"]) == count
    yield _row(f"{count} adapters from a Hub into warm --serve", ours, peer)


def _many_into_vllm(folder: Path, count: int) -> Iterator[str]:
    names = _written(folder, count)
    more = ("--max-loras", "1", "--max-cpu-loras", str(count))
    with ExitStack() as stack:
        endpoint = stack.enter_context(hub(folder / "hub")).endpoint
        (folder / "peer").mkdir()
        server = stack.enter_context(vllm_server.serving(folder / "base", folder / "vllm.log", *more))
        ours = _ours(folder, endpoint, server.port, cache=folder / "cache")
        for name in names:
            assert server.unload(name).status == 200
        peer = _loop(folder, endpoint, server.port, names)
    yield _row(f"{count} adapters from a Hub into vLLM, with effect proved", ours, peer)


def _row(work: str, ours: float, peer: float) -> str:
    found = ours / peer
    return line(work, f"loop {peer:.1f} s, ours {ours:.1f} s", (found, found, found), Goal(1 / 3))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _written(folder: Path, count: int) -> list[str]:
    """A base, ``count`` adapters of it for a Hub, and a manifest of all; gives their names."""
    names = [f"a{number:03}" for number in range(count)]
    from tests.real_engines.bases import SERVED, save

    save(SERVED["llama"], _made(folder) / "base")
    modules = _modules(folder / "base")
    for number, name in enumerate(names):
        write_adapter(folder / "hub" / "acme" / name, modules=modules, r=4, lora_alpha=64, seed=number)
    entries = "".join(f"  - {{name: {name}, source: hf://acme/{name}}}\n" for name in names)
    (folder / "set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries}")
    return names


def _modules(base: Path) -> dict[str, tuple[int, int]]:
    """The projections of the base's attention."""
    from lora_cli.base.families import base_from_config

    built = base_from_config(json.loads((base / "config.json").read_text()), "llama")
    return {
        path: (module.d_in, module.d_out)
        for path, module in built.modules.items()
        if path.rpartition(".")[2] in {"q_proj", "k_proj", "v_proj", "o_proj"}
    }


def _ours(folder: Path, hub_endpoint: str, port: int, *more: str, cache: Path) -> float:
    """Seconds of one ``lora-cli warm --endpoint``; ours gives no log-probabilities, so it is not proved there."""
    argv = [str(BIN / "lora-cli"), "--cache-dir", str(cache), "warm", "-f", str(folder / "set.yaml")]
    argv += ["--endpoint", f"http://127.0.0.1:{port}", "--engine", "vllm", *more]
    began = time.perf_counter()
    subprocess.run(argv, check=True, env=_environ(folder, hub_endpoint), stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _loop(folder: Path, hub_endpoint: str, port: int, names: Sequence[str]) -> float:
    """Seconds of the loop that people write: ``hf download`` and curl, adapter by adapter."""
    peer, url = folder / "peer", f"http://127.0.0.1:{port}/v1/load_lora_adapter"
    body = '{"lora_name": "\'$name\'", "lora_path": "' + str(peer) + "/'$name'\"}"
    script = f"""
set -e
for name in {shlex.join(names)}; do
  {shlex.quote(str(BIN / "hf"))} download acme/$name --local-dir {shlex.quote(str(peer))}/$name > /dev/null 2>&1
  curl -sf -o /dev/null -H 'content-type: application/json' -d '{body}' {url}
done
"""
    began = time.perf_counter()
    subprocess.run(["bash", "-c", script], check=True, env=_environ(folder, hub_endpoint), stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _environ(folder: Path, hub_endpoint: str) -> dict[str, str]:
    more = {"HF_ENDPOINT": hub_endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**os.environ, **more}
