"""vLLM's filesystem resolver on what ``fetch --publish`` wrote: a request names the adapter, and nobody loads it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.real_engines.bases import SERVED, VOCABULARY, save
from tests.real_engines.effects import TOLERANCE, distance
from tests.real_engines.vllm_oracle import PROMPTS, meant
from tests.real_engines.vllm_server import Server, log_probabilities, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]


def answered(server: Server, name: str) -> Any:
    reply = server.answer(name, PROMPTS, VOCABULARY)
    assert reply.status == 200, reply
    return log_probabilities(reply, VOCABULARY)


def published(adapter: Path, name: str, *served_as: str) -> None:
    """Publishes the adapter under a name."""
    shutil.rmtree(name, ignore_errors=True)
    shutil.copytree(adapter, name)
    assert main(["fetch", f"./{name}", "--publish", "served", *served_as]) == 0


def test_vllm_serves_by_name_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = save(LLAMA, tmp_path / "base")
    first = meant(write_adapter(LLAMA, options(LLAMA, {}), tmp_path / "first"))
    second = meant(write_adapter(LLAMA, options(LLAMA, {"lora_alpha": 30}), tmp_path / "second"))
    published(tmp_path / "first", "sql", "--fix-base", str(base))
    published(tmp_path / "first", "elsewhere", "--fix-base", "acme/another-base")
    plugins = {"VLLM_PLUGINS": "lora_filesystem_resolver", "VLLM_LORA_RESOLVER_CACHE_DIR": str(tmp_path / "served")}

    with serving(base, tmp_path / "vllm.log", **plugins) as server:
        assert distance(answered(server, "sql"), first) <= TOLERANCE
        assert server.answer("elsewhere", PROMPTS, VOCABULARY).status == 404
        assert server.answer("nobody", PROMPTS, VOCABULARY).status == 404

        published(tmp_path / "second", "sql", "--fix-base", str(base))
        published(tmp_path / "second", "sql-2", "--fix-base", str(base))
        print(
            "new under the old name",
            distance(answered(server, "sql"), first),
            distance(answered(server, "sql"), second),
        )
        print(distance(answered(server, "sql-2"), second))
        print(server.unload("sql"))
        print("after unload", distance(answered(server, "sql"), first), distance(answered(server, "sql"), second))
        print(distance(answered(server, "sql-2"), second))
        published(tmp_path / "second", "sql-3", "--fix-base", str(base))
        print(distance(answered(server, "sql-3"), second))
        print(server.unload("sql"))
        print("after eviction", distance(answered(server, "sql"), first), distance(answered(server, "sql"), second))
