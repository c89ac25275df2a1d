"""The numbers of one run by name, each beside what it means; where requests found their adapters; what is good."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, isinf
from typing import Final

from lora_cli.bench.live.requests import Answer, Course
from lora_cli.bench.measured import WORDS
from lora_cli.bench.quantiles import nearest_rank, summary, vllm_summary
from lora_cli.bench.report import LiveTier, TiersFrom
from lora_cli.core.grouping import by_key
from lora_cli.errors import UsageError

KINDS: tuple[LiveTier, ...] = ("hot", "warm", "cold", "later")
"""``later`` is what nobody knows more of: the server does not say, and the adapter was asked for before."""

INFERRED: Final = "inferred"
SERVER: Final = "server"


def kinds(answers: Sequence[Answer], used: set[str], slots: int | None = None) -> tuple[list[LiveTier], TiersFrom]:
    """The kind of each answer ("" where there is none), and who says so.

    A server that names tiers in ``x-lora-tier`` is believed. Elsewhere a request is ``cold`` when it was sent before
    its adapter had answered any; ``used`` are the adapters that had, before this run, and grows by those that do now.
    Where the server's metrics told how many ``slots`` it has, a later one is ``hot`` when its adapter is among the last
    so many that were asked for, which an engine that evicts the least recently used still has there, else ``warm``.
    """
    first_s: dict[str, float] = {}
    for one in answers:
        if not one.error:
            first_s[one.name] = min(first_s.get(one.name, inf), one.first_s)
    before = frozenset(used)
    used.update(first_s)
    if any(one.tier for one in answers):
        return [WORDS.get(one.tier, "") for one in answers], SERVER
    found: list[LiveTier] = [
        "cold" if one.name not in before and one.sent_s <= first_s.get(one.name, inf) else "later" for one in answers
    ]
    return (found if slots is None else _by_recency(answers, found, slots)), INFERRED


def _by_recency(answers: Sequence[Answer], found: Sequence[LiveTier], slots: int) -> list[LiveTier]:
    """The same, with each ``later`` told apart: whether its adapter is among the last ``slots`` that were asked for."""
    told = list(found)
    recent: dict[str, None] = {}
    for number in sorted(range(len(answers)), key=lambda number: answers[number].sent_s):
        name = answers[number].name
        if told[number] == "later":
            told[number] = "hot" if name in list(recent)[-slots:] else "warm"
        recent.pop(name, None)
        recent[name] = None
    return told


Slo = Mapping[str, float]
"""Milliseconds that a measure may take, by its name."""


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


def milliseconds(answer: Answer, measure: str) -> float:
    """What an answer took of a measure; no token after the first is no time for one (as in vLLM), a failure is inf."""
    if answer.error:
        return inf
    if measure == "tpot":
        return (answer.tpot_s or 0.0) * 1e3
    return (answer.ttft_s if measure == "ttft" else answer.e2el_s) * 1e3


def is_good(answer: Answer, slo: Slo) -> bool:
    """Whether it keeps all of ``slo``; a failure keeps none."""
    return not answer.error and all(milliseconds(answer, name) <= most for name, most in slo.items())


def keeps(answers: Sequence[Answer], slo: Slo) -> bool:
    """Whether 99 % of an adapter's requests keep each part of ``slo``."""
    return all(
        nearest_rank(sorted(milliseconds(one, name) for one in answers), 0.99) <= most for name, most in slo.items()
    )


MEASURES = ("ttft", "tpot", "itl", "e2el")
VLLM_MEASURES = (*MEASURES, "client_queue_time", "e2el_including_client_queue")
COMPARED = ("ttft", "tpot", "e2el")
"""What --goodput is about, and what an adapter's run and the base's are compared by."""

COUNTS = frozenset({"completed", "failed", "total_input_tokens", "total_output_tokens", "duration"}).union(
    f"{kind}_requests" for kind in KINDS
)
"""What several runs add up to."""

LATE_MS = 5.0

