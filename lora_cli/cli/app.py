"""The commands: typer parses the command line, and a command's module is imported when it is used.

A command is a line in ``COMMANDS`` and a module with a function ``command`` and ``EXAMPLES``; a group's module has
``COMMANDS`` too.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from importlib import import_module
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from lora_cli.cli.options import GLOBAL, PREFIX, option, origin_of, variable_of
from lora_cli.cli.output import VALIDATE_FORMATS, ReportFormat
from lora_cli.did_you_mean import nearest
from lora_cli.errors import UsageError
from lora_cli.log import log_to_stderr, logger
from lora_cli.settings import API_KEY, RESOLVE, RESOLVE_TIMEOUT, SETTINGS, Settings, load_settings
from lora_cli.store import Store
from lora_cli.text import safe
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
        """Runs the command with the settings of the whole command line."""
        ctx.obj = open_settings(ctx)
        return super().invoke(ctx)


class GroupedGroup(_Grouped, TyperGroup):
    """A group of commands; without a command it prints its help and fails."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments of the group."""
        if not args and not ctx.resilient_parsing:
            with redirect_stdout(sys.stderr):
                ctx.get_help()  # which typer prints
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The named command. Commands of the root are stubs until here, where their module is imported."""
        name, command, rest = super().resolve_command(ctx, args)
        if ctx.parent is None and name is not None:
            ignore_validate_formats(name)
            command = self.commands[name] = load_command(name)
        return name, command, rest


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"lora-cli {__version__}")
        raise typer.Exit


def root(
    cache_dir: str | None = option("--cache-dir DIRECTORY", SETTINGS["cache_dir"].help, None, GLOBAL),
    config: str | None = option(
        "--config FILE", "TOML settings file (default: $XDG_CONFIG_HOME/lora-cli/config.toml).", None, GLOBAL
    ),
    offline: bool = option("--offline", SETTINGS["offline"].help, False, GLOBAL),
    quiet: bool = option("--quiet -q", SETTINGS["quiet"].help, False, GLOBAL),
    verbose: bool = option("--verbose -v", SETTINGS["verbose"].help, False, GLOBAL),
    version: bool = typer.Option(
        False, *VERSION, callback=_print_version, is_eager=True, help="Print the version.", rich_help_panel=GLOBAL
    ),
) -> None:
    """Fetch, validate, inspect, warm and measure LoRA adapters for inference engines.

    Every option can also be set by the variable LORA_CLI_<OPTION>, for example LORA_CLI_CACHE_DIR; blanks separate the
    values of one that may be repeated. Global options may be before or after the command.
    """


def open_settings(ctx: Any) -> Settings:
    """The settings of a command, from its global options, the variables and the file.

    Raises:
        LoraCliError: a value is wrong, a variable is unknown, or the cache is no folder.
    """
    refuse_unknown_variables(ctx.find_root().command)
    # load_settings reads the variables: flags override them, and they override the file.
    settings = load_settings(ctx.meta, os.environ)
    Store(settings.cache_dir).check_folder()
    if settings.quiet or settings.verbose:  # log messages of lower layers go to stderr
        log_to_stderr("ERROR" if settings.quiet else "INFO")
    if settings.verbose and settings.config_error:
        logger(__name__).warning("%s; it is ignored", settings.config_error)
    return settings


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


def load_command(name: str) -> Command:
    """Imports the module of a subcommand; its help shows the global options too."""
    module = import_module(f"lora_cli.cli.{name.replace('-', '_')}")
    one = typer.Typer(cls=GroupedGroup, help=COMMANDS[name], add_completion=False)
    functions = module.COMMANDS if hasattr(module, "COMMANDS") else {name: module.command}
    for word, function in functions.items():
        one.command(word, cls=GroupedCommand, help=_help(function), context_settings=HELP)(function)
    command: Command = typer.main.get_command(one)  # type: ignore[assignment]
    command.name, command.context_settings = name, HELP
    _complete_help(command, module.EXAMPLES)
    return command


@lru_cache
def _global_options() -> list[Any]:
    """The options of the root command that every command accepts."""
    return [one for one in build_app().params if one.callback is _record_flag]


def _help(function: Callable[..., Any]) -> str:
    """The docstring of a command with each paragraph on one line, to be wrapped to the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (function.__doc__ or "").split("\n\n"))


def _complete_help(command: Command, examples: Sequence[str]) -> None:
    """Adds the global options, units and examples to the help of a command and its subcommands."""
    for name, child in getattr(command, "commands", {}).items():
        _complete_help(child, [line for line in examples if line.split()[2] == name])
    metavars = {parameter.metavar for parameter in command.params}
    units = [text for metavar, text in UNITS.items() if metavar in metavars]
    command.epilog = "\n\n".join([*units, "Examples:", *(f"  $ {line}" for line in examples)])
    command.params.extend(_global_options())


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
    known = variables(root_command) | {PREFIX + name.upper() for name in SETTINGS} | {API_KEY, RESOLVE, RESOLVE_TIMEOUT}
    if not given - known:
        return
    for command in COMMANDS:
        known |= variables(load_command(command))
    if unknown := sorted(given - known):
        named, several = ", ".join(safe(_with_nearest(name, known)) for name in unknown), len(unknown) > 1
        raise UsageError(
            f"unknown variable{'s' if several else ''} in the environment: {named}",
            hint=f"unset {'them' if several else 'it'}; docs/settings.md lists the variables",
        )


def _with_nearest(name: str, known: set[str]) -> str:
    close = nearest(name.removeprefix(PREFIX), (word.removeprefix(PREFIX) for word in known))
    return f"{name} (did you mean {PREFIX}{close}?)" if close else name


def variables(command: Any) -> set[str]:
    """The environment variables of a command's options, and of its loaded subcommands."""
    own = {str(parameter.envvar) for parameter in command.params if getattr(parameter, "envvar", None)}
    return own.union(*(variables(child) for child in getattr(command, "commands", {}).values()))
