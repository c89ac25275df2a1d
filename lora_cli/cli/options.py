"""The options of all commands: their declaration, and those that several commands share."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from lora_cli.cli.output import STDOUT, Format, check_writable
from lora_cli.errors import UsageError
from lora_cli.text import did_you_mean, safe

PREFIX = "LORA_CLI_"
T = TypeVar("T")

GLOBAL = "Global options"

VARIABLES = frozenset(
    PREFIX + name
    for name in (
        "MANIFEST", "BASE", "BASE_NAME", "POLICY", "SHARD", "RAY", "PUBLISH", "ENGINE", "BASELINE", "FAIL_ON",
        "ENDPOINT", "ENGINE_PATH", "LISTEN", "ROOT", "DEVICE", "MAX_LORAS", "MAX_CPU_LORAS", "MAX_LORA_RANK",
        "READY_FILE", "METRICS_FILE",
    )
)  # fmt: skip
"""The environment variables of options: what containers and CI jobs set. Settings have variables of their own."""


def origin_of(ctx: Any, name: str) -> str:
    """Where the value of a parameter is from: ``COMMANDLINE``, ``ENVIRONMENT``, or another of typer's names."""
    source = ctx.get_parameter_source(name)
    return source.name if source is not None else ""


def option(spec: str, text: str, default: Any = None, panel: str = "Options", **given: Any) -> Any:
    """A ``typer.Option`` with ``text`` in a panel of the command's help.

    ``spec`` is what ``--help`` shows on the left: the flags, and what their value is called (``--output -o FILE``); an
    option whose value has no name is a number if it has a ``min``, a choice if it has a ``default``, else a flag.
    Within ``Annotated``, where the parameter has the default, it is ``...``. A path that cannot be read is reported by
    what reads it: it is this machine's fault (exit 6), not a mistake (2). One that is read from ``ctx.params`` needs
    ``path_type``: typer makes paths of arguments only when it calls the command.
    """
    flags = [word for word in spec.split() if word.startswith("-")]
    metavar = " ".join(spec.split()[len(flags) :]) or ("N" if "min" in given else None)
    default = False if default is None and not metavar else default
    variable = PREFIX + flags[0].lstrip("-").replace("-", "_").upper()
    envvar = variable if variable in VARIABLES or panel == GLOBAL else None
    shown = {"metavar": metavar, "help": text, "show_envvar": False, "rich_help_panel": panel}
    return typer.Option(default, *flags, **{"envvar": envvar, "readable": False, **shown, **given})


adapters = partial(option, panel="Which adapters")
engines = partial(option, panel="Engine")
outputs = partial(option, panel="Output")
"""``option`` for a panel."""

Refs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="REF...",
        help="Adapter, or folder of adapters: path, Hub repository (ORG/NAME, ORG/NAME@REV) or URL (s3://, gs://, "
        "az://, oci://, https://); with --manifest, its names.",
    ),
]
Manifest = Annotated[
    Path | None, adapters("--manifest -f FILE", "Use the adapters of this manifest.", ..., path_type=Path)
]
Base = Annotated[str, adapters("--base REF", "Base model: a folder or reference (default: the adapters' own).", ...)]
AnyBase = Annotated[str, adapters("--base REF", "Base model, or none (default: the adapters' own).", ...)]
PolicyFile = Annotated[Path | None, adapters("--policy FILE", "Policy that adapters must pass.", ..., path_type=Path)]
Shard = Annotated[str | None, adapters("--shard I/N", "Use only part I (counted from 0) of N, by name.", ...)]
Ray = Annotated[str | None, option("--ray ADDRESS", "Run on a Ray cluster: auto, or HOST:PORT.", ..., "Network")]
OutputFormat = Annotated[Format, outputs("--format", "The format of the result.", ...)]
DryRun = Annotated[bool, outputs("--dry-run", "Only show what would be done.", ...)]


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
    if index >= count:
        hint = "--shard 0/4 is the first of four, 3/4 the last"
        raise UsageError(f"--shard {shard[:60]!r} is not I/N, with I from 0 to N-1", hint=hint)

    def part_of(named: str) -> int:
        digest = hashlib.sha256(named.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % count

    return tuple(item for item in items if part_of(name(item)) == index)


def parse_outputs(words: Sequence[str] | None, known: Sequence[str]) -> dict[Path, str]:
    """The format of each file of ``--format FORMAT[=FILE]``; without any the first of the ``known`` on standard output.

    Raises:
        UsageError: a format is unknown, or two have the same file.
        MachineError: a file cannot be written.
    """
    found: dict[Path, str] = {}
    for word in words or known[:1]:
        name, has_file, text = word.partition("=")
        file = Path(text) if has_file else STDOUT
        if name not in known or (has_file and not text):
            hint = f"--format {name}=FILE" if name in known else did_you_mean(name, known)
            raise UsageError(f"--format {safe(word)} is not FORMAT or FORMAT=FILE", hint=hint)
        if file in found:
            raise UsageError(
                f"{found[file]} and {name} would be mixed", hint=f"set a file for each: --format {name}=FILE"
            )
        check_writable(file)
        found[file] = name
    return dict(sorted(found.items(), key=lambda one: one[0] == STDOUT))  # a closed pipe costs no report file
