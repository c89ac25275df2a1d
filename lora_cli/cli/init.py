"""``lora-cli init``: writes a manifest of adapters, with comments, to edit and commit."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer
import yaml

from lora_cli.cli import completion, options
from lora_cli.cli.adapter_selection import MAX_LORAS
from lora_cli.cli.options import OUTPUT, for_engine, option
from lora_cli.cli.output import check_writable, inform, write
from lora_cli.core.adapter_files import CONFIG
from lora_cli.core.adapter_request import AdapterRequest, Selection
from lora_cli.core.addresses import hub_words
from lora_cli.core.reference import CHECKPOINT, LATEST, AdapterRef
from lora_cli.core.text import counted, names
from lora_cli.engines import Profile, choose_engine
from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.validation import Checked, read_all, ref_of

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
    refs: list[str] = typer.Argument(metavar="REF", help="Adapters or folders of adapters."),
    base: options.Base = "",
    engine: str = for_engine("--engine", "The engine that will serve them.", default="", **completion.ENGINE),
    output: Path = option("--output -o FILE", "Manifest to write; - is standard output.", Path("set.yaml"), OUTPUT),
) -> None:
    """Write a manifest of adapters from their configs, with comments on further settings."""
    settings: Settings = ctx.obj
    check_writable(output)
    if output.is_file():
        raise UsageError(f"{output} already exists", hint="use another file: --output FILE")
    inside = [_adapters_in(word) for word in refs]
    items = _items([text for adapters, _ in inside for text in adapters])
    adapters = list(read_all(items, settings))
    for one in adapters:
        if one.error is not None:
            raise one.error
        if one.adapter is None or not (one.adapter.config or one.adapter.weight_files):
            raise UsageError(f"there is no adapter in {one.source}", hint="add adapters, or a folder of adapters")
    profile = choose_engine(engine) if engine else None
    head = HEAD.format(
        file=output.name if output.name != "-" else "set.yaml",
        base=_base_line(base, adapters, output.parent),
        engine=_engine_line(profile, adapters),
    )
    entries = list(_manifest_entries(items, output.parent))
    write(head + _yaml({"adapters": entries}), output)
    if left := [name for _, others in inside for name in others]:
        why = f"no {CONFIG}, or control characters in the name"
        inform(f"left out {counted(len(left), 'folder')} ({why}): {names(left)}", settings)
    if output.name != "-":
        inform(f"wrote {output} with {counted(len(entries), 'adapter')}; next: lora-cli fetch -f {output}", settings)


def _items(refs: Sequence[str]) -> list[AdapterRequest]:
    """The adapters with unique names: the folder or repository name, with a number if it is taken."""
    items = dict[str, AdapterRequest]()
    for ref in dict.fromkeys(map(ref_of, refs)):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", ref.name).strip("-._")[:100] or "adapter"
        free = (plain, *(f"{plain}-{number}" for number in range(2, len(items) + 3)))
        name = next(name for name in free if name not in items)
        items[name] = AdapterRequest(
            name, ref, selection=Selection(latest=ref.scheme == "file" and _is_training_run(Path(ref.location)))
        )
    return list(items.values())


def _adapters_in(text: str) -> tuple[list[str], list[str]]:
    """The adapters in a folder of adapters, and the names of its other folders; anything else is one adapter."""
    folder = Path(text)
    children = sorted(folder.iterdir()) if folder.is_dir() and not (folder / CONFIG).exists() else []
    found = [one for one in children if one.name.isprintable() and ((one / CONFIG).is_file() or _is_training_run(one))]
    if not found or _is_training_run(folder):
        return [text], []
    return list(map(str, found)), [one.name for one in children if one.is_dir() and one not in found]


def _is_training_run(folder: Path) -> bool:
    """Whether this is the folder of a training run: it has checkpoints, and no adapter itself."""
    if (folder / CONFIG).exists() or not folder.is_dir():
        return False
    return any(CHECKPOINT.fullmatch(child.name) and (child / CONFIG).is_file() for child in folder.iterdir())


def _base_line(given: str, adapters: Sequence[Checked], folder: Path) -> str:
    """The ``base`` line: the given base, or the repository in all configs; else a comment."""
    named = {one.adapter.config.base_model_name_or_path or "" for one in adapters if one.adapter and one.adapter.config}
    if given:
        return _yaml({"base": _source(ref_of(given), folder)})
    if len(named) == 1 and hub_words(name := named.pop()):
        return _yaml({"base": f"hf://{name}"})
    return "# base: ORG/NAME\n"


def _engine_line(profile: Profile | None, adapters: Sequence[Checked]) -> str:
    """The ``engine`` block, with the smallest supported rank, and as many slots as adapters up to the default."""
    ranks = [pair.rank or 0 for one in adapters if one.adapter for pair in one.adapter.pairs.values()]
    largest = max(ranks, default=0) or 16
    if profile is None:
        return f"# engine: {{name: vllm, max_lora_rank: {largest}}}\n"
    allowed = sorted(profile.engine.ranks) or [largest]
    rank = next((rank for rank in allowed if rank >= largest), allowed[-1])
    spec = {"name": profile.engine.name, "version": profile.version, "max_lora_rank": rank}
    return _yaml({"engine": {**spec, "max_loras": min(MAX_LORAS, len(adapters))}})


def _manifest_entries(items: Sequence[AdapterRequest], folder: Path) -> Iterator[dict[str, str]]:
    """The entries of the manifest; paths are relative to its ``folder``."""
    for item in items:
        assert isinstance(item.source, AdapterRef)
        entry = {"name": item.name, "source": _source(item.source, folder)}
        yield entry | ({"checkpoint": LATEST} if item.selection.latest else {})


def _source(ref: AdapterRef, folder: Path) -> str:
    if ref.scheme != "file":
        return str(ref)
    path = Path(os.path.relpath(ref.location, folder)).as_posix()
    return path if path.startswith("../") else f"./{path}"


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
