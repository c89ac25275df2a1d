"""Adapters by name for an engine: what is resolved, what is not and how that is told, and what stays bounded."""

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.cli.main import main
from lora_cli.errors import UsageError
from lora_cli.finding import Deployment
from lora_cli.isolation import Admission
from lora_cli.plugins import resolver as module
from lora_cli.plugins.names import Known, Names
from lora_cli.plugins.resolver import Resolved, Resolver, Running, Unresolved
from lora_cli.results import LoadReport
from lora_cli.settings import load_settings
from tests.hub_server import Fault, Hub
from tests.making import Q_PROJ, write_adapter, write_base_config

Work = Callable[[Resolver], Awaitable[None]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


class Desk:
    """A folder with a manifest, a base and a cache, and the resolver that is asked; ``seen`` are its attempts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, folder / "made"
        self.base = str(write_base_config(folder / "base"))
        self.seen: list[LoadReport] = []

    def adapter(self, name: str, config: dict[str, Any] | None = None, **how: Any) -> dict[str, bytes]:
        fields = {"layers_to_transform": [0], **(config or {})}
        directory = write_adapter(self.made / name, config=fields, **how)
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    def write(self, sources: dict[str, object], policy: str = "") -> None:
        entries = "".join(f"  - {{name: {name}, source: '{source}'}}\n" for name, source in sources.items())
        text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n{policy}adapters:\n{entries}"
        (self.folder / "new.yaml").write_text(text)
        (self.folder / "new.yaml").replace(self.folder / "set.yaml")

    def names(self, **more: str) -> Names:
        ours = {"LORA_CLI_CACHE_DIR": str(self.folder / "cache"), "LORA_CLI_MANIFEST": str(self.folder / "set.yaml")}
        return Names({**os.environ, **ours, "LORA_CLI_RETRIES": "0", **more})

    def cache(self, *argv: str) -> None:
        assert main(["--cache-dir", str(self.folder / "cache"), "cache", *argv]) == 0

    def ask(self, work: Work, *, wait_s: float = 60, max_rank: int | None = 16, base: str = "", **more: str) -> None:
        deployment = Deployment(max_lora_rank=max_rank) if max_rank else None
        running = Running("vllm@0.32.0", base or self.base, deployment)

        async def all_of_it() -> None:
            def observe(admission: Admission, is_listed: bool) -> None:
                self.seen.append(admission.report)

            asked = Resolver(self.names(**more), running, wait_s, observe)
            try:
                await work(asked)
            finally:
                await asked.close()

        asyncio.run(all_of_it())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def found(asked: Resolver, name: str) -> Resolved:
    """It, however often its deadline passes meanwhile."""
    while True:
        try:
            resolved = await asked.resolve(name)
        except Unresolved as error:
            if "still being fetched" not in error.message:
                raise
        else:
            assert resolved is not None
            return resolved


async def refused(asked: Resolver, name: str) -> tuple[int, str]:
    with pytest.raises(Unresolved) as raised:
        await asked.resolve(name)
    return raised.value.status, raised.value.message


def test_a_name_of_the_manifest_is_a_verified_snapshot_and_others_are_nobodys(desk: Desk, hub: Hub) -> None:
    hub.add("acme/sql", desk.adapter("sql"))
    hub.add("acme/chat", desk.adapter("chat", seed=1))
    desk.write({"sql": "hf://acme/sql", "chat": "hf://acme/chat", "again": "hf://acme/sql"})

    async def work(asked: Resolver) -> None:
        sql, together, again = await asyncio.gather(*(found(asked, name) for name in ("sql", "sql", "again")))
        assert sql == together
        assert again.directory == sql.directory
        assert sql.directory.is_absolute()
        assert len(sql.directory.name) == 64
        assert {path.name for path in sql.directory.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        assert (await found(asked, "chat")).directory != sql.directory
        requests = len(hub.requests)
        assert await found(asked, "sql") == sql
        for name in ("other", "../sql", "/etc/passwd", "acme/sql", "", "sql/../chat", "x" * 10_000, "\0", "SQL"):
            assert await asked.resolve(name) is None
        assert len(hub.requests) == requests

    desk.ask(work)
    assert [report.error for report in desk.seen] == ["", "", ""]


def test_what_cannot_be_served_says_why_and_is_not_asked_for_again_at_once(
    desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_cli.isolation.FIRST_S", 60.0)
    weights = f"base_model.model.{Q_PROJ}.lora_B.weight"
    hub.add("acme/nan", desk.adapter("nan", tensors={weights: np.full((64, 4), np.nan, np.float32)}))
    hub.add("acme/dora", desk.adapter("dora", config={"use_dora": True}))
    hub.add("acme/large", desk.adapter("large", r=32))
    hub.add("acme/down", desk.adapter("down"))
    hub.fault("acme/down", status=500, times=-1)
    expected = {
        "nan": (422, "LC501"),
        "dora": (422, "LC4"),
        "large": (422, "16"),
        "gone": (404, ""),
        "down": (503, "retry in 60 s"),
    }
    desk.write({name: f"hf://acme/{name}" for name in expected})

    async def work(asked: Resolver) -> None:
        answers = await asyncio.gather(*(refused(asked, name) for name in expected))
        for (status, message), (expected_status, said) in zip(answers, expected.values(), strict=True):
            assert (status, said in message) == (expected_status, True), message
        requests = len(hub.requests)
        assert [(await refused(asked, name))[0] for name in ("down", "gone")] == [503, 404]
        assert len(hub.requests) == requests
        hub.faults.clear()
        monkeypatch.setattr("lora_cli.isolation.monotonic", lambda: time.monotonic() + 61)
        assert await found(asked, "down")

    desk.ask(work)


def test_without_the_engines_limits_or_its_base_the_other_checks_are_left(
    desk: Desk, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("acme/large", desk.adapter("large", r=32))
    desk.write({"large": "hf://acme/large"})

    async def work(asked: Resolver) -> None:
        assert await found(asked, "large")

    desk.ask(work, max_rank=None, base="acme/no-such-base")
    assert any("acme/no-such-base cannot be read" in record.getMessage() for record in caplog.records)


@pytest.mark.slow
def test_a_request_waits_until_the_deadline_and_the_download_goes_on(desk: Desk, hub: Hub) -> None:
    hub.add("acme/slow", desk.adapter("slow"))
    hub.faults.append(Fault("acme/slow/resolve", times=-1, delay_s=3))
    desk.write({"slow": "hf://acme/slow"})

    async def work(asked: Resolver) -> None:
        impatient = asyncio.create_task(asked.resolve("slow"))
        status, message = await refused(asked, "slow")
        assert (status, "still being fetched" in message) == (503, True)
        impatient.cancel()
        await found(asked, "slow")

    desk.ask(work, wait_s=0.5)
    assert [report.name for report in desk.seen] == ["slow"]


def test_a_manifest_that_changes_is_followed_and_a_broken_one_is_not(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    for seed, name in enumerate(("sql", "sql-2", "chat")):
        desk.adapter(name, seed=seed)
    made = desk.made
    (desk.folder / "set.yaml").write_text("apiVersion: lora-cli/v1\nkind: AdapterSet\nadapter: []\n")

    async def work(asked: Resolver) -> None:
        for _ in range(3):
            assert (await refused(asked, "sql"))[0] == 503
        desk.write({"sql": made / "sql"})
        first = await found(asked, "sql")
        assert await asked.resolve("chat") is None
        desk.write({"sql": made / "sql-2", "chat": made / "chat"})
        assert await found(asked, "chat")
        second = await found(asked, "sql")
        assert second != first
        assert first.directory.is_dir()
        (desk.folder / "set.yaml").write_text("adapters: [")
        assert await found(asked, "sql") == second
        desk.write({"sql": made / "sql-2"}, "policy: {deny_sources: ['file://*/sql-2']}\n")
        assert (await refused(asked, "sql"))[0] == 422
        desk.write({"new": made / "chat"}, "policy: {deny_sources: ['file://*/chat']}\n")
        status, message = await refused(asked, "new")
        assert (status, "deny_sources" in message) == (422, True)
        assert await asked.resolve("sql") is None

    desk.ask(work)
    said = [record.getMessage() for record in caplog.records if "set.yaml" in record.getMessage()]
    assert sum("set.yaml:1: the key adapters is missing" in one for one in said) == 1


def test_a_file_system_that_hangs_stops_no_name_that_is_known(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "LOOK_LIMIT_S", 0.2)
    desk.adapter("sql")
    desk.write({"sql": desk.made / "sql"})
    answers = threading.Event()

    async def work(asked: Resolver) -> None:
        first = await found(asked, "sql")
        monkeypatch.setattr(Names, "fingerprint", lambda _names: answers.wait(60))
        assert await found(asked, "sql") == first
        assert await asked.resolve("other") is None
        answers.set()

    desk.ask(work)


def test_gc_leaves_what_was_resolved_and_what_is_removed_is_fetched_again(
    desk: Desk, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("acme/sql", desk.adapter("sql"))
    desk.write({"sql": "hf://acme/sql"})

    async def work(asked: Resolver) -> None:
        sql = await found(asked, "sql")
        await asyncio.to_thread(desk.cache, "gc", "--max-bytes", "0")
        assert sql.directory.is_dir()
        await asyncio.to_thread(desk.cache, "rm", "--all", "--yes")
        assert not sql.directory.exists()
        assert await found(asked, "sql") == sql
        assert sql.directory.is_dir()

    desk.ask(work)
    desk.cache("gc", "--max-bytes", "0")
    assert not list((desk.folder / "cache" / "snapshots" / "sha256").iterdir())
    capsys.readouterr()


def policy(desk: Desk, *sources: str) -> str:
    path = desk.folder / "policy.yaml"
    path.write_text(f"apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: {json.dumps(sources)}\n")
    return str(path)


def test_a_pattern_finds_what_the_policy_allows(desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NAMES", 20)
    for seed, name in enumerate(("acme/sql", "other/chat", "third/mail")):
        hub.add(name, desk.adapter(name, seed=seed))

    async def work(asked: Resolver) -> None:
        assert await found(asked, "sql")
        assert await found(asked, "chat")
        assert (await refused(asked, "mail"))[0] == 404
        for name in ("../acme/sql", "acme/sql", "sql@main", "s?q=l", "", "-x", "a b"):
            assert await asked.resolve(name) is None
        for number in range(30):
            assert (await refused(asked, f"made-up-{number}"))[0] == 404
        assert len(asked._asked) == 20

    patterns, allowed = "hf://acme/{name} hf://other/{name}", policy(desk, "hf://acme/*", "hf://other/*")
    desk.ask(work, LORA_CLI_RESOLVE=patterns, LORA_CLI_POLICY=allowed, LORA_CLI_MANIFEST="")


@pytest.mark.parametrize(
    ("pattern", "allowed", "said"),
    [
        ("hf://acme/{name}", "", "LORA_CLI_POLICY"),
        ("{name}", "hf://acme/*", "must contain {name}"),
        ("hf://{name}/sql", "hf://acme/*", "must contain {name}"),
        ("https://{name}.example.com/x", "hf://acme/*", "must contain {name}"),
        ("s3://{name}/{name}", "hf://acme/*", "must contain {name}"),
    ],
)
def test_a_pattern_that_lets_clients_choose_the_place_is_refused(
    desk: Desk, pattern: str, allowed: str, said: str
) -> None:
    file = policy(desk, allowed) if allowed else ""
    with pytest.raises(UsageError) as raised:
        desk.names(LORA_CLI_RESOLVE=pattern, LORA_CLI_MANIFEST="", LORA_CLI_POLICY=file).read()
    assert said in f"{raised.value.message} {raised.value.hint}"


@pytest.mark.slow
def test_so_many_wait_and_no_more_and_a_name_that_is_resolved_never_waits(
    desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    hub.add("acme/sql", desk.adapter("sql"))
    hub.faults.append(Fault("acme/slow", times=-1, delay_s=5))
    desk.write({"sql": "hf://acme/sql", **{f"slow{number}": f"hf://acme/slow{number}" for number in range(30)}})

    async def work(asked: Resolver) -> None:
        ready = await found(asked, "sql")
        slow = [asyncio.create_task(asked.resolve(f"slow{number}")) for number in range(30)]
        for _ in range(20):
            await asyncio.sleep(0)
            assert await asyncio.wait_for(found(asked, "sql"), 2) == ready
        answers = await asyncio.wait_for(asyncio.gather(*slow, return_exceptions=True), 60)
        assert all(isinstance(one, Unresolved) for one in answers)
        turned_away = [one for one in map(str, answers) if "10 adapters are being fetched; retry in 5 s" in one]
        assert len(turned_away) == 20

    desk.ask(work)


@pytest.mark.parametrize(("text", "wait_s"), [("90s", 90.0), ("soon", 300.0)])
def test_how_long_a_request_waits_and_where_is_logged(
    monkeypatch: pytest.MonkeyPatch, text: str, wait_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LORA_CLI_RESOLVE_TIMEOUT", text)
    engine, ours = logging.getLogger("an-engine"), logging.getLogger("lora_cli")
    monkeypatch.setattr(engine, "handlers", [caplog.handler])
    monkeypatch.setattr(ours, "handlers", [])
    monkeypatch.setattr(ours, "propagate", True)
    assert module.resolver_for(Running("vllm@0.32.0", ""), engine.getChild("lora_cli"))._wait_s == wait_s
    assert ours.handlers == [caplog.handler]
    assert ("LORA_CLI_RESOLVE_TIMEOUT" in caplog.text) is (text == "soon")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("hf://acme/{name}", "a..b"),
        ("hf://acme/{name}", "a--b"),
        ("oci://registry.example/loras/{name}", "SQL"),
        ("https://files.example/loras/{name}", "adapter_config.json"),
    ],
)
def test_a_name_that_cannot_be_one_there_is_unknown(pattern: str, name: str) -> None:
    known = Known(load_settings({}, {}), {}, (pattern, "s3://adapters/{name}"))
    assert [str(one.source) for one in known.find(name)] == [f"s3://adapters/{name}"]
    assert [str(one.source) for one in known.find("sql")] == [pattern.format(name="sql"), "s3://adapters/sql"]
