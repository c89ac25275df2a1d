"""The adapters in folders of this machine: those that references name, and those that changed files belong to."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lora_cli.fetching.file_selection import adapter_folders, is_adapter_file
from lora_cli.redaction import without_secrets
from lora_cli.refs.adapter_files import BASE_CONFIG, CONFIG
from lora_cli.refs.reference import training_run
from lora_cli.refs.request import Request, Selection


def from_refs(refs: Sequence[str]) -> tuple[Request, ...]:
    """Each adapter of the REFs once; invalid references are kept, and reported when they are used.

    A file of an adapter stands for its folder: pre-commit hooks and shell globs pass files.
    """
    found: dict[str, bool] = {}
    for ref in refs:
        path = Path(ref)
        found |= adapters_in(str(path.parent) if is_adapter_file(path.name) and path.is_file() else ref)
    return tuple(
        Request(without_secrets(one), one, selection=Selection(latest=is_run)) for one, is_run in found.items()
    )


def adapters_in(text: str) -> dict[str, bool]:
    """The adapters in a local folder, and whether each is a training run. Any other REF is one: its source lists it.

    Hidden folders are not entered; a link to a folder is an adapter, or is not entered.
    """
    if run := training_run(text):
        return {run: True}
    folders = adapter_folders(_adapter_files(text)) if os.path.isdir(text) else {}  # noqa: PTH112 - never raises
    return {f"{text.rstrip('/')}/{one}" if one else text: is_run for one, is_run in folders.items()} or {text: False}


def _adapter_files(top: str) -> Iterator[str]:
    """The paths of configs and weights below a folder; what is inside of an adapter is not looked at.

    A folder that cannot be read is taken for an adapter, which then says so.
    """
    unreadable: list[OSError] = []
    for folder, inside, files in os.walk(top, onerror=unreadable.append):
        here, found = Path(folder), [name for name in files if is_adapter_file(name)]
        is_base = BASE_CONFIG in files and not any(name.startswith("adapter_") for name in found)
        inside[:] = [] if found and not is_base else [name for name in inside if not name.startswith(".")]
        linked = [file for name in inside if (here / name).is_symlink() for file in (here / name).glob("adapter_*")]
        named = (here / name for name in (*found, *([BASE_CONFIG] if is_base else ())))
        yield from (file.relative_to(top).as_posix() for file in (*named, *linked))
    yield from (Path(error.filename, CONFIG).relative_to(top).as_posix() for error in unreadable)


def changed_adapters(files: Sequence[str]) -> list[str]:
    """The folders of the adapters that these files belong to, each once; a file may be gone, or belong to none.

    A file's adapter is the nearest folder above it that has an adapter's config or weights. A folder (git names a
    submodule so) stands for all adapters in it.
    """
    folders = dict[str, None]()
    for file in map(Path, files):
        above = [str(one) for one in file.parents if one.is_dir()]
        nearest = [one for one in above if _has_adapter(Path(one))][:1]
        if is_adapter_file(file.name) and (file.is_file() or file.is_symlink()):
            nearest = above[:1]
        elif file.is_dir() and file.resolve().is_relative_to(Path.cwd().resolve()):
            nearest = [one for one in adapters_in(str(file)) if _has_adapter(Path(one))] or nearest
        folders |= dict.fromkeys(nearest)
    return list(folders)


def is_here(file: str) -> bool:
    """Whether a changed file, or the folder that it was in, exists."""
    path = Path(file)
    return os.path.lexists(path) or (bool(path.parent.name) and path.parent.is_dir())


def _has_adapter(folder: Path) -> bool:
    return any(is_adapter_file(one.name) and (one.is_file() or one.is_symlink()) for one in folder.glob("*"))
