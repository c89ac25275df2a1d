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

pytestmark = pytest.mark.slow

VLLM = Running("vllm@0.32.0", "", Deployment(max_lora_rank=16))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


class Desk:
    """A folder with a manifest, a base and a cache, and the resolver that is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_base_config(folder / "base")
        self.seen: list[LoadReport] = []
        self.downloaded = 0

    def adapter(self, name: str, config: dict[str, Any] | None = None, **how: Any) -> dict[str, bytes]:
        fields = {"layers_to_transform": [0], **(config or {})}
        directory = write_adapter(self.folder / "made" / name, config=fields, **how)
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    def write(self, sources: dict[str, str], policy: str = "") -> Path:
        entries = "".join(f"  - {{name: {name}, source: '{source}'}}\n" for name, source in sources.items())
        text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n{policy}adapters:\n{entries}"
        path = self.folder / "set.yaml"
        (self.folder / "new.yaml").write_text(text)
        return (self.folder / "new.yaml").replace(path)

    def environ(self, **more: str) -> dict[str, str]:
        ours = {"LORA_CLI_CACHE_DIR": str(self.folder / "cache"), "LORA_CLI_MANIFEST": str(self.folder / "set.yaml")}
        return {**os.environ, **ours, "LORA_CLI_RETRIES": "0", **more}

    def ask(
        self,
        work: "Callable[[Resolver, Running], Awaitable[None]]",
        *,
        wait_s: float = 60,
        deployment: Deployment | None = VLLM.deployment,
        **more: str,
    ) -> None:
        names = Names.of(self.environ(**more))
        assert names is not None
        running = Running(VLLM.engine, str(self.base), deployment)

        def observe(admission: Admission) -> None:
            self.seen.append(admission.report)
            self.downloaded += 0 if admission.cached else admission.size

        async def all_of_it() -> None:
            asked = Resolver(names, wait_s, observe)
            try:
                await work(asked, running)
            finally:
                await asked.close()

        asyncio.run(all_of_it())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def found(asked: Resolver, name: str, running: Running) -> Resolved:
    resolved = await asked.resolve(name, running)
    assert resolved is not None
    return resolved


async def refused(asked: Resolver, name: str, running: Running) -> Unresolved:
    with pytest.raises(Unresolved) as raised:
        await asked.resolve(name, running)
    return raised.value


def test_a_name_of_the_manifest_is_a_verified_snapshot_and_others_are_nobodys(desk: Desk, hub: Hub) -> None:
    hub.add("acme/sql", desk.adapter("sql"))
    hub.add("acme/chat", desk.adapter("chat", seed=1))
    desk.write({"sql": "hf://acme/sql", "chat": "hf://acme/chat", "again": "hf://acme/sql"})

    async def work(asked: Resolver, running: Running) -> None:
        sql, together, again = await asyncio.gather(*(found(asked, name, running) for name in ("sql", "sql", "again")))
        assert sql == together
        assert (again.digest, again.directory) == (sql.digest, sql.directory)
        assert sql.directory.is_absolute()
        assert sql.directory.name == sql.digest
        assert {path.name for path in sql.directory.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        assert (await found(asked, "chat", running)).digest != sql.digest
        requests = len(hub.requests)
        assert await found(asked, "sql", running) == sql
        for name in ("other", "../sql", "/etc/passwd", "acme/sql", "", "sql/../chat", "x" * 10_000, "\0", "SQL"):
            assert await asked.resolve(name, running) is None
        assert len(hub.requests) == requests

    desk.ask(work)
    assert [report.error for report in desk.seen] == ["", "", ""]
    assert desk.downloaded > 0


def test_a_closed_one_leaves_no_threads(desk: Desk) -> None:
    desk.adapter("sql")
    desk.write({"sql": "./made/sql"})
    kept: list[object] = []
    threads: list[threading.Thread] = []

    async def work(asked: Resolver, running: Running) -> None:
        assert (await found(asked, "sql", running)).directory.is_dir()
        kept.append(asked)  # the threads of one that is garbage end too
        threads.extend(one for one in threading.enumerate() if one.name.startswith("lora-cli"))

    desk.ask(work)
    for one in threads:
        one.join(30)
    assert [one.is_alive() for one in threads] == [False] * len(threads) != []


def test_what_cannot_be_served_says_why_and_is_not_asked_for_again_at_once(
    desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_cli.warm.failures.FIRST_S", 60.0)
    weights = f"base_model.model.{Q_PROJ}.lora_B.weight"
    hub.add("acme/nan", desk.adapter("nan", tensors={weights: np.full((64, 4), np.nan, np.float32)}))
    hub.add("acme/dora", desk.adapter("dora", config={"use_dora": True}))
    hub.add("acme/large", desk.adapter("large", r=32))
    hub.add("acme/down", desk.adapter("down"))
    hub.fault("acme/down", status=500, times=-1)
    sources = {name: f"hf://acme/{name}" for name in ("nan", "dora", "large", "gone", "down")}
    desk.write(sources)

    async def work(asked: Resolver, running: Running) -> None:
        errors = dict(
            zip(sources, await asyncio.gather(*(refused(asked, one, running) for one in sources)), strict=True)
        )
        assert {name: error.status for name, error in errors.items()} == {
            "nan": 422,
            "dora": 422,
            "large": 422,
            "gone": 404,
            "down": 503,
        }
        assert "LC501" in errors["nan"].message
        assert "LC4" in errors["dora"].message
        assert "16" in errors["large"].message
        assert "retry in 60 s" in errors["down"].message
        requests = len(hub.requests)
        assert (await refused(asked, "down", running)).status == 503
        assert (await refused(asked, "gone", running)).status == 404
        assert len(hub.requests) == requests
        hub.faults.clear()
        asked._asked["down"].retry_at = 0.0
        assert await found(asked, "down", running)

    desk.ask(work)


def test_without_the_engines_limits_a_rank_is_no_reason_to_refuse(desk: Desk) -> None:
    desk.adapter("large", r=32)
    desk.write({"large": str(desk.folder / "made" / "large")})

    async def work(asked: Resolver, running: Running) -> None:
        assert await found(asked, "large", running)

    desk.ask(work, deployment=None)


async def in_time(asked: Resolver, name: str, running: Running) -> Resolved:
    """It, however often its deadline passes meanwhile."""
    began = time.monotonic()
    while True:
        try:
            return await found(asked, name, running)
        except Unresolved:
            assert time.monotonic() - began < 60


def test_a_request_waits_until_the_deadline_and_the_download_goes_on(desk: Desk, hub: Hub) -> None:
    hub.add("acme/slow", desk.adapter("slow"))
    hub.add("acme/sql", desk.adapter("sql", seed=2))
    hub.faults.append(Fault("acme/slow/resolve", times=-1, delay_s=3))
    desk.write({"slow": "hf://acme/slow", "sql": "hf://acme/sql"})

    async def work(asked: Resolver, running: Running) -> None:
        await in_time(asked, "sql", running)
        began = time.monotonic()
        impatient = asyncio.create_task(asked.resolve("slow", running))
        error, ready = await asyncio.gather(refused(asked, "slow", running), found(asked, "sql", running))
        assert (error.status, "still being fetched" in error.message, ready.name) == (503, True, "sql")
        assert time.monotonic() - began < 2.5
        impatient.cancel()
        await in_time(asked, "slow", running)

    desk.ask(work, wait_s=1)
    assert [report.name for report in desk.seen] == ["sql", "slow"]


def test_a_manifest_that_changes_is_followed_and_a_broken_one_is_not(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    for seed, name in enumerate(("sql", "sql-2", "chat")):
        desk.adapter(name, seed=seed)
    made = desk.folder / "made"
    desk.write({"sql": str(made / "sql")})

    async def work(asked: Resolver, running: Running) -> None:
        first = await found(asked, "sql", running)
        assert await asked.resolve("chat", running) is None
        desk.write({"sql": str(made / "sql-2"), "chat": str(made / "chat")})
        assert await found(asked, "chat", running)
        second = await found(asked, "sql", running)
        assert second.digest != first.digest
        assert first.directory.is_dir()
        (desk.folder / "set.yaml").write_text("adapters: [")
        assert await found(asked, "sql", running) == second
        desk.write(
            {"sql": str(made / "sql-2"), "chat": str(made / "chat")}, "policy: {deny_sources: ['file://*/chat']}\n"
        )
        assert await found(asked, "sql", running) == second
        desk.write({"sql": str(made / "sql-2")}, "policy: {deny_sources: ['file://*/sql-2']}\n")
        assert (await refused(asked, "sql", running)).status == 422
        desk.write({"new": str(made / "chat")}, "policy: {deny_sources: ['file://*/chat']}\n")
        error = await refused(asked, "new", running)
        assert (error.status, "deny_sources" in error.message) == (422, True)
        assert await asked.resolve("sql", running) is None

    desk.ask(work)


def test_a_broken_manifest_at_the_start_is_told_and_read_when_it_is_mended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    desk.adapter("sql")
    (desk.folder / "set.yaml").write_text("apiVersion: lora-cli/v1\nkind: AdapterSet\nadapter: []\n")

    async def work(asked: Resolver, running: Running) -> None:
        for _ in range(3):
            assert (await refused(asked, "sql", running)).status == 503
        desk.write({"sql": str(desk.folder / "made" / "sql")})
        assert await found(asked, "sql", running)

    desk.ask(work)
    said = [record.getMessage() for record in caplog.records if "set.yaml" in record.getMessage()]
    assert len(said) == 1
    assert "set.yaml:1: the key adapters is missing" in said[0]


def test_a_file_system_that_hangs_stops_no_name_that_is_known(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "LOOK_LIMIT_S", 0.2)
    desk.adapter("sql")
    desk.write({"sql": str(desk.folder / "made" / "sql")})

    async def work(asked: Resolver, running: Running) -> None:
        first = await found(asked, "sql", running)
        monkeypatch.setattr(Names, "fingerprint", lambda _names: time.sleep(2))
        began = time.monotonic()
        assert await found(asked, "sql", running) == first
        assert await asked.resolve("other", running) is None
        assert time.monotonic() - began < 1.5

    desk.ask(work)


def test_gc_leaves_what_was_resolved(desk: Desk, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("acme/sql", desk.adapter("sql"))
    desk.write({"sql": "hf://acme/sql"})

    async def work(asked: Resolver, running: Running) -> None:
        sql = await found(asked, "sql", running)
        await asyncio.to_thread(main, ["--cache-dir", str(desk.folder / "cache"), "cache", "gc", "--max-bytes", "0"])
        assert sql.directory.is_dir()

    desk.ask(work)
    main(["--cache-dir", str(desk.folder / "cache"), "cache", "gc", "--max-bytes", "0"])
    assert not list((desk.folder / "cache" / "snapshots" / "sha256").iterdir())
    capsys.readouterr()


def test_what_the_cache_loses_is_fetched_again(desk: Desk, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("acme/sql", desk.adapter("sql"))
    desk.write({"sql": "hf://acme/sql"})

    async def work(asked: Resolver, running: Running) -> None:
        sql = await found(asked, "sql", running)
        await asyncio.to_thread(main, ["--cache-dir", str(desk.folder / "cache"), "cache", "rm", "--all", "--yes"])
        assert not sql.directory.exists()
        assert await found(asked, "sql", running) == sql
        assert sql.directory.is_dir()
        await asyncio.to_thread(main, ["--cache-dir", str(desk.folder / "cache"), "cache", "rm", "--all", "--yes"])
        hub.fault("acme/sql", status=500, times=-1)
        assert (await refused(asked, "sql", running)).status == 503

    desk.ask(work)
    capsys.readouterr()


def policy(desk: Desk, *sources: str) -> str:
    path = desk.folder / "policy.yaml"
    path.write_text(f"apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: {json.dumps(sources)}\n")
    return str(path)


def test_a_pattern_finds_what_the_policy_allows(desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NAMES", 20)
    hub.add("acme/sql", desk.adapter("sql"))
    hub.add("other/chat", desk.adapter("chat", seed=1))
    hub.add("third/mail", desk.adapter("mail", seed=2))

    async def work(asked: Resolver, running: Running) -> None:
        assert await found(asked, "sql", running)
        assert await found(asked, "chat", running)
        assert (await refused(asked, "mail", running)).status == 404
        for name in ("../acme/sql", "acme/sql", "sql@main", "s?q=l", "", "-x", "a b"):
            assert await asked.resolve(name, running) is None
        for number in range(30):
            assert (await refused(asked, f"made-up-{number}", running)).status == 404
        assert len(asked._asked) == 20

    patterns, allowed = "hf://acme/{name} hf://other/{name}", policy(desk, "hf://acme/*", "hf://other/*")
    desk.ask(work, LORA_CLI_RESOLVE=patterns, LORA_CLI_POLICY=allowed, LORA_CLI_MANIFEST="")


@pytest.mark.parametrize(
    ("pattern", "with_policy", "said"),
    [
        ("hf://acme/{name}", False, "LORA_CLI_POLICY"),
        ("hf://acme/sql", True, "must contain {name}"),
        ("{name}", True, "must contain {name}"),
        ("hf://{name}/sql", True, "must contain {name}"),
        ("https://{name}.example.com/x", True, "must contain {name}"),
        ("s3://{name}/{name}", True, "must contain {name}"),
    ],
)
def test_a_pattern_that_lets_clients_choose_the_place_is_refused(
    desk: Desk, pattern: str, with_policy: bool, said: str
) -> None:
    more = {"LORA_CLI_POLICY": policy(desk, "hf://acme/*")} if with_policy else {}
    names = Names.of(desk.environ(LORA_CLI_RESOLVE=pattern, LORA_CLI_MANIFEST="", **more))
    assert names is not None
    with pytest.raises(UsageError) as raised:
        names.read()
    assert said in f"{raised.value.message} {raised.value.hint}"


def test_so_many_wait_and_no_more_and_a_name_that_is_resolved_never_waits(
    desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    hub.add("acme/sql", desk.adapter("sql"))
    hub.faults.append(Fault("acme/slow", times=-1, delay_s=5))
    desk.write({"sql": "hf://acme/sql", **{f"slow{number}": f"hf://acme/slow{number}" for number in range(30)}})

    async def work(asked: Resolver, running: Running) -> None:
        ready = await found(asked, "sql", running)
        slow = [asyncio.create_task(asked.resolve(f"slow{number}", running)) for number in range(30)]
        for _ in range(20):
            await asyncio.sleep(0)
            assert await asyncio.wait_for(found(asked, "sql", running), 2) == ready
        answers = await asyncio.wait_for(asyncio.gather(*slow, return_exceptions=True), 60)
        assert all(isinstance(one, Unresolved) for one in answers)
        turned_away = [one for one in map(str, answers) if "10 adapters are being fetched; retry in 5 s" in one]
        assert len(turned_away) == 20

    desk.ask(work)


def test_a_base_that_cannot_be_read_leaves_the_other_checks(
    desk: Desk, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("acme/sql", desk.adapter("sql"))
    desk.write({"sql": "hf://acme/sql"})

    async def work(asked: Resolver, running: Running) -> None:
        elsewhere = Running(running.engine, "acme/no-such-base", running.deployment)
        assert await found(asked, "sql", elsewhere)

    desk.ask(work)
    assert any("acme/no-such-base cannot be read" in record.getMessage() for record in caplog.records)


def test_nothing_is_resolved_where_nothing_is_set() -> None:
    assert Names.of({}) is None
    assert Names.of({"LORA_CLI_MANIFEST": "", "LORA_CLI_RESOLVE": "  "}) is None


@pytest.mark.parametrize("text", ["", "90s", "soon"])
def test_how_long_a_request_waits_and_where_is_logged(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names.of(desk.environ(LORA_CLI_RESOLVE_TIMEOUT=text))
    assert names is not None
    engine, ours = logging.getLogger("an-engine"), logging.getLogger("lora_cli")
    monkeypatch.setattr(engine, "handlers", [caplog.handler])
    monkeypatch.setattr(ours, "propagate", True)
    made = module.resolver_for(names, engine.getChild("lora_cli"))
    assert made._wait_s == (90.0 if text == "90s" else 300.0)
    assert ours.handlers == [caplog.handler]
    assert ("LORA_CLI_RESOLVE_TIMEOUT" in caplog.text) is (text == "soon")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("hf://acme/{name}", "a..b"),
        ("hf://acme/{name}", "a--b"),
        ("oci://registry.example/loras/{name}", "SQL"),
        ("https://files.example/loras/{name}", "adapter_config.json"),
        ("https://files.example/loras/{name}", "adapter_model.safetensors"),
    ],
)
def test_a_name_that_cannot_be_one_there_is_unknown(pattern: str, name: str) -> None:
    known = Known(load_settings({}, {}), {}, (pattern, "s3://adapters/{name}"))
    assert [str(one.source) for one in known.find(name)] == [f"s3://adapters/{name}"]
    assert [str(one.source) for one in known.find("sql")] == [pattern.format(name="sql"), "s3://adapters/sql"]
