"""Manifest, lock and policy files on this disk → their values; bounded, and relative to where they are."""

import sys
from functools import partial
from pathlib import Path

from lora_cli.core.lock import Lock
from lora_cli.documents.lockfile import load_lock
from lora_cli.documents.manifest import AdapterSet, load_manifest
from lora_cli.documents.policy import Policy, load_policy
from lora_cli.documents.yaml_nodes import SPLIT, TEXT_CAP
from lora_cli.errors import MachineError, NotFound, UsageError
from lora_cli.sources.local import is_path

STDIN = "-"


def read_manifest(path: Path) -> AdapterSet:
    """The adapter set in a file, or on standard input for ``-``; then relative paths are from the working directory.

    Raises:
        NotFound: there is no such file.
        UsageError: what is wrong in it, with line and key.
        MachineError: it may not be read.
    """
    base_dir = Path.cwd() if str(path) == STDIN else path.absolute().parent
    where = "<stdin>" if str(path) == STDIN else str(path)
    text = read_text(path, "manifest")
    return load_manifest(text, where, is_path=partial(is_path, base_dir=base_dir), base_dir=base_dir)


def read_lock(path: Path) -> Lock:
    """The lock in a file; raises as ``read_manifest``."""
    return load_lock(read_text(path, "lock"), str(path))


def read_policy(path: Path) -> Policy:
    """The policy in a file of its own; raises as ``read_manifest``."""
    return load_policy(read_text(path, "policy"), str(path), base_dir=path.absolute().parent)


def lock_path(manifest: Path) -> Path:
    """Where a manifest's lock is by itself: ``set.yaml`` → ``set.lock.yaml`` next to it."""
    stem = (
        manifest.name.removesuffix(manifest.suffix) if manifest.suffix in {".yaml", ".yml", ".json"} else manifest.name
    )
    return manifest.with_name(f"{stem}.lock.yaml")


def read_text(path: Path, what: str) -> str:
    """A small UTF-8 text file that the operator named, be it a pipe (``<(…)``). ``what`` names it in errors.

    Raises:
        NotFound: there is no such file.
        UsageError: it is a folder, is too long, or is not UTF-8.
        MachineError: it may not be read.
    """
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(TEXT_CAP + 1)
        else:
            with path.open("rb") as stream:
                data = stream.read(TEXT_CAP + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no {what} {path}", hint="check the path") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: the {what} is a folder", hint="use the file in it") from error
    except (OSError, ValueError) as error:
        raise MachineError(
            f"{path}: the {what} cannot be read: {error}", hint="check its owner and mode (ls -l)"
        ) from error
    if len(data) > TEXT_CAP:
        raise UsageError(f"{path}: the {what} is over {TEXT_CAP} bytes long", hint=SPLIT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the {what} is not UTF-8 at byte {error.start}", hint="save it as UTF-8") from error
