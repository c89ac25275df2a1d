"""Requests that are generated with the statistics of a published trace, where the trace itself is not at hand.

Prompts, outputs and the gaps between arrivals are drawn independently, each by the quantiles of the trace. Its order is
lost: bursts of several gaps, the drift over the hour, and what prompts and outputs have to do with each other.

The quantiles of Azure were computed from the files of https://github.com/Azure/AzurePublicDataset (CC-BY), of the hour
of 2023-11-16 that Patel et al. describe in "Splitwise: Efficient generative LLM inference using phase splitting" (ISCA
2024). Those of BurstGPT are from the first seven days of its ``BurstGPT_1.csv``, without the 1,538 requests that failed
or have no tokens (CC-BY; Wang et al., "BurstGPT: A Real-World Workload Dataset to Optimize LLM Serving Systems", KDD
2025). Its times are whole seconds: requests of the same second are spread evenly over it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import inf

from lora_cli.bench.public_traces import Arrivals
from lora_cli.bench.random_streams import RandomStream, exp, log
from lora_cli.bench.workload import MICROSECONDS

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """The quantiles of a trace at ``SHARES``, and its requests per second; gaps are in milliseconds."""

    title: str
    request_rate: float
    prompt_tokens: tuple[float, ...]
    output_tokens: tuple[float, ...]
    gaps_ms: tuple[float, ...]


STATISTICS: Mapping[str, TraceStatistics] = {
    "azure-code": TraceStatistics(
        "generated with the quantiles of Azure LLM inference 2023, code (8,819 requests)",
        2.567,
        (3, 147, 386, 770, 1075, 1469, 1909, 2433, 3192, 5186, 7302, 7436, 7436, 7436, 7437, 7437),
        (6, 7, 8, 9, 11, 13, 16, 20, 29, 55, 90, 172, 252, 361, 824, 1899),
        (0.1, 0.2, 1.2, 3.3, 15.1, 63.8, 95.0, 100.1, 160.1, 272.8, 400.8, 798.8, 2205.2, 10124.4, 78444.1, 217169.0),
    ),
    "azure-conv": TraceStatistics(
        "generated with the quantiles of Azure LLM inference 2023, conv (19,366 requests)",
        5.530,
        (2, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 4083, 4098, 4142, 4831, 6212, 14050),
        (7, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 540, 601, 643, 954, 1000),
        (0.1, 16.1, 36.5, 60.7, 87.3, 118.4, 158.7, 213.6, 288.8, 420.7, 565.2, 749.3, 889.0, 1030.8, 1431.0, 4314.6),
    ),
    "burstgpt": TraceStatistics(
        "generated with the quantiles of BurstGPT, its first seven days (17,893 requests)",
        0.02959,
        (8, 29, 78, 192, 347, 502, 699, 954, 1278, 1641, 1864, 2045, 2390, 2655, 3340, 5087),
        (1, 27, 60, 112, 176, 236, 295, 353, 424, 536, 634, 785, 934, 1076, 1554, 2048),
        (333.3, 2e3, 4e3, 7e3, 1e4, 1.4e4, 1.9e4, 2.6e4, 3.7e4, 6.2e4, 9.5e4, 1.63e5, 2.76e5, 4.44e5, 1.965e6, 1.087e7),
    ),
}  # fmt: skip


def generate_arrivals(trace: TraceStatistics, requests: int, seed: int, request_rate: float = inf) -> Arrivals:
    """So many requests, at the trace's own rate or, with the same burstiness, at another; the first comes at 0.

    The last one comes at ``(requests - 1) / rate``.
    """
    streams = [RandomStream.derive(f"published {what}", seed) for what in ("prompts", "outputs", "gaps")]
    prompts, outputs = (
        array("I", (round(_draw(quantiles, stream)) for _ in range(requests)))
        for quantiles, stream in zip((trace.prompt_tokens, trace.output_tokens), streams, strict=False)
    )
    times = [0.0, *accumulate(_draw(trace.gaps_ms, streams[2]) for _ in range(requests - 1))]
    rate = trace.request_rate if request_rate == inf else request_rate
    stretch = (requests - 1) / rate / times[-1] if requests > 1 else 0.0
    times_s = array("d", (round(time * stretch, MICROSECONDS) for time in times))
    return Arrivals(trace.title, times_s, prompts, outputs, array("I", bytes(4 * requests)))


def _draw(quantiles: tuple[float, ...], stream: RandomStream) -> float:
    """A value by its quantiles; between two of them the logarithm grows evenly."""
    share = stream.below(1 << 40) / (1 << 40)
    place = bisect_right(SHARES, share) - 1
    low, high = quantiles[place], quantiles[place + 1]
    part = (share - SHARES[place]) / (SHARES[place + 1] - SHARES[place])
    return low if low == high else low * exp(log(high / low) * part)
