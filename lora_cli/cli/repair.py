"""``lora-cli repair``: adapters, written so that a named engine serves them right."""

from dataclasses import replace
from pathlib import Path

import typer

from lora_cli.cli import completion, engine_options, options
from lora_cli.cli.lineup import Lineup, base_model, lineup, reaching
from lora_cli.cli.options import ENGINE, option
from lora_cli.cli.output import writable, write_result
from lora_cli.core.engine_outcome import Deployment
from lora_cli.core.json_schema import error_report
from lora_cli.errors import LoraCliError, NotFound, Refused, UsageError
from lora_cli.render.terminal_repair import repair_parts, repair_set_parts
from lora_cli.repair import DTYPES
from lora_cli.settings import Settings
from lora_cli.validation.repair_report import RepairedAdapter, RepairReport, RepairSetReport
from lora_cli.validation.repaired import Wish, repair_adapter

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
        "--engine", "The engine that will serve it; without it the manifest's.", "", ENGINE, **completion.ENGINE
    ),
    to: Path | None = option(
        "--to DIRECTORY", "Write the copy to this new folder; with --manifest, each to DIRECTORY/NAME.", None, REPAIR
    ),
    check: bool = option("--check", "Only show what would be changed; exit code 1 if anything.", False, REPAIR),
    base: str = option(
        "--base", "The base model, which has the names and shapes of modules.", "", REPAIR, **completion.REF
    ),
    checkpoint: options.Checkpoint = "",
    policy: options.PolicyFile = None,
    allow_pickle: options.AllowPickle = False,
    tp: engine_options.Tp = 1,
    dtype: str = option("--dtype float32|float16|bfloat16", "Convert the tensors to this type.", "", REPAIR),
    base_name: str = option("--base-name NAME", "Write this as the base model's name.", "", REPAIR),
    output_format: options.OutputFormat = "human",
    output: options.OutputFile = None,
) -> None:
    """Write copies of adapters that an engine serves as they were trained, and show what was changed and why."""
    if check == (to is not None):
        raise UsageError("repair writes a copy with --to, or only reports with --check", hint="give one of the two")
    if dtype and dtype not in DTYPES:
        raise UsageError(f"--dtype is one of {', '.join(DTYPES)}")
    writable(output)
    asked = lineup(manifest, refs or [], base, "repair", checkpoint)
    if asked.manifest is None and len(asked.items) > 1:
        raise UsageError("several adapters are repaired with a manifest", hint="lora-cli init REF… writes one; then -f")
    profiles = engine_options.named_engines([engine] if engine else None, asked.manifest)
    if len(profiles) != 1:
        raise UsageError("repair needs an engine", hint="--engine vllm; lora-cli engines lists them")
    settings: Settings = reaching(ctx.obj, asked.manifest, policy)
    wish = Wish(
        profiles[0],
        base=base_model(asked.base, settings) if asked.base else None,
        base_ref=asked.base or None,
        deployment=Deployment(tp=tp),
        to=to,
        dtype=dtype or None,
        base_name=base_name or None,
        allow_pickle=allow_pickle,
    )
    if asked.manifest is None:
        (item,) = asked.items
        found = repair_adapter(item.source, replace(wish, latest=item.latest), settings)
        write_result(found, output_format, repair_parts(found, check=check), output)
        raise typer.Exit(_exit_code(found, check=check))
    adapters = _repair_all(asked, wish, settings)
    report = RepairSetReport(adapters=adapters, exit_code=max(one.exit_code for one in adapters))
    write_result(report, output_format, repair_set_parts(report, check=check), output)
    raise typer.Exit(report.exit_code)


def _repair_all(asked: Lineup, wish: Wish, settings: Settings) -> tuple[RepairedAdapter, ...]:
    """Each adapter of a set, in a folder of its name; one that fails stops no other."""
    done = []
    for item in asked.items:
        to = wish.to / item.name if wish.to is not None else None
        try:
            found = repair_adapter(item.source, replace(wish, to=to, latest=item.latest), settings)
            found = replace(found, name=item.name)
            done.append(RepairedAdapter(item.name, found, None, _exit_code(found, check=to is None)))
        except LoraCliError as error:
            done.append(RepairedAdapter(item.name, None, error_report(error), error.exit_code))
    return tuple(done)


def _exit_code(found: RepairReport, *, check: bool) -> int:
    if found.refusals or (check and found.changes):
        return Refused.exit_code
    # A check that lacks the base cannot tell.
    return NotFound.exit_code if check and not found.after.judged.known else 0
