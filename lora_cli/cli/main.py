"""The one way in, and the one error boundary.

A plain command line (``cli.plain``) calls its command at once; every other one goes through typer (``cli.app``).
"""

import errno
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from lora_cli import __version__
from lora_cli.cli import typer
from lora_cli.cli.parameters import gathered
from lora_cli.cli.plain import NotPlain, context_name, read
from lora_cli.cli.several_values import one_by_one
from lora_cli.core.harmless import safe
from lora_cli.core.trust import is_for_manifests
from lora_cli.errors import LoraCliError, MachineError
from lora_cli.settings import load_settings

COMMANDS = {
    "fetch": "Resolve adapters, pin their version and download them into the cache.",
    "validate": "Judge adapters: format, config, tensors and values, against a base model.",
    "inspect": "Say what an adapter is, from its header alone, local or remote.",
    "repair": "Write a copy of an adapter that a named engine serves as it was trained.",
    "warm": "Load adapters into a warm process and prove that they work.",
    "serve-bench": "Measure what adapters cost, cold and warm.",
    "cache": "Look after the disk cache: ls, show, verify, gc, rm, path.",
    "rules": "List the rules of validate, or explain one.",
    "engines": "List what engines do with which adapters, or explain one engine.",
}

PREFIX = "LORA_CLI_"

PLAIN_VARIABLES = {"LORA_CLI_CACHE_DIR", "LORA_CLI_CONFIG"}
"""The variables that the settings read as typer does; of any other one typer says what is wrong with it."""

GLOBAL_FLAGS = {"--offline", "--quiet", "-q", "--verbose", "-v", "--no-progress"}
GLOBAL_VALUES = {"--cache-dir", "--config"}

# What the operating system says when the machine, not the program, is at fault.
MACHINE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.EFBIG,
}


READER_GONE = 141
"""What a shell says of a program that writes into a pipe that nobody reads any more: 128 + SIGPIPE."""

YOUNG_OBJECTS = 20_000
"""So many new objects are looked through for garbage at once: a start-up makes thousands, and all of them stay."""

INTERRUPTED = 130
"""What a shell says of a program that was stopped with Ctrl-C: 128 + SIGINT."""

TERMINATED = 143
"""What a shell says of a program that was told to end: 128 + SIGTERM."""


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"lora-cli {__version__}")
        raise typer.Exit