DEFINITIONS = {
    "ttft": "from the time that a request was to be sent to the first piece of its answer",
    "e2el": "from the time that a request was to be sent to the last piece of its answer",
    "tpot": "from the first piece to the last, by the tokens after the first; requests of one token have none",
    "itl": "the gaps between the pieces of all answers",
    "mean_ttft_ms, p99_ttft_ms, ...": "vLLM's keys, as vLLM defines them: from the time that a request was sent, "
    "without those that failed. Between the two times lies client_queue_time: --max-concurrency, and lateness",
    "failures": "infinitely slow in the percentiles of ttft and e2el, and missed in goodput; in no mean",
    "hot, warm, cold": "the request's adapter was in a slot, in memory, or on disk or elsewhere, as the server says",
    "cold, later": "where the server says no tier (inferred; hot and warm by how recently it was asked for, where "
    "metrics tell the number of slots): sent before the adapter had answered any request, or "
    "after it; a later one may have been unloaded since",
    "slo_attainment": "requests that keep all of --goodput, of all that were sent; request_goodput: in a second",
    "adapters_slo_attainment": "adapters of which 99 % of the requests keep --goodput, of all that were asked for",
    "lateness": f"by how much the generator was late to wake up for a request; above {LATE_MS:g} ms at p99 the run "
    "says more of it than of the server",
    "stalled_others_ms": "the median of probes that were under way while another adapter was loaded for its request, "
    "less that of all others",
    "control_ratio": "the adapters' run by the same requests to the base alone, after it",
    "percentiles": "nearest rank: the smallest value that so many do not exceed, without interpolation",
    "95 %": "half the width of the interval for the mean of the seeds' values, by Student's t",
}
"""What the numbers mean, printed beside them."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of the requests of one seed; ``kinds`` are of its answers, as ``tiers_from`` says.

    ``timed`` is whether its requests had times of their own. ``control`` are the base's answers to the same requests.
    """

    seed: int
    course: Course
    kinds: Sequence[LiveTier]
    tiers_from: TiersFrom = INFERRED
    timed: bool = True
    control: Sequence[Answer] | None = None


def numbers(run: Run, slo: Slo) -> dict[str, float | None]:
    """Every metric of ``live_names``, of one run; None is what is not known."""
    answers = run.course.answers
    told = _latencies(answers, "")
    for kind in KINDS:
        own = [one for one, found in zip(answers, run.kinds, strict=True) if found == kind]
        told |= {f"{kind}_requests": len(own)} | _latencies(own, f"{kind}_")
    told |= _as_vllm(answers) | _throughput(answers, slo) | _loads(run) | _lateness(answers) | _probes(run)
    return told | _control(run, told)


def live_names() -> set[str]:
    """The names of all metrics that a live run has."""
    return set(numbers(Run(0, Course(), ()), {}))


def by_adapter(runs: Iterable[Run], slo: Slo) -> dict[str, dict[str, float | None]]:
    """Requests, failures and slowest of each adapter over all runs, by its name."""
    found = by_key((one.name, one) for run in runs for one in run.course.answers)
    return {name: _of_one(answers, slo) for name, answers in sorted(found.items())}


def _of_one(answers: Sequence[Answer], slo: Slo) -> dict[str, float | None]:
    failed = sum(bool(one.error) for one in answers)
    told: dict[str, float | None] = {"requests": len(answers), "failed": failed}
    for measure in ("ttft", "e2el"):
        values = summary((getattr(one, f"{measure}_s") * 1e3 for one in answers if not one.error), failed)
        told |= {f"{measure}_{share}_ms": values[share] for share in ("p50", "p99")}
    return told | ({"meets_slo": float(keeps(answers, slo))} if slo else {})


def _latencies(answers: Sequence[Answer], prefix: str) -> dict[str, float | None]:
    whole = [one for one in answers if not one.error]
    failed = len(answers) - len(whole)
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


def _as_vllm(answers: Sequence[Answer]) -> dict[str, float | None]:
    """The keys of vLLM: of what completed, and from when it was sent."""
    whole = [one for one in answers if not one.error]
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


