"""``lora-cli inspect``: the contents of adapters from config and header, and the engine flags that serve them."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lora_cli.cli import completion, options
from lora_cli.cli.adapter_selection import Inputs, apply_policies, base_model, read_inputs, warn_of_unlocked
from lora_cli.cli.engine_options import adapter_folders, check_tp, engine_launch
from lora_cli.cli.options import ADAPTERS, for_engine, option, result
from lora_cli.cli.output import InspectFormat, ReportFormat, check_writable, to_stderr, width, write, write_report
from lora_cli.core.base_model import BaseModel
from lora_cli.core.finding import Deployment
from lora_cli.core.inspection import Inspection, inspection_of
from lora_cli.core.patterns import one_budget
from lora_cli.core.provenance import Provenance
from lora_cli.errors import Refused, UsageError
from lora_cli.fetching.attachments import cached_attachments
from lora_cli.fetching.reference_names import entries_for
from lora_cli.fetching.requirements import provenance_or_refusal
from lora_cli.fetching.verdicts import check_verdicts
from lora_cli.render.inspect_report import InspectReport, inspect_report
from lora_cli.rules import choose
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of
from lora_cli.store import Store
from lora_cli.store.resolution_records import read_record
from lora_cli.validation import Checked, Terms, check_all
from lora_cli.validation.engine_args import LaunchConfig
from lora_cli.validation.engine_args import engine_args as smallest_args
from lora_cli.validation.tensor_facts import Weights, open_base_weights, open_compared_adapter

if TYPE_CHECKING:
    from rich.console import RenderableType

VALUE_RULES = "LC5"
"""Rules about tensor values: ``inspect`` does not run them, and does not list them as skipped."""

BLAS_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables that BLAS libraries read when numpy is imported: the modules are small, and run in our threads."""

VALUES = "Tensor values"

EXAMPLES = (
    "lora-cli inspect acme/sql",
    "lora-cli inspect -f set.yaml --engine-args vllm",
    "lora-cli inspect ./v2 --diff ./v1",
    "lora-cli inspect -f set.yaml --format cyclonedx -o bom.json",
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
    output_format: InspectFormat = result(
        "--format", "The format of the result; cyclonedx is a bill of materials.", default="human"
    ),
    output: options.OutputFile = None,
) -> None:
    """Show the contents of adapters from their headers alone, local or remote.

    With --engine-args, also show how to start an engine that serves them. --spectrum and --diff read the tensors.
    """
    check_writable(output)
    if output_format == "cyclonedx":
        from lora_cli.cli.inspect_bom import check_bom_options

        check_bom_options(engine_args=engine_args, spectrum=spectrum, diff=diff)
    inputs = read_inputs(manifest, refs or [], base, "inspect", checkpoint)
    settings = apply_policies(ctx.obj, inputs.manifest, policy)
    warn_of_unlocked(inputs, settings)
    deployed = engine_launch(engine_args, inputs, max_loras, max_cpu_loras, tp)
    model = base_model(inputs.base, settings) if inputs.base else None
    check_tp(model, tp)
    hashed = output_format == "cyclonedx" or any(policy.require_verdict for policy in settings.policies)
    terms = replace(_validation_terms(model, deployed), digests=hashed)
    if spectrum or diff is not None:
        terms = _with_tensor_values(terms, inputs, settings, spectrum=spectrum, diff=diff)
    checks = check_all(inputs.to_validate(settings), terms, settings)
    judged = [(one, _inspection(one, model, settings)) for one in checks]
    if output_format == "cyclonedx":
        from lora_cli.cli.inspect_bom import write_bom

        raise typer.Exit(write_bom(judged, inputs, model, output, settings))
    checked = [one for one, _ in judged]
    args = None
    if deployed is not None:
        names = [item.name for item in inputs.items]
        deployed = replace(deployed, folders=adapter_folders(zip(names, judged, strict=True), settings))
        args = smallest_args(zip(names, checked, strict=True), model, deployed)
    report = inspect_report(judged, model, args, partial(_provenance, settings=settings))
    _write(report, checked, output_format, output, settings)
    codes = [one.read_code for one in checked]
    raise typer.Exit(max(codes) if args is None else max(*codes, args.exit_code))


