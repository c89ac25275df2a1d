"""``Lock``: what a manifest meant at one moment, file by file, in bytes that are the same on every machine."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lora_cli.core.checkpoint import checked
from lora_cli.core.document import Node, parse_document, wrong
from lora_cli.core.fields import API_VERSION, LARGEST_INT, fields, head, integer, items, text
from lora_cli.core.manifest import AdapterEntry, AdapterSet
from lora_cli.core.names import NAME, NAME_IN_WORDS
from lora_cli.core.policy import SHA256
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Blob, snapshot_digest
from lora_cli.errors import UsageError

KIND = "AdapterSetLock"
BROKEN = "it was cut off, or merged: take it from version control, or write it anew with lora-cli fetch --upgrade"
EDITED = "the lock was edited: write it anew with lora-cli fetch --upgrade"
_SHA256_IN_WORDS = "a sha256: 64 hexadecimal digits in lower case"
_LINE = r"[^\x00-\x1f\x7f\ud800-\udfff]{1,4096}"


@dataclass(frozen=True, slots=True)
class LockedAdapter:
    """One adapter, pinned.

    ``source`` is as the manifest writes it. ``revision`` is the origin's immutable id: a commit of the Hub, which can
    be asked for again, or what tells one listing of a bucket or web folder from another; it is empty where the origin
    has none that another machine could check (a local folder). ``files`` maps POSIX paths to blobs. ``checkpoint`` is
    as in the manifest, "" for none.
    """

    name: str
    source: str
    revision: str
    files: Mapping[str, Blob]
    checkpoint: str = ""

    @property
    def digest(self) -> str:
        """The snapshot's name."""
        return snapshot_digest(self.files.items())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(blob.size for blob in self.files.values())


@dataclass(frozen=True, slots=True)
class Lock:
    """All adapters of a manifest, pinned."""

    adapters: tuple[LockedAdapter, ...]

    def adapter(self, name: str) -> LockedAdapter | None:
        """The one of that name, or None."""
        return next((adapter for adapter in self.adapters if adapter.name == name), None)


def dump_lock(lock: Lock) -> str:
    """The lock as YAML: adapters by name, files by path, so that equal locks are equal bytes and diffs are readable."""
    lines = [f"apiVersion: {API_VERSION}", f"kind: {KIND}"]
    adapters = sorted(lock.adapters, key=lambda adapter: adapter.name)
    lines.append("adapters:" if adapters else "adapters: []")
    for adapter in adapters:
        lines += [f"  - name: {_quoted(adapter.name)}", f"    source: {_quoted(adapter.source)}"]
        if adapter.checkpoint:
            lines.append(f"    checkpoint: {_quoted(adapter.checkpoint)}")
        lines += [f"    revision: {_quoted(adapter.revision)}", f"    digest: {_quoted(adapter.digest)}", "    files:"]
        for path, blob in sorted(adapter.files.items()):
            lines.append(f"      - path: {_quoted(path)}")
            lines += [f"        size: {blob.size}", f"        sha256: {_quoted(blob.sha256)}"]
    return "\n".join(lines) + "\n"


def load_lock(document: str, where: str) -> Lock:
    """The lock in ``document``; strict: every key must be there, names and paths are unique and safe, digests agree.

    Raises:
        UsageError: with file, line and key.
    """
    try:
        root = parse_document(document, where)
    except UsageError as error:
        raise UsageError(error.message, hint=BROKEN) from error
    entries = head(root, KIND, ("adapters",), ("adapters",))
    adapters: dict[str, LockedAdapter] = {}
    for member in items(entries["adapters"]):
        try:
            adapter = _adapter(member)
        except UsageError as error:  # nobody who edits one is told how: it is written by us
            raise UsageError(error.message, hint=EDITED) from error
        if adapter.name in adapters:
            raise wrong(member, f"{adapter.name} is locked twice", hint=EDITED)
        adapters[adapter.name] = adapter
    return Lock(tuple(adapters.values()))


def drift(adapter_set: AdapterSet, lock: Lock) -> Iterator[str]:
    """Where a manifest and its lock disagree, one sentence each: missing, left over, another source, another digest."""
    for entry in adapter_set.adapters:
        if said := mismatch(entry, lock.adapter(entry.name)):
            yield said
    names = {entry.name for entry in adapter_set.adapters}
    for locked in lock.adapters:
        if locked.name not in names:
            yield f"{locked.name} is locked, and not in the manifest"


