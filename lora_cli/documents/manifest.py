"""The manifest: which adapters, for which base, under which policy; and its lock: what they meant, file by file."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from lora_cli.documents.document import (
    File,
    Head,
    Line,
    Model,
    Name,
    Reference,
    Sha256,
    Version,
    parse_yaml,
    read_text,
    reference_of,
    unique,
)
from lora_cli.documents.policy import Policy
from lora_cli.errors import DocumentError, UsageError
from lora_cli.refs.adapter_files import BASE_CONFIG
from lora_cli.refs.reference import AdapterRef, training_run
from lora_cli.refs.request import THE_BASE, Lock, LockedAdapter, Request, Selection
from lora_cli.refs.snapshot import Blob, snapshot_digest

Count = Annotated[int, Field(ge=1, le=100_000)]


class EngineSpec(Model):
    """The engine that the set is for, and its limits."""

    name: Literal["vllm", "sglang", "peft"]
    """The name of the engine, as in lora-cli engines."""
    version: Version | None = None
    """The version that adapters are validated for (default: the newest known version)."""
    max_lora_rank: Count | None = None
    """The engine's --max-lora-rank."""
    max_loras: Count | None = None
    """Maximum number of adapters in one batch: the slots of warm."""
    max_cpu_loras: Count | None = None
    """Maximum number of adapters in memory."""

    @property
    def wanted(self) -> str:
        """NAME or NAME@VERSION."""
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """A manifest, parsed; ``base_written`` is the base as it is written ("" for none), ``file`` the manifest's path."""

    file: str
    base: AdapterRef | None
    base_written: str
    engine: EngineSpec | None
    policy: Policy | None
    adapters: tuple[Request, ...]


class ManifestAdapter(Model):
    """One adapter of the set, as written in the file."""

    name: Name
    """The name of the adapter, also in requests to an engine; valid as the name of a folder."""
    source: Reference
    """A path or a reference with its folder and revision: hf://ORG/NAME/FOLDER@REVISION. The last folder may be
    checkpoint-latest: the latest checkpoint of a training run.
    """
    sha256: Sha256 | None = None
    """The required digest of the snapshot, as shown by lora-cli cache ls; not of one file."""
    signature: File | None = None
    """A file with its signature, if the source has no model.sig of its own."""
    keep_loaded: bool = False
    """Never evicted from the GPU tier."""


class ManifestFile(Head):
    """Which LoRA adapters, for which base, under which policy."""

    instead: ClassVar = {"sources": "how a source is reached is the operator's: write [[sources]] in the settings file"}

    kind: Literal["AdapterSet"]
    """The kind of this file."""
    base: Reference | None = None
    """The base model: a path or a reference. Relative paths are relative to this file."""
    engine: EngineSpec | None = None
    """The engine that the set is for, and its limits."""
    policy: Policy | None = None
    """The rules that adapters must pass, in addition to the operator's policy."""
    adapters: Annotated[tuple[ManifestAdapter, ...], Field(min_length=1), AfterValidator(unique)]
    """At least one adapter; names are unique."""


def read_manifest(path: Path) -> AdapterSet:
    """The adapter set in a file; for ``-`` on standard input, with paths relative to the working directory.

    Raises:
        NotFound: there is no such file.
        UsageError: every mistake with file, line, key, and the nearest known key.
        MachineError: it cannot be read.
    """
    base_dir, document = path.absolute().parent, parse_yaml(read_text(path, "manifest"), str(path))
    found = document.read(ManifestFile, base_dir)
    return AdapterSet(
        file=document.file,
        base=reference_of(found.base, base_dir) if found.base is not None else None,
        base_written=found.base or "",
        engine=found.engine,
        policy=found.policy,
        adapters=tuple(
            Request(
                one.name,
                reference_of(training_run(one.source) or one.source, base_dir),
                one.sha256,
                one.keep_loaded,
                selection=Selection(latest=bool(training_run(one.source))),
                signature=Path(one.signature) if one.signature is not None else None,
                written=one.source,
                at=document.at("adapters", number),
            )
            for number, one in enumerate(found.adapters)
        ),
    )


