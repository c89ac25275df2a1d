"""The command line as typer reads it: help, mistakes, completion, variables, and whatever else is not plain.

A subcommand is a line in ``COMMANDS`` and a module with a function ``command``; a group's module has ``COMMANDS`` too.
The module is imported only when its command runs: ``lora-cli --help`` loads none of them.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer._click.exceptions import ClickException
from typer.core import TyperGroup

from lora_cli.cli import typer as noted
from lora_cli.cli.completion import Offer, offer_of
from lora_cli.cli.main import COMMANDS, PREFIX, root
from lora_cli.cli.parameters import REQUIRED, gathered, parameters
from lora_cli.core.harmless import harmless
from lora_cli.core.nearest import nearest
from lora_cli.core.trust import is_for_manifests
from lora_cli.redaction import redact
from lora_cli.settings import OPTIONS

if TYPE_CHECKING:
    from typer._click import Command, Context


class LazyGroup(TyperGroup):
    """The root group: its commands are stubs until one is named on the command line."""

    def resolve_command(self, ctx: "Context", args: list[str]) -> "tuple[str | None, Command | None, list[str]]":
        """The named command, with its module imported and its options bound to ``LORA_CLI_<OPTION>``."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = self.commands[name] = load_command(name)
        return name, command, rest

    def make_context(self, *given: Any, **more: Any) -> "Context":
        """Reads the words before the command."""
        with _told_harmlessly():
            return super().make_context(*given, **more)

    def invoke(self, ctx: "Context") -> Any:
        """Runs the command."""
        with _told_harmlessly():
            return super().invoke(ctx)


@contextmanager
def _told_harmlessly() -> Iterator[None]:
    """What is wrong with the words is said without a secret, and without what a terminal would obey, among them."""
    try:
        yield
    except ClickException as error:
        error.message = harmless(redact(error.message))
        raise


def load_command(name: str) -> "Command":
    """The subcommand of that name, with its module imported."""
    module = import_module(f"lora_cli.cli.{name.replace('-', '_')}")
    below: Mapping[str, Callable[..., Any]] | None = getattr(module, "COMMANDS", None)
    if below is None:
        group = typer.Typer(add_completion=False, rich_markup_mode=_markup_mode())
        group.command(name, help=COMMANDS[name])(_spoken(module.command))
    else:
        group = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, help=COMMANDS[name])
        for word, function in below.items():
            group.command(word)(_spoken(function))
    command = typer.main.get_command(group)
    command.name = name
    _bind_environment(command)
    return command


def _spoken(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with typer's own objects in the place of those that its parameters are declared with."""

    @wraps(function)
    def called(**given: Any) -> Any:
        try:
            return function(**gathered(function, given))
        except noted.Exit as end:
            raise typer.Exit(end.exit_code) from None

    read = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if one.default is REQUIRED else one.default,
            annotation=_hint(one.hint, _offered(offer_of(function.__module__, name))),
        )
        for name, one in parameters(function).items()
    ]
    called.__signature__ = inspect.Signature(read)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in read}
    return called


def _hint(hint: Any, offered: Callable[..., Any] | None) -> Any:
    if hint is noted.Context:
        return typer.Context
    for declared in getattr(hint, "__metadata__", ()):
        if isinstance(declared, noted.Declared):
            make = typer.Argument if isinstance(declared, noted.Argument) else typer.Option
            return Annotated[hint.__origin__, make(*declared.names, autocompletion=offered, **declared.said)]
    return hint


def _offered(offer: Offer | None) -> Callable[..., Any] | None:
    """``offer`` as typer calls it when a shell asks."""
    if offer is None:
        return None

    def offered(ctx: typer.Context, incomplete: str) -> Any:
        return offer(ctx.find_root().params, incomplete)

    return offered


_SERVICE = re.compile(r"(tcp|udp|sctp)://[^/]+", re.ASCII)
_SERVICE_NAME = re.compile(
    PREFIX + r"(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
"""What Kubernetes puts into every container beside a Service called lora-cli: ``LORA_CLI_PORT=tcp://10.0.0.1:80``, …"""


def _is_of_a_service(name: str) -> bool:
    return bool(_SERVICE_NAME.fullmatch(name) or _SERVICE.fullmatch(os.environ[name]))


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
            if _is_for_validate(parameter) or _SERVICE.fullmatch(os.environ.get(parameter.envvar, "")):
                parameter.envvar = None
    for child in getattr(command, "commands", {}).values():
        _bind_environment(child)


def _is_for_validate(parameter: Any) -> bool:
    """Whether its variable, set for a whole job, says formats that only ``validate`` has: here it says nothing then."""
    said, own = os.environ.get(parameter.envvar, "").split(), getattr(parameter.type, "choices", None)
    if parameter.envvar != PREFIX + "FORMAT" or own is None or set(said) <= set(own):
        return False
    from lora_cli.cli.reporting import FORMATS

    return all(word.partition("=")[0] in FORMATS for word in said)


def _markup_mode() -> Any:
    """Rich help on a terminal; plain text, three times faster, in a pipe."""
    return "rich" if sys.stdout.isatty() else None


def name_unknown_variables(root_command: "Command") -> None:
    """Says of each ``LORA_CLI_…`` in the environment that no command knows which one was probably meant."""
    of_others = (_is_of_a_service, is_for_manifests)
    given = {name for name in os.environ if name.startswith(PREFIX) and not any(one(name) for one in of_others)}
    if not given - (known := variables(root_command) | {PREFIX + option.upper() for option in OPTIONS}):
        return
    for command in COMMANDS:  # only now: other commands' modules take time to import
        known |= variables(load_command(command))
    for name in sorted(given - known):
        close = nearest(name.removeprefix(PREFIX), (word.removeprefix(PREFIX) for word in known))
        meant = f"; did you mean {PREFIX}{close}?" if close else ""
        noted.echo(f"warning: {name} is set, and no option has that name{meant}", err=True)


def variables(command: Any) -> set[str]:
    """The variables of a command's options and of those below it, as far as they are loaded."""
    own = {str(parameter.envvar) for parameter in command.params if getattr(parameter, "envvar", None)}
    return own.union(*(variables(child) for child in getattr(command, "commands", {}).values()))


def build_app() -> "Command":
    """The root command with a stub for each subcommand."""
    app = typer.Typer(cls=LazyGroup, no_args_is_help=True, rich_markup_mode=_markup_mode())
    app.callback()(_spoken(_root))
    for name, text in COMMANDS.items():
        app.command(name, help=text)(lambda: None)
    command = typer.main.get_command(app)
    _bind_environment(command)
    if os.environ.get("_LORA_CLI_COMPLETE") == "complete_bash":
        from typer._click.shell_completion import add_completion_class

        from lora_cli.cli.bash import WholeWords

        add_completion_class(WholeWords, "bash")
    return command


@wraps(root)
def _root(ctx: Any, **given: Any) -> None:
    root(ctx, **given)
    if not ctx.obj.quiet:
        name_unknown_variables(ctx.command)
