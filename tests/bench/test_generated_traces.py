"""Requests with the statistics of a published trace: its own means and medians, as its files have them."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, pstdev

import pytest

from lora_cli.bench.engine_steps import StepModel
from lora_cli.bench.generated_traces import SHARES, STATISTICS, generate_arrivals
from lora_cli.cli.main import main

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import papers

MEANS = {"azure-code": (2047.8, 27.88), "azure-conv": (1154.7, 211.1), "burstgpt": (682.8, 264.4)}
"""Tokens in and out: the means of AzureLLMInferenceTrace_code.csv, AzureLLMInferenceTrace_conv.csv, BurstGPT_1.csv."""


@pytest.mark.parametrize("name", STATISTICS)
def test_means_and_medians_are_those_of_the_trace(name: str) -> None:
    trace = STATISTICS[name]
    found = generate_arrivals(trace, 20_000, 0)
    for tokens, quantiles, mean in zip(
        (found.prompt_tokens, found.output_tokens), (trace.prompt_tokens, trace.output_tokens), MEANS[name], strict=True
    ):
        assert fmean(tokens) == pytest.approx(mean, rel=0.05)
        assert median(tokens) == pytest.approx(quantiles[SHARES.index(0.5)], rel=0.05)
        assert quantiles[0] <= min(tokens) <= max(tokens) <= quantiles[-1]
    assert 20_000 / found.times_s[-1] == pytest.approx(trace.request_rate, rel=0.001)
    assert list(found.times_s) == sorted(found.times_s)
    assert found.times_s[0] == 0


@pytest.mark.parametrize(("name", "variation", "tolerance"), [("azure-conv", 1.094, 0.05), ("burstgpt", 5.14, 0.2)])
def test_arrivals_are_as_bursty_as_those_of_the_trace_at_any_rate(
    name: str, variation: float, tolerance: float
) -> None:
    """The variation of BurstGPT's gaps is that of a few which are hours long."""
    for rate in (STATISTICS[name].request_rate, 50.0):
        times = generate_arrivals(STATISTICS[name], 20_000, 0, rate).times_s
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert 1 / fmean(gaps) == pytest.approx(rate, rel=0.001)
        assert pstdev(gaps) / fmean(gaps) == pytest.approx(variation, rel=tolerance)


@pytest.mark.parametrize("name", STATISTICS)
def test_one_request_and_none_have_no_gaps(name: str) -> None:
    assert list(generate_arrivals(STATISTICS[name], 1, 0).times_s) == [0.0]


def test_the_result_names_the_trace_and_a_seed_gives_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve-bench", "--simulate", "--trace", "azure-conv", "--num-prompts", "500", "--num-adapters", "40"]
    texts = []
    for seed in ("1", "1", "2"):
        saved = tmp_path / "saved.jsonl"
        assert main([*words, "--eviction", "lru", "--seed", seed, "--save-trace", str(saved), "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        texts.append(saved.read_text())
    assert texts[0] == texts[1] != texts[2]
    assert found["workload"]["trace"] == "azure-conv"
    assert found["workload"]["arrivals"].startswith("generated with the quantiles of Azure LLM inference 2023, conv")
    assert (found["num_prompts"], found["adapters"]) == (500, 40)
    assert found["request_rate"] == pytest.approx(5.53, rel=0.01)
    assert main([*words, "--request-rate", "20", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["request_rate"] == pytest.approx(20, rel=0.01)
    assert main([*words, "--ramp-up-strategy", "linear", "--ramp-up-start-rps", "1", "--ramp-up-end-rps", "2"]) == 2


@pytest.mark.parametrize("rate", [1.0, 1.5, 2.0])
def test_throughput_is_near_what_s_lora_published(rate: float) -> None:
    """The step model is that of docs/benchmarks.md, fitted at 1 and 2.5 requests per second."""
    model = StepModel(24.0, 0.8, papers.POOL_TOKENS // papers.REQUEST_TOKENS)
    assert papers.slora(200, rate, model)[2] == pytest.approx(papers.RATES[rate][2], rel=0.05)
