"""Checks of an adapter: the demanded digest, the lock, the limits and the policies."""

from typing import TYPE_CHECKING

from lora_cli.core.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.core.lock import LockedAdapter
from lora_cli.core.provenance import Provenance
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.request import BASE, Request, Selection
from lora_cli.core.snapshot import RemoteFile, Snapshot
from lora_cli.errors import Corrupt, Offline, Refused, Unreachable
from lora_cli.fetching.reference_names import aliases, entries_for, other_names, real_glob
from lora_cli.fetching.signatures import Contents, check_signatures
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, read_small
from lora_cli.store.resolution_records import Record

if TYPE_CHECKING:
    from lora_cli.documents.policy import Policy
    from lora_cli.documents.policy_checks import Violation


def check_size(name: str, total: int, most: int | None) -> None:
    """Checks ``max_bytes``, for cached adapters too.

    Raises:
        Refused: it is larger than ``most`` bytes (None: no limit).
    """
    if most is not None and total > most:
        raise Refused(f"{name} has {total} bytes, but {most} are allowed", hint="raise max_bytes (LORA_CLI_MAX_BYTES)")


def check_count(name: str, count: int, most: int) -> None:
    """Checks ``max_files``.

    Raises:
        Refused: it has more than ``most`` files.
    """
    if count > most:
        raise Refused(
            f"{name}: {count} files were selected, but {most} are allowed",
            hint="use a narrower glob for --include, or raise max_files (LORA_CLI_MAX_FILES)",
        )


def byte_limit(settings: Settings) -> int | None:
    """The lowest limit on the bytes of one adapter, of the settings and policies; None for no limit."""
    limits = (settings.max_bytes, *(policy.max_bytes for policy in settings.policies))
    return min((limit for limit in limits if limit is not None), default=None)


def check_snapshot(request: Request, snapshot: Snapshot, settings: Settings) -> Provenance:
    """Checks a complete snapshot before it is used: digest, lock, size of headers, and policies.

    Gives the signers that policies require and accepted.

    Raises:
        Refused: a policy forbids it, its signature is missing or wrong, or the header of its weights is too large.
        Corrupt: its digest differs from the manifest's, or its files from the lock's.
        MissingExtra, UsageError, Offline, Unreachable: see ``check_signatures``.
    """
    check_digest(request, snapshot.digest)
    if request.locked is not None:
        _check_locked(request.locked, snapshot, request.selection)
    _check_headers(request.ref, snapshot, settings.max_header_bytes)
    if settings.policies:
        files = tuple(RemoteFile(path, blob.size, blob.sha256) for path, blob in snapshot.files.items())
        check_allowed(request, settings, files=files)
        if not request.selection.base:
            return check_provenance(request, snapshot, settings)
    return Provenance()


def check_provenance(request: Request, snapshot: Snapshot, settings: Settings) -> Provenance:
    """The signers that policies require of a snapshot and accept.

    Raises:
        Refused, MissingExtra, UsageError, Offline, Unreachable: see ``check_signatures``.
    """
    signature = read_small(snapshot.directory / SIGNATURE, LARGEST_SIGNATURE)
    contents = Contents(snapshot.files, signature, snapshot.directory, request.signature)
    return Provenance(check_signatures(request.ref, contents, settings, request.selection))


def cached_provenance(record: Record, store: Store, settings: Settings) -> Provenance | None:
    """The provenance of a record's snapshot that policies require; None if there is none, or files were left out.

    Raises:
        MissingExtra, UsageError: see ``check_signatures``.
    """
    if record.selection.startswith(("+", "-", str(BASE))):
        return None
    ref = parse(record.ref, is_path=lambda _: False)
    if not entries_for(ref, settings):
        return None
    request = Request("", ref, selection=Selection(allow_pickle=True))
    snapshot = Snapshot(record.snapshot, store.snapshot(record.snapshot), record.files)
    try:
        return check_provenance(request, snapshot, settings)
    except (Refused, Offline, Unreachable) as error:
        return Provenance(refusal=error.message)


def _check_locked(locked: LockedAdapter, snapshot: Snapshot, selection: Selection) -> None:
    """Compares the files of a snapshot with the lock; with globs, only those that the lock has."""
    wrong = sorted(path for path, blob in snapshot.files.items() if locked.files.get(path, blob) != blob)
    if wrong or (not selection.include and snapshot.digest != locked.digest):
        what = f"{wrong[0]} is {snapshot.files[wrong[0]].sha256}" if wrong else f"the snapshot is {snapshot.digest}"
        raise Corrupt(
            f"{locked.name}: {what}, which differs from the lock",
            hint="the received files differ from the locked ones: check both before you run --upgrade",
        )


def _check_headers(ref: AdapterRef, snapshot: Snapshot, most: int) -> None:
    """Checks the length of safetensors headers, which is in the first 8 bytes; ``validate`` checks the headers.

    A header that is longer than its file is invalid and never read, so it is not refused here.
    """
    for path, blob in snapshot.files.items():
        if path.endswith(".safetensors") and blob.size > most:
            with on_disk("reading", snapshot.directory / path), (snapshot.directory / path).open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
            if most < length <= blob.size - 8:
                raise Refused(
                    f"{ref}: {path} claims a header of {length} bytes, but {most} are allowed",
                    hint="typical are a few hundred kilobytes; raise max_header_bytes (LORA_CLI_MAX_HEADER_BYTES)",
                )


def check_digest(request: Request, digest: str) -> None:
    """Checks the snapshot digest that the manifest demands, if it demands one.

    Raises:
        Corrupt: it is another one.
    """
    if request.sha256 is not None and digest != request.sha256:
        raise Corrupt(
            f"{request.ref}: the manifest has sha256 {request.sha256}, but its files have {digest}",
            hint="pin the intended revision, or write the new digest after you checked the changes",
        )


def check_allowed(request: Request, settings: Settings, *, files: tuple[RemoteFile, ...] | None = None) -> None:
    """Checks every policy on the reference, under each of its names, and on its files if they are known.

    Raises:
        Refused: a policy forbids it.
    """
    if not settings.policies:
        return
    from lora_cli.documents.policy_checks import denials, violations

    ref = request.ref
    found: list[Violation] = []
    for policy in settings.policies:
        known = _with_resolved_links(policy) if ref.scheme == "file" else policy
        for name in aliases(ref, settings):
            found += violations(known, name, sha256=request.known_sha256, files=files)
        for name in other_names(ref, settings) if policy.deny_sources else ():
            found += denials(known, name)
    _refuse(ref, found)


def check_denied(ref: AdapterRef, settings: Settings) -> None:
    """Checks only ``deny_sources`` of every policy, on another name of a reference that is allowed.

    Raises:
        Refused: a policy denies it.
    """
    if settings.policies:
        from lora_cli.documents.policy_checks import denials

        _refuse(ref, [found for policy in settings.policies for found in denials(policy, ref)])


def _refuse(ref: AdapterRef, found: "list[Violation]") -> None:
    distinct = list(dict.fromkeys(found))
    if distinct:
        more = f" (and {len(distinct) - 1} more)" if len(distinct) > 1 else ""
        raise Refused(f"{ref}: {distinct[0]}{more}", hint=distinct[0].hint)


def _with_resolved_links(policy: "Policy") -> "Policy":
    """``policy`` with each local folder in its globs also given with links resolved."""

    def both(globs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for glob in globs for name in (glob, real_glob(glob))))

    allowed = None if policy.allow_sources is None else both(policy.allow_sources)
    return policy.model_copy(update={"allow_sources": allowed, "deny_sources": both(policy.deny_sources)})
