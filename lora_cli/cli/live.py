"""``serve-bench --url``: requests at their times to a server that runs, for each seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lora_cli.bench.live.answer import Course
from lora_cli.bench.live.ask import PROMPTS, Ask, asks, body_of
from lora_cli.bench.live.goodput import Slo, parse_goodput
from lora_cli.bench.live.load import Probing, run_load
from lora_cli.bench.live.numbers import Run, live_names
from lora_cli.bench.live.result import errors, live_report
from lora_cli.bench.live.target import Target, find_target, find_vocabulary, slots_of
from lora_cli.bench.live.tiers import kinds
from lora_cli.bench.report import BenchReport, LiveReport, run_of
from lora_cli.bench.run import environment
from lora_cli.bench.trace import Trace
from lora_cli.bench.traffic import parse_rate
from lora_cli.cli.bench_options import LiveFlags, ResultFlags, WorkloadFlags
from lora_cli.cli.bench_results import conclude, wanted_of
from lora_cli.cli.bench_workload import Workload, save_trace, workload_of
from lora_cli.cli.main import INTERRUPTED
from lora_cli.cli.measuring import counter
from lora_cli.cli.output import to_stderr
from lora_cli.cli.servable import Failures
from lora_cli.core.text import counted
from lora_cli.endpoint.address import parse_address
from lora_cli.errors import EndpointError, UsageError
from lora_cli.settings import Settings

REQUESTS, SEEDS = 200, 3
OWN = "warm --serve --forward model"
"""What stands for the address of a server of our own, which is a temporary one."""

PROBE = tuple(range(3, 11))
"""A short prompt of token ids that every vocabulary has."""


@dataclass(frozen=True, slots=True)
class OwnServer:
    """What is known of a server that we started to be measured, and the adapters that it was spared."""

    facts: Mapping[str, str]
    failures: Failures


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was asked for, read and checked before the first request.

    ``closed`` is whether so many clients as ``--max-concurrency`` says each wait for their answer: requests without
    times to a server of our own, which one client alone asks where nobody says how many.
    """

    flags: LiveFlags
    closed: bool
    slo: Slo
    probes_a_second: float | None
    traces: Mapping[int, Trace]
    target: Target
    vocabulary: int


def live(
    flags: LiveFlags,
    workload: WorkloadFlags,
    wanted: ResultFlags,
    settings: Settings,
    ours: OwnServer | None = None,
) -> int:
    """Measure the server and tell it; the exit code. It is ``ours`` where we started it for this.

    Raises:
        UsageError: what is asked for is wrong.
        EndpointError: nobody answers there, or it serves other adapters.
    """
    checked, asked = wanted_of(wanted, live_names(), quiet=settings.quiet), workload_of(workload)
    plan = _plan(flags, asked, ours=ours is not None)
    if wanted.save_trace is not None:
        save_trace(plan.traces[workload.seed], wanted.save_trace)
    if not settings.quiet:
        to_stderr(_announced(plan, asked))
    runs, interrupted = _runs(plan, asked, settings)
    report = _report(plan, asked, runs, ours)
    code = conclude(report, plan.traces, checked)
    refused, failed = ours.failures.reasons if ours is not None else {}, errors(runs, plan.target.base)
    for line in _failures(refused, failed):
        to_stderr(line)
    if failed:
        code = EndpointError.exit_code
    if ours is not None:
        code = max(code, ours.failures.code)
    if isinstance(report.result, LiveReport) and report.result.late:
        to_stderr("warning: the generator was late; see lateness")
    if interrupted:
        sent, of = sum(len(run.course.answers) for run in runs), sum(map(len, plan.traces.values()))
        to_stderr(f"interrupted after {sent} of {of} requests")
        return INTERRUPTED
    return code


def _plan(flags: LiveFlags, asked: Workload, *, ours: bool) -> Plan:
    assert flags.url is not None
    if flags.prompts not in PROMPTS:
        raise UsageError(f"--prompts is ids or text, not {flags.prompts[:60]}")
    slo = parse_goodput(flags.goodput or [])
    rate = parse_rate(flags.probe_request_rate, "--probe-request-rate") if flags.probe_request_rate else None
    if rate is None and flags.probe_adapter is not None:
        raise UsageError("--probe-adapter is for --probe-request-rate", hint="--probe-request-rate 5")
    if rate is not None and rate > 1000:
        raise UsageError("--probe-request-rate is at most 1000", hint="--probe-request-rate 5")
    names = [name for text in flags.lora_modules or () for name in text.split(",") if name] or list(asked.names)
    more = [flags.probe_adapter] if flags.probe_adapter is not None and names else []
    target = find_target(parse_address(flags.url), flags.api_key.strip(), [*names, *more])
    names = names or list(target.models)
    if flags.control and not target.base:
        raise EndpointError(f"{target.address} lists no base, which --control is about", hint="leave --control out")
    if flags.probe_adapter is not None and flags.probe_adapter not in target.models:
        raise EndpointError(f"{target.address} serves no model {flags.probe_adapter!r}", hint="see /v1/models")
    seeds = range(asked.flags.seed, asked.flags.seed + (flags.num_seeds or SEEDS))
    traces = {seed: replace(asked, flags=replace(asked.flags, seed=seed)).over(names, REQUESTS) for seed in seeds}
    vocabulary = find_vocabulary(target, next(iter(traces[asked.flags.seed])))
    closed = ours and not any(trace.timed for trace in traces.values())
    flags = replace(flags, max_concurrency=flags.max_concurrency or 1) if closed else flags
    return Plan(flags, closed, slo, rate, traces, target, vocabulary)


