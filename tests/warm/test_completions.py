"""Completions by a real server of a tiny model: what OpenAI's own client sees, and what each adapter says."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from lora_cli.cli.main import main
from lora_cli.warm.composed import load_model
from tests.making import llama_modules, write_adapter, write_base_config
from tests.warm.families import save_model
from tests.warm.running import Running, error_of
from tests.warm.tokenizer import write_tokenizer

ADAPTERS = ("a0", "a1", "a2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completions")
    save_model(folder / "base", "llama", max_position_embeddings=8192)
    write_tokenizer(folder / "base")
    for number, name in enumerate(ADAPTERS):
        write_adapter(folder / name, modules=llama_modules(), r=4 + 4 * number, lora_alpha=64, seed=number)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    """Two slots for three adapters, and no more places in memory."""
    limits = ["--max-loras", 2, "--max-cpu-loras", 2, "--forward", "model", "--root", folder]
    with Running(folder, *[folder / name for name in ADAPTERS], "--base", folder / "base", *limits) as running:
        yield running.until_ready()


def greedy(model: torch.nn.Module, prompt: list[int], tokens: int) -> list[int]:
    """The simplest loop, without a cache."""
    known = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            logits: torch.Tensor = model(input_ids=torch.tensor([known])).logits
            known.append(int(logits[0, -1].argmax()))
    return known[len(prompt) :]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_the_base_answers_as_transformers_does_and_an_adapter_as_peft(server: Running, folder: Path) -> None:
    from peft import PeftModel

    for prompt in ([5, 6, 7], [9], list(range(3, 40))):
        base = server.ids("base", prompt, max_tokens=8)
        assert base == greedy(load_model(folder / "base", dtype=torch.float32, device="cpu"), prompt, 8)
        for name in ADAPTERS:
            model = load_model(folder / "base", dtype=torch.float32, device="cpu")
            ours = server.ids(name, prompt, max_tokens=8)
            assert ours == greedy(PeftModel.from_pretrained(model, folder / name).eval(), prompt, 8)
            assert ours != base


def test_requests_at_once_and_prompts_of_unequal_length_say_what_each_says_alone(server: Running) -> None:
    prompts = [[3 + number] * (1 + 3 * number) for number in range(4)]
    asked = [(model, prompt) for model in ("base", *ADAPTERS) for prompt in prompts]
    alone = [server.ids(model, prompt) for model, prompt in asked]
    with ThreadPoolExecutor(16) as clients:
        together = list(clients.map(lambda one: server.ids(*one), asked))
    assert together == alone
    more = {"max_tokens": 6, "return_token_ids": True, "ignore_eos": True}
    several = server.post("/v1/completions", model="a0", prompt=prompts, **more).json()
    assert [choice["token_ids"] for choice in several["choices"]] == alone[4:8]
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert several["usage"] == {"prompt_tokens": 22, "completion_tokens": 24, "total_tokens": 46}


def leave(url: str, body: dict[str, Any]) -> None:
    """Ask, and go away after a moment, or with the first bytes."""
    with suppress(httpx2.TimeoutException), httpx2.stream("POST", url, json=body, timeout=0.3) as answer:
        next(answer.iter_bytes())


def test_a_client_that_leaves_ends_its_rows(server: Running) -> None:
    body = {"model": "a0", "prompt": [[5, 6]] * 8, "max_tokens": 4000, "ignore_eos": True}
    url = f"http://localhost:{server.port}/v1/completions"
    for stream in (False, True) * 6:
        leave(url, {**body, "stream": stream})
    assert len(server.ids("a1", [5, 6, 7])) == 6
    server.until(lambda: server.status()["tiers"]["gpu"]["adapters"] == 2)
    # Both slots are free for others: nobody holds one any more.
    assert [len(server.ids(name, [5])) for name in ADAPTERS] == [6, 6, 6]
    assert "Traceback" not in server.said()


def test_an_adapter_whose_files_were_taken_from_the_cache_is_brought_again(server: Running, folder: Path) -> None:
    before = {name: server.ids(name, [5, 6, 7]) for name in ADAPTERS}
    assert main(["--cache-dir", str(folder / "cache"), "cache", "rm", *(str(folder / name) for name in ADAPTERS)]) == 0
    for name in ADAPTERS:  # of those that were evicted, a request finds that, and the next one has it again
        server.post("/v1/completions", model=name, prompt=[5], max_tokens=1)
        assert server.ids(name, [5, 6, 7]) == before[name]


def test_the_openai_client_works_on_it_unchanged(server: Running) -> None:
    import openai

    with openai.OpenAI(base_url=f"http://localhost:{server.port}/v1", api_key="none", max_retries=0) as client:
        assert {model.id for model in client.models.list()} >= {"base", *ADAPTERS}
        answer = client.completions.create(model="a0", prompt="hello world", max_tokens=5, temperature=0)
        assert answer.usage is not None
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")
        usage: Any = {"include_usage": True}
        pieces = client.completions.create(
            model="a0", prompt="hello world", max_tokens=5, stream=True, stream_options=usage
        )
        *texts, last = list(pieces)
        assert "".join(piece.choices[0].text for piece in texts) == answer.choices[0].text
        assert (texts[-1].choices[0].finish_reason, last.usage) == ("length", answer.usage)
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.completions.create(model="nobody", prompt="hello")
        with pytest.raises(openai.BadRequestError, match="greedy"):
            client.completions.create(model="a0", prompt="hello", temperature=0.7)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "base"}, 400, "prompt"),
        ({"prompt": [[]]}, 400, "prompt"),
        ({"prompt": [["x"]]}, 400, "invalid: prompt: "),
        ({"prompt": [5, 1 << 20]}, 400, "vocabulary"),
        ({"prompt": [5] * 9000}, 400, "context"),
        ({"prompt": "hello", "max_tokens": 10**9}, 400, "max_tokens"),
        ({"prompt": "hello", "n": 2}, 400, "greedy"),
        ({"prompt": "hello", "stop": ["a"]}, 400, "stop"),
        ({"prompt": "hello", "strem": True}, 400, "strem"),
        ({"model": "nobody", "prompt": "hello"}, 404, "does not exist"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(
    server: Running, body: dict[str, Any], status: int, said: str
) -> None:
    answer = error_of(server.post("/v1/completions", **{"model": "base", **body}))
    assert (answer[0], said in answer[1]) == (status, True)


def test_a_base_without_weights_is_said_before_it_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, cache = write_base_config(tmp_path / "base"), tmp_path / "cache"
    adapter = write_adapter(tmp_path / "a", modules=llama_modules())
    words = ["--cache-dir", str(cache), "warm", str(adapter), "--base", str(base.parent), "--forward", "model"]
    for mode in (["--serve"], []):
        assert main([*words, *mode]) == 3
        err = capsys.readouterr().err
        assert ("model.safetensors" in err, "listening" in err) == (True, False)
