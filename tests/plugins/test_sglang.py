"""The hook of SGLang on a stand-in for its tokenizer manager (``real_engines/test_sglang.py`` has the real one)."""

import asyncio
import sys
import time
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from lora_cli.finding import Deployment
from lora_cli.plugins.resolver import Resolved, Running, Unresolved


@dataclass
class Load:
    lora_name: str
    lora_path: str


class Manager:
    """As SGLang's ``TokenizerManager``: what was loaded is in ``lora_ref_cache``, and unknown names are an error."""

    def __init__(self, refusal: str = "", rank: int | None = 64) -> None:
        self.server_args = SimpleNamespace(
            model_path="/models/llama",
            max_lora_rank=rank,
            lora_target_modules={"all"},
            max_loras_per_batch=8,
            max_loaded_loras=4,
        )
        self.lora_ref_cache: dict[str, str] = {}
        self.refusal = refusal
        self.loads = 0

    async def load_lora_adapter(self, obj: Load) -> Any:
        self.loads += 1
        await asyncio.sleep(0.05)
        if self.refusal:
            return SimpleNamespace(success=False, error_message=self.refusal)
        self.lora_ref_cache[obj.lora_name] = obj.lora_path
        return SimpleNamespace(success=True, error_message=None)

    async def resolve(self, obj: Any) -> str:
        names = [obj.lora_path] if isinstance(obj.lora_path, str) else obj.lora_path
        for name in names:
            if name and name not in self.lora_ref_cache:
                raise ValueError(f"Got LoRA adapter that has never been loaded: {name}")
        return "resolved"


class Registry:
    hooks: list[tuple[str, Any, str]]

    def register(self, target: str, hook: Any, kind: str) -> None:
        self.hooks.append((target, hook, kind))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    registry.hooks = []
    modules: dict[str, dict[str, Any]] = {
        "sglang": {"__version__": "0.5.23"},
        "sglang.srt": {},
        "sglang.srt.plugins": {},
        "sglang.srt.plugins.hook_registry": {
            "HookRegistry": registry,
            "HookType": SimpleNamespace(AROUND="around"),
        },
        "sglang.srt.managers": {},
        "sglang.srt.managers.io_struct": {"LoadLoRAAdapterReqInput": Load},
        "fastapi": {"HTTPException": HTTPException},
    }
    for name, members in modules.items():
        made = ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)
    return registry


@pytest.fixture
def hook(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LORA_CLI_MANIFEST", "/etc/lora/set.yaml")
    (entry,) = entry_points(group="sglang.srt.plugins", name="lora_cli_resolver")
    entry.load()()
    ((target, hook, kind),) = registry.hooks
    assert target == "sglang.srt.managers.tokenizer_manager.TokenizerManager._resolve_lora_path"
    assert kind == "around"
    return hook


Told = list[tuple[str, Running]]


def answering(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> Told:
    """Has the resolver give these answers by name; the names that it was asked for, with the engine."""
    told: Told = []

    def resolver_for(running: Running, _log: object) -> Any:
        async def resolve(name: str) -> Any:
            told.append((name, running))
            answer = answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return SimpleNamespace(resolve=resolve)

    monkeypatch.setattr("lora_cli.plugins.sglang.resolver_for", resolver_for)
    return told


def run(hook: Any, manager: Manager, lora_path: Any) -> Any:
    return asyncio.run(hook(Manager.resolve, manager, SimpleNamespace(lora_path=lora_path)))


SQL = Resolved("sql", Path("/cache/snapshots/sha256/ab12"))


def test_what_a_request_names_is_loaded_once_before_it_is_looked_for(
    hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, told = Manager(), answering(monkeypatch, sql=SQL)
    for asked in ("sql", ["sql", None, "sql"]):
        assert run(hook, manager, asked) == "resolved"
    assert manager.lora_ref_cache == {"sql": str(SQL.directory)}
    ((name, running),) = told
    assert (name, running.engine, running.base) == ("sql", "sglang@0.5.23", "/models/llama")
    assert running.deployment == Deployment(max_lora_rank=64, lora_target_modules=None)


def test_a_rank_that_nobody_set_is_not_known(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = answering(monkeypatch, sql=SQL)
    run(hook, Manager(rank=None), "sql")
    assert told[0][1].deployment is None


def test_what_was_loaded_meanwhile_is_no_error(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, sql=SQL)
    manager = Manager("Failed to load LoRA adapter sql because it is already loaded")

    async def both() -> Any:
        asked = asyncio.create_task(hook(Manager.resolve, manager, SimpleNamespace(lora_path="sql")))
        await asyncio.sleep(0.01)
        manager.lora_ref_cache["sql"] = "/elsewhere"  # by a client of /load_lora_adapter
        return await asked

    assert asyncio.run(both()) == "resolved"


def test_why_it_cannot_be_served_is_told_and_what_sglang_refused_is_not_loaded_again_at_once(
    hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = answering(monkeypatch, refused=Unresolved(422, "sql: LC501 …"), sql=SQL)
    manager = Manager("out of slots")
    for name, said in (("refused", "LC501"), ("sql", "out of slots"), ("sql", "out of slots")):
        with pytest.raises(HTTPException, match=said) as raised:
            run(hook, manager, name)
        assert raised.value.status_code == 422
    assert (len(told), manager.loads) == (3, 1)
    manager.refusal = ""
    monkeypatch.setattr("lora_cli.plugins.sglang.time", SimpleNamespace(monotonic=lambda: time.monotonic() + 31))
    assert run(hook, manager, "sql") == "resolved"


def test_requests_at_once_make_one_load_which_goes_on_without_them(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, sql=SQL)
    manager = Manager()

    async def several() -> list[Any]:
        asked = [
            asyncio.create_task(hook(Manager.resolve, manager, SimpleNamespace(lora_path="sql"))) for _ in range(5)
        ]
        await asyncio.sleep(0.01)
        asked[0].cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    first, *others = asyncio.run(several())
    assert isinstance(first, asyncio.CancelledError)
    assert others == ["resolved"] * 4
    assert manager.loads == 1


def test_a_request_for_more_than_sglang_holds_loads_nothing(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"sql-{number}" for number in range(5)]
    answering(monkeypatch, **dict.fromkeys(names, SQL))
    manager = Manager()
    with pytest.raises(ValueError, match="never been loaded"):
        run(hook, manager, names)
    assert manager.loads == 0