def _announced(plan: Plan, asked: Workload) -> str:
    """What will be sent, and when."""
    first, most = next(iter(plan.traces.values())), plan.flags.max_concurrency
    if plan.closed:
        pace = "one after the other" if most == 1 else f"{most} under way all the time"
    elif not first.timed:
        pace = "all at once"
    elif asked.flags.trace is not None:
        pace = "at the times of the trace"
    else:
        pace = (
            f"at {asked.flags.request_rate} a second" if asked.ramp is None else f"at a rate of {asked.ramp} a second"
        )
    held = f", at most {most} under way" if most and not plan.closed else ""
    base = ", and the same to the base" if plan.flags.control else ""
    return f"sending {len(plan.traces)} x {counted(len(first), 'request')}, {pace}{held}{base}"


def _runs(plan: Plan, asked: Workload, settings: Settings) -> tuple[list[Run], bool]:
    """Each seed's run, and whether they were interrupted; what there was until then is a run, too."""
    runs: list[Run] = []
    used: set[str] = set()
    slots: int | None = None
    tell = counter(sum(map(len, plan.traces.values())) * (2 if plan.flags.control else 1), settings)
    done = 0
    for seed, trace in plan.traces.items():
        course, control = Course(), Course()
        interrupted = False
        try:
            _run_one(plan, trace, seed, course, control, partial(_add, tell, done))
        except KeyboardInterrupt:
            interrupted = True
        slots = slots_of(plan.target) if slots is None else slots
        found, tiers_from = kinds(course.answers, used, slots)
        done += len(course.answers) + len(control.answers)
        runs.append(Run(seed, course, found, tiers_from, trace.timed, control.answers if plan.flags.control else None))
        if interrupted:
            return runs, True
    return runs, False


def _run_one(plan: Plan, trace: Trace, seed: int, course: Course, control: Course, tell: Callable[[int], None]) -> None:
    target = plan.target
    load = asks(trace, target.models, seed, plan.vocabulary, plan.flags.prompts)
    probing = _probing(plan, trace)
    most, closed = plan.flags.max_concurrency, plan.closed
    send = partial(run_load, target.address, target.token, max_concurrency=most, closed=closed)
    if probing is not None:
        # Whom a probe asks for is there before the load begins: its own load stalls nobody.
        send([probing.ask], Course())
    send(load, course, probing=probing, told=tell)
    if plan.flags.control:
        base = dict.fromkeys(target.models, target.base)
        send(
            asks(trace, base, seed, plan.vocabulary, plan.flags.prompts),
            control,
            told=lambda done: tell(len(load) + done),
        )


def _probing(plan: Plan, trace: Trace) -> Probing | None:
    if plan.probes_a_second is None:
        return None
    name = plan.flags.probe_adapter or trace.names[0]
    return Probing(Ask(0.0, name, body_of(plan.target.models[name], list(PROBE), 1)), 1 / plan.probes_a_second)


def _report(plan: Plan, asked: Workload, runs: Sequence[Run], ours: OwnServer | None) -> BenchReport:
    target, flags = plan.target, plan.flags
    first = next(iter(plan.traces.values()))
    words = asked.words() | {"prompts": flags.prompts}
    words |= {"goodput": " ".join(f"{name}:{most:g}" for name, most in plan.slo.items())} if plan.slo else {}
    words |= {"max_concurrency": str(flags.max_concurrency)} if flags.max_concurrency else {}
    words |= {"loop": "closed, the next when one is answered"} if plan.closed else {}
    rate = asked.request_rate if asked.flags.trace is None and asked.ramp is None else None
    url = str(target.address) if ours is None else OWN
    facts = environment(url=url, base=target.base, **target.facts, **(ours.facts if ours else {}))
    run, setting = run_of("live", first, asked.flags.seed, words, facts, rate, asked.burstiness)
    run = replace(run, max_concurrency=flags.max_concurrency)
    return live_report(run, setting, target.base, plan.slo, runs, ours.failures.reasons if ours else {})


def _failures(refused: Mapping[str, str], failed: Mapping[str, tuple[int, str]]) -> list[str]:
    """One line for all that failed: how many, and what was said of the first."""
    lines = [f"error: {name}: {why}" for name, why in refused.items()]
    if not failed:
        return lines
    count = sum(number for number, _ in failed.values())
    name, (_, why) = next(iter(failed.items()))
    more = f", of {len(failed)} models" if len(failed) > 1 else ""
    return [*lines, f"error: {count} requests failed{more}; the first of {name}: {why}"]


def _add(tell: Callable[[int], None], before: int, done: int) -> None:
    tell(before + done)
