"""The lock file: what a manifest meant at one moment, file by file, in bytes that are the same on every machine."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from lora_cli.documents.document import API_VERSION, Head, Mistake, Model, mappings, mistake, parse_document, repeats
from lora_cli.documents.field_types import SHA256, Context, Maybe, Several, text, whole
from lora_cli.documents.manifest import AdapterSet
from lora_cli.documents.yaml_nodes import SPLIT
from lora_cli.errors import DocumentError, UsageError
from lora_cli.refs.adapter_files import BASE_CONFIG
from lora_cli.refs.lock import THE_BASE, Lock, LockedAdapter
from lora_cli.refs.request import NAME, NAME_IN_WORDS, Request
from lora_cli.refs.snapshot import Blob, snapshot_digest

KIND = "AdapterSetLock"
AGAIN = "recreate it with lora-cli fetch -f FILE --upgrade"
BROKEN = f"it is truncated or badly merged: restore it from version control, or {AGAIN}"
EDITED = f"the lock was edited, or is from an earlier version: {AGAIN}"
NO_LOCK = "this is not a lock: if nothing needs this file, remove it; lora-cli fetch -f FILE then writes a new lock"
LARGEST_FILE = 10**15
_LINE = r"[^\x00-\x1f\x7f]{1,4096}"

Sha256 = Annotated[str, text(SHA256, "a sha256: 64 hexadecimal digits in lower case")]


def _inside(path: str) -> str:
    if path.startswith("/") or "\\" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise mistake(f"{path[:60]!r} is not a relative POSIX path inside the adapter")
    return path


class LockedFile(Model):
    """One file of an adapter."""

    path: Annotated[
        str,
        text(_LINE, "a path"),
        AfterValidator(_inside),
        Field(json_schema_extra={"not": {"pattern": r"^/|\\|(^|/)\.{0,2}(/|$)"}}),
    ]
    """A relative POSIX path inside the adapter."""
    size: Annotated[int, whole(0, LARGEST_FILE)]
    """Bytes."""
    sha256: Sha256
    """Of its bytes."""


class Locked(Model):
    """What an adapter and the base have in common."""

    source: Annotated[str, text(_LINE, "a reference")]
    """As the AdapterSet writes it."""
    endpoint: Annotated[str, text(f"({_LINE})?", "an address")]
    """The address that was asked when it was locked; empty for a local folder. Another one may be asked later."""
    revision: Annotated[str, text(f"({_LINE})?", "a revision")]
    """The origin's immutable id; empty for a local folder."""
    files: Annotated[Several[LockedFile], Field(min_length=1)]
    """All of its files; of the base, its config.json."""
    digest: Sha256
    """sha256 over the sorted lines '<sha256>  <size>  <path>' of the files."""

    @field_validator("digest")
    @classmethod
    def _of_the_files(cls, digest: str, info: ValidationInfo) -> str:
        files = info.data.get("files", ())
        if files and len({one.path for one in files}) == len(files):
            actual = snapshot_digest((one.path, Blob(one.sha256, one.size)) for one in files)
            if actual != digest:
                raise mistake(f"the digest of the files is {actual}")
        return digest


class LockedBase(Locked):
    """The base model's config, pinned."""

    config: str
    """The text of its config.json: nothing is asked for it any more."""

    @field_validator("config")
    @classmethod
    def _as_listed(cls, config: str, info: ValidationInfo) -> str:
        data = config.encode("utf-8", "surrogatepass")
        blobs = {one.path: (one.sha256, one.size) for one in info.data.get("files", ())}
        if blobs and blobs != {BASE_CONFIG: (hashlib.sha256(data).hexdigest(), len(data))}:
            raise mistake(f"these are not the bytes of {BASE_CONFIG} in files")
        return config


class LockEntry(Locked):
    """One adapter, pinned."""

    name: Annotated[str, text(NAME, NAME_IN_WORDS)]
    """As in the AdapterSet."""


class LockFile(Head):
    """What an AdapterSet meant at one moment, file by file."""

    kind: Literal["AdapterSetLock"]
    """The kind of this file."""
    base: Maybe[LockedBase] = None
    """The AdapterSet's base, where that has a config.json."""
    adapters: Several[LockEntry]
    """Names are unique."""


def dump_lock(lock: Lock) -> str:
    """The lock as YAML: adapters by name, files by path, so that equal locks are equal bytes and diffs are readable."""
    lines = [f"apiVersion: {API_VERSION}", f"kind: {KIND}"]
    if lock.base is not None:
        base = (*_dumped(lock.base), *_config(lock.base.config))
        lines += ["base:", *(f"  {line}" if line else "" for line in base)]
    adapters = sorted(lock.adapters, key=lambda adapter: adapter.name)
    lines.append("adapters:" if adapters else "adapters: []")
    for adapter in adapters:
        lines += [f"  - name: {_quoted(adapter.name)}", *(f"    {line}" for line in _dumped(adapter))]
    return "\n".join(lines) + "\n"


