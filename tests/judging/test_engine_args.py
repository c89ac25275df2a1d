"""The smallest flags with which an engine serves some adapters."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lora_cli.documents.manifest import EngineSpec
from lora_cli.engines import choose_engine
from lora_cli.finding import Deployment
from lora_cli.judging.engine_args import EngineArgs, engine_args
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import llama_modules, write_adapter

QV = ("q_proj", "v_proj")


def args(folder: Path, engine: str, adapters: Sequence[tuple[str, int]], pinned: str = "", **how: Any) -> EngineArgs:
    """The flags for adapters of these folders and ranks, on two layers of q and v."""
    profile, settings = choose_engine(engine), Settings(folder / "cache")
    terms = Terms(settings, engines=(profile,), values=False, deployment=Deployment(max_lora_rank=512))
    results = []
    for path, rank in adapters:
        write_adapter(folder / path, modules=llama_modules(QV), r=rank)
        request = Request(Path(path).name, str(folder / path), keep_loaded=path == pinned)
        results.append(judge_one(request, terms))
    return engine_args(results, profile, **how)


@pytest.mark.parametrize(
    ("engine", "ranks", "limits", "expected"),
    [
        ("vllm", (2, 24), {}, (32, 2, 2)),
        ("vllm", (257,), {}, (320, 1, 1)),
        ("vllm", (8,) * 5, {"max_loras": 2}, (8, 2, 5)),
        ("vllm", (8,) * 5, {"max_loras": 2, "max_cpu_loras": 3}, (8, 2, 3)),
        ("vllm", (8,) * 2, {"max_loras": 100}, (8, 2, 2)),
        ("sglang", (24, 5), {}, (24, 3, 3)),
    ],
)
def test_the_smallest_legal_limits_serve_all(
    engine: str, ranks: Sequence[int], limits: dict[str, int], expected: tuple[int, ...], tmp_path: Path
) -> None:
    limited = EngineSpec.model_validate({"name": engine, **limits})
    found = args(tmp_path, engine, [(str(number), rank) for number, rank in enumerate(ranks)], limits=limited)

    assert (found.max_lora_rank, found.max_loras, found.max_cpu_loras) == expected
    assert found.lora_target_modules == QV
    assert found.slot_bytes == 2 * found.max_lora_rank * sum(map(sum, llama_modules(QV).values()))
    assert found.served == tuple(map(str, range(len(ranks))))


def test_a_path_that_is_no_plain_word_reaches_the_engine_whole(tmp_path: Path) -> None:
    paths = [("my adapters/a", 8), ("a,b/b", 8), ("c", 8)]
    found = args(tmp_path, "sglang", paths, pinned="c", named=True)

    assert found.flags[-4:] == (
        "--lora-paths",
        f"a={tmp_path}/my adapters/a",
        f'{{"lora_name": "b", "lora_path": "{tmp_path}/a,b/b"}}',
        f'{{"lora_name": "c", "lora_path": "{tmp_path}/c", "pinned": true}}',
    )
    assert found.command.startswith('python -m sglang.launch_server --model-path "$MODEL" \\\n  --enable-lora \\\n')
    assert shlex.split(found.command.replace("\\\n", ""))[5:] == [*found.flags]
