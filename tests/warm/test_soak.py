"""Fifty clients load, use and unload adapters while the process is killed: no wrong answer, and flat memory.

``SOAK_SECONDS=600`` is the long run. Its first half has twenty kills; memory is compared in the second half.
"""

import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.attacks.besieged import alive, children_of, resident_mb
from tests.making import Q_PROJ, llama_modules, raw, write_adapter
from tests.warm.families import save_model
from tests.warm.running import Running

pytestmark = pytest.mark.slow

CLIENTS, PATIENCE_S = 50, 240
SECONDS = int(os.environ.get("SOAK_SECONDS", "60"))
KILLED_EVERY_S = max(15, SECONDS / 40)
CRASHED = "while it loaded this adapter"
"""An adapter that was being loaded at a kill is not tried again: that is said, and no wrong answer."""

GOOD = {f"good{number}": {"r": 2 + 2 * number, "seed": number, "lora_alpha": 64} for number in range(6)}
PROMPTS = tuple(tuple(range(3, 4 + 5 * number)) for number in range(5))
MOST_GROWTH_MB = 50
"""Between the third and the last quarter of the run: allocators keep some, a leak of each request is more."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak")
    save_model(folder / "base", "llama")
    for name, options in GOOD.items():
        write_adapter(folder / name, modules=llama_modules(), **options)  # type: ignore[arg-type]
    nan = {f"base_model.model.{Q_PROJ}.lora_B.weight": raw(np.full((64, 4), np.nan, "f4"))}
    write_adapter(folder / "not-a-number", tensors=nan)
    write_adapter(folder / "narrow", modules={Q_PROJ: (32, 32)})
    weights = write_adapter(folder / "truncated", modules=llama_modules()) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (write_adapter(folder / "no-config") / "adapter_config.json").unlink()
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Running]:
    limits = ["--max-loras", 4, "--max-cpu-loras", 5, "--forward", "model", "--root", folder]
    with Running(folder, folder / "good0", "--base", folder / "base", *limits) as running:
        yield running.until_ready()


class Client:
    """One client with a connection of its own; ``known`` has the right answers."""

    def __init__(self, number: int, server: Running, known: dict[tuple[str, int], list[int]]) -> None:
        self.random = random.Random(number)
        self.number, self.server, self.known = number, server, known
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, until: float) -> None:
        actions: tuple[Callable[[httpx2.Client], None], ...] = (self.complete, self.complete, self.stream, self.own)
        with httpx2.Client(base_url=f"http://127.0.0.1:{self.server.port}", timeout=PATIENCE_S) as http:
            while time.monotonic() < until and not self.wrong:
                action = self.random.choice((*actions, self.broken, self.unknown, self.leave))
                try:
                    action(http)
                except httpx2.TransportError:
                    self.done["lost"] += 1  # it was in flight when the process was killed
                else:
                    self.done[action.__name__] += 1

    def expect(self, said: httpx2.Response, *status: int) -> bool:
        crashed = said.status_code == 503 and CRASHED in said.text
        self.done["crashed"] += crashed
        if said.status_code not in status and not crashed:
            self.wrong.append(f"{said.request.url.path}: {said.status_code} {said.text[:300]}")
        return not self.wrong and not crashed

    def check(self, ids: list[int], adapter: str, prompt: int) -> None:
        if ids != self.known[adapter, prompt]:
            self.wrong.append(f"{adapter}: {ids} for prompt {prompt}, not {self.known[adapter, prompt]}")

    def complete(self, http: httpx2.Client, model: str = "good0", adapter: str = "good0") -> None:
        prompt = self.random.randrange(len(PROMPTS))
        said = http.post("/v1/completions", json=body(model, prompt))
        if self.expect(said, 200):
            self.check(said.json()["choices"][0]["token_ids"], adapter, prompt)

    def stream(self, http: httpx2.Client) -> None:
        prompt = self.random.randrange(len(PROMPTS))
        said = http.post("/v1/completions", json={**body("good0", prompt), "stream": True})
        if self.expect(said, 200):
            events = [json.loads(line[6:]) for line in said.text.splitlines() if line.startswith("data: {")]
            ids = [one for event in events for one in event["choices"][0].get("token_ids") or ()]
            self.check(ids, "good0", prompt)

    def own(self, http: httpx2.Client) -> None:
        """An adapter under a name of its own: loaded, used, unloaded, and gone."""
        adapter, name = self.random.choice(sorted(GOOD)), f"own{self.number}"
        path = str(self.server.folder / adapter)
        # Whether the last one is still there is not known when its answer was lost.
        load = {"lora_name": name, "lora_path": path, "load_inplace": True}
        if self.expect(http.post("/v1/load_lora_adapter", json=load), 200):
            self.complete(http, name, adapter)
            if self.expect(http.post("/v1/unload_lora_adapter", json={"lora_name": name}), 200):
                self.expect(http.post("/v1/completions", json=body(name, 0)), 404)

    def broken(self, http: httpx2.Client) -> None:
        path = str(self.server.folder / self.random.choice(("not-a-number", "narrow", "truncated", "no-config")))
        name = f"broken{self.number}"
        self.expect(http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path}), 400, 404, 422, 503)

    def unknown(self, http: httpx2.Client) -> None:
        self.expect(http.post("/v1/completions", json=body("nobody", 0)), 404)

    def leave(self, http: httpx2.Client) -> None:
        """A stream whose client goes away after its beginning."""
        with http.stream("POST", "/v1/completions", json={**body("good0", 4), "stream": True}) as said:
            next(said.iter_lines(), None)


def body(model: str, prompt: int) -> dict[str, object]:
    tokens = {"max_tokens": 2 + 7 * (prompt % 3), "return_token_ids": True, "ignore_eos": True}
    return {"model": model, "prompt": PROMPTS[prompt], **tokens}


def test_fifty_clients_get_no_wrong_answer_and_memory_stays(server: Running, folder: Path) -> None:
    known: dict[tuple[str, int], list[int]] = {}
    for adapter in GOOD:
        assert adapter == "good0" or server.load(adapter, folder / adapter).status_code == 200
        for prompt in range(len(PROMPTS)):
            said = server.post("/v1/completions", **body(adapter, prompt)).json()
            known[adapter, prompt] = said["choices"][0]["token_ids"]
    assert len({tuple(ids) for ids in known.values()}) > len(GOOD), "adapters answer differently"
    began = time.monotonic()
    until = began + SECONDS
    clients = [Client(number, server, known) for number in range(CLIENTS)]
    quiet_at = began + SECONDS * 2 / 3
    sizes, kills, next_kill = list[float](), 0, began + KILLED_EVERY_S / 2
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(one.run, until) for one in clients]
        while time.monotonic() < until:
            pid, now = server.process.pid, time.monotonic()
            if now > quiet_at and server.ready_file.exists():
                sizes.append(sum(resident_mb(one) for one in (pid, *children_of(pid)) if alive(one)))
            if next_kill < now < quiet_at and server.ready_file.exists():
                os.kill(server.status()["pid"], signal.SIGKILL)
                kills, next_kill = kills + 1, next_kill + KILLED_EVERY_S
            time.sleep(SECONDS / 200)
        for one in running:
            one.result()

    done = sum((one.done for one in clients), Counter[str]())
    assert [wrong for one in clients for wrong in one.wrong] == []
    assert {"complete", "stream", "own", "broken", "unknown", "leave", "lost"} <= set(done), done
    server.until(lambda: server.status()["ready"])
    assert server.status()["starts"] == 1 + kills
    assert kills >= 1
    half = len(sizes) // 2
    growth = statistics.median(sizes[half:]) - statistics.median(sizes[:half])
    print(f"{kills} kills, {sizes[0]:.0f} MB, then {growth:+.1f} MB; {dict(done)}")  # with pytest -s
    assert growth < MOST_GROWTH_MB, (growth, done)