def _throughput(answers: Sequence[Answer], slo: Slo) -> dict[str, float | None]:
    whole = [one for one in answers if not one.error]
    duration = max((one.last_s for one in answers), default=0.0)
    tokens_in, tokens_out = sum(one.prompt_tokens for one in whole), sum(one.output_tokens for one in whole)
    good = sum(is_good(one, slo) for one in answers) if slo else None
    own = by_key((one.name, one) for one in answers)
    met = sum(keeps(each, slo) for each in own.values()) if slo else None

    def rate(number: float | None) -> float | None:
        return number / duration if number is not None and duration > 0 else None

    return {
        "completed": len(whole),
        "failed": len(answers) - len(whole),
        "duration": duration,
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "request_throughput": rate(len(whole)),
        "request_goodput": rate(good),
        "output_throughput": rate(tokens_out),
        "total_token_throughput": rate(tokens_in + tokens_out),
        "slo_attainment": good / len(answers) if good is not None and answers else None,
        "adapters_slo_attainment": met / len(own) if met is not None and own else None,
        "max_output_tokens_per_s": _most_tokens(whole),
        "max_concurrent_requests": _most_at_once(answers),
    }


def _most_tokens(whole: Sequence[Answer]) -> float | None:
    """The most tokens within one second of the clock; the pieces of an answer share its tokens evenly."""
    seconds: Counter[int] = Counter()
    for one in whole:
        each = one.output_tokens / len(one.chunks_s)
        for chunk_s in one.chunks_s:
            seconds[int(chunk_s)] += each  # type: ignore[assignment]
    return max(seconds.values(), default=None)


def _most_at_once(answers: Sequence[Answer]) -> float | None:
    steps = sorted([(one.sent_s, 1) for one in answers] + [(one.last_s, -1) for one in answers])
    return max(accumulate(step for _, step in steps), default=0) or None


def _loads(run: Run) -> dict[str, float | None]:
    """What the server says of loads, hits by its tiers, and what it costs to be cold."""
    told = Counter(run.kinds)
    known = told["hot"] + told["warm"] + told["cold"] if run.tiers_from != INFERRED else 0
    loads = [one.load_ms for one in run.course.answers if one.load_ms]
    medians = {kind: _median(run, kind) for kind in KINDS}
    usual = next((medians[kind] for kind in ("hot", "warm", "later") if medians[kind] is not None), None)
    cold = medians["cold"]
    return {
        "hit_ratio": told["hot"] / known if known else None,
        "memory_hit_ratio": 1 - told["cold"] / known if known else None,
        "cold_penalty_ms": cold - usual if cold is not None and usual is not None else None,
        **{f"load_{name}_ms": value for name, value in summary(loads).items()},
    }


def _median(run: Run, kind: str) -> float | None:
    own = [
        one.ttft_s * 1e3
        for one, found in zip(run.course.answers, run.kinds, strict=True)
        if found == kind and not one.error
    ]
    return nearest_rank(sorted(own), 0.5) if own else None


def _lateness(answers: Sequence[Answer]) -> dict[str, float | None]:
    return {
        f"lateness_{name}_ms": value
        for name, value in summary((one.woke_s - one.scheduled_s) * 1e3 for one in answers).items()
    }


def _probes(run: Run) -> dict[str, float | None]:
    """Probes beside the loads of other adapters, and all others."""
    loading = [
        (one.sent_s, one.first_s)
        for one, kind in zip(run.course.answers, run.kinds, strict=True)
        if kind == "cold" and not one.error
    ]
    beside: list[float] = []
    apart: list[float] = []
    for probe in run.course.probes:
        if not probe.error:
            stalled = any(start < probe.first_s and probe.sent_s < end for start, end in loading)
            (beside if stalled else apart).append(probe.ttft_s * 1e3)
    told = {f"probe_loading_{name}_ms": value for name, value in summary(beside).items()}
    told |= {f"probe_quiet_{name}_ms": value for name, value in summary(apart).items()}
    one, other = told["probe_loading_p50_ms"], told["probe_quiet_p50_ms"]
    return told | {"stalled_others_ms": one - other if one is not None and other is not None else None}


def _control(run: Run, told: Mapping[str, float | None]) -> dict[str, float | None]:
    base = _latencies(run.control or (), "")
    found: dict[str, float | None] = {}
    for measure in COMPARED:
        for share in ("p50", "p99"):
            name = f"{measure}_{share}_ms"
            ours, theirs = told[name], base[name]
            fine = ours is not None and theirs is not None and theirs > 0 and not isinf(ours) and not isinf(theirs)
            found[f"control_{name}"] = theirs
            found[f"control_ratio_{measure}_{share}"] = ours / theirs if fine else None  # type: ignore[operator]
    return found
