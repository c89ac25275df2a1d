"""The plugin of vLLM on a stand-in for vLLM's modules; tests/real_engines/test_resolver.py has the real one."""

import asyncio
import logging
import sys
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lora_cli.finding import Deployment
from lora_cli.plugins.resolver import Resolved, Running, Unresolved


@dataclass
class Request:
    lora_name: str
    lora_int_id: int
    lora_path: str


class Registry:
    def __init__(self) -> None:
        self.resolvers: dict[str, Any] = {}

    def get_supported_resolvers(self) -> Any:
        return self.resolvers.keys()

    def register_resolver(self, name: str, resolver: Any) -> None:
        self.resolvers[name] = resolver


class NotFound(Exception): ...


class Unprocessable(Exception): ...


class Graceful(Exception):
    def __init__(self, message: str, status: HTTPStatus) -> None:
        super().__init__(message)
        self.status = status


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    modules: dict[str, dict[str, Any]] = {
        "vllm": {"__version__": "0.32.0+cpu"},
        "vllm.exceptions": {
            "VLLMNotFoundError": NotFound,
            "VLLMUnprocessableEntityError": Unprocessable,
            "GracefulHTTPError": Graceful,
        },
        "vllm.logger": {"init_logger": logging.getLogger},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": Request},
        "vllm.lora.resolver": {"LoRAResolver": object, "LoRAResolverRegistry": registry},
    }
    for name, members in modules.items():
        made = ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)
    sys.modules["vllm"].exceptions = sys.modules["vllm.exceptions"]  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "lora_cli.plugins.vllm_resolver", raising=False)
    return registry


@pytest.fixture
def resolver(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LORA_CLI_MANIFEST", "/etc/lora/set.yaml")
    (entry,) = entry_points(group="vllm.general_plugins", name="lora_cli_resolver")
    entry.load()()
    first = registry.resolvers["lora_cli"]
    entry.load()()
    assert registry.resolvers == {"lora_cli": first}
    return first


def test_nothing_is_registered_or_imported_where_nothing_is_set(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_cli.plugins.vllm import register

    monkeypatch.setenv("LORA_CLI_RESOLVE", "  ")
    register()
    assert not registry.resolvers
    assert "lora_cli.plugins.vllm_resolver" not in sys.modules


class Serving:
    """As vLLM's ``OpenAIServingModels``, which calls the resolver and has the engine's config."""

    def __init__(self, resolver: Any, config: Any) -> None:
        self.engine_client, self.resolver = SimpleNamespace(vllm_config=config), resolver

    async def resolve_lora(self, name: str) -> Any:
        return await self.resolver.resolve_lora("/models/llama", name)


CONFIG = SimpleNamespace(lora_config=SimpleNamespace(max_lora_rank=64, max_loras=4, target_modules=["q_proj"]))


def asked(resolver: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, config: Any = CONFIG) -> tuple[Any, Running]:
    """What vLLM is given where ``answer`` comes of every name, and what the resolver was told of the engine."""
    told: list[Running] = []

    async def resolve(_name: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def resolver_for(running: Running, _log: object) -> Any:
        told.append(running)
        return SimpleNamespace(resolve=resolve)

    monkeypatch.setattr(sys.modules[type(resolver).__module__], "resolver_for", resolver_for)
    return asyncio.run(Serving(resolver, config).resolve_lora("sql")), told[0]


def test_an_adapter_is_a_request_with_the_path_of_its_digest(resolver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, running = asked(resolver, monkeypatch, Resolved("sql", Path("/cache/snapshots/sha256/ab12")))
    assert (given.lora_name, given.lora_path) == ("sql", "/cache/snapshots/sha256/ab12")
    assert given.lora_int_id >= 1
    assert (running.engine, running.base) == ("vllm@0.32.0+cpu", "/models/llama")
    assert running.deployment == Deployment(max_lora_rank=64, lora_target_modules=("q_proj",))


@pytest.mark.parametrize("config", [None, SimpleNamespace(), SimpleNamespace(lora_config=None)])
def test_a_name_of_nobody_is_none_and_a_vllm_of_another_shape_has_limits_that_nobody_knows(
    resolver: Any, monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    given, running = asked(resolver, monkeypatch, None, config)
    assert (given, running.deployment) == (None, None)


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (422, Unprocessable), (503, Graceful), (502, Graceful)])
def test_an_error_has_its_status(
    resolver: Any, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="LC501") as raised:
        asked(resolver, monkeypatch, Unresolved(status, "sql: LC501 …"))
    assert getattr(raised.value, "status", status) == status