KIND = "AdapterSetLock"
AGAIN = (
    "if this is a lock, it was edited, badly merged or cut off, or is from an earlier version: restore it from version "
    "control, or recreate it with lora-cli fetch -f FILE --upgrade; if it is another file that nothing needs, remove it"
)
LineOrNone = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,4096}$")]


def _inside(path: str) -> str:
    if path.startswith("/") or "\\" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise ValueError("this is not a relative POSIX path inside the adapter")
    return path


class LockedFile(Model):
    """One file of an adapter."""

    path: Annotated[Line, AfterValidator(_inside)]
    """A relative POSIX path inside the adapter."""
    size: Annotated[int, Field(ge=0, le=10**15)]
    """Bytes."""
    sha256: Sha256
    """Of its bytes."""


class Locked(Model):
    """What an adapter and the base have in common."""

    source: Line
    """As the AdapterSet writes it."""
    endpoint: LineOrNone
    """The address that was asked when it was locked; empty for a local folder. Another one may be asked later."""
    revision: LineOrNone
    """The origin's immutable id; empty for a local folder."""
    files: Annotated[tuple[LockedFile, ...], Field(min_length=1)]
    """All of its files; of the base, its config.json."""
    digest: Sha256
    """sha256 over the sorted lines '<sha256>  <size>  <path>' of the files."""

    def adapter(self, name: str, manifest: str, config: str = "") -> LockedAdapter:
        """It, called ``name`` in the file ``manifest``."""
        files = {file.path: Blob(file.sha256, file.size) for file in self.files}
        return LockedAdapter(name, self.source, self.revision, files, self.endpoint, config, manifest)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.digest != (actual := self.adapter("", "").digest):
            raise ValueError(f"the digest of the files is {actual}", "", "digest")
        return self


class LockedBase(Locked):
    """The base model's config, pinned."""

    config: str
    """The text of its config.json: nothing is asked for it any more."""

    @model_validator(mode="after")
    def _is_the_file(self) -> Self:
        if snapshot_digest(config_files(self.config.encode()).items()) != self.digest:
            raise ValueError(f"these are not the bytes of {BASE_CONFIG} in files", "", "config")
        return self


class LockEntry(Locked):
    """One adapter, pinned."""

    name: Name
    """As in the AdapterSet."""


class LockFile(Head):
    """What an AdapterSet meant at one moment, file by file."""

    kind: Literal["AdapterSetLock"]
    """The kind of this file."""
    base: LockedBase | None = None
    """The AdapterSet's base, where that has a config.json."""
    adapters: Annotated[tuple[LockEntry, ...], AfterValidator(unique)]
    """Names are unique."""


def config_files(data: bytes) -> Mapping[str, Blob]:
    """What is locked of a base: the bytes of its config."""
    return {BASE_CONFIG: Blob(hashlib.sha256(data).hexdigest(), len(data))}


def lock_path(manifest: Path) -> Path:
    """The path of a manifest's lock: ``set.yaml`` → ``set.lock.yaml`` next to it."""
    stem = manifest.stem if manifest.suffix in {".yaml", ".yml", ".json"} else manifest.name
    return manifest.with_name(f"{stem}.lock.yaml")


def version_on_disk(manifest: Path | None, *others: Path | None) -> object:
    """A value that changes when a manifest, its lock or one of the others is replaced or edited."""
    stamps: list[object] = []
    for path in (manifest, lock_path(manifest) if manifest is not None else None, *others):
        with suppress(OSError):
            found = path.stat() if path is not None else None
            stamps.append(found and (path, found.st_mtime_ns, found.st_size, found.st_ino))
    return stamps


class _Block(str):
    """Text that is written as a block, so that differences are read line by line, where YAML keeps it as it is."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """PyYAML's, with blocks."""


_Dumper.add_representer(
    _Block, lambda dumper, one: dumper.represent_scalar("tag:yaml.org,2002:str", str(one), style="|")
)


