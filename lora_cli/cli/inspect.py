"""``lora-cli inspect``: the facts of adapters from config and header alone, and what they need to be served."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from lora_cli.cli import completion, options
from lora_cli.cli.adapter_selection import Lineup, base_model, lineup, reaching, warn_of_unlocked
from lora_cli.cli.engine_options import deployed_of, folders_of
from lora_cli.cli.options import ADAPTERS, for_engine, option, result
from lora_cli.cli.output import ReportFormat, drawable, drawn, to_stderr, width, writable, write, written
from lora_cli.core.base_model import BaseModel
from lora_cli.core.engine_outcome import Deployment
from lora_cli.core.inspection import Inspection, inspection_of
from lora_cli.core.patterns import one_budget
from lora_cli.errors import UsageError
from lora_cli.render.inspect_report import InspectReport, inspect_report
from lora_cli.render.json import encoded
from lora_cli.rules import choose
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of
from lora_cli.store import Store
from lora_cli.store.resolution_records import read_record
from lora_cli.validation import Checked, Terms, check_all
from lora_cli.validation.engine_args import LaunchConfig
from lora_cli.validation.engine_args import engine_args as smallest
from lora_cli.validation.tensor_facts import Weights, open_base_weights, open_compared_adapter

OF_VALUES = "LC5"
"""What ``inspect`` does not look at, and so does not list as skipped."""

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What linear algebra asks for its threads when numpy is imported: modules are many and small, and share ours."""

VALUES = "Tensor values"

EXAMPLES = (
    "lora-cli inspect acme/sql",
    "lora-cli inspect -f set.yaml --engine-args vllm",
    "lora-cli inspect ./v2 --diff ./v1",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: str = option("--base", "The base model: shows how many modules apply.", "", ADAPTERS, **completion.REF),
    policy: options.PolicyFile = None,
    engine_args: str = for_engine(
        "--engine-args",
        "Print the smallest flags with which vllm or sglang serves all adapters, and their GPU memory.",
        default="",
        **completion.ENGINE,
    ),
    max_loras: int | None = for_engine("--max-loras", "With --engine-args: maximum number of slots on the GPU.", min=1),
    max_cpu_loras: int | None = for_engine(
        "--max-cpu-loras", "With --engine-args: maximum number of adapters in memory.", min=1
    ),
    tp: int = for_engine("--tp", "With --engine-args: the tensor-parallel size.", default=1, min=1, max=4096),
    spectrum: bool = option(
        "--spectrum", "Show the size of each module's update and its singular values.", False, VALUES
    ),
    diff: str | None = option("--diff", "Show how each adapter differs from this one.", None, VALUES, **completion.REF),
    output_format: ReportFormat = result("--format", "The format of the result.", default="human"),
    output: options.OutputFile = None,
) -> None:
    """Show the contents of adapters from their headers alone, local or remote.

    With --engine-args, also show how to start an engine that serves them. --spectrum and --diff read the tensors.
    """
    writable(output)
    asked = lineup(manifest, refs or [], base, "inspect", checkpoint)
    settings = reaching(ctx.obj, asked.manifest, policy)
    warn_of_unlocked(asked, settings)
    deployed = deployed_of(engine_args, asked, max_loras, max_cpu_loras, tp)
    model = base_model(asked.base, settings) if asked.base else None
    terms = _terms(model, deployed)
    if spectrum or diff is not None:
        terms = _with_values(terms, asked, settings, spectrum=spectrum, diff=diff)
    checks = check_all(asked.to_judge(settings), terms, settings)
    judged = [(one, _inspection(one, model, settings)) for one in checks]
    checked = [one for one, _ in judged]
    args = None
    if deployed is not None:
        named = [(item.name, one) for item, one in zip(asked.items, checked, strict=True)]
        cached = [(name, one, _cached(one, settings)) for name, one in named]
        deployed = replace(deployed, folders=folders_of(cached, settings))
        args = smallest(named, model, deployed)
    _write(inspect_report(judged, model, args), checked, output_format, output, quiet=settings.quiet)
    codes = [one.read_code for one in checked]
    raise typer.Exit(max(codes) if args is None else max(*codes, args.exit_code))


def _terms(base: BaseModel | None, deployed: LaunchConfig | None) -> Terms:
    """Validated by PEFT's rules, or by those of the engine that is to serve the adapters, at its widest."""
    terms = Terms(base, values=False, rules=choose(ignore=[OF_VALUES]), card=True)
    if deployed is None:
        return terms
    profile = deployed.profile
    widest = Deployment(tp=deployed.tp, max_lora_rank=max(profile.engine.ranks, default=None))
    return replace(terms, engines=(profile,), deployment=widest)


def _with_values(terms: Terms, asked: Lineup, settings: Settings, *, spectrum: bool, diff: str | None) -> Terms:
    """``terms`` that ask for the spectrum, next to the base's weights, and for how the one REF differs from ``diff``.

    Raises:
        UsageError: there are several REFs, and only one is compared.
        LoraCliError: ``diff`` cannot be read.
    """
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    if diff is not None:
        if (number := len({str(item.source) for item in asked.items})) > 1:
            raise UsageError(
                f"--diff compares one adapter with another, but there are {number} REFs",
                hint="lora-cli inspect A --diff B",
            )
        terms = replace(terms, other=open_compared_adapter(diff, settings))
    if spectrum:
        base, model = asked.base, terms.base
        terms = replace(terms, spectrum=open_base_weights(base, model, settings) if base and model else Weights())
    return terms


def _write(
    report: InspectReport, checked: Sequence[Checked], form: ReportFormat, output: Path | None, *, quiet: bool
) -> None:
    """Write the result. To a pipe the command that starts an engine goes alone, and what it costs to standard error."""
    if form == "human" and report.engine_args and output is None and not sys.stdout.isatty():
        from lora_cli.render.terminal import rendered
        from lora_cli.render.terminal_inspect import engine_args_parts

        write("".join(f"  {line}\n" for line in report.engine_args.lines))
        if not quiet:
            to_stderr(rendered(engine_args_parts(report, report.engine_args, command=False), width()).rstrip("\n"))
        return
    if form == "html":
        from lora_cli.render.html import render_inspections as render_page

        text = render_page(report, checked)
    elif form == "json":
        text = encoded(report)
    else:
        from lora_cli.render.terminal_inspect import engine_args_parts, inspection_parts

        plain = output is None and not drawable()
        if report.engine_args is not None:
            parts = engine_args_parts(report, report.engine_args, plain=plain)
        else:
            parts = inspection_parts(report, width(output), plain=plain)
        text = drawn(parts, output)
    write(text, output)
    written(output, quiet=quiet)


def _inspection(checked: Checked, base: BaseModel | None, settings: Settings) -> Inspection | None:
    if checked.adapter is None:
        return None
    with one_budget():
        return inspection_of(checked.adapter, base, checked.card, _cached(checked, settings))


def _cached(checked: Checked, settings: Settings) -> str:
    """The digest of the snapshot that ``fetch`` made of this very revision, if it did."""
    if checked.revision is None or not settings.cache_dir.is_dir():
        return ""
    endpoint = endpoint_of(checked.revision.ref, settings)
    record = read_record(Store(settings.cache_dir), checked.source, endpoint=endpoint)
    return record.snapshot if record is not None and record.revision == checked.revision.id else ""
