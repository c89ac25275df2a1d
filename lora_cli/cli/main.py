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
from copy import copy
from errno import EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM, EROFS
from functools import partial
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from lora_cli.cli.options import GLOBAL, PREFIX, VARIABLES, option, origin_of
from lora_cli.cli.output import to_stderr, write_termination_log
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

KNOWN_VARIABLES = VARIABLES | {PREFIX + name.upper() for name in SETTINGS} | {API_KEY, CONFIG, RESOLVE, RESOLVE_TIMEOUT}

OF_A_SERVICE = re.compile(PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)", re.ASCII)
"""What Kubernetes sets in containers for a Service called lora-cli or lora-cli-NAME."""

CREDENTIALS = {
    "Hub": ("HF_TOKEN", "HF_TOKEN_PATH", "~/.cache/huggingface/token"),
    "AWS": ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "~/.aws/credentials", "~/.aws/config"),
    "Google": ("GOOGLE_APPLICATION_CREDENTIALS", "~/.config/gcloud/application_default_credentials.json"),
    "Azure": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID", "~/.azure"),
    "registries": ("DOCKER_CONFIG", "~/.docker/config.json"),
    "engines": (API_KEY,),
}
"""Variables and files with the credentials of each kind of server."""

EXTENSIONS = ("torch", "transformers", "peft", "vllm", "sglang", "model-signing", "ray")

MACHINE_ERRNOS = {ENOSPC, EDQUOT, EROFS, EACCES, EPERM, EMFILE, ENFILE, ENOMEM, EIO, EFBIG}
"""Errors of the operating system that are caused by the machine, not by a bug."""


class _Plain:
    """A command in whose help flags and arguments have no type, and ``--help`` is not listed."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All arguments and options, with ``--help``."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in parameters:
            if getattr(one, "is_flag", False):
                one.metavar, one.hidden = "", one.hidden or (one.name == "help" and ctx.parent is not None)
            elif one.param_type_name == "argument":
                one.display_type = lambda ctx: None
        return parameters


class LoraCommand(_Plain, TyperCommand):
    """A command that runs with its settings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments. Of an option that was given twice only the last value would count: that is an error."""
        given = [word.partition("=")[0] for word in args[: args.index("--") if "--" in args else None]]
        for one in self.params:
            flags = [
                flag for flag in one.opts if flag[0] == "-" and not (one.multiple or getattr(one, "is_flag", False))
            ]
            if sum(map(given.count, flags)) > 1:
                raise UsageError(f"{max(flags, key=given.count)} is given twice", hint="it takes one value")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command with the settings of the whole command line: global options, variables and the file."""
        refuse_unknown_variables()
        # load_settings reads the variables: flags override them, and they override the file.
        ctx.obj = settings = load_settings(ctx.meta, os.environ)
        if os.path.lexists(settings.cache_dir) and not settings.cache_dir.is_dir():
            Store(settings.cache_dir).check_folder()
        if settings.quiet or settings.verbose:  # log messages of lower layers go to stderr
            log_to_stderr("ERROR" if settings.quiet else "INFO")
        return super().invoke(ctx)


class LoraGroup(_Plain, TyperGroup):
    """A group of commands; without a command it prints its help and fails."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments of the group."""
        if not args and not ctx.resilient_parsing:
            with redirect_stdout(sys.stderr):
                ctx.get_help()  # which typer prints
            raise typer.Exit(UsageError.exit_code)
        ctx.meta.setdefault("arguments", tuple(args))
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The named command. Commands of the root are stubs until here, where their module is imported."""
        name, command, rest = super().resolve_command(ctx, args)
        if ctx.parent is None and name is not None:
            command = self.commands[name] = load_command(name, self)
        return name, command, rest


def _print_version(ctx: typer.Context, value: bool) -> None:
    """The version, and with ``-v`` a line for all that a report of a problem needs: no secret, and no request."""
    if not value:
        return
    typer.echo(f"lora-cli {__version__}")
    if {"-v", "--verbose", "-vV", "-Vv"} & {*ctx.meta["arguments"]}:
        from importlib import metadata

        settings = load_settings({}, os.environ)
        about = {"Python": f"{sys.version.split()[0]} on {sys.platform} ({sys.executable})",
                 "cache": settings.cache_dir, "settings": settings.config or "no file"}  # fmt: skip
        sources = {"sources": tuple(one.token_env or "" for one in settings.sources)}
        for server, places in {**CREDENTIALS, **sources}.items():
            files = {one for one in places if one[:1] == "~" and os.path.exists(os.path.expanduser(one))}  # noqa: PTH110, PTH111 - these never raise
            found = [one for one in places if one in files or os.environ.get(one)]
            about[server] = f"credentials in {', '.join(found)}" if found else "no credentials found"
        for package in EXTENSIONS:
            try:
                about[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                about[package] = "not installed"
        typer.echo("\n".join(f"{name:<12} {value}" for name, value in about.items()))
    raise typer.Exit


def _record(ctx: typer.Context, parameter: Any, value: Any) -> Any:
    """Records a global option on the command line, before or after the command."""
    if origin_of(ctx, parameter.name) == "COMMANDLINE":
        ctx.meta[parameter.name] = value
    return value


everywhere = partial(option, panel=GLOBAL, callback=_record)


def root(
    cache_dir: str | None = everywhere("--cache-dir DIRECTORY", SETTINGS["cache_dir"].help),
    offline: bool = everywhere("--offline", SETTINGS["offline"].help),
    quiet: bool = everywhere("--quiet -q", SETTINGS["quiet"].help),
    verbose: bool = everywhere("--verbose -v", SETTINGS["verbose"].help),
    version: bool = option(
        "--version -V", "Print the version; with -v what is installed and set.", callback=_print_version, is_eager=True
    ),
) -> None:
    """Fetch, validate, inspect, warm and measure LoRA adapters for inference engines.

    Global options may be before or after the command. LORA_CLI_CONFIG names the settings file (default:
    $XDG_CONFIG_HOME/lora-cli/config.toml).
    """


def build_app() -> TyperGroup:
    """The root command with a stub for each subcommand."""
    app = typer.Typer(cls=LoraGroup, context_settings=HELP, help=_help(root))
    app.callback()(root)
    for name, text in COMMANDS.items():
        app.command(name, help=text)(lambda: None)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def load_command(name: str, root_command: Any = None) -> Command:
    """Imports the module of a subcommand; it has the global options of the root command too."""
    module = import_module(f"lora_cli.cli.{name.replace('-', '_')}")
    functions = getattr(module, "COMMANDS", None) or {name: module.command}
    one = typer.Typer(cls=LoraGroup, help=COMMANDS[name], epilog=_epilog(module.EXAMPLES), add_completion=False)
    for word, function in functions.items():
        epilog = _epilog([line for line in module.EXAMPLES if word in line.split()[1:3]])
        one.command(word, cls=LoraCommand, help=_help(function), epilog=epilog, context_settings=HELP)(function)
    command: Any = typer.main.get_command(one)
    command.name, command.context_settings = name, HELP
    root_command = root_command or build_app()
    given = [copy(one) for one in root_command.params if one.rich_help_panel == GLOBAL]
    for parameter in given:
        parameter.hidden, parameter.expose_value = True, False
    for each in (command, *getattr(command, "commands", {}).values()):
        each.params += given
    return command  # type: ignore[no-any-return]


def _help(function: Callable[..., Any]) -> str:
    """The docstring of a command with each paragraph on one line, to be wrapped to the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (function.__doc__ or "").split("\n\n"))


