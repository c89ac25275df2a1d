"""Which files of an origin are fetched: those that an adapter needs, and those that globs select."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from lora_cli.errors import FormatError, LoraCliError, NoAdapter, Offline, Refused, UsageError
from lora_cli.redaction import logger, without_secrets
from lora_cli.refs.adapter_files import BASE_CONFIG, BESIDE, CONFIG, SIGNATURE, WEIGHTS, WEIGHTS_STEM, format_of
from lora_cli.refs.reference import LATEST_FOLDER, below, training_run
from lora_cli.refs.request import EVERYTHING, LockedAdapter, Request, Selection, lock_mismatch
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.sources.registry import Sources
from lora_cli.store.snapshots import check_paths
from lora_cli.text import counted, names

log = logger(__name__)

CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})", re.ASCII)
"""The folder name of a checkpoint that transformers' Trainer writes."""
_WEIGHTS = re.compile(r"adapter_model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?", re.ASCII)
_PICKLED = re.compile(r"adapter_model(-\d{5}-of-\d{5})?\.(bin|pt)(\.index\.json)?", re.ASCII)
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.", re.ASCII)


def select_files(revision: Revision, selection: Selection) -> tuple[RemoteFile, ...]:
    """The files of ``revision`` to fetch, in the order of their paths.

    Raises ``FormatError`` (there is no adapter, or a needed file can never be read), ``Refused`` (the weights are
    pickled and that is not allowed, or a path would leave the snapshot), ``Offline`` (only some of the revision's files
    are known, and they are not a complete adapter).
    """
    paths, needed = [file.path for file in revision.files], {BASE_CONFIG}
    if selection.base and BASE_CONFIG not in paths:
        raise FormatError(f"has no {BASE_CONFIG}", where=str(revision.ref), hint="use a transformers model")
    if not selection.base:
        refuse_pickled(str(revision.ref), paths, selection)
        weights = list(filter(_WEIGHTS.fullmatch, paths)) or list(filter(_PICKLED.fullmatch, paths))
        if not weights and CONFIG not in paths:
            check_no_folder_of_adapters(revision, is_none=True)
        needed = {CONFIG, SIGNATURE, *weights, *BESIDE}
        shards = [int(found[1]) for path in filter(_is_weights, weights) if (found := _SHARD.search(path))]
        there = CONFIG in paths, any(map(_is_weights, weights)) and len(shards) >= max(shards, default=0)
        if not revision.whole and not all(there):
            missing = " and ".join(
                what for what, is_there in zip((CONFIG, "the weights"), there, strict=True) if not is_there
            )
            hint = "fetch it once with network access"
            raise Offline(f"{revision.ref}: not cached: {missing}; offline mode is on", hint=hint)
    files = tuple(
        file
        for file in sorted(revision.files, key=lambda file: file.path)
        if file.path in needed or any(fnmatchcase(file.path, glob) for glob in selection.include)
    )
    check_readable(revision, files)
    return files


def refuse_pickled(where: str, paths: Iterable[str], selection: Selection) -> None:
    """Raises ``Refused`` where all weights are pickled, and that is not allowed."""
    paths = list(paths)
    pickled = next((path for path in paths if _PICKLED.fullmatch(path)), None)
    if pickled is not None and not selection.allow_pickle and not any(_WEIGHTS.fullmatch(path) for path in paths):
        raise Refused(
            f"{where} has only pickled weights ({pickled})",
            hint="ask its author for safetensors; if `lora-cli validate REF` finds them safe, "
            "`lora-cli repair REF --engine NAME --to DIR` converts them, and `lora-cli fetch REF --allow-pickle` "
            "fetches them as they are",
        )


def check_readable(revision: Revision, files: Iterable[RemoteFile]) -> None:
    """Checks that these files can be read and stored in one folder.

    Raises ``FormatError`` (one can never be read), ``Refused`` (a path would leave the snapshot).
    """
    check_paths({file.path: file for file in files})
    for file in files:
        if file.defect:
            raise FormatError(file.defect, where=f"{revision.ref}: {file.path}", hint="replace it with a regular file")


def _is_weights(path: str) -> bool:
    return bool(_WEIGHTS.fullmatch(path) or _PICKLED.fullmatch(path)) and not path.endswith(".json")


def is_adapter(paths: Iterable[str]) -> bool:
    """Whether there is a config, and weights of either kind."""
    found = set(paths)
    return CONFIG in found and any(_is_weights(path) for path in found)


def is_adapter_file(name: str) -> bool:
    """Whether a file has the name of an adapter's config or weights, also of another format's."""
    lora = "lora" in name and format_of(name) is not None
    return name == CONFIG or name.startswith(WEIGHTS_STEM) or lora or name.lower().endswith((".safetensors", ".gguf"))


