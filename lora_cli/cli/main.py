"""The console script: its commands, and the one place where errors become messages and exit codes.

typer parses the command line. A command is a line in ``COMMANDS`` and a module with a function ``command`` and
``EXAMPLES``, imported when it is used; a group's module has ``COMMANDS`` too.
"""

import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from errno import EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM, EROFS
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from lora_cli.cli.options import GLOBAL, PREFIX, option, origin_of, variable_of
from lora_cli.cli.output import VALIDATE_FORMATS, ReportFormat, to_stderr
from lora_cli.errors import INTERRUPTED, DocumentError, LoraCliError, MachineError, UsageError
from lora_cli.redaction import log_to_stderr
from lora_cli.settings import API_KEY, CONFIG, RESOLVE, RESOLVE_TIMEOUT, SETTINGS, load_settings
from lora_cli.store import Store
from lora_cli.text import nearest, safe
from lora_cli.version import __version__

Command = TyperCommand | TyperGroup

COMMANDS = {
    "init": "Write a manifest of adapters, to edit and commit.",
    "fetch": "Download adapters into the cache, pinned and verified.",
    "validate": "Check adapters against a base model and inference engines.",
    "inspect": "Show an adapter's contents from its header alone, local or remote.",
    "repair": "Write a copy of an adapter that an engine serves correctly.",
    "warm": "Load adapters into a warm process or running engines and prove that they work.",
    "serve-bench": "Measure adapters at a server: cold, warm and hot; or simulate how many slots they need.",
    "cache": "Manage the disk cache: ls, show, verify, gc, rm, path.",
    "rules": "List the rules of validate, or explain one.",
    "engines": "List which adapters engines support, or explain one engine.",
}

HELP = {"help_option_names": ["-h", "--help"]}
UNITS = {
    "SIZE": "SIZE is a number of bytes, 2GiB (powers of 1024) or 500MB (powers of 1000).",
    "TIME": "TIME is a number of seconds, 500ms, 30s or 1h30m.",
}
VERSION = ("--version", "-V")
ARGUMENTS = "arguments"
"""Where a context has all words of its command line: ``--version`` is parsed before ``-v``."""

# Errors of the operating system that are caused by the machine, not by a bug.
MACHINE_ERRNOS = {ENOSPC, EDQUOT, EROFS, EACCES, EPERM, EMFILE, ENFILE, ENOMEM, EIO, EFBIG}

SIGPIPE_EXIT_CODE = 141
"""The exit code that a shell reports for a program that writes into a closed pipe: 128 + SIGPIPE."""

SIGTERM_EXIT_CODE = 143
"""The exit code that a shell reports for a program that was stopped by a signal: 128 + SIGTERM."""

OBJECTS_PER_COLLECTION = 1_000_000
"""Allocations between two runs of the cyclic garbage collector. Little of a parsed header or document is garbage,
and with the default of 700 the collector would scan all of it again and again."""


class _Grouped:
    """A command in whose help flags have no type."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All arguments and options, with ``--help``."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in parameters:
            if getattr(one, "is_flag", False):
                one.metavar = ""
        return parameters


class GroupedCommand(_Grouped, TyperCommand):
    """A command that runs with its settings."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command with the settings of the whole command line: global options, variables and the file."""
        refuse_unknown_variables(ctx.find_root().command)
        # load_settings reads the variables: flags override them, and they override the file.
        ctx.obj = settings = load_settings(ctx.meta, os.environ)
        if os.path.lexists(settings.cache_dir) and not settings.cache_dir.is_dir():
            Store(settings.cache_dir).check_folder()
        if settings.quiet or settings.verbose:  # log messages of lower layers go to stderr
            log_to_stderr("ERROR" if settings.quiet else "INFO")
        return super().invoke(ctx)


