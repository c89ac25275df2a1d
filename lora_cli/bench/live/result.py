"""The metrics of a live run with their definitions; the tiers of requests; goodput."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf
from typing import Final

from lora_cli.bench.live.requests import RequestResult
from lora_cli.bench.quantiles import VLLM_SUMMARIES, nearest_rank, summary, vllm_summary
from lora_cli.bench.report import (
    BenchReport,
    BenchSetting,
    LiveReport,
    LiveTier,
    RequestsReport,
    TiersFrom,
    VllmRun,
    bench_report,
)
from lora_cli.errors import UsageError
from lora_cli.text import by_key

KINDS: tuple[LiveTier, ...] = ("hot", "warm", "cold", "later")
"""``later``: the server reports no tier, and the adapter was requested before."""

KIND_OF_TIER: Mapping[str, LiveTier] = {"gpu": "hot", "cpu": "warm", "disk": "cold", "remote": "cold"}
"""The kind of a request by the tier that the server found its adapter in."""

INFERRED: Final = "inferred"
SERVER: Final = "server"


def classify_tiers(results: Sequence[RequestResult], slots: int | None = None) -> tuple[list[LiveTier], TiersFrom]:
    """The kind of each request ("" if unknown), and its origin.

    A server that names tiers in ``x-lora-tier`` is believed. Elsewhere a request is ``cold`` when it was sent before
    its adapter had answered any. Where the server's metrics have how many ``slots`` it has, a later one is ``hot`` when
    its adapter is among the last so many that were asked for, which an engine that evicts the least recently used still
    has there, else ``warm``.
    """
    first_s: dict[str, float] = {}
    for one in results:
        if not one.error:
            first_s[one.name] = min(first_s.get(one.name, inf), one.first_s)
    if any(one.tier for one in results):
        return [KIND_OF_TIER.get(one.tier, "") for one in results], SERVER
    found: list[LiveTier] = ["cold" if one.sent_s <= first_s.get(one.name, inf) else "later" for one in results]
    return (found if slots is None else _by_recency(results, found, slots)), INFERRED


def _by_recency(results: Sequence[RequestResult], found: Sequence[LiveTier], slots: int) -> list[LiveTier]:
    """The same, with each ``later`` classified: whether its adapter is among the last ``slots`` that were asked for."""
    kinds = list(found)
    recent: dict[str, None] = {}
    for number in sorted(range(len(results)), key=lambda number: results[number].sent_s):
        name = results[number].name
        if kinds[number] == "later":
            kinds[number] = "hot" if name in list(recent)[-slots:] else "warm"
        recent.pop(name, None)
        recent[name] = None
    return kinds


Slo = Mapping[str, float]
"""The maximum milliseconds of each measure."""


def parse_goodput(texts: Sequence[str]) -> Slo:
    """``ttft:500``, and several of them in one text with commas or spaces.

    Raises:
        UsageError: a word is none.
    """
    found: dict[str, float] = {}
    for word in (word for text in texts for word in text.replace(",", " ").split()):
        name, _, number = word.partition(":")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in COMPARED or not 0 <= value < inf:
            raise UsageError(
                f"--goodput {word[:60]}: must be ttft, tpot or e2el, a colon and milliseconds",
                hint="--goodput ttft:500 tpot:50",
            )
        found[name] = value
    return found


def measure_ms(result: RequestResult, measure: str) -> float:
    """The milliseconds of a measure; tpot is 0 without a second token (as in vLLM), and a failure is infinite."""
    if result.error:
        return inf
    if measure == "tpot":
        return (result.tpot_s or 0.0) * 1e3
    return (result.ttft_s if measure == "ttft" else result.e2el_s) * 1e3


def meets_slo(result: RequestResult, slo: Slo) -> bool:
    """Whether a request meets all of ``slo``; a failure meets none."""
    return not result.error and all(measure_ms(result, name) <= most for name, most in slo.items())


def adapter_meets_slo(results: Sequence[RequestResult], slo: Slo) -> bool:
    """Whether 99 % of an adapter's requests meet each part of ``slo``."""
    return all(
        nearest_rank(sorted(measure_ms(one, name) for one in results), 0.99) <= most for name, most in slo.items()
    )


MEASURES = ("ttft", "tpot", "itl", "e2el")
VLLM_MEASURES = (*MEASURES, "client_queue_time", "e2el_including_client_queue")
COMPARED = ("ttft", "tpot", "e2el")
"""The measures of --goodput."""

LATE_MS = 5.0

