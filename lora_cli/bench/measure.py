"""What a run measured: latencies by where each adapter was, goodput, and the conditions of ``--fail-if``."""

import ctypes
import operator
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import accumulate
from math import ceil, inf
from pathlib import Path
from statistics import fmean

from lora_cli.bench.client import Answer
from lora_cli.endpoint.address import Address
from lora_cli.errors import ERRORS, MachineError, MissingExtra, UsageError
from lora_cli.text import did_you_mean, quoted
from lora_cli.version import __version__

TIERS = ("hot", "warm", "cold")
"""The adapter of a request was in a slot, in memory, or on disk or elsewhere."""

TIER_OF: Mapping[str, str] = {"gpu": "hot", "cpu": "warm", "disk": "cold", "remote": "cold"}
"""By the word in the ``x-lora-tier`` of our server."""

MEASURES = ("ttft", "tpot", "e2el")
PERCENTILES = (50, 90, 99)
LATE_MS = 5.0
"""Above it at p99 the load generator says little about the server."""

COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of ``--fail-if``: once judged it ``failed`` where it is true, or where the metric has no value."""

    metric: str
    comparison: str
    limit: float
    value: float | None = None
    failed: bool = False

    def __str__(self) -> str:
        said = f"{self.metric} {self.comparison} {self.limit:g}"
        if self.value is None:
            return f"{said}: there is no value"
        return f"{said} is {'true' if self.failed else 'not true'}: the value is {self.value:.6g}"

    def judged(self, metrics: Mapping[str, float | None]) -> "Condition":
        """The condition with its value and outcome."""
        value = metrics.get(self.metric)
        failed = value is None or COMPARISONS[self.comparison](value, self.limit)
        return replace(self, value=value, failed=failed)


def parse_condition(text: str, known: Collection[str]) -> Condition:
    """``cold_p99_ttft_ms>500``, on one of the ``known`` metrics. Raises ``UsageError``."""
    found = re.fullmatch(r"\s*([^\s<>=]+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*", text)
    try:
        metric, comparison, limit = found[1], found[2], float(found[3])  # type: ignore[index]
    except (TypeError, ValueError) as error:
        hint = f'--fail-if "{min(known)}<1"'
        raise UsageError(f"--fail-if {quoted(text)}: must be a metric, < or >, and a number", hint=hint) from error
    if metric not in known:
        raise UsageError(f"--fail-if {quoted(text)}: unknown metric", hint=did_you_mean(metric, known))
    return Condition(metric, comparison, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """The JSON document of ``serve-bench``: ``metrics`` has every number that ``--fail-if`` can name, null if unknown.

    ``simulated`` are the numbers of slots of a simulation. All else is of a server: what it is, what says where
    adapters were (``tiers_from``), every request with its tier, and for each adapter its failed requests.
    """

    schema: str = "lora_cli/serve-bench/2"
    version: str = __version__
    workload: Mapping[str, object]
    metrics: Mapping[str, float | None]
    simulated: Sequence[int] = ()
    server: Mapping[str, str] = field(default_factory=dict)
    tiers_from: str = ""
    failures: Mapping[str, str] = field(default_factory=dict)
    fail_if: Sequence[Condition] = ()
    requests: Sequence[Answer] = ()


def with_tiers(answers: Sequence[Answer], slots: int | None, memory: int | None) -> tuple[list[Answer], str]:
    """The answers in the order in which they were sent, each with the tier of its adapter; and how that is known.

    A server that names tiers is believed. For another one they are inferred as if it evicts the least recently used
    adapter from so many ``slots`` and places in ``memory`` (None: as many as slots), empty at the start. So does vLLM,
    and a request touches both (``vllm/lora/worker_manager.py`` and ``model_manager.py``, 0.32, read).
    Without either a first request is cold, and any other one warm. Who is sent while its adapter is being loaded waits
    for the same load, and is of the same tier. A failed request has none.
    """
    answers = sorted(answers, key=lambda one: one.sent_s)
    if any(one.tier for one in answers):
        return [replace(one, tier=TIER_OF.get(one.tier, "")) for one in answers], "the server names them"
    hot = slots or 0
    held = max(hot, memory or 0) or inf
    recent: list[str] = []
    loads: dict[str, tuple[float, str]] = {}  # when the adapter's last load had ended, and where from
    found = []
    for one in answers:
        if one.error:
            found.append(one)
            continue
        place = recent.index(one.adapter) if one.adapter in recent else inf
        tier = "hot" if place < hot else "warm" if place < held else "cold"
        ended_s, loading = loads.get(one.adapter, (-inf, ""))
        if one.sent_s <= ended_s:
            tier = loading
        if tier != "hot":
            loads[one.adapter] = min(ended_s if one.sent_s <= ended_s else inf, one.first_s), tier
        if place < inf:
            recent.remove(one.adapter)
        recent.insert(0, one.adapter)
        found.append(replace(one, tier=tier))
    if held == inf:
        return found, "inferred, the server names none: a first request is cold; --max-loras N tells hot from warm"
    return found, f"inferred, the server names none: least recently used of {hot} slots, {held} in memory"


def parse_goodput(text: str) -> dict[str, float]:
    """The most milliseconds of each measure: ``ttft:500,tpot:50``, with commas or spaces. Raises ``UsageError``."""
    found: dict[str, float] = {}
    for word in text.replace(",", " ").split():
        name, _, number = word.partition(":")
        if name not in MEASURES or not re.fullmatch(r"\d+(\.\d+)?", number):
            raise UsageError(
                f"--goodput {quoted(word)}: must be ttft, tpot or e2el, and milliseconds",
                hint="--goodput ttft:500,tpot:50",
            )
        found[name] = float(number)
    return found


def latency_ms(answer: Answer, measure: str) -> float | None:
    """Milliseconds of a whole answer; None for the time of a token after the first where there is none."""
    if measure == "tpot":
        return (answer.last_s - answer.first_s) / (answer.output_tokens - 1) * 1e3 if answer.output_tokens > 1 else None
    return ((answer.first_s if measure == "ttft" else answer.last_s) - answer.scheduled_s) * 1e3


def metrics_of(answers: Sequence[Answer], slo: Mapping[str, float]) -> dict[str, float | None]:
    """All metrics, under the names of ``vllm bench serve`` where it has them; those of a tier begin with its name.

    A failed request is infinitely slow in the percentiles of TTFT and E2EL, missed in goodput, and in no mean.
    """
    whole = [one for one in answers if not one.error]
    duration = max((one.last_s for one in whole), default=0.0)
    tokens_in, tokens_out = sum(one.prompt_tokens for one in whole), sum(one.output_tokens for one in whole)
    good = sum(all((latency_ms(one, name) or 0.0) <= most for name, most in slo.items()) for one in whole)
    steps = sorted([(one.sent_s, 1) for one in whole] + [(one.last_s, -1) for one in whole])

    def rate(number: float) -> float | None:
        return number / duration if duration else None

    found: dict[str, float | None] = {
        "completed": len(whole),
        "failed": len(answers) - len(whole),
        "duration": duration,
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "request_throughput": rate(len(whole)),
        "request_goodput": rate(good) if slo else None,
        "slo_attainment": good / len(answers) if slo and answers else None,
        "output_throughput": rate(tokens_out),
        "total_token_throughput": rate(tokens_in + tokens_out),
        "max_concurrent_requests": max(accumulate(step for _, step in steps), default=0),
    }
    found |= _latencies(answers, "")
    for tier in TIERS:
        own = [one for one in answers if one.tier == tier]
        found |= {f"{tier}_requests": len(own), **_latencies(own, f"{tier}_")}
    cold, other = found["cold_p50_ttft_ms"], found["warm_p50_ttft_ms"] or found["hot_p50_ttft_ms"]
    found["cold_penalty_ms"] = cold - other if cold is not None and other is not None else None
    found |= _summary([one.load_ms for one in answers if one.load_ms], "load")
    return found | _summary([one.late_s * 1e3 for one in answers], "late")


def _latencies(answers: Sequence[Answer], prefix: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for measure in MEASURES:
        values = [latency_ms(one, measure) for one in answers if not one.error]
        failed = sum(bool(one.error) for one in answers) if measure != "tpot" else 0
        summary = _summary([one for one in values if one is not None], measure, failed)
        found |= {f"{prefix}{name}": value for name, value in summary.items()}
    return found


def _summary(values: Sequence[float], name: str, failed: int = 0) -> dict[str, float | None]:
    """The mean and the percentiles by nearest rank; so many more values are infinite."""
    ordered = sorted(values) + [inf] * failed
    found: dict[str, float | None] = {f"mean_{name}_ms": fmean(values) if values else None}
    for percent in PERCENTILES:
        found[f"p{percent}_{name}_ms"] = ordered[ceil(percent * len(ordered) / 100) - 1] if ordered else None
    return found


def failures_of(answers: Sequence[Answer]) -> dict[str, str]:
    """For each adapter with failed requests how many they are, and the error of the first."""
    found: dict[str, list[str]] = {}
    for one in answers:
        if one.error:
            found.setdefault(one.adapter, []).append(one.error)
    return {name: f"{len(errors)} of its requests failed: {errors[0]}" for name, errors in found.items()}


POLL_S, STOP_S = 0.05, 15.0
PR_SET_PDEATHSIG = 1


@contextmanager
def own_server(argv: Sequence[str]) -> Iterator[Address]:
    """Run ``lora-cli warm ARGV --serve`` on a private Unix socket until the block ends; the address once it is ready.

    Raises:
        MissingExtra: it needs a package that is not installed.
        SystemExit: it ended with an error, which it has printed.
        MachineError: it ended otherwise.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtra("serve-bench of its own server", "models", package)
    with tempfile.TemporaryDirectory(prefix="lora-cli-bench-", ignore_cleanup_errors=True) as folder:
        socket, ready = Path(folder, "socket"), Path(folder, "ready")
        listen = ["--listen", f"unix:{socket}"]
        command = [sys.executable, "-m", "lora_cli", "warm", *argv, "--serve", *listen, "--ready-file", str(ready)]
        # Ctrl-C is for this process, which still needs the server for its report.
        with subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509
        ) as server:
            try:
                while not ready.exists():
                    if (code := server.poll()) is not None:
                        if code in ERRORS:
                            raise SystemExit(code)
                        raise MachineError(f"the server ended with {code} before it was ready")
                    time.sleep(POLL_S)
                yield Address(uds=socket)
            finally:
                server.terminate()
                try:
                    server.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    server.kill()


def _end_with_parent() -> None:
    """Have Linux stop this process when its parent ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
