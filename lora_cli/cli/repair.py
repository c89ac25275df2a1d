"""``lora-cli repair``: copies of adapters that a given engine serves correctly."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import typer

from lora_cli.base.base_model import BaseModel
from lora_cli.cli import options
from lora_cli.cli.options import adapters, engines, option
from lora_cli.cli.output import inform, write_result
from lora_cli.engines import check_max_lora_rank
from lora_cli.errors import LoraCliError, NotFound, Refused, UsageError
from lora_cli.finding import Deployment, Outcome
from lora_cli.inputs import Inputs, apply_policies, base_model, named_engines, read_inputs
from lora_cli.json_schema import error_report
from lora_cli.judging.inspection import infer_base
from lora_cli.repair import RepairOptions, repair_adapter
from lora_cli.reports.repair import RepairedAdapter, human
from lora_cli.settings import Settings
from lora_cli.version import __version__

EXAMPLES = (
    "lora-cli repair acme/sql --engine vllm --check",
    "lora-cli repair ./adapter --engine sglang --base ./base --to ./repaired",
    "lora-cli repair ./adapter --engine vllm --in-place",
    "lora-cli repair -f set.yaml --to ./repaired",
)

mode = partial(option, panel="Repair")


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    engine: str | None = engines("--engine NAME[@VERSION]", "Engine that will serve it (default: the manifest's)."),
    to: Path | None = mode("--to DIRECTORY", "Write the copy to this new folder; with -f, each to DIRECTORY/NAME."),
    in_place: bool = mode("--in-place", "Rewrite local adapters where they are."),
    check: bool = mode("--check", "Only show the changes; exit with 1 if there are any."),
    base: str = adapters("--base REF", "Base model (default: the adapter's own, if it is on this machine).", ""),
    base_name: str | None = mode("--base-name NAME", "Write this as the base model's name."),
    output_format: options.OutputFormat = "human",
) -> None:
    """Write copies of adapters that an engine serves correctly, and show what was changed and why."""
    if sum((to is not None, in_place, check)) != 1:
        raise UsageError("repair needs --to, --in-place, or --check to only report", hint="use one of them")
    inputs = read_inputs(manifest, refs or [], base, "repair")
    if inputs.manifest is None and len(inputs.items) > 1 and to is not None:
        raise UsageError("several adapters need a manifest", hint="write one with lora-cli init REF…, then use -f")
    profiles = named_engines([engine] if engine else (), inputs)
    if len(profiles) != 1:
        raise UsageError("repair needs an engine", hint="--engine vllm; see lora-cli engines")
    settings = apply_policies(ctx.obj, inputs.manifest)
    check_max_lora_rank(profiles, inputs.max_lora_rank)
    inputs, model = _with_base(inputs, settings)
    wish = RepairOptions(
        profiles[0],
        model,
        Deployment(inputs.max_lora_rank),
        in_place=in_place,
        base_ref=inputs.base or None,
        base_name=base_name,
    )
    done = []
    for item in inputs.items:
        name = item.name or str(item.source)
        where = to / item.name if to is not None and inputs.manifest is not None else to
        try:
            if where is not None and where.exists():
                raise UsageError(f"{where} already exists", hint="remove it, or use a new folder with --to")
            found = repair_adapter(item, replace(wish, to=where), settings)
            code = Refused.exit_code if found.refusals or (check and found.changes) else 0
            if not code and check and found.after.outcome is Outcome.UNKNOWN:
                code = NotFound.exit_code  # without the base the check is not conclusive
            done.append(RepairedAdapter(name, found, None, code))
        except LoraCliError as error:
            if inputs.manifest is None and len(inputs.items) == 1:
                raise
            done.append(RepairedAdapter(name, None, error_report(error), error.exit_code))
    code = max(one.exit_code for one in done)
    report = {"schema": "lora_cli/repair/2", "version": __version__, "adapters": done, "exit_code": code}
    write_result(report, output_format, human(done, check=check))
    raise typer.Exit(code)


def _with_base(inputs: Inputs, settings: Settings) -> tuple[Inputs, BaseModel | None]:
    """The given base, else the one in the config if it is on this machine; most repairs work without a base."""
    if inputs.base:
        return inputs, base_model(inputs, settings)
    offline = replace(settings, offline=True)
    try:
        based = replace(inputs, base=infer_base(inputs.to_validate(offline), offline, "repair"))
        model = base_model(based, offline)
    except LoraCliError:
        return inputs, None
    inform(f"base: {based.base} (from the adapter's config)", settings)
    return based, model
