"""Which files of an origin are fetched: those that an adapter needs, and those that globs select."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from lora_cli.core.adapter_files import BASE_CONFIG, BESIDE, CONFIG, SIGNATURE, WEIGHTS, WEIGHTS_STEM
from lora_cli.core.reference import CHECKPOINT, LATEST_FOLDER, below
from lora_cli.core.request import Selection
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.core.text import counted, names
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import FormatError, NoAdapter, Offline, Refused
from lora_cli.store.snapshots import check_paths

_WEIGHTS = re.compile(r"adapter_model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?", re.ASCII)
_PICKLED = re.compile(r"adapter_model(-\d{5}-of-\d{5})?\.(bin|pt)(\.index\.json)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The files of an origin that are not fetched: how many, and their bytes as far as they are known."""

    files: int
    bytes: int


def left_out(revision: Revision, files: Iterable[RemoteFile]) -> LeftOut | None:
    """The revision's files other than ``files``; None if not all of its files are known."""
    taken = {file.path for file in files}
    others = [file for file in revision.files if file.path not in taken]
    return LeftOut(len(others), sum(file.size or 0 for file in others)) if revision.whole else None


def select_files(revision: Revision, selection: Selection) -> tuple[RemoteFile, ...]:
    """The files of ``revision`` to fetch, in the order of their paths.

    Raises:
        FormatError: there is no adapter, or a needed file can never be read.
        Refused: the weights are pickled and that is not allowed, or a path would leave the snapshot.
        Offline: only some of the revision's files are known, and they are not a complete adapter.
    """
    if selection.base:
        return _base_config(revision)
    paths = [file.path for file in revision.files]
    weights = [path for path in paths if _WEIGHTS.fullmatch(path)]
    pickled = [path for path in paths if _PICKLED.fullmatch(path)]
    refuse_pickled(str(revision.ref), paths, selection)
    if not weights and not pickled and CONFIG not in paths:
        raise _no_adapter(revision)
    needed = {CONFIG, SIGNATURE, *weights, *(pickled if not weights else ()), *BESIDE}
    if not revision.whole:
        _check_complete(revision, paths, weights or pickled)
    files = tuple(
        file
        for file in sorted(revision.files, key=lambda file: file.path)
        if file.path in needed or any(fnmatchcase(file.path, glob) for glob in selection.include)
    )
    check_readable(revision, files)
    return files


def _base_config(revision: Revision) -> tuple[RemoteFile, ...]:
    config = revision.file(BASE_CONFIG)
    if config is None:
        raise FormatError(f"has no {BASE_CONFIG}", where=str(revision.ref), hint="use a transformers model")
    check_readable(revision, (config,))
    return (config,)


def refuse_pickled(where: str, paths: Iterable[str], selection: Selection) -> None:
    """Checks that pickled weights are allowed where there are no others.

    Raises:
        Refused: all weights are pickled, and that is not allowed.
    """
    paths = list(paths)
    pickled = next((path for path in paths if _PICKLED.fullmatch(path)), None)
    if pickled is not None and not selection.allow_pickle and not any(_WEIGHTS.fullmatch(path) for path in paths):
        raise Refused(
            f"{where} has only pickled weights ({pickled})",
            hint="ask its author for safetensors; `lora-cli repair REF --engine NAME --to DIR --allow-pickle` converts "
            "them, and `lora-cli fetch REF --allow-pickle` fetches them as they are",
        )


def check_readable(revision: Revision, files: Iterable[RemoteFile]) -> None:
    """Checks that these files can be read and stored in one folder.

    Raises:
        FormatError: one can never be read.
        Refused: a path would leave the snapshot.
    """
    check_paths({file.path: file for file in files})
    for file in files:
        if file.defect:
            raise FormatError(file.defect, where=f"{revision.ref}: {file.path}", hint="replace it with a regular file")


def _check_complete(revision: Revision, paths: Sequence[str], weights: Sequence[str]) -> None:
    """Checks that the known files of an incompletely listed revision include the config and all shards."""
    files = [path for path in weights if _is_weights(path)]
    shards = [found for path in files if (found := re.search(r"-\d{5}-of-(\d{5})\.", path))]
    missing = [] if CONFIG in paths else [CONFIG]
    if not files or any(len(shards) < int(shard[1]) for shard in shards):
        missing.append("the weights")
    if missing:
        raise Offline(
            f"{revision.ref}: not cached: {' and '.join(missing)}; offline mode is on",
            hint="fetch it once with network access",
        )


def _is_weights(path: str) -> bool:
    return bool(_WEIGHTS.fullmatch(path) or _PICKLED.fullmatch(path)) and not path.endswith(".json")


def is_adapter(paths: Iterable[str]) -> bool:
    """Whether there is a config, and weights of either kind."""
    found = set(paths)
    return CONFIG in found and any(_is_weights(path) for path in found)


def is_adapter_file(name: str) -> bool:
    """Whether a file has the name of an adapter's config or weights, also of another format's."""
    lora = "lora" in name and format_of(name) is not None
    return name == CONFIG or name.startswith(WEIGHTS_STEM) or lora or format_of(name) in {"safetensors", "gguf"}


def adapter_folders(paths: Iterable[str]) -> dict[str, bool]:
    """The folders of adapters among these files, and whether each is a training run; "" is the top.

    A run has checkpoints, and is no adapter itself: it stands for the latest. What is inside of either is left out, and
    so is a base model: weights beside a ``config.json``.
    """
    files = list(map(PurePosixPath, paths))
    bases = {path.parent for path in files if path.name == BASE_CONFIG} - {
        path.parent for path in files if path.name == CONFIG or path.name.startswith(WEIGHTS_STEM)
    }
    found = {path.parent: False for path in files if is_adapter_file(path.name) and path.parent not in bases}
    runs = [folder.parent for folder in found if CHECKPOINT.fullmatch(folder.name)]
    found = dict.fromkeys(runs, True) | found
    outer = {str(one) if one.name else "": found[one] for one in found if found.keys().isdisjoint(one.parents)}
    return {folder: outer[folder] for folder in sorted(outer, key=_natural_order)}


def check_no_folder_of_adapters(revision: Revision) -> None:
    """Checks that there are not only adapters below, or checkpoints; raises ``NoAdapter``."""
    folders = adapter_folders(file.path for file in revision.files)
    if folders.get("", bool(folders)):
        raise _no_adapter(revision)


def _no_adapter(revision: Revision) -> NoAdapter:
    """The error for a folder that is no adapter: how many of its subfolders are, and how to name one."""
    folders, hint = adapter_folders(file.path for file in revision.files), "it does not look like a PEFT adapter"
    if folders.get("", bool(folders)):
        first = next(iter(folders))
        one = below(revision.ref, first or LATEST_FOLDER)
        found = f"it has {counted(len(folders), 'adapter')}, in {names(list(folders))}: " if first else ""
        hint = f"{found}use {one.location if one.scheme == 'file' else one}"
    return NoAdapter(f"neither {CONFIG} nor {WEIGHTS} was found", folders, where=str(revision.ref), hint=hint)


def _natural_order(folder: str) -> list[tuple[str, int]]:
    """A sort key that puts sql-9 before sql-10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", folder)]