def adapter_folders(paths: Iterable[str]) -> dict[str, bool]:
    """The folders of adapters among these files, and whether each is a training run; "" is the top.

    A run has checkpoints, and is no adapter itself: it stands for the latest. Of what is inside of either only adapters
    of PEFT count, but no checkpoint, and none if that is the top. A base model is left out: weights beside a
    ``config.json``. Weights of another name hide nothing.
    """
    files = list(map(PurePosixPath, paths))
    peft = {path.parent for path in files if path.name.startswith((CONFIG, WEIGHTS_STEM))}
    bases = {path.parent for path in files if path.name == BASE_CONFIG} - peft
    found = {path.parent: False for path in files if is_adapter_file(path.name) and path.parent not in bases}
    runs = [folder.parent for folder in found if CHECKPOINT.fullmatch(folder.name)]
    found, whole = dict.fromkeys(runs, True) | found, peft.union(runs)

    def is_part(one: PurePosixPath) -> bool:
        outer = whole.intersection(one.parents)
        return bool(outer) and (
            one not in peft or PurePosixPath() in outer or any(map(CHECKPOINT.fullmatch, one.parts))
        )

    return {str(one) if one.name else "": found[one] for one in sorted(found) if not is_part(one)}


def check_no_folder_of_adapters(revision: Revision, *, is_none: bool = False) -> None:
    """Raises ``NoAdapter`` where there are only adapters below, or checkpoints; or where there ``is_none`` at all.

    It says how many of the subfolders are adapters, and how to name one.
    """
    folders, hint = adapter_folders(file.path for file in revision.files), "it does not look like a PEFT adapter"
    if is_above := folders.get("", bool(folders)):
        first = next(iter(folders))
        one = below(revision.ref, first or LATEST_FOLDER)
        found = f"it has {counted(len(folders), 'adapter')}, in {names(list(folders))}: " if first else ""
        hint = f"{found}use {one.location if one.scheme == 'file' else one}"
    if is_above or is_none:
        raise NoAdapter(f"neither {CONFIG} nor {WEIGHTS} was found", folders, where=str(revision.ref), hint=hint)


def resolve(request: Request, sources: Sources) -> Revision:
    """The revision that the reference means now, or the lock has for it; that of the latest checkpoint where asked.

    Raises ``UsageError`` (a web server does not list its folders), else as ``latest_checkpoint``, and as the source.
    """
    ref = request.locked_ref
    if request.selection.latest and ref.scheme in {"https", "http"}:
        what = f"{ref}: a web server does not list its folders, so the latest checkpoint is unknown"
        raise UsageError(what, hint="use the folder of one: checkpoint-N")
    revision = sources.of(request.ref).resolve(ref)
    return latest_checkpoint(revision) if request.selection.latest else revision


def latest_checkpoint(revision: Revision) -> Revision:
    """``revision`` with the folder of its highest-numbered checkpoint as its root.

    A checkpoint without a config or weights, such as one that is being written, is skipped. Without any checkpoint it
    is the adapter at the root. Raises ``FormatError`` if there is no adapter either.
    """
    folders = {file.path.partition("/")[0] for file in revision.files if "/" in file.path}
    numbered = sorted((int(found[1]), folder) for folder in folders if (found := CHECKPOINT.fullmatch(folder)))
    for _, folder in reversed(numbered):
        below_it = (file for file in revision.files if file.path.startswith(f"{folder}/"))
        inside = tuple(replace(file, path=file.path.removeprefix(f"{folder}/")) for file in below_it)
        if is_adapter(file.path for file in inside):
            log.warning("%s: the latest checkpoint is %s", revision.ref, folder)
            return replace(revision, ref=below(revision.ref, folder), files=inside)
        log.warning("%s: %s is skipped: it has no config or weights", revision.ref, folder)
    if not is_adapter(file.path for file in revision.files):
        hint = "use a folder with a folder checkpoint-N that has a config and weights"
        raise FormatError("there are no checkpoints here", where=str(revision.ref), hint=hint)
    log.warning("%s: there are no checkpoints, the adapter itself is used", revision.ref)
    return revision


def files_to_fetch(revision: Revision) -> tuple[RemoteFile, ...]:
    """The files of an adapter that would be read, pickled ones too; if it is not an adapter, all files with weights."""
    try:
        return select_files(revision, EVERYTHING)
    except LoraCliError:
        return tuple(file for file in revision.files if format_of(file.path) and not file.defect)


def select(request: Request, revision: Revision) -> tuple[tuple[RemoteFile, ...], Selection]:
    """The files of a revision that are requested, and the selection that they are; raises as ``select_locked``."""
    files = select_files(revision, request.selection)
    if request.locked is None:
        return files, request.selection
    return select_locked(revision, request.locked, request.selection, files)