def _epilog(examples: Sequence[str]) -> str:
    """What the help of a command ends with."""
    others = "Global options such as --quiet, --verbose and --offline: lora-cli --help"
    return "\n\n".join([others, "Examples:", *(f"  $ {line}" for line in examples)])


def refuse_unknown_variables() -> None:
    """Raises ``UsageError`` for an unknown ``LORA_CLI_…``: who set it relies on something that it does not do."""
    given = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in KNOWN_VARIABLES)
    told, words = [], [one.removeprefix(PREFIX) for one in KNOWN_VARIABLES]
    for name in (name for name in given if not OF_A_SERVICE.fullmatch(name)):
        close = nearest(name.removeprefix(PREFIX), words)
        told.append(f"{name} (did you mean {PREFIX}{close}?)" if close else name)
    if told:
        hint = "unset it; docs/cli.md and docs/manifest.md list the variables"
        raise UsageError(f"unknown in the environment: {safe(', '.join(told))}", hint=hint)


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. Never raises: an unexpected error is 70, with its traceback."""
    try:
        code = build_app().main(args=list(argv), prog_name="lora-cli", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Abort:  # the answer to a question was no
        return 1
    except SystemExit as stop:
        return 128 + 13 if isinstance(stop.__context__, BrokenPipeError) else int(stop.code or 0)  # as for SIGPIPE
    except Exception as error:  # noqa: BLE001 - the one boundary
        told = _told(error)
        mistakes = told.mistakes if isinstance(told, DocumentError) else (told,)
        if "--status" not in argv:  # a probe beside what the container runs
            write_termination_log("\n".join(f"{one.message}\n{one.hint}".rstrip() for one in mistakes))
        with suppress(OSError):  # stderr is full or closed: the exit code still reports the error
            for one in mistakes:
                to_stderr(safe(f"error: {one.message}"))
                if one.hint:
                    to_stderr(safe(f"hint: {one.hint}"))
        return told.exit_code


def _told(error: Exception) -> LoraCliError:
    """``error`` as one about the command line, the adapter or the machine; a bug is shown with its traceback."""
    if isinstance(error, LoraCliError):
        return error
    if isinstance(error, typer.TyperException):
        context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
        said = error.format_message().replace("Value error, ", "")  # a word of pydantic
        if context is not None and parameter is not None and origin_of(context, parameter.name) == "ENVIRONMENT":
            said = f"{parameter.envvar}: {said}"
        return UsageError(said, hint=f"{context.command_path if context else 'lora-cli'} --help")
    if isinstance(error, MemoryError):
        return MachineError("out of memory", hint="lower jobs (LORA_CLI_JOBS), or use fewer adapters at once")
    if isinstance(error, OSError) and error.errno in MACHINE_ERRNOS:
        hint = "check disk space, permissions and limits (df, ls -l, ulimit -a)"
        return MachineError(f"{error.filename or 'writing the output'}: {error.strerror}", hint=hint)
    import traceback

    from lora_cli.redaction import redacted

    with suppress(OSError):
        to_stderr(redacted(traceback.format_exc(), os.environ).rstrip("\n"))
    return LoraCliError("this is a bug in lora-cli", hint="please report it with the lines above")


def run() -> None:
    """The console script."""
    if os.getpid() == 1:  # of a container, where the kernel ignores SIGTERM by default
        import signal

        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + 15))
    code = main(sys.argv[1:])
    if "torch" not in sys.modules:  # whose libraries report what is left
        gc.freeze()  # else Python looks for garbage among all modules before it exits: a fifth of a short run
    sys.exit(code)
