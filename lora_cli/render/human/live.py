"""What ``serve-bench --url`` prints: latency by where requests found their adapter, and what else was measured."""

from collections.abc import Iterator, Sequence

from lora_cli.bench.live.numbers import LATE_MS
from lora_cli.bench.live.result import LiveRun
from lora_cli.bench.live.tiers import KINDS, SERVER
from lora_cli.bench.outcome import SHARES
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.core.text import milliseconds, safe
from lora_cli.render.human.plots import distribution
from lora_cli.render.human.simulation import work_facts
from lora_cli.render.text import columns, paint, pairs, wrap

HEADER = ("ms", "requests", "ttft p50", "p99", "tpot p50", "e2el p50", "p99")
COLUMNS = ("ttft_p50", "ttft_p99", "tpot_p50", "e2el_p50", "e2el_p99")
PLACES = {"hot": "in a slot", "warm": "in memory", "cold": "on disk or elsewhere"}
INFERRED = {
    "hot": "asked for lately: among the last as many adapters as there are slots",
    "warm": "not asked for so lately",
    "cold": "sent before its adapter had answered any request",
    "later": "sent after that; its adapter may have been unloaded since",
}
WORST = 5
"""So many adapters are named, the slowest first."""


def render_live(run: LiveRun, width: int, *, colour: bool = False) -> str:
    """A table by tier with the 95 % intervals, curves, facts, the slowest adapters, failures and what words mean."""
    header, *table = columns(HEADER, rows(run))
    lines = [paint(header, "bold", colour=colour), *table, ""]
    if plot := distribution(curves(run), SHARES, width):
        lines += [paint("% of requests whose first token comes within", "bold", colour=colour), *plot, ""]
    lines += pairs(facts(run), width, indent="")
    for name, why in run.failures.items():
        lines += ["", *wrap(f"{safe(name)}: {safe(why)}", width, "  ", "")]
    lines += ["", *pairs(terms(run), width, indent="")]
    return "\n".join(lines) + "\n"


def rows(run: LiveRun) -> list[tuple[object, ...]]:
    """The cells of all requests, of each kind that there was and of the base, in the order of the header."""
    metrics, found = run.metrics, []
    for kind in KINDS:
        if number := int(metrics.get(f"{kind}_requests") or 0):
            mark = "" if run.tiers_from == SERVER else " (inferred)"
            found.append((f"{kind}{mark}", number, *(value(run, f"{kind}_{name}_ms") for name in COLUMNS)))
    number = int((metrics.get("completed") or 0) + (metrics.get("failed") or 0))
    found.append(("all", number, *(value(run, f"{name}_ms") for name in COLUMNS)))
    if any(one.control is not None for one in run.runs):
        asked = sum(len(one.control or ()) for one in run.runs)
        found.append(("base alone", asked, *(value(run, f"control_{name}_ms") for name in COLUMNS)))
    return found


def value(run: LiveRun, name: str) -> str:
    """A metric and half the width of its interval, as far as they are known."""
    number, half = run.metrics.get(name), run.interval.get(name)
    if number is None:
        return "-"
    sign = "-" if number < 0 else ""
    return sign + milliseconds(abs(number)) + (f"±{milliseconds(half)}" if half is not None else "")


def curves(run: LiveRun) -> dict[str, list[float]]:
    """Milliseconds to the first token at each of ``SHARES``, by kind, of what did not fail."""
    found: dict[str, list[float]] = {}
    for one in run.runs:
        for answer, kind in zip(one.course.answers, one.kinds, strict=True):
            if not answer.error and kind:
                found.setdefault(kind, []).append(answer.ttft_s * 1e3)
        for answer in one.control or ():
            if not answer.error:
                found.setdefault("base", []).append(answer.ttft_s * 1e3)
    ordered = {kind: sorted(found[kind]) for kind in (*KINDS, "base") if kind in found}
    return {kind: [nearest_rank(values, share) for share in SHARES] for kind, values in ordered.items()}