class GroupedGroup(_Grouped, TyperGroup):
    """A group of commands; without a command it prints its help and fails."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments of the group."""
        ctx.meta.setdefault(ARGUMENTS, tuple(args))
        if not args and not ctx.resilient_parsing:
            with redirect_stdout(sys.stderr):
                ctx.get_help()  # which typer prints
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The named command. Commands of the root are stubs until here, where their module is imported."""
        name, command, rest = super().resolve_command(ctx, args)
        if ctx.parent is None and name is not None:
            if os.environ.get(variable_of("--format")):
                ignore_validate_formats(name)
            command = self.commands[name] = load_command(name, self)
        return name, command, rest


def _print_version(context: typer.Context, value: bool) -> None:
    if value:
        typer.echo(f"lora-cli {__version__}")
        if {"-v", "--verbose", "-vV", "-Vv"} & {*context.meta[ARGUMENTS]}:
            from lora_cli.cli.about import about

            typer.echo("\n".join(about(os.environ)))
        raise typer.Exit


def root(
    cache_dir: str | None = option("--cache-dir DIRECTORY", SETTINGS["cache_dir"].help, None, GLOBAL),
    offline: bool = option("--offline", SETTINGS["offline"].help, False, GLOBAL),
    quiet: bool = option("--quiet -q", SETTINGS["quiet"].help, False, GLOBAL),
    verbose: bool = option("--verbose -v", SETTINGS["verbose"].help, False, GLOBAL),
    version: bool = typer.Option(
        False,
        *VERSION,
        callback=_print_version,
        is_eager=True,
        help="Print the version; with -v also cache, credentials found, packages.",
        rich_help_panel=GLOBAL,
    ),
) -> None:
    """Fetch, validate, inspect, warm and measure LoRA adapters for inference engines.

    Every option can also be set by the variable LORA_CLI_<OPTION>, for example LORA_CLI_CACHE_DIR; blanks separate the
    values of one that may be repeated. LORA_CLI_CONFIG names the settings file (default:
    $XDG_CONFIG_HOME/lora-cli/config.toml). Global options may be before or after the command.
    """


def _record_flag(ctx: Any, parameter: Any, value: Any) -> Any:
    """Records a global option on the command line, before or after the command."""
    if origin_of(ctx, parameter.name) == "COMMANDLINE":
        ctx.meta[parameter.name] = value
    return value


def build_app() -> TyperGroup:
    """The root command with a stub for each subcommand."""
    app = typer.Typer(cls=GroupedGroup, context_settings=HELP)
    app.callback(help=_help(root))(root)
    for name, text in COMMANDS.items():
        app.command(name, help=text)(lambda: None)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for parameter in group.params:
        if not {*VERSION, "--install-completion", "--show-completion"} & {*parameter.opts}:
            parameter.expose_value, parameter.callback = False, _record_flag
    return group


def load_command(name: str, root_command: Any = None) -> Command:
    """Imports the module of a subcommand; it has the global options of the root command too."""
    module = import_module(f"lora_cli.cli.{name.replace('-', '_')}")
    one = typer.Typer(cls=GroupedGroup, help=COMMANDS[name], add_completion=False)
    functions = module.COMMANDS if hasattr(module, "COMMANDS") else {name: module.command}
    for word, function in functions.items():
        one.command(word, cls=GroupedCommand, help=_help(function), context_settings=HELP)(function)
    command: Command = typer.main.get_command(one)  # type: ignore[assignment]
    command.name, command.context_settings = name, HELP
    every = [one for one in (root_command or build_app()).params if one.callback is _record_flag]
    _complete(command, every, module.EXAMPLES)
    return command


def _help(function: Callable[..., Any]) -> str:
    """The docstring of a command with each paragraph on one line, to be wrapped to the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (function.__doc__ or "").split("\n\n"))