def select_locked(
    revision: Revision, locked: LockedAdapter, selection: Selection, planned: Sequence[RemoteFile]
) -> tuple[tuple[RemoteFile, ...], Selection]:
    """The files to fetch, with size and digest of the lock, and the selection that they are.

    These are the locked files; with ``--include`` the ``planned`` ones. Those of a local folder keep what the folder
    says of them: they are read, and compared with the lock.

    Raises ``Refused`` (the listing of the origin differs from the lock), ``Offline`` (the revision is not listed
    completely, and lacks a locked file), ``FormatError`` (a file can never be read).
    """
    usual = [file.path for file in planned]
    paths, local = usual if selection.include else sorted(locked.files), revision.ref.scheme == "file"
    files = []
    for path in paths:
        file, blob = revision.file(path), locked.files.get(path)
        if file is None and not revision.whole:
            hint = "fetch it once with network access"
            raise Offline(f"{locked.name}: {path} is not cached and offline mode is on", hint=hint)
        if file is None:
            raise lock_mismatch(locked, f"{path} is locked but no longer exists")
        if blob is not None and file.size not in {None, blob.size}:
            raise lock_mismatch(locked, f"{path} has {file.size} bytes now, but is locked with {blob.size}")
        if blob is not None and file.sha256 not in {None, blob.sha256}:
            raise lock_mismatch(locked, f"{path} is {file.sha256} now, but is locked as {blob.sha256}")
        files.append(file if blob is None or local else replace(file, size=blob.size, sha256=blob.sha256))
    new = [path for path in usual if path not in locked.files and format_of(path)]
    if local and new and not selection.include:
        raise lock_mismatch(locked, f"{new[0]} exists now but is not locked")
    check_readable(revision, files)
    return tuple(files), selection if paths == usual else replace(selection, locked=locked.digest)


def from_refs(refs: Sequence[str]) -> tuple[Request, ...]:
    """Each adapter of the REFs once; invalid references are kept, and reported when they are used.

    A file of an adapter stands for its folder: pre-commit hooks and shell globs pass files.
    """
    found: dict[str, bool] = {}
    for ref in refs:
        path = Path(ref)
        found |= {str(path.parent): False} if is_adapter_file(path.name) and path.is_file() else adapters_in(ref)
    return tuple(Request(without_secrets(one), one, selection=Selection(latest=run)) for one, run in found.items())


def adapters_in(text: str) -> dict[str, bool]:
    """The adapters in a local folder, and whether each is a training run. Any other REF is one: its source lists it.

    Hidden folders are not entered; a link to a folder is an adapter, or is not entered.
    """
    if run := training_run(text):
        return {run: True}
    folders = adapter_folders(_adapter_files(text)) if os.path.isdir(text) else {}  # noqa: PTH112 - never raises
    return {f"{text.rstrip('/')}/{one}" if one else text: is_run for one, is_run in folders.items()} or {text: False}


def _adapter_files(top: str) -> Iterator[str]:
    """The paths of configs and weights below a folder; none below it if it is an adapter, and no checkpoints of one.

    A folder that cannot be read is taken for an adapter, which then says so.
    """
    unreadable: list[OSError] = []
    for folder, inside, files in os.walk(top, onerror=unreadable.append):
        here, found = Path(folder), [name for name in files if is_adapter_file(name)]
        peft = [name for name in found if name.startswith((CONFIG, WEIGHTS_STEM))]
        inside[:] = [name for name in inside if not (name.startswith(".") or (peft and CHECKPOINT.fullmatch(name)))]
        if peft and folder == top:
            inside.clear()
        linked = [file for name in inside if (here / name).is_symlink() for file in (here / name).glob("adapter_*")]
        named = (here / name for name in (*found, *([BASE_CONFIG] if BASE_CONFIG in files else ())))
        yield from (file.relative_to(top).as_posix() for file in (*named, *linked))
    yield from (Path(error.filename, CONFIG).relative_to(top).as_posix() for error in unreadable)


def changed_adapters(files: Sequence[str]) -> list[str]:
    """The folders of the adapters that these files belong to, each once; a file may be gone, or belong to none.

    A file's adapter is the nearest folder above it that has an adapter's config or weights. A folder (git names a
    submodule so) stands for all adapters in it.
    """
    folders = dict[str, None]()
    for file in map(Path, files):
        nearest = [str(one) for one in file.parents if _has_adapter(one)][:1]
        if file.is_dir() and file.resolve().is_relative_to(Path.cwd().resolve()):
            nearest = [one for one in adapters_in(str(file)) if _has_adapter(Path(one))] or nearest
        folders |= dict.fromkeys(nearest)
    return list(folders)


def _has_adapter(folder: Path) -> bool:
    return any(is_adapter_file(one.name) and (one.is_file() or one.is_symlink()) for one in folder.glob("*"))
