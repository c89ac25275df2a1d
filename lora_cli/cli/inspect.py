"""``lora-cli inspect``: the contents of adapters from config and header, and the engine flags that serve them."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.comparison import OtherAdapter, compare
from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.cli import completion, options
from lora_cli.cli.adapter_selection import Inputs, apply_policies, base_model, read_inputs, warn_of_unlocked
from lora_cli.cli.engine_options import engine_launch
from lora_cli.cli.options import ADAPTERS, for_engine, option
from lora_cli.cli.output import Format, check_writable, inform, to_stderr, width, write, write_result
from lora_cli.errors import Refused, UsageError
from lora_cli.fetching.pipeline import open_files
from lora_cli.finding import Deployment
from lora_cli.judging.inspection import inspect_one, inspection_of, unreadable
from lora_cli.judging.read import each, ref_of
from lora_cli.judging.result import Result
from lora_cli.redaction import without_secrets
from lora_cli.refs.request import Request
from lora_cli.render.inspect_report import Inspected, InspectReport
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lora_cli.judging.engine_args import EngineArgs, Launch

VALUE_RULES = "LC5"
"""Rules about tensor values, which ``inspect`` does not read."""

EXAMPLES = (
    "lora-cli inspect acme/sql",
    "lora-cli inspect -f set.yaml --engine-args vllm",
    "lora-cli inspect ./v2 --diff ./v1",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    base: str = option("--base REF", "The base model: shows how many modules apply.", "", ADAPTERS),
    policy: options.PolicyFile = None,
    engine_args: str = for_engine(
        "--engine-args",
        "Print the smallest flags with which vllm or sglang serves all adapters, and their GPU memory.",
        default="",
        **completion.ENGINE,
    ),
    diff: str | None = option(
        "--diff REF", "Show how the adapter's config and header differ from this one's.", None, ADAPTERS
    ),
    output_format: options.OutputFormat = "human",
    output: options.OutputFile = None,
) -> None:
    """Show the contents of adapters from their headers alone, local or remote.

    With --engine-args, also show how to start an engine that serves them.
    """
    check_writable(output)
    inputs = read_inputs(manifest, refs or [], base, "inspect")
    settings = apply_policies(ctx.obj, inputs.manifest, policy)
    warn_of_unlocked(inputs, settings)
    launch = engine_launch(engine_args, inputs)
    model = base_model(inputs.base, settings, inputs.locked_base) if inputs.base else None
    other = None if diff is None else _compared(diff, inputs, settings)
    requests, args = inputs.to_validate(settings), None
    if launch is None:
        results = list(each(requests, lambda one, *run: inspect_one(one, model, settings, *run), settings))
    else:
        results, args = _judged_for(launch, requests, model, settings)
    inspected = tuple(_inspected(one, other) for one in results)
    report = InspectReport(base=model, adapters=inspected, engine_args=args)
    _write(report, output_format, output, settings)
    codes = [one.result.exit_code for one in inspected]
    raise typer.Exit(max(codes) if args is None else max(*codes, args.exit_code))


def _judged_for(
    launch: "Launch", requests: Sequence[Request], base: BaseModel | None, settings: Settings
) -> "tuple[list[Result], EngineArgs]":
    """The adapters, judged by all rules but those of values for an engine at its highest rank, and its flags."""
    from lora_cli.checks import choose
    from lora_cli.judging.engine_args import engine_args
    from lora_cli.judging.judge import Terms, judge_all

    rules, profile = choose(ignore=[VALUE_RULES], pinned=settings.require_pinned), launch.profile
    widest = Deployment(max_lora_rank=max(profile.engine.ranks, default=None))
    terms = Terms(base, values=False, rules=rules, engines=(profile,), deployment=widest)
    results = list(judge_all(requests, terms, settings))
    return results, engine_args(results, launch)


def _inspected(one: Result, other: tuple[Adapter, OtherAdapter] | None) -> Inspected:
    adapter, error = one.adapter, one.error
    if adapter is None:
        return Inspected(replace(one, exit_code=error.exit_code if error is not None else 0), None, None)
    error = error or unreadable(adapter)
    told = replace(one, exit_code=error.exit_code if error else 0)
    diff = compare(adapter, *other) if other is not None else None
    return Inspected(told, inspection_of(adapter, one.card), diff)


def _compared(text: str, inputs: Inputs, settings: Settings) -> tuple[Adapter, OtherAdapter]:
    """The adapter to compare with, by its config and header.

    Raises:
        UsageError: there are several REFs.
        Refused: its config or its weights cannot be read.
        LoraCliError: what its source raises.
    """
    if (number := len({str(item.source) for item in inputs.items})) > 1:
        raise UsageError(
            f"--diff compares one adapter with another, but there are {number} REFs", hint="lora-cli inspect A --diff B"
        )
    files = open_files(Request("", ref_of(text)), settings, Sources(settings))
    name = without_secrets(text)
    adapter = read_adapter(files, name, settings.max_header_bytes)
    for error in (adapter.config_error, adapter.weights_error):
        if error is not None:
            raise Refused(f"--diff {name}: {error.message}", hint=error.hint)
    if not adapter.weight_files and not adapter.unread:
        raise Refused(f"--diff {name} contains no adapter weights", hint="use the folder that contains them")
    return adapter, OtherAdapter(name, str(files.ref), files.revision.id)


def _write(report: InspectReport, form: Format, output: Path | None, settings: Settings) -> None:
    """Writes the result. A pipe gets only the command that starts an engine; its costs go to standard error."""
    if form == "human" and report.engine_args and output is None and not sys.stdout.isatty():
        from lora_cli.render.terminal import rendered
        from lora_cli.render.terminal_inspect import engine_args_parts

        write("".join(f"  {line}\n" for line in report.engine_args.command.splitlines()))
        if not settings.quiet:
            to_stderr(rendered(engine_args_parts(report, report.engine_args, command=False), width()).rstrip("\n"))
        return

    parts: Iterable[RenderableType] = ()
    if form == "human":
        from lora_cli.render.terminal_inspect import engine_args_parts, inspection_parts

        shown = report.engine_args
        parts = inspection_parts(report, width(output)) if shown is None else engine_args_parts(report, shown)
    write_result(report, form, parts, output)
    if output is not None and str(output) != "-":
        inform(f"wrote {output}", settings)