def _complete(command: Command, every: Sequence[Any], examples: Sequence[str]) -> None:
    """Adds the global options, and to the help units and examples, to a command and its subcommands."""
    for name, child in getattr(command, "commands", {}).items():
        _complete(child, every, [line for line in examples if line.split()[2] == name])
    metavars = {parameter.metavar for parameter in command.params}
    units = [text for metavar, text in UNITS.items() if metavar in metavars]
    command.epilog = "\n\n".join([*units, "Examples:", *(f"  $ {line}" for line in examples)])
    command.params.extend(every)


def ignore_validate_formats(command: str) -> None:
    """Removes LORA_CLI_FORMAT if only ``validate`` has that format: a CI job sets it for all its commands."""
    given = os.environ.get(variable_of("--format"), "").split()
    if command == "validate" or {*given} <= {*get_args(ReportFormat)}:
        return
    if all(word.partition("=")[0] in VALIDATE_FORMATS for word in given):
        del os.environ[variable_of("--format")]


_SERVICE = re.compile(r"(tcp|udp|sctp)://[^/]+", re.ASCII)
_SERVICE_NAME = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_SERVICE_PORT = re.compile(PREFIX + r"(\w+_)?PORT", re.ASCII)


def remove_service_variables() -> None:
    """Removes the variables that Kubernetes sets in containers for a Service called lora-cli or lora-cli-NAME."""
    for name, value in list(os.environ.items()):
        if _SERVICE_NAME.fullmatch(name) or (_SERVICE_PORT.fullmatch(name) and _SERVICE.fullmatch(value)):
            del os.environ[name]


def refuse_unknown_variables(root_command: Any) -> None:
    """Refuses an unknown ``LORA_CLI_…`` in the environment: who set it relies on something that it does not do.

    Raises:
        UsageError: it names each, with the nearest known one.
    """
    given = {name for name in os.environ if name.startswith(PREFIX)}
    known = {PREFIX + name.upper() for name in SETTINGS} | {API_KEY, CONFIG, RESOLVE, RESOLVE_TIMEOUT}
    if given <= known or given <= (known := known | variables(root_command)):
        return
    for command in COMMANDS:
        known |= variables(load_command(command))
    if unknown := sorted(given - known):
        named, several = ", ".join(safe(_with_nearest(name, known)) for name in unknown), len(unknown) > 1
        raise UsageError(
            f"unknown variable{'s' if several else ''} in the environment: {named}",
            hint=f"unset {'them' if several else 'it'}; docs/cli.md and docs/manifest.md list the variables",
        )


def _with_nearest(name: str, known: set[str]) -> str:
    close = nearest(name.removeprefix(PREFIX), (word.removeprefix(PREFIX) for word in known))
    return f"{name} (did you mean {PREFIX}{close}?)" if close else name


