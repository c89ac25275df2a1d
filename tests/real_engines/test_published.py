"""vLLM's filesystem resolver on what ``fetch --publish`` wrote: a request names the adapter, and nobody loads it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.real_engines.agreement import TOLERANCE, distance
from tests.real_engines.bases import SERVED, VOCABULARY, save
from tests.real_engines.vllm_server import PROMPTS, Server, log_probabilities, meant, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]
LONG = [[1 + (7 * place) % (VOCABULARY - 1) for place in range(300)]]
"""A prompt of more tokens than a block of the KV cache holds: what was computed for it is kept."""


def answered(server: Server, name: str, prompts: Sequence[list[int]] = PROMPTS) -> Any:
    reply = server.answer(name, list(prompts), VOCABULARY)
    assert reply.status == 200, reply
    return log_probabilities(reply, VOCABULARY)


def publish(adapter: str, name: str, served_as: str) -> None:
    """Publishes the folder ``adapter`` as ``name``, with the name that the base is served as."""
    shutil.rmtree(name, ignore_errors=True)
    shutil.copytree(adapter, name)
    config = Path(name, "adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": served_as}))
    assert main(["fetch", f"./{name}", "--publish", "served"]) == 0


def test_vllm_serves_by_name_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version is another name: vLLM knows blocks of its KV cache by the adapter's name and path."""
    monkeypatch.chdir(tmp_path)
    base = save(LLAMA, tmp_path / "base")
    first = meant(write_adapter(LLAMA, options(LLAMA, {}), Path("first")))
    second = meant(write_adapter(LLAMA, options(LLAMA, {"lora_alpha": 30}), Path("second")))
    publish("first", "sql", str(base))
    publish("first", "elsewhere", "acme/another-base")

    resolver = {
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(Path("served").resolve()),
    }
    with serving(base, Path("vllm.log"), **resolver) as server:
        assert distance(answered(server, "sql"), first) <= TOLERANCE
        assert server.answer("elsewhere", PROMPTS, VOCABULARY).status == 404
        assert server.answer("nobody", PROMPTS, VOCABULARY).status == 404

        publish("second", "sql", str(base))
        publish("second", "sql-2", str(base))
        assert distance(answered(server, "sql"), first) <= TOLERANCE
        assert distance(answered(server, "sql-2"), second) <= TOLERANCE
        assert server.unload("sql").status == 200
        assert distance(answered(server, "sql"), second) <= TOLERANCE