def mismatch(entry: AdapterEntry, locked: LockedAdapter | None) -> str:
    """Why what is locked does not speak of this entry of the manifest, in one sentence; empty when it does."""
    if locked is None:
        return f"{entry.name} is not locked"
    if locked.source != entry.written:
        return f"{entry.name} is locked for {locked.source}, and the manifest has {entry.written}"
    if locked.checkpoint != entry.checkpoint:
        said = (f"checkpoint {one}" if one else "no checkpoint" for one in (locked.checkpoint, entry.checkpoint))
        return f"{entry.name} is locked for {next(said)}, and the manifest has {next(said)}"
    if entry.sha256 is not None and locked.digest != entry.sha256:
        return f"{entry.name} is locked at {locked.digest}, and the manifest demands {entry.sha256}"
    return ""


def ref_at(ref: AdapterRef, locked: LockedAdapter) -> AdapterRef:
    """``ref`` at the locked revision, where its kind has revisions that can be asked for (the Hub).

    Raises:
        UsageError: the lock names no commit of a Hub repository.
    """
    if ref.scheme != "hf":
        return ref
    if not re.fullmatch(r"[0-9a-f]{40}", locked.revision):
        raise UsageError(
            f"{locked.name} is locked at {locked.revision!r}, which is no commit",
            hint=f"the lock was edited: --upgrade {locked.name} writes it anew",
        )
    return replace(ref, revision=locked.revision)


def relocked(adapter_set: AdapterSet, lock: Lock, new: Mapping[str, LockedAdapter]) -> Lock:
    """``lock`` with what is ``new``, by name; what the manifest does not have any more is dropped."""
    entries = (new.get(entry.name) or lock.adapter(entry.name) for entry in adapter_set.adapters)
    return Lock(tuple(locked for locked in entries if locked is not None))


@dataclass(frozen=True, slots=True)
class Changes:
    """How one lock differs from an earlier one, by the adapters' names; false when it does not."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def changes(before: Lock, after: Lock) -> Changes:
    """What became of ``before``."""
    old = {locked.name: locked for locked in before.adapters}
    new = {locked.name: locked for locked in after.adapters}
    return Changes(
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
        removed=tuple(sorted(old.keys() - new.keys())),
    )


def _adapter(node: Node) -> LockedAdapter:
    keys = ("name", "source", "revision", "digest", "files")
    entries = fields(node, (*keys, "checkpoint"), keys)
    files: dict[str, Blob] = {}
    members = items(entries["files"])
    if not members:
        raise wrong(entries["files"], "an adapter has at least one file", hint=EDITED)
    for member in members:
        path, blob = _file(member)
        if path in files:
            raise wrong(member, f"{path} stands twice", hint=EDITED)
        files[path] = blob
    adapter = LockedAdapter(
        name=text(entries["name"], NAME, NAME_IN_WORDS),
        source=text(entries["source"], _LINE, "a reference"),
        revision=text(entries["revision"], rf"({_LINE})?", "a revision"),
        files=files,
        checkpoint=_checkpoint(entries["checkpoint"]) if "checkpoint" in entries else "",
    )
    if text(entries["digest"], SHA256, _SHA256_IN_WORDS) != adapter.digest:
        raise wrong(entries["digest"], f"the files make the digest {adapter.digest}", hint=EDITED)
    return adapter


def _checkpoint(node: Node) -> str:
    try:
        return checked(text(node))
    except ValueError as error:
        raise wrong(node, str(error), hint=EDITED) from error


def _file(node: Node) -> tuple[str, Blob]:
    keys = ("path", "size", "sha256")
    entries = fields(node, keys, keys)
    path = text(entries["path"], _LINE, "a path")
    if path.startswith("/") or "\\" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise wrong(entries["path"], f"{path[:60]!r} is not a relative POSIX path inside the adapter", hint=EDITED)
    return path, Blob(text(entries["sha256"], SHA256, _SHA256_IN_WORDS), integer(entries["size"], 0, LARGEST_INT))


def _quoted(value: str) -> str:
    """A double-quoted YAML string on one line, in ASCII: every YAML version reads it alike."""
    return '"' + "".join(_escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~":
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