def facts(run: LiveRun) -> Iterator[tuple[str, object]]:
    """What was measured, as labelled values."""
    metrics = run.metrics
    yield from work_facts(run.setting)
    yield "seeds", f"{', '.join(str(one.seed) for one in run.runs)}; ± is the 95 % interval over them (Student's t)"
    yield "tiers", "as the server says" if run.tiers_from == SERVER else "inferred: by who was asked for first"
    yield from _throughput(run)
    if run.slo:
        yield "goodput", _goodput(run)
    yield from _costs(run)
    late = metrics.get("lateness_p99_ms")
    if late is not None:
        word = f"LATE: above {LATE_MS:g} ms, the run is not to be trusted: " if run.is_late else ""
        yield (
            "lateness",
            f"{word}p50 {_ms(metrics['lateness_p50_ms'])}, p99 {_ms(late)}, max {_ms(metrics['lateness_max_ms'])} ms",
        )
    yield "slowest", ", ".join(f"{safe(name)} {_ms(p99)} ms" for name, p99 in slowest(run))


def terms(run: LiveRun) -> Iterator[tuple[str, object]]:
    """What the words mean that occur above; the JSON defines all of its numbers."""
    metrics = run.metrics
    yield "ttft, e2el", "from when a request was to be sent to the first and to the last piece of its answer"
    yield "tpot", "from the first piece to the last, by the tokens after the first"
    if run.tiers_from == SERVER:
        kinds = [kind for kind in PLACES if metrics.get(f"{kind}_requests")]
        yield ", ".join(kinds), f"its adapter was {', '.join(PLACES[kind] for kind in kinds)}"
    else:
        yield from ((kind, word) for kind, word in INFERRED.items() if metrics.get(f"{kind}_requests"))
    if metrics.get("failed"):
        yield "failures", "infinitely slow in percentiles, and missed in goodput"
    if run.slo:
        yield "adapters do", "99 % of an adapter's requests keep it"
    if metrics.get("stalled_others_ms") is not None:
        yield "others stall", "the median probe while another adapter was loaded, less that of all others"
    if run.is_late:
        yield "lateness", "by how much the generator was late to wake up for a request"


def slowest(run: LiveRun) -> Sequence[tuple[str, float]]:
    """The adapters with the highest p99 of ttft."""
    known = [(name, numbers["ttft_p99_ms"]) for name, numbers in run.adapters.items()]
    ordered = sorted(((name, p99) for name, p99 in known if p99 is not None), key=lambda one: -one[1])
    return ordered[:WORST]


def _throughput(run: LiveRun) -> Iterator[tuple[str, object]]:
    rate, tokens = run.metrics.get("request_throughput"), run.metrics.get("output_throughput")
    if rate is not None and tokens is not None:
        at_once = run.metrics.get("max_concurrent_requests") or 0
        yield "throughput", f"{rate:.1f} requests/s, {tokens:.0f} tokens/s out, at most {at_once:.0f} at once"


def _goodput(run: LiveRun) -> str:
    limits = " ".join(f"{name}:{most:g}" for name, most in run.slo.items())
    kept, adapters = run.metrics.get("slo_attainment"), run.metrics.get("adapters_slo_attainment")
    if kept is None or adapters is None:
        return limits
    rate = run.metrics.get("request_goodput") or 0.0
    return f"{kept:.1%} of requests keep {limits}, {rate:.1f} a second; {adapters:.1%} of adapters do"


def _costs(run: LiveRun) -> Iterator[tuple[str, object]]:
    metrics = run.metrics
    if metrics.get("cold_penalty_ms") is not None:
        yield "cold costs", f"{value(run, 'cold_penalty_ms')} ms to the first token"
    if metrics.get("load_p50_ms") is not None:
        yield "loads", f"p50 {value(run, 'load_p50_ms')} ms, p99 {value(run, 'load_p99_ms')} ms, as the server says"
    if metrics.get("probe_quiet_p50_ms") is not None or metrics.get("probe_loading_p50_ms") is not None:
        beside, apart = value(run, "probe_loading_p50_ms"), value(run, "probe_quiet_p50_ms")
        yield (
            "others stall",
            f"{value(run, 'stalled_others_ms')} ms: a probe takes {beside} beside a load, else {apart}",
        )
    ratios = [
        f"{what} {ratio:.2f}"
        for what in ("ttft", "tpot", "e2el")
        if (ratio := metrics.get(f"control_ratio_{what}_p50")) is not None
    ]
    if ratios:
        yield "to the base", f"{', '.join(ratios)} times its median"


def _ms(number: float | None) -> str:
    return "-" if number is None else milliseconds(number)
