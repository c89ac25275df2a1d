"""``serve-bench --url`` against a real server of a tiny model, beside OpenAI's own client with a stopwatch."""

import json
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import openai
import pytest

from lora_cli.cli.main import main
from tests.cli.test_bench_results import valid
from tests.making import llama_modules, write_adapter
from tests.runtime.families import save_model
from tests.runtime.test_transformers_model import write_tokenizer
from tests.serving.running import Running

pytestmark = pytest.mark.slow

ADAPTERS = ("a0", "a1", "a2", "a3")
TOKENS_IN, TOKENS_OUT, REQUESTS = 16, 8, 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One slot and two places in memory for four adapters."""
    folder = tmp_path_factory.mktemp("live")
    save_model(folder / "base", "llama")
    write_tokenizer(folder / "base")
    for number, name in enumerate(ADAPTERS):
        write_adapter(folder / name, modules=llama_modules(), r=4, lora_alpha=64, seed=number)
    limits = ["--max-loras", 1, "--max-cpu-loras", 2, "--forward", "model"]
    refs = [folder / name for name in ADAPTERS]
    with Running(folder, *refs, "--base", folder / "base", *limits, token="secret") as running:
        yield running.until_ready()


def bench(server: Running, *argv: str) -> list[str]:
    lengths = ["--input-len", str(TOKENS_IN), "--output-len", str(TOKENS_OUT)]
    return ["serve-bench", "--url", f"http://127.0.0.1:{server.port}", "--api-key", "secret", *lengths, *argv]


def ours(server: Running, capsys: pytest.CaptureFixture[str]) -> list[tuple[float, float]]:
    """Our milliseconds to the first piece and to the last of some requests, one after the other."""
    argv = ["--lora-modules", "a0", "--max-concurrency", "1"]
    assert main(bench(server, *argv, "--num-prompts", str(REQUESTS), "--format", "json")) == 0
    found = json.loads(capsys.readouterr().out)["requests"]
    return [(first * 1e3, last * 1e3) for first, last in zip(found["ttfts"], found["latencies"], strict=True)]


def theirs(server: Running) -> list[tuple[float, float]]:
    """The same by OpenAI's client and a stopwatch."""
    found = []
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="secret", max_retries=0) as client:
        client.models.list()  # what is set up only once
        for number in range(REQUESTS):
            prompt = [3 + (number + place) % 50 for place in range(TOKENS_IN)]
            began = time.perf_counter()
            stream = client.completions.create(
                model="a0", prompt=prompt, max_tokens=TOKENS_OUT, stream=True, extra_body={"ignore_eos": True}
            )
            times = [time.perf_counter() - began for piece in stream if piece.choices]
            found.append((times[0] * 1e3, times[-1] * 1e3))
    return found


def near(one: float, other: float) -> bool:
    return abs(one - other) <= max(0.3 * max(one, other), 5.0)


def test_latencies_are_those_that_openais_client_sees(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Medians of requests in turns; in one of three tries, for others use this machine too."""
    theirs(server)
    tries = []
    for _ in range(3):
        turns = [(ours(server, capsys), theirs(server)) for _ in range(5)]
        mine, yours = ([one for turn in turns for one in turn[side]] for side in (0, 1))
        medians = [(median(one[what] for one in mine), median(one[what] for one in yours)) for what in (0, 1)]
        if all(near(*pair) for pair in medians):
            return
        tries.append(medians)
    pytest.fail(f"{tries}")


def test_each_request_is_of_the_tier_that_the_server_counts(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other: what we say was hot, warm and cold is what the server's own books say."""

    def counted() -> dict[str, int]:
        tiers: dict[str, Any] = server.status()["tiers"]
        return {"hot": tiers["gpu"]["hits"], "warm": tiers["cpu"]["hits"], "cold": tiers["cpu"]["loads"]}

    for name in ADAPTERS:  # one that is read for the first time is proved too, which is one more hit
        assert server.post("/v1/completions", model=name, prompt=[5], max_tokens=1).status_code == 200
    before = counted()
    argv = ["--popularity", "zipf:0.8", "--num-prompts", "50", "--max-concurrency", "1"]
    assert main(bench(server, *argv, "--format", "json")) == 0
    found = valid(capsys.readouterr().out)
    after = counted()
    assert (found["tiers_from"], found["completed"]) == ("server", 50)
    assert {kind: found["hits"][kind] for kind in before} == {kind: after[kind] - before[kind] for kind in before}
    assert min(found["hits"][kind] for kind in before) > 0
    assert found["metrics"]["cold_ttft_p50_ms"] > 0
    assert found["metrics"]["load_p50_ms"] > 0


def test_what_the_model_cannot_answer_is_one_message_and_7(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*bench(server), "--input-len", "500"]) == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert "responded with 400: the prompt has 500 tokens" in err
    assert err.count("error:") == 1


def test_a_wrong_token_is_one_message_and_7(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*bench(server), "--api-key", "wrong"]) == 7
    err = capsys.readouterr().err
    assert "responded with 401" in err
    assert "LORA_CLI_API_KEY" in err
