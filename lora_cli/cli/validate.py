"""``lora-cli validate``: judge adapters where they lie, and end with what CI branches on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cli.check import Checked, Terms, check_all, open_base
from lora_cli.cli.output import DEFAULT_WIDTH, Format, colour, width, write
from lora_cli.core.finding import Severity
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import UsageError
from lora_cli.render.text import safe
from lora_cli.rules import choose
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.core.manifest import AdapterSet

FAIL_ON = {"error": Severity.ERROR, "warning": Severity.WARNING}
Items = Sequence[tuple[str, str | AdapterRef]]


def command(
    ctx: typer.Context,
    refs: Annotated[list[str] | None, typer.Argument(metavar="REF...", help="Paths or references.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", "-f", help="An adapter set instead of REFs.")] = None,
    base: Annotated[str, typer.Option(help="The base: a directory, a config.json, a Hub id or a reference.")] = "",
    fail_on: Annotated[str, typer.Option(help="The severity that refuses: error or warning.")] = "error",
    select: Annotated[list[str] | None, typer.Option(help="Only these rules: LC3, LC301, rank-mismatch.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Not these rules.")] = None,
    values: Annotated[bool, typer.Option("--values/--no-values", help="Scan the tensors' values.")] = True,
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="The engine's largest rank.")] = None,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the result.")] = Format.HUMAN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Judge adapters: format, config, tensors and values, against a base model."""
    settings: Settings = ctx.obj
    if fail_on not in FAIL_ON:
        raise UsageError(f"--fail-on is error or warning, not {safe(fail_on)}")
    chosen = choose(select or (), ignore or ())
    adapter_set = _manifest(manifest, refs or [])
    items: Items = [("", ref) for ref in refs or []]
    if adapter_set is not None:
        items = [(entry.name, entry.source) for entry in adapter_set.adapters]
        max_lora_rank = max_lora_rank or (adapter_set.engine.max_lora_rank if adapter_set.engine else None)
    named = base or (adapter_set.base if adapter_set is not None else None)
    if not named:
        raise UsageError("validate needs a base model", hint="--base DIRECTORY, config.json or ORG/NAME")
    terms = Terms(open_base(named, settings), values=values, max_lora_rank=max_lora_rank, rules=chosen)
    write_result = _json if output_format is Format.JSON else _human
    raise typer.Exit(write_result(items, terms, settings, FAIL_ON[fail_on], output))


def _manifest(manifest: Path | None, refs: Sequence[str]) -> "AdapterSet | None":
    """The adapter set of ``-f``; exactly one of it and REFs is wanted."""
    if manifest is not None and refs:
        raise UsageError("REFs and -f exclude each other", hint="leave one of them out")
    if manifest is None:
        if not refs:
            raise UsageError("there is nothing to validate", hint="name adapters, or an adapter set with -f")
        return None
    from lora_cli.read.manifest import read_manifest

    return read_manifest(manifest)


def _human(items: Items, terms: Terms, settings: Settings, fail_on: Severity, output: Path | None) -> int:
    from lora_cli.render.human.verdicts import render_checked, render_summary

    wide, coloured = (width(), colour()) if output is None else (DEFAULT_WIDTH, False)
    done: list[Checked] = []
    blocks: list[str] = []
    for checked in check_all(items, terms, settings):
        done.append(checked)
        blocks.append(render_checked(checked, wide, fail_on=fail_on, colour=coloured) + "\n")
        if output is None:
            write(blocks.pop())
    write("".join(blocks) + render_summary(done, wide, fail_on=fail_on), output)
    return max((one.exit_code(fail_on) for one in done), default=0)


def _json(items: Items, terms: Terms, settings: Settings, fail_on: Severity, output: Path | None) -> int:
    from lora_cli.render.json import render_checked

    done = list(check_all(items, terms, settings))
    write(render_checked(done, terms.base, fail_on), output)
    return max((one.exit_code(fail_on) for one in done), default=0)
