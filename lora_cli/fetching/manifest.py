"""Manifest, lock and policy files → their values, and the adapters of a manifest as its lock pins them."""

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from lora_cli.documents.lockfile import base_mismatch, load_lock, mismatch
from lora_cli.documents.manifest import AdapterSet, load_manifest
from lora_cli.documents.policy import Policy, load_policy
from lora_cli.documents.yaml_nodes import SPLIT, TEXT_CAP
from lora_cli.errors import MachineError, NotFound, UsageError
from lora_cli.refs.lock import Lock, LockedAdapter, ref_at
from lora_cli.refs.reference import FSSPEC, is_path
from lora_cli.refs.request import USUAL, Request, Selection
from lora_cli.settings import Settings
from lora_cli.sources.registry import rule_of

STDIN = "-"


def read_manifest(path: Path) -> AdapterSet:
    """The adapter set in a file; for ``-`` on standard input, with paths relative to the working directory.

    Raises:
        NotFound: there is no such file.
        UsageError: an error in it, with line and key.
        MachineError: it cannot be read.
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
    """The path of a manifest's lock: ``set.yaml`` → ``set.lock.yaml`` next to it."""
    stem = (
        manifest.name.removesuffix(manifest.suffix) if manifest.suffix in {".yaml", ".yml", ".json"} else manifest.name
    )
    return manifest.with_name(f"{stem}.lock.yaml")


def read_text(path: Path, what: str) -> str:
    """A small UTF-8 text file or pipe (``<(…)``); ``what`` it is for errors.

    Raises:
        NotFound: there is no such file.
        UsageError: it is a folder, too long, or not UTF-8.
        MachineError: it cannot be read.
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


def locked_adapters(adapter_set: AdapterSet, lock: Lock) -> Mapping[str, LockedAdapter]:
    """The lock's entries that match the manifest, by adapter name.

    Raises:
        UsageError: a locked revision is not a valid one.
    """
    found = {}
    for entry in adapter_set.adapters:
        locked = lock.adapter(entry.name)
        if locked is not None and not mismatch(entry, locked):
            ref_at(entry.ref, locked)
            found[entry.name] = locked
    return found


def locked_base(adapter_set: AdapterSet, lock: Lock | None) -> LockedAdapter | None:
    """The lock's base, if it is the manifest's; None for a path that exists: it is read in place.

    Raises:
        UsageError: its revision is not a valid one.
    """
    base, locked = adapter_set.base, lock.base if lock is not None else None
    if base is None or locked is None or base_mismatch(adapter_set, locked):
        return None
    is_here = base.scheme == "file" and os.path.lexists(base.location)
    ref_at(base, locked)
    return None if is_here else locked


def requests_of(
    entries: Iterable[Request], locked: Mapping[str, LockedAdapter], selection: Selection = USUAL
) -> tuple[Request, ...]:
    """Adapters at their locked revision; those without a lock at the revision of their source."""
    return tuple(
        replace(
            entry,
            source=entry.ref if (at := locked.get(entry.name)) is None else ref_at(entry.ref, at),
            locked=at,
            selection=replace(selection, latest=entry.selection.latest),
        )
        for entry in entries
    )


def with_policies(settings: Settings, adapter_set: AdapterSet | None, policy: Path | None = None) -> Settings:
    """``settings`` with the policy of a manifest, and with the policy file.

    With a policy file, the manifest's own suppressions do not count: its author cannot waive the operator's rules.

    Raises:
        UsageError: an error in the policy file, with line and key, or the manifest names what fsspec reads, and no rule
            of the settings says how it is reached.
    """
    if adapter_set is not None:
        _check_protocols(adapter_set, settings)
        policies = (adapter_set.policy,) if adapter_set.policy is not None else ()
        settings = replace(settings, policies=policies)
    if policy is not None:
        stricter = (one.model_copy(update={"suppressions": ()}) for one in settings.policies)
        settings = replace(settings, policies=(*stricter, read_policy(policy)))
    return settings


def _check_protocols(adapter_set: AdapterSet, settings: Settings) -> None:
    """Most packages of fsspec find credentials of this machine: only the operator says for which servers."""
    named = [(f"{adapter_set.file}: base", adapter_set.base), *((one.at, one.ref) for one in adapter_set.adapters)]
    for at, ref in named:
        if ref is not None and ref.scheme == FSSPEC and rule_of(ref, settings) is None:
            prefix = str(ref).partition("://")[0] + "://"
            hint = f'add to the settings file: [[sources]] match = "{prefix}…"'
            raise UsageError(f"{at}: {ref}: a manifest needs a matching rule in the settings for {prefix}", hint=hint)
