"""What a run was of: the workload and where it was made, the same words for every way to run it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

from lora_cli.bench.trace import Trace

Mode = Literal["simulate", "in-process", "live"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A workload that was run.

    ``mode`` is ``simulate``, ``in-process`` or ``live``; ``workload`` has its parts in words, by what they are called.
    ``request_rate`` is in requests a second (infinite: as fast as they are answered, one after the other), ``span_s``
    the time from the start to the last arrival.
    """

    mode: Mode
    num_prompts: int
    adapters: int
    seed: int
    workload: Mapping[str, str]
    environment: Mapping[str, str]
    request_rate: float = inf
    burstiness: float = 1.0
    input_tokens: int = 0
    output_tokens: int = 0
    span_s: float = 0.0


def setting_of(
    mode: Mode,
    trace: Trace,
    seed: int,
    workload: Mapping[str, str],
    environment: Mapping[str, str],
    request_rate: float | None = None,
    burstiness: float = 1.0,
) -> Setting:
    """The setting of a run of ``trace``, whose own times say how many requests come in a second when nobody does."""
    span_s = trace.times_s[-1] if trace.timed else 0.0
    return Setting(
        mode,
        len(trace),
        len(trace.names),
        seed,
        workload,
        environment,
        request_rate or (len(trace) / span_s if span_s else inf),
        burstiness,
        sum(trace.prompt_tokens),
        sum(trace.output_tokens),
        span_s,
    )
