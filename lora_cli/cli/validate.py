"""``lora-cli validate``: judge adapters where they lie, and end with what CI branches on."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lora_cli.check import Terms, check_all
from lora_cli.check.report import Report
from lora_cli.cli import engine_options, options, typer
from lora_cli.cli.known import accepting, known_findings, settled
from lora_cli.cli.lineup import base_model, lineup, reaching
from lora_cli.cli.reporting import outputs, stream, tell
from lora_cli.core.finding import Severity
from lora_cli.core.frozen import replace
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import UsageError
from lora_cli.render.text import safe
from lora_cli.rules import choose

FAIL_ON = {"error": Severity.ERROR, "warning": Severity.WARNING}
Items = Sequence[tuple[str, str | AdapterRef]]


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: options.Base = "",
    policy: options.PolicyFile = None,
    fail_on: Annotated[str, typer.Option(help="The severity that refuses: error or warning.")] = "error",
    select: Annotated[list[str] | None, typer.Option(help="Only these rules: LC3, LC301, rank-mismatch.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Not these rules.")] = None,
    values: Annotated[bool, typer.Option("--values/--no-values", help="Scan the tensors' values.")] = True,
    engine: engine_options.Engines = None,
    max_lora_rank: engine_options.MaxLoraRank = None,
    tp: engine_options.Tp = 1,
    lora_target_modules: engine_options.LoraTargetModules = None,
    served_model_name: engine_options.ServedModelName = "",
    max_loras: engine_options.MaxLoras = None,
    baseline: options.KnownFindings = None,
    write_baseline: options.WriteBaseline = None,
    ray: options.Ray = None,
    formats: options.ReportFormats = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Judge adapters: format, config, tensors and values, against a base model and engines."""
    if fail_on not in FAIL_ON:
        raise UsageError(f"--fail-on is error or warning, not {safe(fail_on)}")
    chosen, wanted = choose(select or (), ignore or ()), outputs(formats or (), output, os.environ)
    known = known_findings(baseline, write_baseline)
    asked = lineup(manifest, refs or [], base, "validate", "validate", checkpoint)
    settings = reaching(ctx.obj, asked.manifest, policy)
    items: Items = [(item.name if asked.manifest else "", item.source) for item in asked.items]
    held_to = zip(items, asked.items, strict=True) if settings.policies else ()
    demands = {one: asked.demand(item) for one, item in held_to}
    max_lora_rank = max_lora_rank or (asked.engine.max_lora_rank if asked.engine else None)
    engines = engine_options.named_engines(engine, asked.manifest)
    deployment = engine_options.deployment_of(
        engines, asked, tp=tp, max_lora_rank=max_lora_rank, lora_target_modules=lora_target_modules or (),
        served_model_name=served_model_name, max_loras=max_loras,
    )  # fmt: skip
    model = base_model(asked.base, settings)
    terms = Terms(
        model, values=values, max_lora_rank=max_lora_rank, rules=chosen, engines=engines, deployment=deployment
    )
    latest = {one for one, item in zip(items, asked.items, strict=True) if item.latest}
    if ray is None:
        judged = check_all(items, terms, settings, contents=False, demands=demands, latest=latest)
    else:
        from lora_cli.fleet.judging import check_fleet

        judged = check_fleet(ray, items, terms, settings, demands=demands, latest=latest)
    said = Report(
        (),
        FAIL_ON[fail_on],
        base=model,
        rules=chosen,
        directory=Path.cwd(),
        manifest={entry.name: entry.at for entry in asked.manifest.adapters} if asked.manifest else {},
    )
    checked = stream(accepting(judged, known, said), wanted, said.fail_on)
    report = settled(replace(said, checked=checked), known, settings)
    tell(report, wanted, quiet=settings.quiet)
    raise typer.Exit(report.exit_code)
