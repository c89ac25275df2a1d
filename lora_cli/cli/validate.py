"""``lora-cli validate``: judge adapters where they lie, and end with what CI branches on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from lora_cli.check import Checked, Terms, check_all
from lora_cli.cli import options
from lora_cli.cli.lineup import base_model, lineup, reaching
from lora_cli.cli.output import DEFAULT_WIDTH, Format, colour, width, write
from lora_cli.core.finding import Severity
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
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="The engine's largest rank.")] = None,
    output_format: options.OutputFormat = Format.HUMAN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Judge adapters: format, config, tensors and values, against a base model."""
    if fail_on not in FAIL_ON:
        raise UsageError(f"--fail-on is error or warning, not {safe(fail_on)}")
    chosen = choose(select or (), ignore or ())
    asked = lineup(manifest, refs or [], base, "validate", "validate", checkpoint)
    settings = reaching(ctx.obj, asked.manifest, policy)
    items: Items = [(item.name if asked.manifest else "", item.source) for item in asked.items]
    held_to = zip(items, asked.items, strict=True) if settings.policies else ()
    demands = {one: asked.demand(item) for one, item in held_to}
    max_lora_rank = max_lora_rank or (asked.engine.max_lora_rank if asked.engine else None)
    model = base_model(asked.base, settings)
    terms = Terms(model, values=values, max_lora_rank=max_lora_rank, rules=chosen)
    write_result = _json if output_format is Format.JSON else _human
    latest = {one for one, item in zip(items, asked.items, strict=True) if item.latest}
    judged = check_all(items, terms, settings, contents=False, demands=demands, latest=latest)
    raise typer.Exit(write_result(judged, terms, FAIL_ON[fail_on], output))


def _human(judged: Iterator[Checked], terms: Terms, fail_on: Severity, output: Path | None) -> int:
    from lora_cli.render.human.verdicts import render_checked, render_summary

    wide, coloured = (width(), colour()) if output is None else (DEFAULT_WIDTH, False)
    done: list[Checked] = []
    blocks: list[str] = []
    for checked in judged:
        done.append(checked)
        blocks.append(render_checked(checked, wide, fail_on=fail_on, colour=coloured) + "\n")
        if output is None:
            write(blocks.pop())
    write("".join(blocks) + render_summary(done, wide, fail_on=fail_on), output)
    return max((one.exit_code(fail_on) for one in done), default=0)


def _json(judged: Iterator[Checked], terms: Terms, fail_on: Severity, output: Path | None) -> int:
    from lora_cli.render.json import render_checked

    done = list(judged)
    write(render_checked(done, terms.base, fail_on), output)
    return max((one.exit_code(fail_on) for one in done), default=0)
