"""``lora-cli init``: writes a manifest of adapters, with comments, to edit and commit."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import typer
import yaml

from lora_cli.cli import options
from lora_cli.cli.options import engines, outputs
from lora_cli.cli.output import check_writable, inform, to_stderr, write
from lora_cli.engines import Profile, choose_engine
from lora_cli.errors import FormatError, UsageError
from lora_cli.fetching.file_selection import from_refs
from lora_cli.inputs import MAX_LORAS, apply_policies
from lora_cli.judging.inspection import inspect_one
from lora_cli.judging.read import Terms, each
from lora_cli.judging.result import Result
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.refs.reference import LATEST_FOLDER, AdapterRef, below, hub_words, ref_of
from lora_cli.reports.words import problem_lines
from lora_cli.settings import Settings
from lora_cli.text import counted, cut, names, safe

EXAMPLES = (
    "lora-cli init ./adapters",
    "lora-cli init acme/sql s3://acme-adapters/chat --engine vllm -o prod.yaml",
)

HEAD = """\
# An adapter set: which adapters, for which base, on which engine.
#   lora-cli fetch -f {file}       downloads them and writes their versions into a lock next to this file
#   lora-cli validate -f {file}    checks them against the base and the engine below
apiVersion: lora-cli/v1
kind: AdapterSet

# The base model. Only its config.json is read, for names and shapes; append @COMMIT to pin it.
{base}
# The engine that serves them, and its limits, named as its flags.
{engine}
# The name of each adapter is the model's name in requests. Pin a source with @COMMIT, or commit the lock.
"""


def command(
    ctx: typer.Context,
    refs: list[str] = typer.Argument(metavar="REF...", help="Adapters or folders of adapters."),
    base: options.Base = "",
    engine: str | None = engines("--engine NAME[@VERSION]", "The engine that will serve them."),
    output: Path = outputs("--output -o FILE", "Manifest to write; - is standard output.", Path("set.yaml")),
) -> None:
    """Write a manifest of adapters from their configs, with comments on further settings."""
    settings = apply_policies(ctx.obj, None)
    check_writable(output)
    if output.is_file():
        raise UsageError(f"{output} already exists", hint="use another file: --output FILE")
    adapters, sources, code = dict[str, Result](), list[str](), 0
    requests = [replace(item, name="") for item in from_refs(refs)]
    for one in each(requests, inspect_one, Terms(settings)):
        if one.error is not None or one.adapter is None or not one.adapter.config or one.request is None:
            error = one.error or FormatError(f"there is no {CONFIG}", where=one.name)
            code = max(code, error.exit_code)
            to_stderr(problem_lines(f"left out: {error.message}", error.hint))
            continue
        ref, latest = one.request.ref, one.request.selection.latest
        source = _source(below(ref, LATEST_FOLDER) if latest else ref, output.parent)
        if source not in sources:
            sources.append(source)
            plain = re.sub(r"[^A-Za-z0-9._-]+", "-", ref.name).strip("-._")[:100] or "adapter"
            free = (plain, *(f"{plain}-{number}" for number in range(2, len(sources) + 2)))
            adapters[next(name for name in free if name not in adapters)] = one
    if not adapters:
        raise typer.Exit(code)
    head = HEAD.format(
        file=output.name if output.name != "-" else "set.yaml",
        base=_base_line(base, adapters, output.parent, settings),
        engine=_engine_line(choose_engine(engine) if engine else None, adapters, settings),
    )
    entries = [{"name": name, "source": source} for name, source in zip(adapters, sources, strict=True)]
    write(head + _yaml({"adapters": entries}), output)
    if output.name != "-":
        inform(f"wrote {output} with {counted(len(entries), 'adapter')}; next: lora-cli fetch -f {output}", settings)
    raise typer.Exit(code)


def _base_line(given: str, adapters: Mapping[str, Result], folder: Path, settings: Settings) -> str:
    """The ``base`` line: the given base, or the repository that most configs name; else a comment."""
    configs = {name: one.adapter.config for name, one in adapters.items() if one.adapter}
    bases = {name: found for name, one in configs.items() if one and (found := one.base_model_name_or_path)}
    usual = Counter(filter(hub_words, bases.values())).most_common(1)
    for base, count in usual:
        if others := [f"{name} ({cut(one)})" for name, one in bases.items() if one != base]:
            share = f"{count} of {counted(len(adapters), 'adapter')}"
            inform(safe(f"base: {base}, as {share} say; others: {names(others)}"), settings)
    if given or not usual:
        return _yaml({"base": _source(ref_of(given), folder)}) if given else "# base: ORG/NAME\n"
    return _yaml({"base": f"hf://{usual[0][0]}"})


def _engine_line(profile: Profile | None, adapters: Mapping[str, Result], settings: Settings) -> str:
    """The ``engine`` block, with the smallest supported rank, and as many slots as adapters up to the default."""
    pairs = [(name, pair) for name, one in adapters.items() if one.adapter for pair in one.adapter.pairs.values()]
    largest, name = max(((pair.rank, name) for name, pair in pairs if pair.rank), default=(16, ""))
    if profile is None:
        return f"# engine: {{name: vllm, max_lora_rank: {largest}}}\n"
    allowed = sorted(profile.engine.ranks) or [largest]
    rank = next((rank for rank in allowed if rank >= largest), allowed[-1])
    spec = {"name": profile.engine.name, "version": profile.version, "max_lora_rank": rank}
    why = f"max_lora_rank is {rank}: {name} has the highest rank, {largest}; start the engine with it" if name else ""
    if why:
        inform(why, settings)
    comment = f"# {why}\n" if why else ""
    return comment + _yaml({"engine": {**spec, "max_loras": min(MAX_LORAS, len(adapters))}})


def _source(ref: AdapterRef, folder: Path) -> str:
    """The reference as a manifest in ``folder`` has it: a path is relative to that."""
    if ref.scheme != "file":
        return str(ref)
    path = Path(os.path.relpath(ref.location, folder)).as_posix()
    return path if path.startswith("../") else f"./{path}"


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