def dump_lock(lock: Lock) -> str:
    """The lock as YAML: adapters by name, files by path, so that equal locks are equal bytes and diffs are readable."""
    document: dict[str, Any] = {"apiVersion": "lora-cli/v1", "kind": KIND}
    if (base := lock.get(THE_BASE)) is not None:
        document["base"] = {**_dumped(base), "config": _Block(base.config)}
    document["adapters"] = [{"name": name, **_dumped(one)} for name, one in sorted(lock.items()) if name != THE_BASE]
    written: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1 << 30)
    return written


def _dumped(one: LockedAdapter) -> dict[str, Any]:
    """All of it but its name and config."""
    files = [{"path": path, "size": blob.size, "sha256": blob.sha256} for path, blob in sorted(one.files.items())]
    about = {"source": one.source, "endpoint": one.endpoint, "revision": one.revision, "digest": one.digest}
    return {**about, "files": files}


def read_lock(path: Path, manifest: str = "") -> Lock:
    """The lock in a file, which is that of the file ``manifest``.

    Strict: every key must be there, names and paths are unique and safe, digests agree.

    Raises:
        NotFound: there is no such file.
        UsageError: every mistake in it, with line and key.
        MachineError: it cannot be read.
    """
    try:
        found = parse_yaml(read_text(path, "lock"), str(path)).read(LockFile)
    except UsageError as error:
        mistakes = error.mistakes if isinstance(error, DocumentError) else (error,)
        raise DocumentError([UsageError(one.message, hint=AGAIN) for one in mistakes]) from error
    base = {} if found.base is None else {THE_BASE: found.base.adapter(THE_BASE, manifest, found.base.config)}
    return base | {one.name: one.adapter(one.name, manifest) for one in found.adapters}


def mismatch(entry: Request, locked: LockedAdapter | None) -> str:
    """Why what is locked does not speak of this entry of the manifest, in one sentence; empty when it does."""
    if locked is None:
        return f"{entry.name} is not locked"
    if locked.source != entry.written:
        return f"{entry.name} is locked for {locked.source}, but the manifest has {entry.written or 'none'}"
    if entry.sha256 is not None and locked.digest != entry.sha256:
        return f"{entry.name} is locked at {locked.digest}, but the manifest requires {entry.sha256}"
    return ""


def base_mismatch(adapter_set: AdapterSet, locked: LockedAdapter | None) -> str:
    """Why what is locked is not the manifest's base, in one sentence; empty when it is."""
    base = adapter_set.base_written
    return mismatch(Request(THE_BASE, base, written=base), locked) if base or locked is not None else ""


def relocked(adapter_set: AdapterSet, lock: Lock, new: Lock) -> Lock:
    """``lock`` with what is ``new``; what the manifest does not have any more is dropped.

    The same bytes keep the endpoint that they were locked from.
    """
    known = {**lock, **new}
    for name in lock.keys() & new.keys():
        if (lock[name].source, lock[name].digest) == (new[name].source, new[name].digest):
            known[name] = replace(new[name], endpoint=lock[name].endpoint)
    names = {entry.name for entry in adapter_set.adapters}
    if not base_mismatch(adapter_set, known.get(THE_BASE)):
        names.add(THE_BASE)
    return {name: one for name, one in known.items() if name in names}


def locked_adapters(adapter_set: AdapterSet, lock: Lock) -> Lock:
    """The lock's entries that match the adapters of the manifest."""
    return {one.name: lock[one.name] for one in adapter_set.adapters if not mismatch(one, lock.get(one.name))}


def locked_base(adapter_set: AdapterSet, lock: Lock | None) -> LockedAdapter | None:
    """The lock's base, if it is the manifest's; None for a path that exists: it is read in place."""
    base, locked = adapter_set.base, (lock or {}).get(THE_BASE)
    if base is None or locked is None or base_mismatch(adapter_set, locked):
        return None
    return None if base.scheme == "file" and os.path.lexists(base.location) else locked


def requests_of(entries: Iterable[Request], locked: Lock) -> tuple[Request, ...]:
    """Adapters at their locked revision; those without a lock at the revision of their source.

    Raises:
        UsageError: a locked revision is not a valid one.
    """
    requests = (replace(one, locked=locked.get(one.name)) for one in entries)
    return tuple(replace(one, source=one.locked_ref) for one in requests)
