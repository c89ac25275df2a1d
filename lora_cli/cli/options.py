"""The options of all commands: what declares one, and those that several commands have."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lora_cli.cli import completion
from lora_cli.cli.output import Format
from lora_cli.settings import SETTINGS

PREFIX = "LORA_CLI_"

ADAPTERS = "Which adapters"
LOCKING = "Locking"
DESTINATION = "Where adapters go"
LIMITS = "Limits"
NETWORK = "Network"
ENGINE = "Engine"
OUTPUT = "Output"
GLOBAL = "Global options"


def variable_of(flag: str) -> str:
    """The variable that sets an option, from its first long flag."""
    return PREFIX + flag.lstrip("-").replace("-", "_").upper()


def option(*flags: str, panel: str, **given: Any) -> Any:
    """A ``typer.Option`` with the variable ``LORA_CLI_<OPTION>``, in a panel of the command's help.

    A path that cannot be read is reported by what reads it: it is this machine's fault (exit 6), not a mistake (2).
    """
    flag = next(flag for flag in flags if flag.startswith("--")).partition("/")[0]
    if "min" in given:
        given.setdefault("metavar", "N")
    if isinstance(default := given.get("show_default"), str):  # what is so without it, though its default is None
        given |= {"help": f"{given['help']} (default: {default})", "show_default": False}
    given = {"show_envvar": False, "readable": False, "rich_help_panel": panel, **given}
    return typer.Option(*flags, envvar=variable_of(flag), **given)


def setting(name: str, *more_flags: str, panel: str) -> Any:
    """The option of a setting: its flag, help and default are those of ``SETTINGS``.

    The value is text (a switch is a bool): ``with_flags`` parses it, so that a mistake reads the same in a flag, a
    variable and a file.
    """
    declared = SETTINGS[name]
    default = str(declared.default) if declared.kind.metavar and declared.default is not None else False
    given: dict[str, Any] = {"metavar": declared.kind.metavar} if declared.kind.metavar else {}
    flag = "--" + name.replace("_", "-")
    return option(flag, *more_flags, panel=panel, help=declared.help, show_default=default, **given)


Refs = Annotated[
    list[str] | None,
    typer.Argument(metavar="REF...", help="Paths or references.", autocompletion=completion.references),
]
Manifest = Annotated[
    Path | None, option("--manifest", "-f", panel=ADAPTERS, metavar="FILE", help="Use the adapters of this manifest.")
]
Base = Annotated[
    str,
    option(
        "--base",
        panel=ADAPTERS,
        metavar="REF",
        help="The base model: a directory, a config.json, a Hub id or a reference.",
        autocompletion=completion.references,
    ),
]
PolicyFile = Annotated[
    Path | None,
    option("--policy", panel=ADAPTERS, metavar="FILE", help="A policy that adapters must pass."),
]
Checkpoint = Annotated[
    str,
    option(
        "--checkpoint",
        panel=ADAPTERS,
        metavar="N|latest",
        help="Use the folder checkpoint-N, or the one with the highest number.",
        autocompletion=completion.words("latest"),
    ),
]
Shard = Annotated[
    str | None,
    option("--shard", panel=ADAPTERS, metavar="I/N", help="Only part I (counted from 0) of N, by name."),
]
Ray = Annotated[
    str | None,
    option("--ray", panel=NETWORK, metavar="ADDRESS", help="Run on a Ray cluster: auto, or HOST:PORT of its head."),
]
AllowPickle = Annotated[
    bool, option("--allow-pickle", panel=LIMITS, help="Accept .bin weights where there are no safetensors.")
]
OutputFormat = Annotated[Format, option("--format", panel=OUTPUT, help="The format of the result.")]
OutputFile = Annotated[
    Path | None, option("--output", "-o", panel=OUTPUT, metavar="FILE", help="Write the result to this file.")
]
MaxBytes = Annotated[str | None, setting("max_bytes", panel=LIMITS)]
MaxTotalBytes = Annotated[str | None, setting("max_total_bytes", panel=LIMITS)]
MaxFiles = Annotated[str | None, setting("max_files", panel=LIMITS)]
MaxHeaderBytes = Annotated[str | None, setting("max_header_bytes", panel=LIMITS)]
KeepFree = Annotated[str | None, setting("keep_free", panel=LIMITS)]
CacheBudget = Annotated[str | None, setting("cache_budget", panel=LIMITS)]
AdapterTimeout = Annotated[str | None, setting("adapter_timeout", panel=LIMITS)]
Jobs = Annotated[str | None, setting("jobs", panel=NETWORK)]
Timeout = Annotated[str | None, setting("timeout", panel=NETWORK)]
Retries = Annotated[str | None, setting("retries", panel=NETWORK)]
