"""Shell completion of values: cached adapters, engines, rules.

Typer calls these with the incomplete word, and offers the matching ones. The shell itself completes files if there are
no matches.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from lora_cli.errors import LoraCliError, MachineError
from lora_cli.settings import load_settings
from lora_cli.store import Store
from lora_cli.store.disk import write_file
from lora_cli.store.resolution_records import all_records

MAX_RECORDS = 2000
"""The most records that are read: completion must respond at once."""

PLAIN = re.compile(r"[\w@%+=:,./-]+")
"""Words that mean themselves in every shell."""

COMPLETION_FLAGS = ("--install-completion", "--show-completion")
BASH_SCRIPT = Path(__file__).with_name("completion.bash")
"""Replaces typer's script, which does not join the words that bash splits at ``:`` and ``@``."""


def references(ctx: typer.Context, incomplete: str) -> list[str]:
    """References of cached adapters; none for the beginning of a path."""
    if incomplete.startswith((".", "/", "~")):
        return []
    return _matching(_from_cache(ctx, partial(_references, incomplete)), incomplete)


def snapshots(ctx: typer.Context, incomplete: str) -> list[str]:
    """The arguments of ``cache show``: references, and digests after the first character."""
    found = _from_cache(ctx, partial(_references, incomplete))
    if incomplete:
        found += _from_cache(ctx, lambda store: _names(store.snapshots))
    return _matching(found, incomplete)


def engines(incomplete: str) -> list[str]:
    """Names of engines; after ``@`` the versions with a profile, newest first."""
    from lora_cli.engines import ENGINES, profiles_of

    name, at, _ = incomplete.partition("@")
    if not at:
        return list(ENGINES)
    return [f"{name}@{profile.version}" for profile in profiles_of(ENGINES[name])] if name in ENGINES else []


def rules(incomplete: str) -> list[tuple[str, str]]:
    """Codes of rules; their names if no code matches."""
    from lora_cli.rules import RULES

    codes = [(rule.code, rule.name) for rule in RULES if rule.code.startswith(incomplete)]
    return codes or [(rule.name, rule.code) for rule in RULES if rule.name.startswith(incomplete)]


REF: dict[str, Any] = {"metavar": "REF", "autocompletion": references}
ENGINE: dict[str, Any] = {"metavar": "NAME[@VERSION]", "autocompletion": engines}
RULE: dict[str, Any] = {"metavar": "RULE", "autocompletion": rules}
"""Parameters of ``option`` for values of these kinds: the metavar and the completion."""


def choices(*known: str) -> Callable[[], list[str]]:
    """Completes to one of these words."""
    return lambda: list(known)


def _matching(found: Sequence[str], incomplete: str) -> list[str]:
    """Leaves out ``name@revision`` while ``name`` is offered, until ``incomplete`` has the ``@``.

    Words with a character that a shell acts on are left out: bash puts them into its line without quotes.
    """
    found = [word for word in found if PLAIN.fullmatch(word)]
    known = set(found)
    return [word for word in found if "@" in incomplete or word.partition("@")[0] not in known - {word}]


def _from_cache(ctx: typer.Context, list_names: Callable[[Store], Iterator[str]]) -> list[str]:
    """The names that are listed in the configured cache; empty if it cannot be read: completion shows no errors."""
    with suppress(LoraCliError, OSError):
        store = Store(load_settings(ctx.meta, os.environ).cache_dir)
        return sorted(set(islice(list_names(store), MAX_RECORDS)))
    return []


def _references(incomplete: str, store: Store) -> Iterator[str]:
    """Cached references in their short form; Hub references with ``hf://`` if ``incomplete`` has that."""
    for record in all_records(store):
        ref = record.ref if incomplete.startswith("hf:") else record.ref.removeprefix("hf://")
        yield ref if "%" in ref else ref.removeprefix("file://")


def _names(folder: os.PathLike[str]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if not entry.name.startswith("."))


def set_up_bash(argv: Sequence[str]) -> bool:
    """Handles ``--install-completion`` and ``--show-completion`` in bash, with our script; False for anything else.

    Typer handles the other shells.
    """
    printed = os.environ.get("_LORA_CLI_COMPLETE") == "source_bash"
    if not printed and not (argv and argv[0] in COMPLETION_FLAGS and _shell() == "bash"):
        return False
    if printed or argv[0] == "--show-completion":
        typer.echo(BASH_SCRIPT.read_text(encoding="utf-8"), nl=False)
        return True
    installed = Path.home() / ".bash_completions" / "lora-cli.sh"
    try:
        _install(installed, Path.home() / ".bashrc")
    except OSError as error:
        raise MachineError(
            f"{error.filename}: {error.strerror}", hint="lora-cli --show-completion prints it"
        ) from error
    typer.echo(f"bash completion is installed in {installed}; it works in new terminals")
    return True


def _install(installed: Path, rc: Path) -> None:
    """Writes the script, and adds a line to ``rc`` that sources it."""
    installed.parent.mkdir(parents=True, exist_ok=True)
    write_file(installed, BASH_SCRIPT.read_bytes())
    line = f"source {shlex.quote(str(installed))}\n".encode()
    known = rc.read_bytes() if rc.exists() else b""
    if line not in known:
        with rc.open("ab") as stream:
            stream.write((b"\n" if known and not known.endswith(b"\n") else b"") + line)


def _shell() -> str:
    """The name of the calling shell; "" if it is not found."""
    import shellingham

    try:
        name: str = shellingham.detect_shell()[0]
    except (shellingham.ShellDetectionFailure, OSError):
        return ""
    return name