DEFINITIONS = {
    "ttft": "from the scheduled time of a request to the first chunk of its response",
    "e2el": "from the scheduled time of a request to the last chunk of its response",
    "tpot": "from the first chunk to the last, divided by the tokens after the first; not for requests of one token",
    "itl": "the gaps between the chunks of all responses",
    "mean_ttft_ms, p99_ttft_ms, ...": "vLLM's keys, as vLLM defines them: from the time that a request was sent, "
    "without those that failed. The two differ by client_queue_time: --max-concurrency, and lateness",
    "failures": "infinitely slow in the percentiles of ttft and e2el, and missed in goodput; not in means",
    "hot, warm, cold": "the request's adapter was in a slot, in memory, or on disk or elsewhere, as the server reports",
    "cold, later": "if the server reports no tier (inferred; hot and warm by how recently it was requested, if "
    "metrics show the number of slots): sent before the first response of the adapter, or "
    "after it; a later one may have been unloaded since",
    "slo_attainment": "share of the sent requests that meet --goodput; request_goodput: their number per second",
    "adapters_slo_attainment": "share of the requested adapters of which 99 % of the requests meet --goodput",
    "lateness": f"how late the load generator was in starting a request; above {LATE_MS:g} ms at p99 the run "
    "is unreliable",
    "percentiles": "nearest rank (no interpolation): the smallest value that this share of values does not exceed",
}
"""The definitions of the metrics, printed next to them."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """The results of a run; ``kinds`` are those of its requests, from ``tiers_from``.

    ``timed`` is whether its requests had times of their own.
    """

    results: Sequence[RequestResult]
    kinds: Sequence[LiveTier]
    tiers_from: TiersFrom = INFERRED
    timed: bool = True


def run_metrics(run: LiveRun, slo: Slo) -> dict[str, float | None]:
    """Every metric of ``live_metric_names``; None if unknown."""
    results = run.results
    metrics = _latencies(results, "")
    for kind in KINDS:
        own = [one for one, found in zip(results, run.kinds, strict=True) if found == kind]
        metrics |= {f"{kind}_requests": len(own)} | _latencies(own, f"{kind}_")
    return metrics | _as_vllm(results) | _throughput(results, slo) | _loads(run) | _lateness(results)


def live_metric_names() -> set[str]:
    """The names of all metrics that a live run has."""
    return set(run_metrics(LiveRun((), ()), {}))


def by_adapter(results: Sequence[RequestResult], slo: Slo) -> dict[str, dict[str, float | None]]:
    """Requests, failures and slowest of each adapter, by its name."""
    found = by_key((one.name, one) for one in results)
    return {name: _of_one(own, slo) for name, own in sorted(found.items())}


def _of_one(results: Sequence[RequestResult], slo: Slo) -> dict[str, float | None]:
    failed = sum(bool(one.error) for one in results)
    metrics: dict[str, float | None] = {"requests": len(results), "failed": failed}
    for measure in ("ttft", "e2el"):
        values = summary((getattr(one, f"{measure}_s") * 1e3 for one in results if not one.error), failed)
        metrics |= {f"{measure}_{share}_ms": values[share] for share in ("p50", "p99")}
    return metrics | ({"meets_slo": float(adapter_meets_slo(results, slo))} if slo else {})


def _latencies(results: Sequence[RequestResult], prefix: str) -> dict[str, float | None]:
    whole = [one for one in results if not one.error]
    failed = len(results) - len(whole)
    values: Mapping[str, tuple[list[float], int]] = {
        "ttft": ([one.ttft_s for one in whole], failed),
        "tpot": ([one.tpot_s for one in whole if one.tpot_s is not None], 0),
        "itl": ([gap for one in whole for gap in one.itl_s], 0),
        "e2el": ([one.e2el_s for one in whole], failed),
    }
    return {
        f"{prefix}{measure}_{name}_ms": value
        for measure, (seconds, missed) in values.items()
        for name, value in summary((one * 1e3 for one in seconds), missed).items()
    }


def _as_vllm(results: Sequence[RequestResult]) -> dict[str, float | None]:
    """VLLM's keys: of completed requests, from the time that they were sent."""
    whole = [one for one in results if not one.error]
    values: Mapping[str, list[float]] = {
        "ttft": [one.first_s - one.sent_s for one in whole],
        "tpot": [one.tpot_s for one in whole if one.tpot_s is not None],
        "itl": [gap for one in whole for gap in one.itl_s],
        "e2el": [one.last_s - one.sent_s for one in whole],
        "client_queue_time": [one.sent_s - one.scheduled_s for one in whole],
        "e2el_including_client_queue": [one.e2el_s for one in whole],
    }
    return {
        f"{name}_{measure}_ms": value
        for measure, seconds in values.items()
        for name, value in vllm_summary([one * 1e3 for one in seconds]).items()
    }


def _throughput(results: Sequence[RequestResult], slo: Slo) -> dict[str, float | None]:
    whole = [one for one in results if not one.error]
    duration = max((one.last_s for one in results), default=0.0)
    tokens_in, tokens_out = sum(one.prompt_tokens for one in whole), sum(one.output_tokens for one in whole)
    good = sum(meets_slo(one, slo) for one in results) if slo else None
    own = by_key((one.name, one) for one in results)
    met = sum(adapter_meets_slo(each, slo) for each in own.values()) if slo else None

    def rate(number: float | None) -> float | None:
        return number / duration if number is not None and duration > 0 else None

    return {
        "completed": len(whole),
        "failed": len(results) - len(whole),
        "duration": duration,
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "request_throughput": rate(len(whole)),
        "request_goodput": rate(good),
        "output_throughput": rate(tokens_out),
        "total_token_throughput": rate(tokens_in + tokens_out),
        "slo_attainment": good / len(results) if good is not None and results else None,
        "adapters_slo_attainment": met / len(own) if met is not None and own else None,
        "max_output_tokens_per_s": _max_tokens_per_s(whole),
        "max_concurrent_requests": _max_concurrency(results),
    }


