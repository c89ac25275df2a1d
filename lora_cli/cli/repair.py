"""``lora-cli repair``: copies of adapters that a given engine serves correctly."""

from dataclasses import replace
from pathlib import Path

import typer

from lora_cli.base.base_model import BaseModel
from lora_cli.cli import completion, engine_options, options
from lora_cli.cli.adapter_selection import Inputs, apply_policies, base_model, infer_base, read_inputs
from lora_cli.cli.options import ENGINE, option
from lora_cli.cli.output import check_writable, inform, write_result
from lora_cli.errors import LoraCliError, NotFound, Refused, UsageError
from lora_cli.finding import Outcome
from lora_cli.json_schema import error_report
from lora_cli.judging.repair import RepairOptions, repair_adapter
from lora_cli.judging.repair_report import RepairedAdapter, RepairReport, RepairSetReport
from lora_cli.render.terminal_repair import repair_parts, repair_set_parts
from lora_cli.repair import DTYPES
from lora_cli.settings import Settings

REPAIR = "Repair"

EXAMPLES = (
    "lora-cli repair acme/sql --engine vllm --check",
    "lora-cli repair ./adapter --engine sglang --base ./base --to ./repaired",
    "lora-cli repair -f set.yaml --to ./repaired",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    engine: str = option(
        "--engine", "Engine that will serve it (default: from the manifest).", "", ENGINE, **completion.ENGINE
    ),
    to: Path | None = option(
        "--to DIRECTORY", "Write the copy to this new folder; with --manifest, each to DIRECTORY/NAME.", None, REPAIR
    ),
    check: bool = option("--check", "Only show the changes; exit with 1 if there are any.", False, REPAIR),
    base: str = option(
        "--base REF",
        "The base model (default: the one in the config, if it is on this machine).",
        "",
        REPAIR,
    ),
    policy: options.PolicyFile = None,
    allow_pickle: options.AllowPickle = False,
    dtype: str = option("--dtype float32|float16|bfloat16", "Convert the tensors to this type.", "", REPAIR),
    base_name: str = option("--base-name NAME", "Write this as the base model's name.", "", REPAIR),
    output_format: options.OutputFormat = "human",
    output: options.OutputFile = None,
) -> None:
    """Write copies of adapters that an engine serves correctly, and show what was changed and why."""
    if check == (to is not None):
        raise UsageError("repair needs --to, or --check to only report", hint="use one of them")
    if dtype and dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}")
    check_writable(output)
    inputs = read_inputs(manifest, refs or [], base, "repair")
    if inputs.manifest is None and len(inputs.items) > 1:
        raise UsageError("several adapters need a manifest", hint="write one with lora-cli init REF…, then use -f")
    profiles = engine_options.named_engines([engine] if engine else None, inputs.manifest)
    if len(profiles) != 1:
        raise UsageError("repair needs an engine", hint="--engine vllm; see lora-cli engines")
    settings: Settings = apply_policies(ctx.obj, inputs.manifest, policy)
    deployment = engine_options.deployment_of(profiles, inputs, inputs.max_lora_rank)
    inputs, model = _with_base(inputs, settings)
    wish = RepairOptions(
        profiles[0],
        base=model,
        base_ref=inputs.base or None,
        deployment=deployment,
        to=to,
        dtype=dtype or None,
        base_name=base_name or None,
        allow_pickle=allow_pickle,
    )
    if inputs.manifest is None:
        (item,) = inputs.items
        found = repair_adapter(item, wish, settings)
        write_result(found, output_format, repair_parts(found, check=check), output)
        raise typer.Exit(_exit_code(found, check=check))
    adapters = _repair_all(inputs, wish, settings)
    report = RepairSetReport(adapters=adapters, exit_code=max(one.exit_code for one in adapters))
    write_result(report, output_format, repair_set_parts(report, check=check), output)
    raise typer.Exit(report.exit_code)


def _with_base(inputs: Inputs, settings: Settings) -> tuple[Inputs, BaseModel | None]:
    """The given base, else the one in the config if it is on this machine; most repairs work without a base."""
    if inputs.base:
        return inputs, base_model(inputs.base, settings, inputs.locked_base)
    offline = replace(settings, offline=True)
    try:
        found = infer_base(inputs, "repair", replace(offline, quiet=True))
        model = base_model(found.base, offline)
    except LoraCliError:
        return inputs, None
    inform(f"base: {found.base} (from the adapter's config)", settings)
    return found, model


def _repair_all(inputs: Inputs, wish: RepairOptions, settings: Settings) -> tuple[RepairedAdapter, ...]:
    """Repairs each adapter of a set into a folder of its name; an error does not stop the others."""
    done = []
    for item in inputs.items:
        to = wish.to / item.name if wish.to is not None else None
        try:
            found = repair_adapter(item, replace(wish, to=to), settings)
            found = replace(found, name=item.name)
            done.append(RepairedAdapter(item.name, found, None, _exit_code(found, check=to is None)))
        except LoraCliError as error:
            done.append(RepairedAdapter(item.name, None, error_report(error), error.exit_code))
    return tuple(done)


def _exit_code(found: RepairReport, *, check: bool) -> int:
    if found.refusals or (check and found.changes):
        return Refused.exit_code
    # Without the base the check is not conclusive.
    return NotFound.exit_code if check and found.after.outcome is Outcome.UNKNOWN else 0
