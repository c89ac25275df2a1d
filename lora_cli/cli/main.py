"""The app and the one error boundary.

A subcommand is a line in ``COMMANDS`` and a module with a function ``command`` (or, for a group, a Typer ``app``).
The module is imported only when its command runs: ``lora-cli --help`` loads none of them.
"""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer._click.exceptions import ClickException
from typer.core import TyperGroup

from lora_cli import __version__
from lora_cli.core.nearest import nearest
from lora_cli.errors import LoraCliError, MachineError, without_tokens
from lora_cli.settings import OPTIONS, load_settings

if TYPE_CHECKING:
    from typer._click import Command, Context

COMMANDS = {
    "fetch": "Resolve adapters, pin their version and download them into the cache.",
    "validate": "Judge adapters: format, config, tensors and values, against a base model.",
    "inspect": "Say what an adapter is, from its header alone, local or remote.",
    "warm": "Load adapters into a warm process and prove that they work.",
    "serve-bench": "Measure what adapters cost, cold and warm.",
    "cache": "Look after the disk cache: ls, show, verify, gc, rm, path.",
    "rules": "List the rules of validate, or explain one.",
}

PREFIX = "LORA_CLI_"

GLOBAL_FLAGS = {"--quiet", "-q", "--verbose", "-v", "--no-progress"}
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


class LazyGroup(TyperGroup):
    """The root group: its commands are stubs until one is named on the command line."""

    def resolve_command(self, ctx: "Context", args: list[str]) -> "tuple[str | None, Command | None, list[str]]":
        """The named command, with its module imported and its options bound to ``LORA_CLI_<OPTION>``."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = self.commands[name] = _load_command(name)
        return name, command, rest

    def invoke(self, ctx: "Context") -> Any:
        """Runs the command; what is wrong with its words is said without a token that was one of them."""
        try:
            return super().invoke(ctx)
        except ClickException as error:
            error.message = without_tokens(error.message)
            raise


def _load_command(name: str) -> "Command":
    module = import_module(f"lora_cli.cli.{name.replace('-', '_')}")
    group: typer.Typer | None = getattr(module, "app", None)
    if group is None:
        group = typer.Typer(add_completion=False, rich_markup_mode=_markup_mode())
        group.command(name, help=COMMANDS[name])(module.command)
    command = typer.main.get_command(group)
    command.name = name
    _bind_environment(command)
    return command


def _bind_environment(command: Any) -> None:
    """Gives every option its variable ``LORA_CLI_<OPTION>``, the same for every command.

    Whether a path can be read is found out by whoever reads it: that it cannot is the machine's fault, not the
    command line's.
    """
    for parameter in command.params:
        if hasattr(parameter.type, "readable"):
            parameter.type.readable = False
        flags = [flag for flag in getattr(parameter, "opts", ()) if flag.startswith("--")]
        if flags and flags[0] not in {"--help", "--version"} and parameter.param_type_name == "option":
            parameter.envvar = PREFIX + flags[0].lstrip("-").replace("-", "_").upper()
            parameter.show_envvar = False
    for child in getattr(command, "commands", {}).values():
        _bind_environment(child)


def _markup_mode() -> Any:
    """Rich help on a terminal; plain text, three times faster, in a pipe."""
    return "rich" if sys.stdout.isatty() else None


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"lora-cli {__version__}")
        raise typer.Exit


def root(
    ctx: typer.Context,
    cache_dir: Annotated[Path | None, typer.Option("--cache-dir", help="The disk cache.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A settings file (TOML).", show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More talk on stderr.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress bars.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fetch, validate, inspect, warm and measure LoRA adapters.

    Every option can also be set as LORA_CLI_<OPTION>, for example LORA_CLI_CACHE_DIR.
    """
    flags = {"cache_dir": cache_dir, "config": config}
    switches = {"quiet": quiet, "verbose": verbose, "no_progress": no_progress}
    given = {name: value for name, value in (flags | switches).items() if value}
    settings = load_settings(given, os.environ)
    _check_cache_dir(settings.cache_dir)
    _name_unknown_variables(ctx, settings.quiet)
    if settings.quiet or settings.verbose:
        _set_talk("ERROR" if settings.quiet else "INFO")
    if settings.verbose and settings.config_error:
        import logging

        logging.getLogger(__name__).warning("%s; it is left out", settings.config_error)
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


def _name_unknown_variables(ctx: typer.Context, quiet: bool) -> None:
    """Says of each ``LORA_CLI_…`` in the environment that no command knows which one was probably meant."""
    given = {name for name in os.environ if name.startswith(PREFIX)}
    if quiet or not given - (known := variables(ctx.command) | {PREFIX + option.upper() for option in OPTIONS}):
        return
    for command in COMMANDS:  # only now: other commands' modules take time to import
        known |= variables(_load_command(command))
    for name in sorted(given - known):
        close = nearest(name.removeprefix(PREFIX), (word.removeprefix(PREFIX) for word in known))
        meant = f"; did you mean {PREFIX}{close}?" if close else ""
        typer.echo(f"warning: {name} is set, and no option has that name{meant}", err=True)


def variables(command: Any) -> set[str]:
    """The variables of a command's options and of those below it, as far as they are loaded."""
    own = {str(parameter.envvar) for parameter in command.params if getattr(parameter, "envvar", None)}
    return own.union(*(variables(child) for child in getattr(command, "commands", {}).values()))


def _set_talk(level: str) -> None:
    """What the floors below say through ``logging`` (a wait, a renamed repository) goes to stderr from ``level`` on."""
    import logging

    logger = logging.getLogger("lora_cli")
    logger.setLevel(level)
    logger.handlers = [logging.StreamHandler()]


def build_app() -> "Command":
    """The root command with a stub for each subcommand."""
    app = typer.Typer(cls=LazyGroup, no_args_is_help=True, rich_markup_mode=_markup_mode())
    app.callback()(root)
    for name, text in COMMANDS.items():
        app.command(name, help=text)(lambda: None)
    command = typer.main.get_command(app)
    _bind_environment(command)
    return command


def hoist_global_options(argv: Sequence[str]) -> list[str]:
    """``argv`` with the global options moved to the front: they may stand before or after the subcommand."""
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
    return [*front, *rest]


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. Never raises: what no one foresaw is 70, with its traceback."""
    try:
        build_app().main(args=hoist_global_options(argv), prog_name="lora-cli")
    except SystemExit as stop:
        return READER_GONE if isinstance(stop.__context__, BrokenPipeError) else _code(stop)
    except Exception as error:  # noqa: BLE001 - the one boundary
        foreseen = _foreseen(error)
        return _bug() if foreseen is None else _report(foreseen)
    return 0


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
    from lora_cli.cli.output import unheard

    with suppress(OSError):  # stderr is full or gone: the exit code still says it
        typer.echo(unheard(f"error: {error.message}"), err=True)
        if error.hint:
            typer.echo(unheard(f"hint: {error.hint}"), err=True)
    return error.exit_code


def run() -> None:
    """The console script. A stream that was closed before it started takes what is written and keeps nothing."""
    if sys.stdout is None or sys.stderr is None:
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    sys.exit(main(sys.argv[1:]))
