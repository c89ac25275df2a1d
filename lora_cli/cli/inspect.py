"""``lora-cli inspect``: the contents of adapters from config and header, and the engine flags that serve them."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.comparison import Comparison, OtherAdapter, compare
from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.cli import completion, options
from lora_cli.cli.adapter_selection import Inputs, apply_policies, base_model, read_inputs, warn_of_unlocked
from lora_cli.cli.engine_options import adapter_folders, engine_launch
from lora_cli.cli.options import ADAPTERS, for_engine, option
from lora_cli.cli.output import Format, check_writable, inform, to_stderr, width, write, write_result
from lora_cli.errors import Refused, UsageError
from lora_cli.fetching.pipeline import open_files
from lora_cli.finding import Deployment
from lora_cli.judging import Checked, Terms, check_all, ref_of
from lora_cli.judging.engine_args import LaunchConfig
from lora_cli.judging.engine_args import engine_args as smallest_args
from lora_cli.judging.inspection import Inspection, inspection_of
from lora_cli.peft.patterns import one_budget
from lora_cli.redaction import without_secrets
from lora_cli.refs.request import Request
from lora_cli.render.inspect_report import InspectReport, inspect_report
from lora_cli.rules import choose
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources

if TYPE_CHECKING:
    from rich.console import RenderableType

VALUE_RULES = "LC5"
"""Rules about tensor values: ``inspect`` does not run them, and does not list them as skipped."""

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
    deployed = engine_launch(engine_args, inputs)
    model = base_model(inputs.base, settings, inputs.locked_base) if inputs.base else None
    terms = _validation_terms(model, deployed, settings)
    other = None if diff is None else _compared(diff, inputs, settings)
    checks = check_all(inputs.to_validate(settings), terms, settings)
    judged = [(one, _inspection(one, model)) for one in checks]
    checked = [one for one, _ in judged]
    args = None
    if deployed is not None:
        deployed = replace(deployed, folders=adapter_folders(checked))
        args = smallest_args(checked, model, deployed)
    report = inspect_report(judged, model, args, partial(_diff, other))
    _write(report, output_format, output, settings)
    codes = [one.read_code for one in checked]
    raise typer.Exit(max(codes) if args is None else max(*codes, args.exit_code))


def _validation_terms(base: BaseModel | None, deployed: LaunchConfig | None, settings: Settings) -> Terms:
    """Validation by PEFT's rules, or by those of the engine in --engine-args at its highest rank."""
    rules = choose(ignore=[VALUE_RULES], pinned=settings.require_pinned)
    terms = Terms(base, values=False, rules=rules, card=True)
    if deployed is None:
        return terms
    profile = deployed.profile
    widest = Deployment(max_lora_rank=max(profile.engine.ranks, default=None))
    return replace(terms, engines=(profile,), deployment=widest)


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


def _diff(other: tuple[Adapter, OtherAdapter] | None, checked: Checked) -> Comparison | None:
    if other is None or checked.adapter is None:
        return None
    return compare(checked.adapter, *other)


def _write(report: InspectReport, form: Format, output: Path | None, settings: Settings) -> None:
    """Writes the result. A pipe gets only the command that starts an engine; its costs go to standard error."""
    if form == "human" and report.engine_args and output is None and not sys.stdout.isatty():
        from lora_cli.render.terminal import rendered
        from lora_cli.render.terminal_inspect import engine_args_parts

        write("".join(f"  {line}\n" for line in report.engine_args.lines))
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


def _inspection(checked: Checked, base: BaseModel | None) -> Inspection | None:
    if checked.adapter is None:
        return None
    with one_budget():
        return inspection_of(checked.adapter, base, checked.card, checked.snapshot.digest if checked.snapshot else "")
