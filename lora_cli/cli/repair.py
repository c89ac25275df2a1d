"""``lora-cli repair``: copies of adapters that a given engine serves correctly."""

import os
from dataclasses import replace
from pathlib import Path

import typer

from lora_cli.base.base_model import BaseModel
from lora_cli.cli import options
from lora_cli.cli.adapter_selection import (
    Inputs,
    apply_policies,
    base_model,
    deployment_of,
    named_engines,
    read_inputs,
)
from lora_cli.cli.options import ENGINE, option
from lora_cli.cli.output import inform, write_result
from lora_cli.errors import LoraCliError, NotFound, Refused, UsageError
from lora_cli.finding import Outcome
from lora_cli.json_schema import error_report
from lora_cli.judging.base_model import infer_base
from lora_cli.render.terminal_repair import RepairedAdapter, RepairSetReport, repair_parts
from lora_cli.repair import RepairOptions, RepairReport, repair_adapter
from lora_cli.settings import Settings

REPAIR = "Repair"
DTYPES = ("float32", "float16", "bfloat16")

EXAMPLES = (
    "lora-cli repair acme/sql --engine vllm --check",
    "lora-cli repair ./adapter --engine sglang --base ./base --to ./repaired",
    "lora-cli repair ./adapter --engine vllm --in-place",
    "lora-cli repair -f set.yaml --to ./repaired",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    engine: str = option(
        "--engine", "Engine that will serve it (default: from the manifest).", "", ENGINE, **options.AN_ENGINE
    ),
    to: Path | None = option(
        "--to DIRECTORY", "Write the copy to this new folder; with --manifest, each to DIRECTORY/NAME.", None, REPAIR
    ),
    in_place: bool = option("--in-place", "Rewrite local adapters where they are.", False, REPAIR),
    check: bool = option("--check", "Only show the changes; exit with 1 if there are any.", False, REPAIR),
    base: str = option(
        "--base REF",
        "The base model (default: the one in the config, if it is on this machine).",
        "",
        REPAIR,
    ),
    dtype: str = option("--dtype float32|float16|bfloat16", "Convert the tensors to this type.", "", REPAIR),
    base_name: str = option("--base-name NAME", "Write this as the base model's name.", "", REPAIR),
    output_format: options.OutputFormat = "human",
) -> None:
    """Write copies of adapters that an engine serves correctly, and show what was changed and why."""
    if sum((to is not None, in_place, check)) != 1:
        raise UsageError("repair needs --to, --in-place, or --check to only report", hint="use one of them")
    if dtype and dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}")
    inputs = read_inputs(manifest, refs or [], base, "repair")
    if inputs.manifest is None and len(inputs.items) > 1 and to is not None:
        raise UsageError("several adapters need a manifest", hint="write one with lora-cli init REF…, then use -f")
    profiles = named_engines([engine] if engine else None, inputs.manifest)
    if len(profiles) != 1:
        raise UsageError("repair needs an engine", hint="--engine vllm; see lora-cli engines")
    settings: Settings = apply_policies(
        ctx.obj, inputs.manifest, Path(file) if (file := os.environ.get("LORA_CLI_POLICY")) else None
    )
    deployment = deployment_of(profiles, inputs.max_lora_rank)
    inputs, model = _with_base(inputs, settings)
    wish = RepairOptions(
        profiles[0],
        base=model,
        base_ref=inputs.base or None,
        deployment=deployment,
        in_place=in_place,
        dtype=dtype or None,
        base_name=base_name or None,
    )
    done = []
    for item in inputs.items:
        name = item.name or str(item.source)
        where = to / item.name if to is not None and inputs.manifest is not None else to
        try:
            if where is not None and where.exists():
                raise UsageError(f"{where} already exists", hint="remove it, or use a new folder with --to")
            found = repair_adapter(item, replace(wish, to=where), settings)
            done.append(RepairedAdapter(name, found, None, _exit_code(found, check=check)))
        except LoraCliError as error:
            if inputs.manifest is None and len(inputs.items) == 1:
                raise
            done.append(RepairedAdapter(name, None, error_report(error), error.exit_code))
    report = RepairSetReport(adapters=tuple(done), exit_code=max(one.exit_code for one in done))
    write_result(report, output_format, repair_parts(report, check=check))
    raise typer.Exit(report.exit_code)


def _with_base(inputs: Inputs, settings: Settings) -> tuple[Inputs, BaseModel | None]:
    """The given base, else the one in the config if it is on this machine; most repairs work without a base."""
    if inputs.base:
        return inputs, base_model(inputs.base, settings, inputs.locked_base)
    offline = replace(settings, offline=True)
    try:
        base = infer_base(inputs.to_validate(offline), offline, "repair")
        model = base_model(base, offline)
    except LoraCliError:
        return inputs, None
    inform(f"base: {base} (from the adapter's config)", settings)
    return replace(inputs, base=base), model


def _exit_code(found: RepairReport, *, check: bool) -> int:
    if found.refusals or (check and found.changes):
        return Refused.exit_code
    # Without the base the check is not conclusive.
    return NotFound.exit_code if check and found.after.outcome is Outcome.UNKNOWN else 0
