"""``lora-cli serve-bench``: measures adapters at a server, or simulates the slots that a set of them needs."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from lora_cli import parse
from lora_cli.bench.client import Answer, Load, find_target, run_load, warm_up
from lora_cli.bench.measure import (
    BenchReport,
    failures_of,
    metrics_of,
    own_server,
    parse_condition,
    parse_goodput,
    with_tiers,
)
from lora_cli.bench.simulate import metric_names
from lora_cli.bench.simulate import simulate as simulated_hits
from lora_cli.bench.workload import (
    Request,
    Workload,
    make_requests,
    parse_popularity,
    parse_range,
    parse_rate,
    read_trace,
)
from lora_cli.cli import options
from lora_cli.cli.options import option, origin_of, outputs, parse_outputs
from lora_cli.cli.output import inform, to_stderr, write, write_result
from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
from lora_cli.errors import INTERRUPTED, EndpointError, Refused, UsageError
from lora_cli.inputs import check_max_cpu_loras, read_inputs
from lora_cli.reports.bench import human, render_report
from lora_cli.settings import API_KEY, Settings
from lora_cli.text import counted, quoted
from lora_cli.text import names as listed

EXAMPLES = (
    "lora-cli serve-bench sql chat --url http://host:8000 --request-rate 20",
    "lora-cli serve-bench ./sql ./chat --fail-if 'hot_p99_ttft_ms>500'",
    "lora-cli serve-bench --simulate --num-adapters 500 --max-loras 8,16,32",
)
FORMATS = ("human", "json", "html")
PROMPTS, SIMULATED_PROMPTS = 200, 20_000
ADAPTERS, SLOTS = 500, "8,16,32"
NOT_WITH: Mapping[str, Sequence[str]] = {
    "simulate": ("url", "base", "max_concurrency", "goodput", "request_rate", "input_len", "output_len"),
    "url": ("base",),
    "trace": ("popularity", "num_adapters", "request_rate", "input_len", "output_len"),
    "base": ("num_adapters",),
}
"""Options that would have no effect together."""
WORKLOAD = (
    "request_rate", "input_len", "output_len", "max_concurrency", "trace", "goodput", "max_loras", "max_cpu_loras",
)  # fmt: skip
"""Options that a report has where they are given."""

what = partial(option, panel="What to measure")
workload = partial(option, panel="Workload")
slot = partial(option, panel="Slots and memory")
Drawn = Callable[[Sequence[str]], Sequence[Request]]


def command(
    ctx: typer.Context,
    refs: list[str] | None = typer.Argument(
        None, metavar="REF...", help="Adapters, as for warm; with --url, --simulate or --manifest their names."
    ),
    manifest: options.Manifest = None,
    base: options.Base = "",
    url: str | None = what("--url URL", "Measure this server: http://HOST:PORT or unix:PATH."),
    simulate: bool = what("--simulate", "Simulate the hits of slots: no server, no times."),
    num_adapters: int | None = workload(
        "--num-adapters", "The first N of the server (default: all); with --simulate N names (500).", min=1
    ),
    num_prompts: int | None = workload("--num-prompts", "Number of requests (default: 200; simulated: 20000).", min=1),
    popularity: str = workload("--popularity MODEL", "Of the adapters: zipf:S or uniform.", "zipf:1.0"),
    request_rate: str | None = workload(
        "--request-rate PER_SECOND", "Requests per second, inf for all at once; without it the loop is closed."
    ),
    max_concurrency: int | None = workload(
        "--max-concurrency", "Most concurrent requests; in a closed loop the number of clients (default: 1).", min=1
    ),
    input_len: str = workload("--input-len N|LOW-HIGH", "Prompt tokens.", "128"),
    output_len: str = workload("--output-len N|LOW-HIGH", "Output tokens.", "16"),
    seed: int = workload("--seed N", "Random seed of the workload.", 0),
    trace: Path | None = workload("--trace FILE", "Replay these requests: JSON lines.", path_type=Path),
    max_loras: str | None = slot(
        "--max-loras N[,N...]", "Slots of the server; with --simulate several numbers (default: 8,16,32)."
    ),
    max_cpu_loras: int | None = slot("--max-cpu-loras", "Number of adapters in memory.", min=1),
    goodput: str | None = outputs("--goodput MEASURE:MS,...", "SLOs of a good request: ttft:500,tpot:50,e2el:9000."),
    fail_if: list[str] | None = outputs(
        "--fail-if CONDITION", 'Exit with 1 if "cold_p99_ttft_ms>500" or not measured; may be repeated.'
    ),
    formats: list[str] | None = outputs(
        "--format FORMAT[=FILE]", "human (default), json or html; may be repeated, each with its file."
    ),
) -> None:
    """Measure adapters at a server: cold, warm and hot; or simulate how many slots they need.

    With --url a running server is measured, else one that is started with the adapters and stopped again. With
    --simulate the hits of lru, lfu and Belady are compared for each number of slots.
    """
    if not (url or simulate or refs or manifest):
        hint = "name adapters, or a server with --url; --simulate needs neither"
        raise UsageError("there is nothing to measure", hint=hint)
    given = [name for name in ctx.params if origin_of(ctx, name) == "COMMANDLINE"]
    if pairs := [(other, name) for name in given for other in NOT_WITH.get(name, ()) if other in given]:
        flags = " and ".join(f"--{one.replace('_', '-')}" for one in pairs[0])
        raise UsageError(f"{flags} cannot be used together", hint="remove one of them")
    written, slots = parse_outputs(formats, FORMATS), _numbers(max_loras or (SLOTS if simulate else ""))
    check_max_cpu_loras(max_cpu_loras, max(slots, default=None))
    if len(slots) > 1 and not simulate:
        raise UsageError(f"--max-loras {max_loras}: a server has one number", hint="several are for --simulate")
    slo = parse_goodput(goodput or "")
    known = [*metric_names(slots, max_cpu_loras)] if simulate else metrics_of([], slo)
    conditions = [parse_condition(text, known) for text in fail_if or ()]
    requests_of, code = _requests(ctx), 0
    if simulate:
        requests = requests_of([f"a{number}" for number in range(num_adapters or ADAPTERS)])
        hits = simulated_hits([one.adapter for one in requests], slots, max_cpu_loras)
        report = BenchReport(workload=_workload(ctx, requests), metrics=hits, simulated=slots)
    else:
        report, code = _measured(ctx, requests_of, slo, slots[0] if slots else None)
    report = replace(report, fail_if=[one.judged(report.metrics) for one in conditions])
    for file, output_format in written.items():
        if output_format == "html":
            write(render_report(report), file)
        else:
            write_result(report, output_format, human(report), file)
    failed = [str(one) for one in report.fail_if if one.failed]
    for condition in failed:
        to_stderr(f"failed: {condition}")
    if report.failures:
        to_stderr(f"error: {counted(len(report.failures), 'adapter')} failed: {listed(list(report.failures))}")
    raise typer.Exit(max(code, Refused.exit_code if failed else 0))


def _requests(ctx: typer.Context) -> Drawn:
    """The trace, or what is drawn from the adapters that are named, else from those that the function is given.

    Raises:
        UsageError: an option of the workload is wrong.
    """
    given: dict[str, Any] = ctx.params
    simulate, trace, by_name = given["simulate"], given["trace"], given["url"] or given["simulate"]
    drawn = Workload(
        parse_popularity(given["popularity"]),
        given["num_prompts"] or (SIMULATED_PROMPTS if simulate else PROMPTS),
        given["seed"],
        parse_rate(given["request_rate"]) if given["request_rate"] else None,
        parse_range(given["input_len"], "--input-len"),
        parse_range(given["output_len"], "--output-len"),
    )
    traced = read_trace(trace)[: given["num_prompts"]] if trace is not None else None
    names: Sequence[str] = ()
    if given["manifest"] is not None and by_name:
        names = [one.name for one in read_inputs(given["manifest"], given["refs"] or [], "", "measure").items]
    elif given["refs"] and by_name:
        names = given["refs"]
        if wrong := next((one for one in names if "://" in one or one.endswith((".yaml", ".yml"))), ""):
            raise UsageError(f"{quoted(wrong)}: REF is the name of an adapter here", hint="-f set.yaml names a set's")
    return lambda others: traced if traced is not None else make_requests(names or others, drawn)


def _measured(
    ctx: typer.Context, requests_of: Drawn, slo: Mapping[str, float], slots: int | None
) -> tuple[BenchReport, int]:
    """The report of a server, and 7 if a request failed, 130 after Ctrl-C: what was answered until then is reported.

    Raises:
        EndpointError: it does not answer, or has no adapters.
        SystemExit: our own server ended, and said why.
    """
    given, answers, failures, code = ctx.params, list[Answer](), dict[str, str](), 0
    with nullcontext(parse_address(given["url"])) if given["url"] else own_server(_warm_argv(ctx)) as address:
        endpoint = Endpoint(address, os.environ.get(API_KEY, "").strip())
        if not given["url"]:
            states = parse.objects(endpoint.get("/v1/status"), "adapters")
            failures = {str(one.get("name")): f"is not served: {one['error']}" for one in states if one.get("error")}
        target = find_target(endpoint)
        requests = requests_of(target.adapters[: given["num_adapters"]])
        if not requests:
            why = next((f"{name} {error}" for name, error in failures.items()), f"{address} serves no adapters")
            raise EndpointError(why, hint="" if failures else "load them: lora-cli warm -f set.yaml --endpoint URL")
        warm_up(target, requests[0])
        inform(f"sending {counted(len(requests), 'request')}", ctx.obj)
        try:
            run_load(Load(target, requests, given["max_concurrency"], given["seed"]), answers)
        except KeyboardInterrupt:
            to_stderr(f"interrupted after {len(answers)} of {len(requests)} requests")
            code = INTERRUPTED
        answers, tiers_from = with_tiers(answers, slots or target.max_loras(), given["max_cpu_loras"])
    facts = {"engine": target.engine, "version": target.version, "base": target.base, "url": given["url"]}
    report = BenchReport(
        workload=_workload(ctx, requests),
        metrics=metrics_of(answers, slo),
        server={key: value for key, value in facts.items() if value},
        tiers_from=tiers_from,
        failures=failures | failures_of(answers),
        requests=answers,
    )
    return report, code or (EndpointError.exit_code if report.failures else 0)


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(re.fullmatch(r"[1-9][0-9]{0,6}", word) for word in words):
        raise UsageError(f"--max-loras {quoted(text)}: must be numbers of slots", hint="--max-loras 8,16,32")
    return sorted({int(word) for word in words})


def _workload(ctx: typer.Context, requests: Sequence[Request]) -> dict[str, object]:
    """The workload: its size, and the options that were given."""
    given = {name: ctx.params[name] for name in WORKLOAD if origin_of(ctx, name) in {"COMMANDLINE", "ENVIRONMENT"}}
    if ctx.params["trace"] is None:
        given = {"popularity": ctx.params["popularity"], "seed": ctx.params["seed"], **given}
    counts = {"requests": len(requests), "adapters": len({one.adapter for one in requests})}
    return counts | given


def _warm_argv(ctx: typer.Context) -> list[str]:
    """The words of ``lora-cli warm`` for a server of the adapters on this command line."""
    settings: Settings = ctx.obj
    argv = [*(ctx.params["refs"] or []), "--forward", "model", "--cache-dir", str(settings.cache_dir)]
    argv += [word for word, wanted in (("--offline", settings.offline), ("--quiet", not settings.verbose)) if wanted]
    for name in ("manifest", "base", "max_loras", "max_cpu_loras"):
        if ctx.params[name]:
            argv += [f"--{name.replace('_', '-')}", str(ctx.params[name])]
    return argv
