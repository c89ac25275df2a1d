"""Whether an adapter that is validated in place matches its digest and lock, and policies allow it.

The snapshot digest is the one that it would have once it is fetched.
"""

import hashlib

from lora_cli.core.adapter_request import Item
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Blob, RemoteFile, Revision, snapshot_digest
from lora_cli.documents.policy import Policy
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import LoraCliError, Refused
from lora_cli.fetching.file_selection import USUAL, Selection, select_files
from lora_cli.fetching.locked_files import check_folder, select_locked
from lora_cli.fetching.requirements import (
    Demand,
    check_allowed,
    check_cached_access,
    check_digest,
    check_reference,
    needs_access_check,
)
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_near
from lora_cli.store import Store

EVERYTHING = Selection(allow_pickle=True)


def permitted(item: Item, ref: AdapterRef, source: Source, origin: Source, settings: Settings) -> Revision:
    """What ``ref`` means in ``source``, where digest and lock of ``item`` hold and policies allow it.

    They may ask whether ``origin`` still grants it. What is locked is compared with a folder's bytes, and with what any
    other origin lists.

    Without a policy a digest that is unknown before the adapter is fetched is not asked for; neither is one where a
    lock has its digests.

    Raises:
        Refused: a policy says no, or asks for a digest that is unknown before the adapter is fetched; or the origin has
            something else than is locked.
        Corrupt: it has another digest than the manifest says.
        AccessDenied, NotFound, Offline, Unreachable: the origin must be asked, and does not let the caller have it.
        LoraCliError: what the source raises.
    """
    demand = Demand(item.sha256, item.locked)
    check_reference(demand, ref, settings)
    revision = source.resolve(ref)
    if settings.policies:
        _check_found(demand, revision, source, origin, settings)
    elif item.locked is None and (files := _planned(revision)) is not None:
        digest = digest_of(revision, files, source)
        if digest is not None:
            check_digest(demand, revision.ref, digest)
    if item.locked is not None and revision.ref.scheme == "file":
        check_folder(Store(settings.cache_dir), revision, wanted(revision), item.locked, source)
    elif item.locked is not None:
        select_locked(revision, item.locked, USUAL, wanted(revision))
    return revision


def _check_found(demand: Demand, revision: Revision, source: Source, origin: Source, settings: Settings) -> None:
    ref, files = revision.ref, wanted(revision)
    check_allowed(demand, ref, settings, files=files)
    if is_near(source, revision) and files and needs_access_check(ref, revision.access, settings):
        check_cached_access(ref, revision.id, [file.path for file in files], origin, settings)
    rules = [key for policy in settings.policies for key in _about_digests(policy)]
    if rules or demand.sha256 is not None:
        digest = digest_of(revision, files, source)
        if digest is None:
            hint = "fetch it first: lora-cli fetch verifies it, and validate then reads the cached files"
            why = f"policy {rules[0]}: " if rules else ""
            raise Refused(f"{ref}: {why}its digest is unknown before it is fetched", hint=hint)
        check_digest(demand, ref, digest)
        check_allowed(demand, ref, settings, digest=digest)


def _about_digests(policy: Policy) -> list[str]:
    """The keys that say something of snapshot digests; an empty list of those allowed says that none is."""
    allow, deny = policy.allow_sha256 is not None, bool(policy.deny_sha256)
    return ["allow_sha256"] * allow + ["deny_sha256"] * deny


def wanted(revision: Revision) -> tuple[RemoteFile, ...]:
    """What a fetch would take; if it is not an adapter, everything that looks like weights."""
    files = _planned(revision)
    if files is None:
        return tuple(file for file in revision.files if format_of(file.path) and not file.defect)
    return files


def _planned(revision: Revision) -> tuple[RemoteFile, ...] | None:
    """What a fetch would take, None if that is no adapter."""
    try:
        return select_files(revision, EVERYTHING)
    except LoraCliError:
        return None


def known_digest(item: Item, revision: Revision, source: Source) -> str | None:
    """The snapshot digest of ``item``, if it is known.

    Of a commit that is locked the lock does; without either it is unknown.
    """
    digest, locked = digest_of(revision, wanted(revision), source), item.locked
    if digest is None and locked is not None and revision.ref.pinned and locked.revision == revision.id:
        return locked.digest
    return digest


def digest_of(revision: Revision, files: tuple[RemoteFile, ...], source: Source) -> str | None:
    """The snapshot digest that ``files`` make: as listed, else read where they are on this disk; else None."""
    blobs = {}
    for file in files:
        if file.sha256 is not None and file.size is not None:
            blobs[file.path] = Blob(file.sha256, file.size)
        elif is_near(source, revision):
            blobs[file.path] = _read(revision, file, source)
        else:
            return None
    return snapshot_digest(blobs.items())


def _read(revision: Revision, file: RemoteFile, source: Source) -> Blob:
    hasher, size = hashlib.sha256(), 0
    for chunk in source.read(revision, file, 0, None):
        hasher.update(chunk)
        size += len(chunk)
    return Blob(hasher.hexdigest(), size)
