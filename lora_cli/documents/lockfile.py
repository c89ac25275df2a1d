"""The lock file: what a manifest meant at one moment, file by file, in bytes that are the same on every machine."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from lora_cli.core.item import NAME, NAME_IN_WORDS
from lora_cli.core.lock import Lock, LockedAdapter
from lora_cli.core.reference import LATEST
from lora_cli.core.snapshot import Blob, snapshot_digest
from lora_cli.documents.document import API_VERSION, Head, Mistake, Model, mappings, mistake, parse_document, repeats
from lora_cli.documents.field_types import SHA256, Context, Several, text, whole
from lora_cli.documents.manifest import AdapterEntry, AdapterSet
from lora_cli.documents.yaml_nodes import SPLIT
from lora_cli.errors import DocumentError, UsageError

KIND = "AdapterSetLock"
BROKEN = "it was cut off, or merged: take it from version control, or write it anew with lora-cli fetch --upgrade"
EDITED = "the lock was edited: write it anew with lora-cli fetch --upgrade"
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


class LockEntry(Model):
    """One adapter, pinned."""

    name: Annotated[str, text(NAME, NAME_IN_WORDS)]
    """As in the AdapterSet."""
    source: Annotated[str, text(_LINE, "a reference")]
    """As the AdapterSet writes it."""
    checkpoint: Annotated[str, text(rf"({LATEST}|[0-9]{{1,18}})", f"a number or {LATEST}")] = ""
    """As in the AdapterSet, when it says one."""
    revision: Annotated[str, text(f"({_LINE})?", "a revision")]
    """The origin's immutable id; empty for a local folder."""
    files: Annotated[Several[LockedFile], Field(min_length=1)]
    """All of its files."""
    digest: Sha256
    """sha256 over the sorted lines '<sha256>  <size>  <path>' of the files."""

    @field_validator("digest")
    @classmethod
    def _of_the_files(cls, digest: str, info: ValidationInfo) -> str:
        files = info.data.get("files", ())
        if files and len({one.path for one in files}) == len(files):
            made = snapshot_digest((one.path, Blob(one.sha256, one.size)) for one in files)
            if made != digest:
                raise mistake(f"the files make the digest {made}")
        return digest


class LockFile(Head):
    """What an AdapterSet meant at one moment, file by file."""

    kind: Literal["AdapterSetLock"]
    """What this file is."""
    adapters: Several[LockEntry]
    """Names are unique."""


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


def load_lock(text: str, where: str) -> Lock:
    """The lock in ``text``; strict: every key must be there, names and paths are unique and safe, digests agree.

    Raises:
        UsageError: every mistake with file, line and key.
    """
    try:
        document = parse_document(text, where, KIND)
    except DocumentError:
        raise
    except UsageError as error:
        raise UsageError(error.message, hint=error.hint if error.hint == SPLIT else BROKEN) from error
    try:
        found = document.read(LockFile, Context(), _repeated)
    except DocumentError as error:
        raise error.with_hint(EDITED) from error
    return Lock(tuple(_adapter(one) for one in found.adapters))


def _adapter(one: LockEntry) -> LockedAdapter:
    files = {file.path: Blob(file.sha256, file.size) for file in one.files}
    return LockedAdapter(one.name, one.source, one.revision, files, one.checkpoint)


def _repeated(value: Any) -> Iterator[Mistake]:
    """Adapters that are locked twice, and files that stand twice in one."""
    for number, _, (name,) in repeats(value, "adapters", "name"):
        yield Mistake(("adapters", number), f"{name[:128]} is locked twice", "")
    for number, adapter in mappings(value, "adapters"):
        for place, _, (path,) in repeats(adapter, "files", "path"):
            yield Mistake(("adapters", number, "files", place), f"{path[:4096]} stands twice", "")


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


def relocked(adapter_set: AdapterSet, lock: Lock, new: Mapping[str, LockedAdapter]) -> Lock:
    """``lock`` with what is ``new``, by name; what the manifest does not have any more is dropped."""
    entries = (new.get(entry.name) or lock.adapter(entry.name) for entry in adapter_set.adapters)
    return Lock(tuple(locked for locked in entries if locked is not None))


def _quoted(value: str) -> str:
    """A double-quoted YAML string on one line, in ASCII: every YAML version reads it alike."""
    return '"' + "".join(_escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~":
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
