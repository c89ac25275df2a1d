"""``serve-bench --url``: sends the workload of each seed to a running server."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lora_cli.bench.live.load_generator import LoadTest, run_load
from lora_cli.bench.live.requests import PROMPTS, LoadResults, PreparedRequest, completion_body, prepare_requests
from lora_cli.bench.live.result import (
    SeedRun,
    Slo,
    classify_tiers,
    failures_by_model,
    live_metric_names,
    live_report,
    parse_goodput,
)
from lora_cli.bench.live.target import Target, find_target, find_vocabulary, max_loras_of
from lora_cli.bench.measured_run import run_environment
from lora_cli.bench.report import BenchReport, LiveReport, describe_run
from lora_cli.bench.trace import Trace
from lora_cli.bench.workload import parse_rate
from lora_cli.cli.bench_options import BenchOptions, Workload, parse_workload, save_trace
from lora_cli.cli.bench_results import Failures, report_writer, request_counter
from lora_cli.cli.output import inform, to_stderr
from lora_cli.core.text import counted
from lora_cli.endpoint.address import parse_address
from lora_cli.errors import INTERRUPTED, EndpointError, UsageError
from lora_cli.settings import Settings

REQUESTS, SEEDS = 200, 3
OWN_SERVER_URL = "warm --serve --forward model"
"""Reported instead of the temporary address of a server that serve-bench started."""

PROBE = tuple(range(3, 11))
"""A short prompt of token ids that are in every vocabulary."""


@dataclass(frozen=True, slots=True)
class LivePlan:
    """All options, parsed and checked before the first request.

    ``closed``: a closed loop of ``--max-concurrency`` clients (default: 1). It is used for requests without times to a
    server that serve-bench started.
    """

    options: BenchOptions
    workload: Workload
    closed: bool
    slo: Slo
    probes_a_second: float | None
    traces: Mapping[int, Trace]
    target: Target
    vocabulary: int


def measure_server(
    settings: Settings, options: BenchOptions, facts: Mapping[str, str] | None = None, failures: Failures | None = None
) -> int:
    """Measures the server, reports the result, and returns the exit code.

    For a server that serve-bench started, ``facts`` describe it, and it cannot serve the adapters in ``failures``.

    Raises:
        UsageError: an option is invalid.
        EndpointError: the server does not respond, or does not serve the adapters.
    """
    failures = failures or {}
    conclude, workload = report_writer(options, live_metric_names()), parse_workload(options)
    plan = _parse_plan(options, workload, ours=facts is not None)
    save_trace(plan.traces[options.seed], options.save_trace)
    inform(_announcement(plan), settings)
    runs, interrupted = _run_all_seeds(plan, settings)
    report = _report(plan, runs, facts, {name: one.message for name, one in failures.items()})
    codes = [conclude(report, plan.traces), *(one.exit_code for one in failures.values())]
    for name, error in failures.items():
        to_stderr(f"error: {name}: {error.message}")
    if failed := failures_by_model(runs, plan.target.base):
        name, (_, why) = next(iter(failed.items()))
        more = f", of {len(failed)} models" if len(failed) > 1 else ""
        to_stderr(
            f"error: {sum(count for count, _ in failed.values())} requests failed{more}; the first of {name}: {why}"
        )
        codes.append(EndpointError.exit_code)
    if isinstance(report.result, LiveReport) and report.result.late:
        to_stderr("warning: the load generator lagged; see lateness")
    if interrupted:
        to_stderr(f"interrupted after {report.run.num_prompts} of {sum(map(len, plan.traces.values()))} requests")
        return INTERRUPTED
    return max(codes)


def _parse_plan(options: BenchOptions, workload: Workload, *, ours: bool) -> LivePlan:
    assert options.url is not None
    if options.prompts not in PROMPTS:
        raise UsageError(f"--prompts must be ids or text, not {options.prompts[:60]}")
    slo, probe = parse_goodput(options.goodput or []), options.probe_adapter
    rate = parse_rate(options.probe_request_rate, "--probe-request-rate") if options.probe_request_rate else None
    if rate is None:
        options.refuse(("probe_adapter",), "only for --probe-request-rate", "--probe-request-rate 5")
    elif rate > 1000:
        raise UsageError("--probe-request-rate must be at most 1000", hint="--probe-request-rate 5")
    names = [name for text in options.lora_modules or () for name in text.split(",") if name] or list(workload.names)
    more = [probe] if probe is not None and names else []
    target = find_target(parse_address(options.url), options.api_key.strip(), [*names, *more])
    names = names or list(target.models)
    if options.control and not target.base:
        raise EndpointError(f"{target.address} lists no base model, which --control needs", hint="remove --control")
    if probe is not None and probe not in target.models:
        raise EndpointError(f"{target.address} serves no model {probe!r}", hint="see /v1/models")
    seeds = range(options.seed, options.seed + (options.num_seeds or SEEDS))
    traces = {seed: workload.trace_for(names, REQUESTS, seed) for seed in seeds}
    vocabulary = find_vocabulary(target, next(iter(traces[options.seed])))
    closed = ours and not any(trace.timed for trace in traces.values())
    options = replace(options, max_concurrency=options.max_concurrency or 1) if closed else options
    return LivePlan(options, workload, closed, slo, rate, traces, target, vocabulary)


def _announcement(plan: LivePlan) -> str:
    """A line about the requests that will be sent, and their pace."""
    first, most, ramp = next(iter(plan.traces.values())), plan.options.max_concurrency, plan.workload.traffic.ramp
    if plan.closed:
        pace = "one at a time" if most == 1 else f"{most} in flight"
    elif not first.timed:
        pace = "all at once"
    elif plan.options.trace is not None:
        pace = "at the times of the trace"
    else:
        pace = f"at {plan.options.request_rate} per second" if ramp is None else f"at {ramp} per second"
    limit = f", at most {most} in flight" if most and not plan.closed else ""
    base = ", and the same to the base model" if plan.options.control else ""
    return f"sending {len(plan.traces)} x {counted(len(first), 'request')}, {pace}{limit}{base}"


def _run_all_seeds(plan: LivePlan, settings: Settings) -> tuple[list[SeedRun], bool]:
    """The run of each seed, and whether the user interrupted; the requests until then are a run, too."""
    runs: list[SeedRun] = []
    used: set[str] = set()
    slots: int | None = None
    tell = request_counter(sum(map(len, plan.traces.values())) * (2 if plan.options.control else 1), settings)
    done = 0
    for seed, trace in plan.traces.items():
        course, control = LoadResults(), LoadResults()
        interrupted = False
        try:
            _run_seed(plan, seed, course, control, tell, done)
        except KeyboardInterrupt:
            interrupted = True
        slots = max_loras_of(plan.target) if slots is None else slots
        found, tiers_from = classify_tiers(course.requests, used, slots)
        done += len(course.requests) + len(control.requests)
        of_base = control.requests if plan.options.control else None
        runs.append(SeedRun(seed, course, found, tiers_from, trace.timed, of_base))
        if interrupted:
            return runs, True
    return runs, False


def _run_seed(
    plan: LivePlan, seed: int, course: LoadResults, control: LoadResults, tell: Callable[[int], None], before: int
) -> None:
    """Sends the requests of one seed, then with --control to the base; ``before``: requests of earlier seeds."""
    target, trace, most = plan.target, plan.traces[seed], plan.options.max_concurrency
    requests_of = partial(prepare_requests, trace, seed=seed, vocabulary=plan.vocabulary, prompts=plan.options.prompts)
    load = partial(LoadTest, target.address, target.token, max_concurrency=most, closed=plan.closed)
    probed = load
    if plan.probes_a_second is not None:
        name = plan.options.probe_adapter or trace.names[0]
        probe = PreparedRequest(0.0, name, completion_body(target.models[name], list(PROBE), 1))
        # The adapter of the probes is loaded before the measurement, so that its load does not delay requests.
        run_load(load([probe]), LoadResults())
        probed = partial(load, probe=probe, probe_every_s=1 / plan.probes_a_second)
    run_load(probed(requests_of(target.models)), course, lambda done: tell(before + done))
    if plan.options.control:
        of_base = requests_of(dict.fromkeys(target.models, target.base))
        run_load(load(of_base), control, lambda done: tell(before + len(trace) + done))


def _report(
    plan: LivePlan,
    runs: Sequence[SeedRun],
    own: Mapping[str, str] | None,
    refused: Mapping[str, str],
) -> BenchReport:
    target, options, workload = plan.target, plan.options, plan.workload
    words = workload.summary() | {"prompts": options.prompts}
    words |= {"goodput": " ".join(f"{name}:{most:g}" for name, most in plan.slo.items())} if plan.slo else {}
    words |= {"max_concurrency": str(options.max_concurrency)} if options.max_concurrency else {}
    words |= {"loop": "closed loop"} if plan.closed else {}
    url = str(target.address) if own is None else OWN_SERVER_URL
    facts = run_environment(url=url, base=target.base, **target.facts, **(own or {}))
    trace = plan.traces[options.seed]
    run, setting = describe_run(
        "live", trace, options.seed, words, facts, workload.request_rate, workload.traffic.burstiness
    )
    run = replace(run, max_concurrency=options.max_concurrency)
    return live_report(run, setting, target.base, plan.slo, runs, refused)