def root(
    ctx: typer.Context,
    cache_dir: Annotated[
        Path | None, typer.Option("--cache-dir", help="The disk cache: ~/.cache/lora-cli.", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A settings file (TOML).", show_default=False)] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Open no socket: only what is in the cache.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More talk on stderr.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress bars.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fetch, validate, inspect, warm and measure LoRA adapters.

    Every option can also be set as LORA_CLI_<OPTION>, for example LORA_CLI_CACHE_DIR. These go with every command, in
    any place.
    """
    flags = {"cache_dir": cache_dir, "config": config}
    switches = {"offline": offline, "quiet": quiet, "verbose": verbose, "no_progress": no_progress}
    given = {name: value for name, value in (flags | switches).items() if value}
    settings = load_settings(given, os.environ)
    _check_cache_dir(settings.cache_dir)
    if settings.quiet or settings.verbose:
        _set_talk("ERROR" if settings.quiet else "INFO")
    if settings.verbose and settings.config_error:
        from lora_cli.core.log import logger

        logger(__name__).warning("%s; it is left out", settings.config_error)
    ctx.obj = settings


def _check_cache_dir(path: Path) -> None:
    """The same answer of every command to a cache that is no folder, whether or not it needs one.

    Raises:
        MachineError: it is a file.
    """
    if os.path.lexists(path) and not os.path.isdir(path):  # noqa: PTH112 - what cannot be looked at is not judged
        from lora_cli.store import Store
        from lora_cli.store.tag import check_folder

        check_folder(Store(path))


def _set_talk(level: str) -> None:
    """What the floors below say through ``logging`` (a wait, a renamed repository) goes to stderr from ``level`` on."""
    import logging

    logger = logging.getLogger("lora_cli")
    logger.setLevel(level)
    logger.handlers = [logging.StreamHandler()]


def hoist_global_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The global options, which may stand before or after the subcommand, and the rest."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in GLOBAL_FLAGS or word.split("=", 1)[0] in GLOBAL_VALUES:
            front.append(word)
            if word in GLOBAL_VALUES:
                front += [value for value in [next(words, None)] if value is not None]
        else:
            rest.append(word)
    return front, rest


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. Never raises: what no one foresaw is 70, with its traceback."""
    try:
        _call(argv)
    except typer.Exit as end:
        return end.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as stop:
        return READER_GONE if isinstance(stop.__context__, BrokenPipeError) else _code(stop)
    except Exception as error:  # noqa: BLE001 - the one boundary
        foreseen = _foreseen(error)
        return _bug() if foreseen is None else _report(foreseen)
    return 0


def _call(argv: Sequence[str]) -> None:
    """Calls what the words mean: at once where they are plain, through typer where not."""
    front, rest = hoist_global_options(argv)
    rest = one_by_one(rest)
    if argv == ["--version"]:
        _print_version(True)
    try:
        command, context, given, above = _plain(front, rest)
    except NotPlain:
        from lora_cli.cli.app import build_app

        build_app().main(args=[*front, *rest], prog_name="lora-cli")
        return
    root(context, **above)
    name = context_name(command)
    command(**gathered(command, given | ({name: context} if name else {})))


def _plain(front: Sequence[str], rest: Sequence[str]) -> tuple[Any, typer.Context, dict[str, Any], dict[str, Any]]:
    """The command that is meant, its context, what its own parameters are given, and the global ones.

    Raises:
        NotPlain: it is for typer to find out.
    """
    for name in os.environ:
        if name.startswith((PREFIX, "_" + PREFIX)) and name not in PLAIN_VARIABLES and not is_for_manifests(name):
            raise NotPlain
    if not rest or rest[0] not in COMMANDS:
        raise NotPlain
    module, words = import_module(f"lora_cli.cli.{rest[0].replace('-', '_')}"), rest[1:]
    if (group := getattr(module, "COMMANDS", None)) is None:
        command = module.command
    elif words and words[0] in group:
        command, words = group[words[0]], words[1:]
    else:
        raise NotPlain
    given = read(command, words)
    return command, typer.Context(params=given), given, read(root, front)


def _reader_gone() -> int:
    """Nobody reads any more: what is still to be written goes nowhere, so that the end is a quiet one."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
    return READER_GONE


def _code(stop: SystemExit) -> int:
    return stop.code if isinstance(stop.code, int) else int(bool(stop.code))


def _foreseen(error: Exception) -> LoraCliError | None:
    """What ``error`` says about the command line, the adapter or the machine; None for a bug."""
    if isinstance(error, LoraCliError):
        return error
    if isinstance(error, MemoryError):
        return MachineError("out of memory", hint="fewer --jobs or adapters at once need less")
    if isinstance(error, OSError) and error.errno in MACHINE_ERRNOS:
        return MachineError(f"{error.filename or 'writing the output'}: {error.strerror}", hint="look at this machine")
    return None


def _bug() -> int:
    import traceback

    from lora_cli.core.redaction import redacted

    with suppress(OSError):
        # Whoever reports a bug posts this.
        typer.echo(redacted(traceback.format_exc(), os.environ), err=True, nl=False)
        typer.echo("This is a bug in lora-cli. Please report it with the lines above.", err=True)
    return LoraCliError.exit_code


def _report(error: LoraCliError) -> int:
    with suppress(OSError):  # stderr is full or gone: the exit code still says it
        typer.echo(safe(f"error: {error.message}"), err=True)
        if error.hint:
            typer.echo(safe(f"hint: {error.hint}"), err=True)
    return error.exit_code


def run() -> None:
    """The console script. A stream that was closed before it started takes what is written and keeps nothing."""
    gc.set_threshold(YOUNG_OBJECTS)
    if sys.stdout is None or sys.stderr is None:
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    if os.getpid() == 1:
        _end_when_told()
    sys.exit(main(sys.argv[1:]))


def _end_when_told() -> None:
    """SIGTERM ends the first process of a container as it ends every other one, whom the kernel spares otherwise."""
    import signal

    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
