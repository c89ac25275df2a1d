"""Streams of a real vLLM while its plugin downloads from a slow origin, beside the same streams when all is quiet."""

import concurrent.futures
import http.client
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_cli.cli.main import main
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.hub_faults import Fault
from tests.hub_server import Hub
from tests.real_engines.bases import SERVED, save
from tests.real_engines.test_resolver import WEIGHTS, ask, changed, files_of, write_set
from tests.real_engines.vllm_server import Server, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]
STREAMS, TOKENS = 2, 400
PAIRS, AT_ONCE = 5, 3
"""Pairs of a quiet and a busy window, and adapters that are downloaded at once in a busy one."""

SLOW_S, WINDOW_S, LOADED_S = 10.0, 8.5, 4.0
"""How long the origin takes for an adapter, and the windows before and after that."""

TOGETHER_S = 5e-4
"""Tokens that arrive together count as one: so they do where a process of the server had to wait for a processor."""

MOST = 1.2
"""Of the p99 between two tokens, as a ratio to the quiet one."""


@dataclass(frozen=True, slots=True)
class Slow:
    """vLLM on the base, with the plugin; each ``slow-N`` comes at a constant pace in ``SLOW_S`` seconds."""

    server: Server
    names: list[str]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    folder = tmp_path_factory.mktemp("streams")
    save(LLAMA, folder / "base")
    names = ["first", *(f"slow-{number}" for number in range(PAIRS * AT_ONCE))]
    write_adapter(LLAMA, options(LLAMA, {}), folder / "plain")
    factors = load_file(folder / "plain" / WEIGHTS)
    (folder / "made").mkdir()
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        for number, name in enumerate(names):
            # Other weights for each: what is cached is not downloaded again.
            own = {key: tensor * np.float32(1 + number / 100) for key, tensor in factors.items()}
            hub.add(f"acme/{name}", files_of(changed(folder / "plain", folder / "made" / name, own)))
        write_set(folder, {name: f"hf://acme/{name}" for name in names})
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["--cache-dir", str(folder / "locking"), "fetch", "-f", str(folder / "set.yaml")]) == 0
        size = (folder / "made" / "slow-0" / WEIGHTS).stat().st_size
        steps = 50
        environment = {
            "LORA_CLI_MANIFEST": str(folder / "set.yaml"),
            "LORA_CLI_CACHE_DIR": str(folder / "cache"),
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": hub.endpoint,
        }
        more = ("--max-model-len", "512", "--max-loras", "2", "--max-cpu-loras", "32")
        with serving(folder / "base", folder / "vllm.log", *more, **environment) as server:
            # The first one starts the processes that fetch and validate.
            assert ask(server, "first").status == 200
            hub.faults.append(
                Fault("GET cdn", times=-1, drip_s=SLOW_S / steps, drip_bytes=size // steps + 1),
            )
            yield Slow(server, names[1:])


def stream(server: Server, gaps: list[tuple[float, float]], end: float) -> None:
    """Adds the moment and the gap, in seconds, between each two tokens of completions of the base until ``end``."""
    asked = {"model": "base", "prompt": [1, 2, 3], "max_tokens": TOKENS, "stream": True, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    while time.perf_counter() < end:
        connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        last = 0.0
        for line in response:
            now = time.perf_counter()
            if line.startswith(b"data: {"):
                if last and now - last > TOGETHER_S:
                    gaps.append((now, now - last))
                last = now
    connection.close()


def streamed(server: Server, seconds: float, during: Callable[[], None] = lambda: None) -> list[tuple[float, float]]:
    """The gaps of ``STREAMS`` streams in the next seconds, while ``during`` runs."""
    gaps: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as threads:
        running = [threads.submit(stream, server, gaps, end) for _ in range(STREAMS)]
        during()
        for one in running:
            one.result()
    return gaps


def p99_ms(gaps: list[float]) -> float:
    return sorted(gaps)[int(0.99 * len(gaps))] * 1e3


def test_streams_go_on_while_adapters_come_from_a_slow_origin(slow: Slow, capsys: pytest.CaptureFixture[str]) -> None:
    server, lines, ratios = slow.server, list[str](), list[float]()
    streamed(server, 2.0)
    for pair in range(PAIRS):
        names = slow.names[pair * AT_ONCE : (pair + 1) * AT_ONCE]
        quiet = p99_ms([gap for _, gap in streamed(server, WINDOW_S)])
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
            began = time.perf_counter()
            asked = list[concurrent.futures.Future[float]]()
            fetch = partial(_fetch, threads, server, names, asked)
            gaps = streamed(server, SLOW_S + LOADED_S, fetch)
            loaded = min(one.result() for one in asked)
        assert loaded - began > SLOW_S - 0.5, "the origin was not slow"
        busy = p99_ms([gap for at, gap in gaps if at < began + WINDOW_S])
        # The engine's own load, which every way of loading costs.
        loading = max(gap for at, gap in gaps if at > began + WINDOW_S) * 1e3
        ratios.append(busy / quiet)
        lines.append(f"  quiet {quiet:.2f} ms, downloading {busy:.2f} ms, longest gap as vLLM loads {loading:.1f} ms")
    told = "\n".join([f"p99 between tokens, ratio {statistics.median(ratios):.2f}", *lines])
    with capsys.disabled():
        print(f"\n{told}")
    assert statistics.median(ratios) <= MOST, told


def _fetch(
    threads: concurrent.futures.ThreadPoolExecutor,
    server: Server,
    names: list[str],
    asked: "list[concurrent.futures.Future[float]]",
) -> None:
    asked += [threads.submit(_answered_at, server, name) for name in names]


def _answered_at(server: Server, name: str) -> float:
    assert ask(server, name).status == 200
    return time.perf_counter()
