"""Completions by a real server of a tiny model: what OpenAI's own client sees, and what a mixed batch says."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from lora_cli.cli.main import main
from lora_cli.runtime.transformers_model import load_model
from tests.making import llama_modules, write_adapter, write_base_config
from tests.warm.families import save_model
from tests.warm.test_transformers_model import write_tokenizer
from tests.warm.running import Running, error_of

pytestmark = pytest.mark.slow

ADAPTERS = ("a0", "a1", "a2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completions")
    save_model(folder / "base", "llama")
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


def complete(server: Running, model: str, prompt: Any, **more: Any) -> dict[str, Any]:
    answer = server.post("/v1/completions", model=model, prompt=prompt, **{"max_tokens": 6, **more})
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def ids(server: Running, model: str, prompt: Any, **more: Any) -> list[int]:
    answer = complete(server, model, prompt, return_token_ids=True, ignore_eos=True, **more)
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


def greedy(model: torch.nn.Module, prompt: list[int], tokens: int) -> list[int]:
    """The simplest loop, without a cache."""
    known = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            logits: torch.Tensor = model(input_ids=torch.tensor([known])).logits
            known.append(int(logits[0, -1].argmax()))
    return known[len(prompt) :]


def test_the_base_answers_as_transformers_does(server: Running, folder: Path) -> None:
    model = load_model(folder / "base", dtype=torch.float32, device="cpu")
    for prompt in ([5, 6, 7], [9], list(range(3, 40))):
        assert ids(server, "base", prompt, max_tokens=8) == greedy(model, prompt, 8)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_answers_as_peft_does(server: Running, folder: Path) -> None:
    from peft import PeftModel

    for name in ADAPTERS:
        model = load_model(folder / "base", dtype=torch.float32, device="cpu")
        ours = ids(server, name, [5, 6, 7, 8], max_tokens=8)
        assert ours == greedy(PeftModel.from_pretrained(model, folder / name).eval(), [5, 6, 7, 8], 8)
        assert ours != ids(server, "base", [5, 6, 7, 8], max_tokens=8)


def test_a_mixed_batch_of_unequal_prompts_says_what_each_says_alone(server: Running) -> None:
    prompts = [[3 + number] * (1 + 3 * number) for number in range(4)]
    asked = [(model, prompt) for model in ("base", *ADAPTERS) for prompt in prompts]
    alone = [ids(server, model, prompt) for model, prompt in asked]
    with ThreadPoolExecutor(16) as clients:
        together = list(clients.map(lambda one: ids(server, *one), asked))
    assert together == alone
    several = complete(server, "a0", prompts, return_token_ids=True, ignore_eos=True)
    assert [choice["token_ids"] for choice in several["choices"]] == alone[4:8]
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert several["usage"] == {"prompt_tokens": 22, "completion_tokens": 24, "total_tokens": 46}


def test_a_short_answer_does_not_wait_for_a_long_one(server: Running) -> None:
    with ThreadPoolExecutor(1) as clients:
        for _ in range(5):  # a machine that is busy may end the long one first
            long = clients.submit(ids, server, "a0", [[3, 4]] * 4, max_tokens=60)
            time.sleep(0.05)
            short = ids(server, "a1", [5, 6, 7], max_tokens=2)
            was_first = not long.done()
            assert (short, len(long.result())) == (ids(server, "a1", [5, 6, 7], max_tokens=2), 60)
            if was_first:
                return
    pytest.fail("it waited each time")


def test_half_a_surrogate_pair_is_refused_and_the_process_lives_on(server: Running) -> None:
    before = server.status()["child_starts"]
    for prompt in ("\ud800", ["hello", "world \udcff"]):
        body = json.dumps({"model": "a0", "prompt": prompt, "max_tokens": 2})  # httpx2 would not write it
        answer = httpx2.post(
            f"http://localhost:{server.port}/v1/completions",
            content=body.encode("ascii"),
            headers={"content-type": "application/json"},
            timeout=60,
        )
        assert (answer.status_code, "half a surrogate pair" in error_of(answer)[1]) == (400, True)
    assert complete(server, "a0", "hello")["usage"]["completion_tokens"] >= 1
    assert server.status()["child_starts"] == before


def test_an_adapter_whose_files_were_taken_from_the_cache_is_brought_again(server: Running, folder: Path) -> None:
    more = ("b0", "b1")  # with these there are more adapters than places in slots and in memory together
    for number, name in enumerate(more):
        write_adapter(folder / name, modules=llama_modules(), r=4, lora_alpha=64, seed=10 + number)
        assert server.load(name, folder / name).status_code == 200
    known = (*ADAPTERS, *more)
    before = {name: ids(server, name, [5, 6, 7]) for name in known}
    assert main(["--cache-dir", str(folder / "cache"), "cache", "rm", *(str(folder / name) for name in known)]) == 0
    assert {name: ids(server, name, [5, 6, 7]) for name in known} == before
    for name in more:
        server.post("/v1/unload_lora_adapter", lora_name=name)


def test_a_stream_says_what_the_whole_answer_says(server: Running) -> None:
    whole = complete(server, "a1", "hello world", logprobs=1)
    answer = server.post(
        "/v1/completions",
        model="a1",
        prompt="hello world",
        max_tokens=6,
        logprobs=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-lora-tier"] in {"gpu", "cpu", "disk"}
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    values = [json.loads(event) for event in events[:-1]]
    assert values[-1]["usage"] == whole["usage"]
    choices = [value["choices"][0] for value in values[:-1]]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert [choice["finish_reason"] for choice in choices][-1] == whole["choices"][0]["finish_reason"] == "length"
    logs = [log for choice in choices for log in choice["logprobs"]["token_logprobs"]]
    assert logs == pytest.approx(whole["choices"][0]["logprobs"]["token_logprobs"], abs=1e-5)


def test_log_probabilities_are_those_of_the_greedy_tokens(server: Running, folder: Path) -> None:
    told = complete(server, "base", [5, 6, 7], logprobs=1, max_tokens=1)["choices"][0]["logprobs"]
    model = load_model(folder / "base", dtype=torch.float32, device="cpu")
    with torch.inference_mode():
        logs = torch.log_softmax(model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1], -1)
    assert told["token_logprobs"] == pytest.approx([float(logs.max())], abs=1e-5)


def test_an_answer_ends_before_what_stop_says(server: Running) -> None:
    whole = complete(server, "a2", "hello world", max_tokens=8)["choices"][0]["text"]
    words = whole.split()
    assert len(words) > 4
    stopped = complete(server, "a2", "hello world", max_tokens=8, stop=[words[3]])["choices"][0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == whole[: whole.index(words[3])]
    assert stopped["text"]


def test_the_openai_client_works_on_it_unchanged(server: Running) -> None:
    import openai

    with openai.OpenAI(base_url=f"http://localhost:{server.port}/v1", api_key="none", max_retries=0) as client:
        assert {model.id for model in client.models.list()} >= {"base", *ADAPTERS}
        answer = client.completions.create(model="a0", prompt="hello world", max_tokens=5, temperature=0, logprobs=1)
        assert answer.usage is not None
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")
        pieces = client.completions.create(model="a0", prompt="hello world", max_tokens=5, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text
        raw = client.completions.with_raw_response.create(model="a0", prompt="hello", max_tokens=1)
        assert raw.headers["x-lora-tier"] in {"gpu", "cpu", "disk"}
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.completions.create(model="nobody", prompt="hello")
        with pytest.raises(openai.BadRequestError, match="greedy"):
            client.completions.create(model="a0", prompt="hello", temperature=0.7)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": "hello"}, 400, "model"),
        ({"model": "base"}, 400, "prompt"),
        ({"model": "base", "prompt": []}, 400, "prompt"),
        ({"model": "base", "prompt": [[]]}, 400, "empty"),
        ({"model": "base", "prompt": [1, "x"]}, 400, "token ids"),
        ({"model": "base", "prompt": [5, 1 << 20]}, 400, "vocabulary"),
        ({"model": "base", "prompt": [-1]}, 400, "prompt"),
        ({"model": "base", "prompt": [5] * 4000}, 400, "context"),
        ({"model": "base", "prompt": "hello", "max_tokens": 0}, 400, "max_tokens"),
        ({"model": "base", "prompt": "hello", "max_tokens": 10**9}, 400, "max_tokens"),
        ({"model": "base", "prompt": "hello", "n": 2}, 400, "greedy"),
        ({"model": "base", "prompt": "hello", "stop": ["a"] * 9}, 400, "stop"),
        ({"model": "base", "prompt": "hello", "logprobs": 99}, 400, "logprobs"),
        ({"model": "base", "prompt": "hello", "strem": True}, 400, "did you mean"),
        ({"model": "nobody", "prompt": "hello"}, 404, "does not exist"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(
    server: Running, body: dict[str, Any], status: int, said: str
) -> None:
    answer = error_of(server.post("/v1/completions", **body))
    assert answer[0] == status
    assert said in answer[1]


def test_a_client_that_goes_away_in_the_middle_harms_nobody(server: Running) -> None:
    import httpx2

    for _ in range(4):
        with httpx2.Client(timeout=60) as client:
            body = {"model": "a0", "prompt": [5, 6], "max_tokens": 200, "stream": True, "ignore_eos": True}
            with client.stream("POST", f"http://localhost:{server.port}/v1/completions", json=body) as answer:
                next(answer.iter_bytes())
    assert len(ids(server, "a1", [5, 6, 7])) == 6
    assert "Traceback" not in server.said()


def test_what_is_asked_before_the_model_stands_waits_for_it(folder: Path, tmp_path: Path) -> None:
    limits = ["--max-loras", 1, "--max-cpu-loras", 1, "--forward", "model"]
    with Running(tmp_path, folder / "a0", "--base", folder / "base", *limits) as running:
        while "listening" not in running.said():
            time.sleep(0.01)
        assert not running.ready_file.exists()
        with ThreadPoolExecutor(2) as clients:
            both = [clients.submit(ids, running, model, [5, 6, 7]) for model in ("base", "a0")]
        assert both[0].result() != both[1].result()


def test_a_base_without_weights_is_said_before_it_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, cache = write_base_config(tmp_path / "base"), tmp_path / "cache"
    adapter = write_adapter(tmp_path / "a", modules=llama_modules())
    argv = [
        "warm",
        str(adapter),
        "--base",
        str(base.parent),
        "--serve",
        "--forward",
        "model",
        "--cache-dir",
        str(cache),
    ]
    assert main(argv) == 3
    err = capsys.readouterr().err
    assert "model.safetensors" in err
    assert "listening" not in err
