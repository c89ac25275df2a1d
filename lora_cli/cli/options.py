"""Options that mean the same in every command that has them: declared once, with one help text."""

from pathlib import Path
from typing import Annotated

from lora_cli.cli import typer
from lora_cli.cli.output import Format

Refs = Annotated[list[str] | None, typer.Argument(metavar="REF...", help="Paths or references.")]
Manifest = Annotated[Path | None, typer.Option("--manifest", "-f", help="An adapter set instead of REFs.")]
Base = Annotated[str, typer.Option(help="The base: a directory, a config.json, a Hub id or a reference.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="What is allowed, besides the manifest's policy.")
]
Checkpoint = Annotated[
    str,
    typer.Option(
        metavar="N|latest",
        help="The folder checkpoint-N in each REF, or the one with the highest number.",
        show_default=False,
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to write the result.")]
ReportFormats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="FORMAT[=FILE]",
        help="human (the default), json, sarif, junit, github or markdown; several, each into its file.",
    ),
]
KnownFindings = Annotated[
    Path | None, typer.Option("--baseline", metavar="FILE", help="Known findings: only new ones count.")
]
WriteBaseline = Annotated[
    Path | None,
    typer.Option("--write-baseline", metavar="FILE", help="Make this the file of known findings: all that count now."),
]

# What overrides the settings: a command hands these on with ``settings.with_flags``.
MaxBytes = Annotated[str | None, typer.Option(help="Refuse larger adapters: 2GiB.", show_default=False)]
Jobs = Annotated[int | None, typer.Option(min=1, max=256, help="Most ranges in flight: 32.", show_default=False)]
Timeout = Annotated[str | None, typer.Option(help="Longest silence of the network (default: 30s).", show_default=False)]
Retries = Annotated[int | None, typer.Option(min=0, max=100, help="Tries without progress: 5.", show_default=False)]
MaxTotalBytes = Annotated[
    str | None, typer.Option(help="Refuse adapters beyond this size of all together.", show_default=False)
]
MaxFiles = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Refuse adapters of more files: 1000.", show_default=False)
]
MaxHeaderBytes = Annotated[
    str | None, typer.Option(help="Refuse weights with a larger header: 32MiB.", show_default=False)
]
KeepFree = Annotated[
    str | None, typer.Option(help="Leave this much of the disk: 1GiB, or a twentieth.", show_default=False)
]
CacheBudget = Annotated[
    str | None,
    typer.Option(help="Keep the cache within this size: 50GiB; the longest unused goes.", show_default=False),
]
AdapterTimeout = Annotated[str | None, typer.Option(help="Longest time of one adapter: 10m.", show_default=False)]

# What fetch alone has.
Revision = Annotated[str | None, typer.Option(help="A branch, tag or commit, for each REF.")]
Subfolder = Annotated[str, typer.Option(help="The adapter's folder in each REF.")]
To = Annotated[
    str | None,
    typer.Option(
        metavar="DIRECTORY", help="Hand it out here, several by name; do not edit the weights, they are the cache's."
    ),
]
Publish = Annotated[
    str | None,
    typer.Option(metavar="DIRECTORY", help="Put each in DIRECTORY/NAME, as vLLM's filesystem resolver takes it."),
]
ServedBase = Annotated[
    str, typer.Option("--base", metavar="NAME", help="With --publish: the base's name as the engine serves it.")
]
FixBase = Annotated[
    str, typer.Option(metavar="NAME", help="With --publish: make each config name this base, in the copy.")
]
Link = Annotated[bool, typer.Option("--link", help="Hard-link a folder's weights into the cache.")]
Include = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Also files that match this glob.")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Not the files that match this glob.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Take .bin where no safetensors are.")]
LockPath = Annotated[
    Path | None, typer.Option("--lock", metavar="FILE", help="The lock, when not beside the manifest.")
]
Locked = Annotated[bool, typer.Option("--locked", help="Exactly what is locked, or nothing; the lock stays as it is.")]
Check = Annotated[bool, typer.Option("--check", help="Say what changed since it was locked; fetch and write nothing.")]
Upgrade = Annotated[bool, typer.Option("--upgrade", help="Lock anew: all, or the adapters named instead of REFs.")]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Do it on a Ray cluster: auto, or HOST:PORT of its head."),
]
ShardOf = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Part I (from 0) of N, by name.")]
