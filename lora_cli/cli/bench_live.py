"""``serve-bench --url``: sends the workload to a running server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lora_cli.bench.live.load_generator import LoadTest, run_load
from lora_cli.bench.live.requests import PROMPTS, RequestResult, prepare_requests
from lora_cli.bench.live.result import (
    LiveRun,
    Slo,
    classify_tiers,
    failures_by_adapter,
    live_metric_names,
    live_report,
    parse_goodput,
)
from lora_cli.bench.live.target import Target, find_target, find_vocabulary, max_loras_of
from lora_cli.bench.report import BenchReport, LiveReport, describe_run, run_environment
from lora_cli.bench.trace import Trace
from lora_cli.cli.bench_options import BenchOptions, Workload, parse_workload, save_trace
from lora_cli.cli.bench_results import Failures, report_writer, request_counter
from lora_cli.cli.output import inform, to_stderr
from lora_cli.endpoint.address import parse_address
from lora_cli.errors import INTERRUPTED, EndpointError, UsageError
from lora_cli.settings import Settings
from lora_cli.text import counted

REQUESTS = 200
OWN_SERVER_URL = "warm --serve --forward model"
"""Reported instead of the temporary address of a server that serve-bench started."""


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
    trace: Trace
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
    save_trace(plan.trace, options.save_trace)
    inform(_announcement(plan), settings)
    results: list[RequestResult] = []
    interrupted = _send(plan, results, settings)
    report = _report(plan, results, facts, {name: one.message for name, one in failures.items()})
    codes = [conclude(report), *(one.exit_code for one in failures.values())]
    for name, error in failures.items():
        to_stderr(f"error: {name}: {error.message}")
    if failed := failures_by_adapter(results):
        name, (_, why) = next(iter(failed.items()))
        more = f", of {len(failed)} models" if len(failed) > 1 else ""
        to_stderr(
            f"error: {sum(count for count, _ in failed.values())} requests failed{more}; the first of {name}: {why}"
        )
        codes.append(EndpointError.exit_code)
    if isinstance(report.result, LiveReport) and report.result.late:
        to_stderr("warning: the load generator lagged; see lateness")
    if interrupted:
        to_stderr(f"interrupted after {report.run.num_prompts} of {len(plan.trace)} requests")
        return INTERRUPTED
    return max(codes)


def _parse_plan(options: BenchOptions, workload: Workload, *, ours: bool) -> LivePlan:
    assert options.url is not None
    if options.prompts not in PROMPTS:
        raise UsageError(f"--prompts must be ids or text, not {options.prompts[:60]}")
    slo = parse_goodput(options.goodput or [])
    names = [name for text in options.lora_modules or () for name in text.split(",") if name] or list(workload.names)
    target = find_target(parse_address(options.url), options.api_key.strip(), names)
    trace = workload.trace_for(names or list(target.models), REQUESTS)
    vocabulary = find_vocabulary(target, next(iter(trace)))
    closed = ours and not trace.timed
    options = replace(options, max_concurrency=options.max_concurrency or 1) if closed else options
    return LivePlan(options, workload, closed, slo, trace, target, vocabulary)


def _announcement(plan: LivePlan) -> str:
    """A line about the requests that will be sent, and their pace."""
    trace, most = plan.trace, plan.options.max_concurrency
    if plan.closed:
        pace = "one at a time" if most == 1 else f"{most} in flight"
    elif not trace.timed:
        pace = "all at once"
    elif plan.options.trace is not None:
        pace = "at the times of the trace"
    else:
        pace = f"at {plan.options.request_rate} per second"
    limit = f", at most {most} in flight" if most and not plan.closed else ""
    return f"sending {counted(len(trace), 'request')}, {pace}{limit}"


def _send(plan: LivePlan, results: list[RequestResult], settings: Settings) -> bool:
    """Sends the requests; whether the user interrupted. The requests until then are a run, too."""
    target, options = plan.target, plan.options
    requests = prepare_requests(plan.trace, target.models, options.seed, plan.vocabulary, options.prompts)
    load = LoadTest(target.address, target.token, requests, options.max_concurrency, plan.closed)
    try:
        run_load(load, results, request_counter(len(requests), settings))
    except KeyboardInterrupt:
        return True
    return False


def _report(
    plan: LivePlan, results: Sequence[RequestResult], own: Mapping[str, str] | None, refused: Mapping[str, str]
) -> BenchReport:
    target, options, workload = plan.target, plan.options, plan.workload
    words = workload.summary() | {"prompts": options.prompts}
    words |= {"goodput": " ".join(f"{name}:{most:g}" for name, most in plan.slo.items())} if plan.slo else {}
    words |= {"max_concurrency": str(options.max_concurrency)} if options.max_concurrency else {}
    words |= {"loop": "closed loop"} if plan.closed else {}
    url = str(target.address) if own is None else OWN_SERVER_URL
    facts = run_environment(url=url, base=target.base, **target.facts, **(own or {}))
    run, setting = describe_run(
        "live", plan.trace, options.seed, words, facts, workload.request_rate, workload.traffic.burstiness
    )
    run = replace(run, max_concurrency=options.max_concurrency)
    kinds, tiers_from = classify_tiers(results, max_loras_of(target))
    live = LiveRun(results, kinds, tiers_from, plan.trace.timed)
    return live_report(run, setting, target.base, plan.slo, live, refused)
