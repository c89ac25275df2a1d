"""``lora-cli inspect``: the contents of adapters from config and header, and the engine flags that serve them."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lora_cli.base.base_model import BaseModel
from lora_cli.cli import options
from lora_cli.cli.options import adapters, engines
from lora_cli.cli.output import inform, render_parts, to_stderr, width, write, write_result
from lora_cli.errors import AccessDenied, NotFound, Refused, Unreachable, UsageError
from lora_cli.inputs import NO_BASE, Inputs, apply_policies, base_model, read_inputs, unlocked_warning
from lora_cli.judging.inspection import InspectReport, inspect_one, inspected
from lora_cli.judging.read import Terms, each
from lora_cli.judging.result import Result
from lora_cli.redaction import without_secrets
from lora_cli.refs.reference import ref_of, training_run
from lora_cli.refs.request import Request, Selection
from lora_cli.reports.inspect import human, human_engine_args
from lora_cli.reports.terminal import rendered
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.judging.engine_args import EngineArgs

EXAMPLES = (
    "lora-cli inspect acme/sql",
    "lora-cli inspect -f set.yaml --engine-args vllm",
    "lora-cli inspect ./v2 --diff ./v1",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    base: options.AnyBase = "",
    engine_args: str | None = engines(
        "--engine-args NAME[@VERSION]", "Print the smallest flags with which vllm or sglang serves all adapters."
    ),
    diff: str | None = adapters("--diff REF", "Show how the adapter's config and header differ from this one's."),
    output_format: options.OutputFormat = "human",
) -> None:
    """Show the contents of adapters from their headers alone, local or remote.

    With --engine-args, also show how to start an engine that serves them.
    """
    inputs = read_inputs(manifest, refs or [], base, "inspect")
    inputs = replace(inputs, base="") if base == NO_BASE else inputs
    settings = apply_policies(ctx.obj, inputs.manifest)
    if warning := unlocked_warning(inputs):
        inform(warning, settings)
    model, other = None, None if diff is None else _compared(diff, inputs, settings)
    if inputs.base:
        try:
            model = base_model(inputs, settings)
        except (NotFound, AccessDenied, Unreachable) as error:
            if base:
                raise
            inform(f"warning: base unchecked: {error.message}; set --base DIR", settings)
    requests, args = inputs.to_validate(settings), None
    if engine_args:
        results, args = _judged_for(engine_args, inputs, requests, model, settings)
    else:
        results = list(each(requests, inspect_one, Terms(settings, model)))
    report = InspectReport(base=model, adapters=tuple(inspected(one, other) for one in results), engine_args=args)
    if args is None or output_format == "json":
        write_result(report, output_format, human(report, verbose=settings.verbose))
    elif sys.stdout.isatty():
        write(render_parts(human_engine_args(report, args)))
    else:  # a pipe gets only the command that starts an engine
        write("".join(f"  {line}\n" for line in args.command.splitlines()))
        if not settings.quiet:
            to_stderr(rendered(human_engine_args(report, args, command=False), width()).rstrip("\n"))
    raise typer.Exit(max((one.exit_code for one in results), default=0) if args is None else args.exit_code)


def _judged_for(
    engine: str, inputs: Inputs, requests: Sequence[Request], base: BaseModel | None, settings: Settings
) -> "tuple[list[Result], EngineArgs]":
    """The adapters, judged by all rules but those of values for an engine at its highest rank, and its flags.

    The version defaults to that of a manifest for the same engine, whose limits hold.

    Raises:
        UsageError: no such engine or version, one whose flags are not known, or too few slots in the manifest.
    """
    from lora_cli.checks import choose
    from lora_cli.engines import ENGINES, choose_engine
    from lora_cli.finding import Deployment
    from lora_cli.judging.engine_args import engine_args
    from lora_cli.judging.judge import judge_one

    name, at, _ = engine.strip().partition("@")
    limits = inputs.engine if inputs.engine is not None and inputs.engine.name == name.lower() else None
    profile = choose_engine(limits.wanted if limits is not None and not at else engine)
    if profile.engine.flags is None:
        known = " or ".join(engine.name for engine in ENGINES.values() if engine.flags is not None)
        raise UsageError(f"the flags of {profile.engine.title} are unknown", hint=f"--engine-args {known}")
    model: tuple[str, ...] = ()
    ref = ref_of(inputs.base) if inputs.base else None
    if ref is not None and ref.scheme == "hf" and not ref.subfolder:
        model = (ref.location, "--revision", ref.revision) if ref.revision else (ref.location,)
    elif ref is not None and ref.scheme == "file" and Path(ref.location).is_dir() and ref.location.isprintable():
        model = (ref.location,)
    rules = choose(ignore=["LC5"], pinned=settings.require_pinned)  # they are of values, which are not read
    widest = Deployment(max_lora_rank=max(profile.engine.ranks, default=None))
    terms = Terms(settings, base, values=False, rules=rules, engines=(profile,), deployment=widest)
    results = list(each(requests, judge_one, terms))
    return results, engine_args(results, profile, model, limits, named=inputs.manifest is not None)


def _compared(text: str, inputs: Inputs, settings: Settings) -> Result:
    """The adapter to compare with, by its config and header.

    Raises:
        UsageError: there are several REFs.
        Refused: its config or its weights cannot be read.
        LoraCliError: what its source raises.
    """
    if (number := len({str(item.source) for item in inputs.items})) > 1:
        many = f"--diff compares one adapter with another, but there are {number} REFs"
        raise UsageError(many, hint="lora-cli inspect A --diff B")
    run = training_run(text)
    other = Request(without_secrets(text), ref_of(run or text), selection=Selection(latest=bool(run)))
    found = inspected(inspect_one(other, Terms(settings))).result
    if isinstance(found.error, Refused):
        raise Refused(f"--diff {found.name}: {found.error.message}", hint=found.error.hint)
    if found.error is not None:
        raise found.error
    return found
