"""The keys of a result of ``vllm bench serve`` (0.33), so that what reads those reads ours; null is not measured."""

from collections.abc import Mapping
from typing import Any

OF_A_RUN = (
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
)
OF_LATENCY = tuple(
    f"{summary}_{what}_ms" for what in ("ttft", "tpot", "itl", "e2el") for summary in ("mean", "median", "std", "p99")
)
KEYS = (*OF_A_RUN, *OF_LATENCY)


def with_all_keys(known: Mapping[str, Any]) -> dict[str, Any]:
    """``known`` under vLLM's keys first, in its order, then whatever else there is."""
    return {**{key: known.get(key) for key in KEYS}, **known}
