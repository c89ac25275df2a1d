"""``lora-cli serve-bench``: measures adapters at a server, or simulates the slots that a set of them needs."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lora_cli import parse
from lora_cli.bench.client import Answer, Load, find_target, run_load, warm_up
from lora_cli.bench.measure import (
    BenchReport,
    failures_of,
    metrics_of,
    parse_condition,
    parse_goodput,
    with_tiers,
)
from lora_cli.bench.server import own_server
from lora_cli.bench.simulate import metric_names
from lora_cli.bench.simulate import simulate as simulated_hits
from lora_cli.bench.trace import Request, read_trace
from lora_cli.bench.workload import Workload, make_requests, parse_popularity, parse_positive, parse_range
from lora_cli.cli import options
from lora_cli.cli.adapter_selection import check_max_cpu_loras, read_inputs
from lora_cli.cli.options import option, origin_of, result
from lora_cli.cli.output import ReportFormat, check_writable, inform, to_stderr, write, write_result
from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
from lora_cli.errors import INTERRUPTED, EndpointError, Refused, UsageError
from lora_cli.render.bench import page, report_parts
from lora_cli.settings import API_KEY, Settings
from lora_cli.text import counted, duration, quoted
from lora_cli.text import names as listed

EXAMPLES = (
    "lora-cli serve-bench --url http://127.0.0.1:8000 sql chat --request-rate 20 --goodput ttft:500,tpot:50",
    "lora-cli serve-bench ./sql ./chat --base ./llama --fail-if 'cold_p99_ttft_ms>500'",
    "lora-cli serve-bench --simulate --num-adapters 500 --max-loras 8,16,32",
)
PROMPTS, SIMULATED_PROMPTS = 200, 20_000
ADAPTERS, SLOTS = 500, "8,16,32"
TIMES_AND_LENGTHS = ("request_rate", "burstiness", "input_len", "output_len")
NOT_WITH: Mapping[str, Sequence[str]] = {
    "simulate": ("url", "base", "max_concurrency", "goodput", *TIMES_AND_LENGTHS),
    "url": ("base",),
    "trace": ("popularity", "num_adapters", *TIMES_AND_LENGTHS),
    "base": ("num_adapters",),
}
"""Options that would have no effect together."""

WORKLOAD = (*TIMES_AND_LENGTHS, "max_concurrency", "trace", "goodput", "max_loras", "max_cpu_loras")

what = partial(option, default=None, panel="What to measure")
workload = partial(option, default=None, panel="Workload")
slot = partial(option, default=None, panel="Slots and memory")
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="REF", help="Adapters, as for warm; with --url, --simulate or --manifest their names."),
]


def command(
    ctx: typer.Context,
    refs: Names = None,
    manifest: options.Manifest = None,
    base: options.Base = "",
    url: str | None = what("--url URL", "Measure this server: http://HOST:PORT or unix:PATH."),
    simulate: bool = what("--simulate", "Simulate the hits of slots: no server, no times.", default=False),
    num_adapters: int | None = workload(
        "--num-adapters",
        "Only the first N that the server lists; with --simulate N made-up names.",
        min=1,
        max=100_000,
        show_default="all; 500 with --simulate",
    ),
    num_prompts: int | None = workload(
        "--num-prompts", "Number of requests.", min=1, max=1_000_000, show_default="200; 20000 with --simulate"
    ),
    popularity: str = workload(
        "--popularity MODEL",
        "How often each adapter is requested: zipf:S, uniform, or a file: weights.json.",
        default="zipf:1.0",
    ),
    request_rate: str = workload(
        "--request-rate PER_SECOND",
        "Requests per second, inf for all at once; without it the loop is closed.",
        default="",
    ),
    burstiness: str = workload(
        "--burstiness X", "Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less is burstier.", default="1"
    ),
    max_concurrency: int | None = workload(
        "--max-concurrency",
        "Maximum number of concurrent requests; in a closed loop the number of clients.",
        min=1,
        max=100_000,
        show_default="1 client",
    ),
    input_len: str = workload("--input-len N|LOW-HIGH", "Prompt tokens.", default="128"),
    output_len: str = workload("--output-len N|LOW-HIGH", "Output tokens.", default="16"),
    seed: int = workload("--seed", "Random seed of the workload.", default=0, min=0),
    trace: Path | None = workload("--trace FILE", "Replay these requests: JSON lines."),
    goodput: str = result(
        "--goodput MEASURE:MS,...", "SLOs of a good request: ttft:500,tpot:50,e2el:9000.", default=""
    ),
    max_loras: str = slot(
        "--max-loras N[,N...]",
        "Slots; with --simulate several numbers, with --url those that the server has.",
        default="",
        show_default="8,16,32 with --simulate",
    ),
    max_cpu_loras: int | None = slot("--max-cpu-loras", "Number of adapters in memory.", min=1),
    fail_if: list[str] | None = result(
        "--fail-if CONDITION",
        'Exit with 1 if true or not measured, such as "cold_p99_ttft_ms>500"; may be repeated.',
    ),
    output_format: ReportFormat = result("--format", "The format of the result.", default="human"),
    output: options.OutputFile = None,
) -> None:
    """Measure adapters at a server: cold, warm and hot; or simulate how many slots they need.

    With --url a running server is measured, else one that is started with the adapters and stopped again. With
    --simulate the hits of lru, lfu and Belady are compared for each number of slots.
    """
    settings: Settings = ctx.obj
    _refuse_together(ctx)
    check_writable(output)
    slots = _numbers(max_loras or (SLOTS if simulate else ""))
    check_max_cpu_loras(max_cpu_loras, max(slots, default=None))
    drawn = Workload(
        parse_popularity(popularity),
        num_prompts or (SIMULATED_PROMPTS if simulate else PROMPTS),
        seed,
        parse_positive(request_rate, "--request-rate", may_be_infinite=True) if request_rate else None,
        parse_positive(burstiness, "--burstiness"),
        parse_range(input_len, "--input-len"),
        parse_range(output_len, "--output-len"),
    )
    traced = read_trace(trace)[:num_prompts] if trace is not None else None
    names: Sequence[str] = list(drawn.popularity.weights or ())
    if manifest is not None and (url or simulate):
        names = [one.name for one in read_inputs(manifest, refs or [], "", "measure").items]
    elif refs and (url or simulate):
        names = refs
    if names and num_adapters is not None:
        raise UsageError("--num-adapters is for adapters that are not named", hint="remove it, or the names")
    if simulate and names and traced is not None:
        raise UsageError("--trace has the names of its own adapters", hint="remove the others")

    def requests_of(others: Sequence[str]) -> Sequence[Request]:
        """The trace, or what is drawn from the adapters that were named, else from ``others``."""
        return traced if traced is not None else make_requests(names or others, drawn)

    slo = parse_goodput(goodput)
    known = [*metric_names(slots, max_cpu_loras)] if simulate else metrics_of([], slo)
    conditions = [parse_condition(text, known) for text in fail_if or ()]
    code = 0
    if simulate:
        requests = requests_of([f"a{number}" for number in range(num_adapters or ADAPTERS)])
        hits = simulated_hits([one.adapter for one in requests], slots, max_cpu_loras)
        report = BenchReport(workload=_workload(ctx, requests), metrics=hits, simulated=slots)
    elif len(slots) > 1:
        raise UsageError(
            f"--max-loras {max_loras}: a server has one number of slots", hint="several are for --simulate"
        )
    else:
        report, code = _measured(ctx, requests_of, slo, slots[0] if slots else None)
    report = replace(report, fail_if=[one.judged(report.metrics) for one in conditions])
    if output_format == "html":
        write(page(report), output)
    else:
        write_result(report, output_format, report_parts(report), output)
    if output is not None and str(output) != "-":
        inform(f"wrote {output}", settings)
    if failed := [str(one) for one in report.fail_if if one.failed]:
        to_stderr("\n".join(f"failed: {one}" for one in failed))
        code = max(code, Refused.exit_code)
    if report.failures:
        to_stderr(f"error: {counted(len(report.failures), 'adapter')} failed: {listed(list(report.failures))}")
    raise typer.Exit(code)


def _measured(
    ctx: typer.Context,
    requests_of: Callable[[Sequence[str]], Sequence[Request]],
    slo: Mapping[str, float],
    slots: int | None,
) -> tuple[BenchReport, int]:
    """The report of a server, and 7 if a request failed, 130 after Ctrl-C: what was answered until then is reported.

    Raises:
        EndpointError: it does not answer, or has no adapters.
        SystemExit: our own server ended, and said why.
    """
    options = ctx.params
    answers: list[Answer] = []
    failures: dict[str, str] = {}
    code = 0
    with nullcontext(parse_address(options["url"])) if options["url"] else own_server(_warm_argv(ctx)) as address:
        endpoint = Endpoint(address, os.environ.get(API_KEY, "").strip())
        if not options["url"]:
            states = parse.objects(endpoint.get("/v1/status"), "adapters")
            failures = {str(one.get("name")): f"is not served: {one['error']}" for one in states if one.get("error")}
        target = find_target(endpoint)
        requests = requests_of(target.adapters[: options["num_adapters"]])
        if not requests:
            why = next((f"{name} {error}" for name, error in failures.items()), f"{address} serves no adapters")
            raise EndpointError(why, hint="" if failures else "load them: lora-cli warm -f set.yaml --endpoint URL")
        warm_up(target, requests[0])
        inform(_announcement(requests, options["max_concurrency"]), ctx.obj)
        try:
            run_load(Load(target, requests, options["max_concurrency"], options["seed"]), answers)
        except KeyboardInterrupt:
            to_stderr(f"interrupted after {len(answers)} of {len(requests)} requests")
            code = INTERRUPTED
        answers, tiers_from = with_tiers(answers, slots or target.max_loras(), options["max_cpu_loras"])
    facts = {"engine": target.engine, "version": target.version, "base": target.base, "url": options["url"]}
    report = BenchReport(
        workload=_workload(ctx, requests),
        metrics=metrics_of(answers, slo),
        server={key: value for key, value in facts.items() if value},
        tiers_from=tiers_from,
        failures=failures | failures_of(answers),
        requests=answers,
    )
    return report, code or (EndpointError.exit_code if report.failures else 0)


def _refuse_together(ctx: typer.Context) -> None:
    """Raises ``UsageError`` for an option on the command line that has no effect beside another one."""
    given = [name for name in ctx.params if origin_of(ctx, name) == "COMMANDLINE"]
    for name, others in NOT_WITH.items():
        for other in others:
            if name in given and other in given:
                flags = " and ".join(f"--{one.replace('_', '-')}" for one in (other, name))
                raise UsageError(f"{flags} cannot be used together", hint="remove one of them")
    if not any(ctx.params[name] for name in ("url", "simulate", "refs", "manifest")):
        raise UsageError(
            "there is nothing to measure", hint="name adapters, or a server with --url; --simulate needs neither"
        )


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


def _announcement(requests: Sequence[Request], clients: int | None) -> str:
    last_s = requests[-1].time_s
    if last_s is None:
        pace = f"each of {counted(clients or 1, 'client')} after its last answer"
    else:
        pace = f"at their times, over {duration(last_s)}" if last_s else "all at once"
        pace += f", at most {clients} under way" if clients else ""
    return f"sending {counted(len(requests), 'request')}, {pace}"