def variables(command: Any) -> set[str]:
    """The environment variables of a command's options, and of its loaded subcommands."""
    own = {str(parameter.envvar) for parameter in command.params if getattr(parameter, "envvar", None)}
    return own.union(*(variables(child) for child in getattr(command, "commands", {}).values()))


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. Never raises: an unexpected error is 70, with its traceback."""
    try:
        remove_service_variables()
        code = build_app().main(args=list(argv), prog_name="lora-cli", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        return _report(_usage_error(error, argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return SIGPIPE_EXIT_CODE
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        return SIGPIPE_EXIT_CODE if isinstance(stop.__context__, BrokenPipeError) else code
    except Exception as error:  # noqa: BLE001 - the one boundary
        expected = _expected(error)
        return _bug() if expected is None else _report(expected)


def _usage_error(error: typer.TyperException, argv: Sequence[str]) -> UsageError:
    """The ``UsageError`` for typer's error, with a suggestion or the command's help as the hint."""
    message, context = _typer_message(error), getattr(error, "ctx", None)
    text, _, likely = message.partition(" Did you mean ")
    text = text.partition(" (Possible options")[0].rstrip(".")
    text = (text[:1].lower() + text[1:]).replace("is not a valid int range", "is not a whole number")
    if (variable := _variable_of(error)) is not None:
        text = f"{variable}: {text.partition(': ')[2]}"
    if context is not None and (wrong := text.removeprefix("no such option: ")) != text:
        known = {flag for one in context.command.params for flag in (*one.opts, *one.secondary_opts)}
        likely = nearest(wrong, known) or ""
    named = [word for word in argv if word in COMMANDS][:1]
    command = context.command_path if context else " ".join(["lora-cli", *named])
    return UsageError(text, hint=f"did you mean {likely.rstrip('?')}?" if likely else f"{command} --help")


def _typer_message(error: typer.TyperException) -> str:
    """Typer's message. Since 0.29 pydantic parses values: its messages lack the value and half of a range."""
    message, mistakes = error.format_message(), getattr(error.__cause__, "errors", None)
    if mistakes is None:
        return message
    option, mistake, parameter = message.partition(": ")[0], mistakes()[0], getattr(error, "param", None)
    given, kind, text = mistake["input"], mistake["type"], mistake["msg"].removeprefix("Value error, ")
    if kind.startswith(("int_", "float_")):
        text = f"{given!r} is not a {'whole ' if kind.startswith('int') else ''}number"
    elif kind.startswith(("greater_", "less_")):
        least, most = getattr(parameter, "min", None), getattr(parameter, "max", None)
        limits = f"{least}<=x<={most}" if most is not None else f"x>={least}"
        text = f"{given} is not in the range {limits}"
    return f"{option}: {text}"


def _variable_of(error: typer.TyperException) -> str | None:
    """The environment variable with the invalid value; None if it is on the command line."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or parameter is None:
        return None
    return str(parameter.envvar) if origin_of(context, parameter.name) == "ENVIRONMENT" else None


def _discard_output() -> None:
    """Sends the remaining output to /dev/null: its reader is gone, and flushing it at exit would fail."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


def _expected(error: Exception) -> LoraCliError | None:
    """``error`` as an error about the command line, the adapter or the machine; None for a bug."""
    if isinstance(error, LoraCliError):
        return error
    if isinstance(error, MemoryError):
        return MachineError("out of memory", hint="lower jobs (LORA_CLI_JOBS), or use fewer adapters at once")
    if isinstance(error, OSError) and error.errno in MACHINE_ERRNOS:
        hint = "check disk space, permissions and limits (df, ls -l, ulimit -a)"
        return MachineError(f"{error.filename or 'writing the output'}: {error.strerror}", hint=hint)
    return None


def _bug() -> int:
    import traceback

    from lora_cli.redaction import redacted

    with suppress(OSError):
        # Users post this in bug reports.
        to_stderr(redacted(traceback.format_exc(), os.environ).rstrip("\n"))
        to_stderr("This is a bug in lora-cli. Please report it with the lines above.")
    return LoraCliError.exit_code


def _report(error: LoraCliError) -> int:
    with suppress(OSError):  # stderr is full or closed: the exit code still reports the error
        for one in error.mistakes if isinstance(error, DocumentError) else (error,):
            to_stderr(safe(f"error: {one.message}"))
            if one.hint:
                to_stderr(safe(f"hint: {one.hint}"))
    return error.exit_code


def run() -> None:
    """The console script. Output to a stream that was closed before the start is discarded."""
    if sys.stdout is None or sys.stderr is None:
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    if os.getpid() == 1:
        _exit_on_sigterm()
    code = main(sys.argv[1:])
    if "torch" not in sys.modules:  # whose libraries report what is left
        gc.freeze()  # else Python looks for garbage among all modules before it exits: a fifth of a short run
    try:
        sys.stderr.flush()
    except OSError:  # full or closed: at exit Python would flush it again, and exit with 120
        _discard_output()
    sys.exit(code)


def _exit_on_sigterm() -> None:
    """Exits on SIGTERM as PID 1 of a container too, where the kernel ignores it by default."""
    import signal

    signal.signal(signal.SIGTERM, lambda *_: os._exit(SIGTERM_EXIT_CODE))