def _dumped(one: LockedAdapter) -> Iterator[str]:
    """All of it but its name and config."""
    yield f"source: {_quoted(one.source)}"
    yield from (f"endpoint: {_quoted(one.endpoint)}", f"revision: {_quoted(one.revision)}")
    yield from (f"digest: {_quoted(one.digest)}", "files:")
    for path, blob in sorted(one.files.items()):
        yield from (f"  - path: {_quoted(path)}", f"    size: {blob.size}", f"    sha256: {_quoted(blob.sha256)}")


def _config(text: str) -> Iterator[str]:
    """The text of a config: as a block, so that differences are read line by line, where YAML keeps it as it is."""
    if not re.fullmatch(r"[!-~][ -~]*(\n+[ -~]+)*\n?", text):
        yield f"config: {_quoted(text)}"
        return
    yield "config: |" if text.endswith("\n") else "config: |-"
    yield from (f"  {line}" if line else "" for line in text.removesuffix("\n").split("\n"))


def load_lock(text: str, where: str) -> Lock:
    """The lock in ``text``; strict: every key must be there, names and paths are unique and safe, digests agree.

    Raises:
        UsageError: every mistake with file, line and key.
    """
    try:
        document = parse_document(text, where, KIND)
    except DocumentError as error:
        if "kind" in text:
            raise
        raise error.with_hint(NO_LOCK) from error
    except UsageError as error:
        raise UsageError(error.message, hint=error.hint if error.hint == SPLIT else _hint(text, BROKEN)) from error
    try:
        found = document.read(LockFile, Context(), _repeated)
    except DocumentError as error:
        raise error.with_hint(_hint(text, EDITED)) from error
    base = None if found.base is None else replace(_locked(THE_BASE, found.base), config=found.base.config)
    return Lock(tuple(_locked(one.name, one) for one in found.adapters), base)


def _hint(text: str, of_a_lock: str) -> str:
    """The hint for a file that cannot be read as a lock; fetch overwrites one that is empty or has a lock's kind."""
    return of_a_lock if KIND in text or not text.strip() else NO_LOCK


def _locked(name: str, one: Locked) -> LockedAdapter:
    files = {file.path: Blob(file.sha256, file.size) for file in one.files}
    return LockedAdapter(name, one.source, one.revision, files, endpoint=one.endpoint)


def _repeated(value: Any) -> Iterator[Mistake]:
    """Adapters that are locked twice, and files that appear twice in one."""
    for number, _, (name,) in repeats(value, "adapters", "name"):
        yield Mistake(("adapters", number), f"{name[:128]} is locked twice", "")
    parts: list[tuple[tuple[str | int, ...], Any]] = [
        (("adapters", at), one) for at, one in mappings(value, "adapters")
    ]
    if isinstance(value, dict):
        parts.append((("base",), value.get("base")))
    for where, one in parts:
        for place, _, (path,) in repeats(one, "files", "path"):
            yield Mistake((*where, "files", place), f"{path[:4096]} is listed twice", "")


def drift(adapter_set: AdapterSet, lock: Lock) -> Iterator[str]:
    """Where the adapters of a manifest and its lock disagree, one sentence each: missing, left over, another source."""
    for entry in adapter_set.adapters:
        if said := mismatch(entry, lock.adapter(entry.name)):
            yield said
    names = {entry.name for entry in adapter_set.adapters}
    for locked in lock.adapters:
        if locked.name not in names:
            yield f"{locked.name} is locked but not in the manifest"


def mismatch(entry: Request, locked: LockedAdapter | None) -> str:
    """Why what is locked does not speak of this entry of the manifest, in one sentence; empty when it does."""
    if locked is None:
        return f"{entry.name} is not locked"
    if locked.source != entry.written:
        return f"{entry.name} is locked for {locked.source}, but the manifest has {entry.written}"
    if entry.sha256 is not None and locked.digest != entry.sha256:
        return f"{entry.name} is locked at {locked.digest}, but the manifest requires {entry.sha256}"
    return ""


def base_mismatch(adapter_set: AdapterSet, locked: LockedAdapter | None) -> str:
    """Why what is locked is not the manifest's base, in one sentence; empty when it is."""
    base = adapter_set.base_written
    if locked is None:
        return f"{THE_BASE} is not locked" if base else ""
    said = f"{THE_BASE} is locked for {locked.source}, but the manifest has {base or 'none'}"
    return "" if locked.source == base else said


def relocked(adapter_set: AdapterSet, lock: Lock, new: Mapping[str, LockedAdapter]) -> Lock:
    """``lock`` with what is ``new``, by name; what the manifest does not have any more is dropped.

    The same bytes keep the endpoint that they were locked from.
    """
    known = lock.by_name
    for name, one in new.items():
        old = known.get(name)
        same = old is not None and (old.source, old.digest) == (one.source, one.digest)
        known[name] = replace(one, endpoint=old.endpoint) if old is not None and same else one
    base = known.get(THE_BASE)
    kept = None if base is None or base_mismatch(adapter_set, base) else base
    return Lock(tuple(known[entry.name] for entry in adapter_set.adapters if entry.name in known), kept)


def _quoted(value: str) -> str:
    """A double-quoted YAML string on one line, in ASCII: every YAML version reads it alike."""
    return '"' + "".join(_escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~":
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
