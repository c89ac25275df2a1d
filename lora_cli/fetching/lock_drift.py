"""``fetch --check``: a lock compared with what the origins have now. Nothing is written, not even in the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lora_cli.errors import LoraCliError, Offline
from lora_cli.fetching import gate
from lora_cli.fetching.batch import ordered_parallel_map
from lora_cli.fetching.file_selection import resolve, select_files
from lora_cli.json_schema import EXCLUDED, Count, ErrorReport, error_report
from lora_cli.refs.request import Request, Selection
from lora_cli.settings import Settings
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources

if TYPE_CHECKING:
    from lora_cli.refs.lock import LockedAdapter

MAX_HASHED_BYTES = 16 << 20
"""Remote files whose origin has no sha256 are read and hashed up to this size; larger ones may have changed."""


@dataclass(frozen=True, slots=True)
class CheckedAdapter:
    """One locked adapter next to what its source has now."""

    name: str
    ref: str | None
    locked: str | None
    """The revision in the lock; null if it is not locked."""
    now: str | None
    """The revision that its source has now; null if it was not asked."""
    drift: Sequence[str]
    """What changed since it was locked, a sentence each."""
    exit_code: Count
    error: ErrorReport | None
    locked_version: str | None = field(default=None, metadata=EXCLUDED)
    """The revision in the lock, or the digest of what has none."""


def checked_adapter(
    request: Request, changes: Sequence[str] = (), now: str = "", error: LoraCliError | None = None
) -> CheckedAdapter:
    """One adapter with its ``changes``, a sentence each; ``now`` is the origin's revision ("" if it was not asked)."""
    was, code = request.locked, int(bool(changes)) if error is None else error.exit_code
    revision, version = (None, None) if was is None else (was.revision, was.revision or was.digest)
    about = request.name, request.canonical, revision, now or None
    return CheckedAdapter(*about, changes, code, error_report(error), version)


def find_drift(requests: Sequence[Request], settings: Settings) -> Iterator[CheckedAdapter]:
    """The changes at each origin since it was locked, in the order of ``requests``."""
    sources = Sources(settings)

    def checked(request: Request) -> CheckedAdapter:
        locked, ref = request.locked, request.ref
        assert locked is not None
        gate.refuse(request, settings)
        if ref.pinned and ref.revision == locked.revision:
            return checked_adapter(request, now=locked.revision)
        if settings.offline and ref.scheme != "file":
            raise Offline(f"{ref} cannot be checked, offline mode is on", hint="remove --offline")
        revision = resolve(replace(request, locked=None), sources)
        changes = tuple(_changes(locked, Files(sources.of(ref), revision), request.selection))
        return checked_adapter(request, changes, revision.id)

    def failed(request: Request, error: LoraCliError) -> CheckedAdapter:
        return checked_adapter(request, error=error)

    yield from ordered_parallel_map(checked, requests, settings, failed)


def _changes(locked: "LockedAdapter", files: Files, selection: Selection) -> Iterator[str]:
    revision = files.revision
    if revision.id == locked.revision:
        return
    if revision.ref.scheme == "hf":
        yield f"{revision.ref.revision or 'main'} moved from {locked.revision[:12]} to {revision.id[:12]}"
    elif revision.ref.scheme == "oci":
        tag = revision.ref.location.rpartition("/")[2].partition(":")[2] or "latest"
        yield f"{tag} moved from {locked.revision[:19]} to {revision.id[:19]}"
    planned = {file.path for file in select_files(revision, selection)}
    for path in sorted(planned | locked.files.keys()):
        file, blob = revision.file(path), locked.files.get(path)
        if file is None:
            yield f"{path} is missing"
        elif blob is None:
            yield f"{path} is new"
        elif file.size not in {None, blob.size}:
            yield f"{path} changed from {blob.size} to {file.size} bytes"
        elif file.sha256 is None and not files.on_disk and blob.size > MAX_HASHED_BYTES:
            found = f"the source has no sha256, and {blob.size} bytes are too many to read and compare"
            yield f"{path} may have changed: {found}"
        elif (file.sha256 or files.sha256(file, blob.size)) != blob.sha256:
            yield f"{path} has different bytes"