def _max_tokens_per_s(whole: Sequence[RequestResult]) -> float | None:
    """The most tokens within one second of the clock; the pieces of an answer share its tokens evenly."""
    seconds: Counter[int] = Counter()
    for one in whole:
        each = one.output_tokens / len(one.chunks_s)
        for chunk_s in one.chunks_s:
            seconds[int(chunk_s)] += each  # type: ignore[assignment]
    return max(seconds.values(), default=None)


def _max_concurrency(results: Sequence[RequestResult]) -> float | None:
    steps = sorted([(one.sent_s, 1) for one in results] + [(one.last_s, -1) for one in results])
    return max(accumulate(step for _, step in steps), default=0) or None


def _loads(run: LiveRun) -> dict[str, float | None]:
    """Load times and hit ratios that the server reported, and the penalty of cold requests."""
    by_kind = Counter(run.kinds)
    known = by_kind["hot"] + by_kind["warm"] + by_kind["cold"] if run.tiers_from != INFERRED else 0
    loads = [one.load_ms for one in run.results if one.load_ms]
    waits = by_key((kind, one) for one, kind in zip(run.results, run.kinds, strict=True) if not one.error)
    medians = {kind: nearest_rank(sorted(one.ttft_s * 1e3 for one in own), 0.5) for kind, own in waits.items()}
    usual = next((medians[kind] for kind in ("hot", "warm", "later") if kind in medians), None)
    cold = medians.get("cold")
    return {
        "hit_ratio": by_kind["hot"] / known if known else None,
        "memory_hit_ratio": 1 - by_kind["cold"] / known if known else None,
        "cold_penalty_ms": cold - usual if cold is not None and usual is not None else None,
        **{f"load_{name}_ms": value for name, value in summary(loads).items()},
    }


def _lateness(results: Sequence[RequestResult]) -> dict[str, float | None]:
    return {
        f"lateness_{name}_ms": value
        for name, value in summary((one.woke_s - one.scheduled_s) * 1e3 for one in results).items()
    }


def live_report(
    run: VllmRun,
    setting: BenchSetting,
    base: str,
    slo: Slo,
    live: LiveRun,
    refused: Mapping[str, str] | None = None,
) -> BenchReport:
    """The report of this run; ``refused`` are adapters that cannot be served and were not asked for, and why."""
    metrics, results = run_metrics(live, slo), live.results
    late_ms = metrics["lateness_p99_ms"]
    failures = {name: f"cannot be served: {why}" for name, why in (refused or {}).items()}
    failures |= {
        name: f"{count} of its requests failed: {why}" for name, (count, why) in failures_by_adapter(results).items()
    }
    result = LiveReport(
        slo_ms=slo,
        tiers_from=live.tiers_from,
        hits={kind: live.kinds.count(kind) for kind in KINDS},
        late=late_ms is not None and late_ms > LATE_MS and live.timed,
        requests=_requests_report(live),
        per_adapter=by_adapter(results, slo),
        failures=failures,
    )
    names = [f"{name}_{what}_ms" for what in VLLM_MEASURES for name in VLLM_SUMMARIES]
    summaries = {name: metrics.get(name) for name in names}
    run = replace(run, num_prompts=len(results), model_id=base or None, endpoint_type="openai")
    return bench_report(run, setting, result, DEFINITIONS, metrics, summaries)


def failures_by_adapter(results: Sequence[RequestResult]) -> dict[str, tuple[int, str]]:
    """How many requests of each adapter failed, and what the server said to the first of them."""
    found: dict[str, tuple[int, str]] = {}
    for one in results:
        if one.error:
            count, first = found.get(one.name, (0, one.error))
            found[one.name] = count + 1, first
    return found


def _requests_report(run: LiveRun) -> RequestsReport:
    results = run.results
    return RequestsReport(
        adapters=tuple(one.name for one in results),
        tiers=tuple(run.kinds),
        load_ms=tuple(one.load_ms for one in results),
        scheduled_times=tuple(one.scheduled_s for one in results),
        start_times=tuple(one.sent_s for one in results),
        ttfts=tuple(None if one.error else one.first_s - one.sent_s for one in results),
        itls=tuple(tuple(round(gap, 6) for gap in one.itl_s) for one in results),
        latencies=tuple(None if one.error else one.last_s - one.sent_s for one in results),
        input_lens=tuple(one.prompt_tokens for one in results),
        output_lens=tuple(one.output_tokens for one in results),
        errors=tuple(one.error for one in results),
    )