def _validation_terms(base: BaseModel | None, deployed: LaunchConfig | None) -> Terms:
    """Validation by PEFT's rules, or by those of the engine in --engine-args at its highest rank."""
    terms = Terms(base, values=False, rules=choose(ignore=[VALUE_RULES]), card=True)
    if deployed is None:
        return terms
    profile = deployed.profile
    widest = Deployment(max_lora_rank=max(profile.engine.ranks, default=None))
    return replace(terms, engines=(profile,), deployment=widest)


def _with_tensor_values(terms: Terms, inputs: Inputs, settings: Settings, *, spectrum: bool, diff: str | None) -> Terms:
    """``terms`` with the spectrum, relative to the base's weights if available, and the comparison with ``diff``.

    Raises:
        UsageError: ``diff`` is given for several REFs.
        LoraCliError: ``diff`` cannot be read.
    """
    for name in BLAS_THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    if diff is not None:
        if (number := len({str(item.source) for item in inputs.items})) > 1:
            raise UsageError(
                f"--diff compares one adapter with another, but there are {number} REFs",
                hint="lora-cli inspect A --diff B",
            )
        terms = replace(terms, other=open_compared_adapter(diff, settings))
    if spectrum:
        base, model = inputs.base, terms.base
        terms = replace(terms, spectrum=open_base_weights(base, model, settings) if base and model else Weights())
    return terms


def _write(
    report: InspectReport, checked: Sequence[Checked], form: ReportFormat, output: Path | None, settings: Settings
) -> None:
    """Writes the result. A pipe gets only the command that starts an engine; its costs go to standard error."""
    if form == "human" and report.engine_args and output is None and not sys.stdout.isatty():
        from lora_cli.render.terminal import rendered
        from lora_cli.render.terminal_inspect import engine_args_parts

        write("".join(f"  {line}\n" for line in report.engine_args.lines))
        if not settings.quiet:
            to_stderr(rendered(engine_args_parts(report, report.engine_args, command=False), width()).rstrip("\n"))
        return

    def parts(plain: bool) -> "Iterable[RenderableType]":
        from lora_cli.render.terminal_inspect import engine_args_parts, inspection_parts

        if report.engine_args is not None:
            return engine_args_parts(report, report.engine_args, plain=plain)
        return inspection_parts(report, width(output), plain=plain)

    def page() -> str:
        from lora_cli.render.html import render_inspections

        return render_inspections(report, checked)

    write_report(report, form, parts, page, output, settings)


def _inspection(checked: Checked, base: BaseModel | None, settings: Settings) -> Inspection | None:
    if checked.adapter is None:
        return None
    with one_budget():
        return inspection_of(checked.adapter, base, checked.card, _cached(checked, settings))


def _provenance(checked: Checked, settings: Settings) -> Provenance | None:
    """Who signed and validated it, as policies require; None if none does, or it could not be read."""
    if checked.error is not None or checked.revision is None:
        return None
    ref, known = checked.revision.ref, Provenance(checked.signers)
    attached = cached_attachments(ref, checked.revision.id, Store(settings.cache_dir))

    def verify() -> Provenance:
        if checked.digest is None and entries_for(ref, settings, "require_verdict"):
            raise Refused("its digest is unknown before it is fetched")
        return replace(known, verdicts=check_verdicts(ref, checked.digest or "", settings, attached))

    return provenance_or_refusal(ref, settings, known, verify)


def _cached(checked: Checked, settings: Settings) -> str:
    """The digest of the cached snapshot of this revision; "" if it is not cached."""
    if checked.revision is None or not settings.cache_dir.is_dir():
        return ""
    endpoint = endpoint_of(checked.revision.ref, settings)
    record = read_record(Store(settings.cache_dir), checked.revision.ref.in_records, endpoint=endpoint)
    return record.snapshot if record is not None and record.revision == checked.revision.id else ""
