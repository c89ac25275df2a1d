"""The options of all commands: their declaration, those that several commands share, and the completion of values."""

import hashlib
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from lora_cli.cli.output import Format
from lora_cli.documents.option_values import parse_duration, parse_size
from lora_cli.errors import UsageError

PREFIX = "LORA_CLI_"
MOST_PARTS = 100_000
T = TypeVar("T")

ADAPTERS = "Which adapters"
LOCKING = "Locking"
LIMITS = "Limits"
NETWORK = "Network"
ENGINE = "Engine"
OUTPUT = "Output"
GLOBAL = "Global options"


def variable_of(flag: str) -> str:
    """The environment variable of an option, from its first long flag."""
    return PREFIX + flag.lstrip("-").replace("-", "_").upper()


def origin_of(ctx: Any, name: str) -> str:
    """Where the value of a parameter is from: ``COMMANDLINE``, ``ENVIRONMENT``, or another of typer's names."""
    source = ctx.get_parameter_source(name)
    return source.name if source is not None else ""


def option(spec: str, text: str, default: Any, panel: str, **given: Any) -> Any:
    """A ``typer.Option`` with the variable ``LORA_CLI_<OPTION>``, and ``text`` in a panel of the command's help.

    ``spec`` is what ``--help`` shows on the left: the flags, and what their value is called (``--output -o FILE``).
    The ``default`` is ``...`` within ``Annotated``, where the parameter has it.
    A path that cannot be read is reported by what reads it: it is this machine's fault (exit 6), not a mistake (2).
    """
    flags = [word for word in spec.split() if word.startswith("-")]
    metavar = " ".join(spec.split()[len(flags) :]) or ("N" if "min" in given else None)
    if isinstance(shown := given.get("show_default"), str):  # the effective default of an option whose default is None
        text, given["show_default"] = f"{text} (default: {shown})", False
    shown = {"metavar": metavar, "help": text, "show_envvar": False, "readable": False, "rich_help_panel": panel}
    return typer.Option(default, *flags, **{"envvar": variable_of(flags[0]), **shown, **given})


for_engine = partial(option, default=None, panel=ENGINE)
result = partial(option, default=None, panel=OUTPUT)
"""``option`` for a panel; its default is None."""


def parse_size_option(text: str, flag: str) -> int:
    """The bytes in the value of a flag. Raises ``UsageError``."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}", hint=f"{flag} 50GiB") from error


def parse_duration_option(text: str, flag: str, hint: str = "write 30s, 10m or 1h") -> float:
    """The seconds in the value of a flag. Raises ``UsageError``."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}", hint=hint) from error


def in_shard(items: Iterable[T], shard: str | None, name: Callable[[T], str]) -> tuple[T, ...]:
    """The ``items`` whose ``name`` is in the shard ``"I/N"``: part I of N, from 0; all of them without one.

    I is counted as an indexed Kubernetes Job counts (``JOB_COMPLETION_INDEX``). Every name is in exactly one part,
    which depends on the name and N alone: workers that know nothing of each other share the items.

    Raises:
        UsageError: it is no shard.
    """
    if shard is None:
        return tuple(items)
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard.strip(), re.ASCII)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < count <= MOST_PARTS:
        hint = f"--shard 0/4 is the first of four; at most {MOST_PARTS}"
        raise UsageError(f"--shard {shard[:60]!r} is not I/N", hint=hint)
    if index >= count:
        hint = f"0/{count} to {count - 1}/{count}"
        raise UsageError(f"--shard {index}/{count}: shards are counted from 0", hint=hint)

    def part_of(named: str) -> int:
        digest = hashlib.sha256(named.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % count

    return tuple(item for item in items if part_of(name(item)) == index)


Refs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="REF",
        help="Adapter, or folder of adapters: path, Hub repository (ORG/NAME, ORG/NAME@REV) or URL (s3://, gs://, "
        "oci://, https://); with --manifest, its names.",
    ),
]
adapter_option = partial(option, default=..., panel=ADAPTERS)
Manifest = Annotated[Path | None, adapter_option("--manifest -f FILE", "Use the adapters of this manifest.")]
Base = Annotated[
    str,
    adapter_option(
        "--base REF",
        "Base model: directory, config.json, Hub id or reference (default: from the adapters' configs).",
    ),
]
PolicyFile = Annotated[Path | None, adapter_option("--policy FILE", "Policy that adapters must pass.")]
Shard = Annotated[str | None, adapter_option("--shard I/N", "Use only part I (counted from 0) of N, by name.")]
Ray = Annotated[
    str | None, option("--ray ADDRESS", "Run on a Ray cluster: auto, or HOST:PORT of its head.", ..., NETWORK)
]
AllowPickle = Annotated[bool, option("--allow-pickle", "Accept .bin weights without safetensors.", ..., ADAPTERS)]
OutputFormat = Annotated[Format, option("--format", "The format of the result.", ..., OUTPUT)]
OutputFile = Annotated[Path | None, option("--output -o FILE", "Write the result to this file.", ..., OUTPUT)]


def complete_engine(incomplete: str) -> list[str]:
    """Names of engines; after ``@`` the versions with a profile, newest first."""
    from lora_cli.engines import ENGINES

    name, at, _ = incomplete.partition("@")
    if not at:
        return list(ENGINES)
    return [f"{name}@{version}" for version in reversed(ENGINES[name].versions)] if name in ENGINES else []


def complete_rule(incomplete: str) -> list[tuple[str, str]]:
    """Codes of rules; their names if no code matches."""
    from lora_cli.checks import CHECKS

    codes = [(rule.code, rule.name) for rule in CHECKS if rule.code.startswith(incomplete)]
    return codes or [(rule.name, rule.code) for rule in CHECKS if rule.name.startswith(incomplete)]


AN_ENGINE: dict[str, Any] = {"metavar": "NAME[@VERSION]", "autocompletion": complete_engine}
A_RULE: dict[str, Any] = {"metavar": "RULE", "autocompletion": complete_rule}
"""Parameters of ``option`` for values of these kinds: the metavar and the completion."""
