"""The gate of limits and policies: asked before a request, before a byte, and before a snapshot is published."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.errors import Corrupt, LoraCliError, MissingExtra, Refused, UsageError
from lora_cli.fetching.file_selection import check_readable, files_to_fetch, select_files, select_locked
from lora_cli.refs.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.refs.reference import FSSPEC, WITH_REVISIONS, AdapterRef
from lora_cli.refs.request import EVERYTHING, USUAL, Request, lock_mismatch
from lora_cli.refs.snapshot import Blob, RemoteFile, Revision, Snapshot, snapshot_digest
from lora_cli.refs.web_address import canonical_host
from lora_cli.settings import Settings
from lora_cli.sources.files import Files, files_of, read_beginning
from lora_cli.sources.registry import rule_of

if TYPE_CHECKING:
    from lora_cli.documents.manifest import AdapterSet
    from lora_cli.documents.policy import Policy, RequiredSignature
    from lora_cli.signing import Signed


def with_policies(settings: Settings, adapter_set: "AdapterSet | None", policy: Path | None = None) -> Settings:
    """``settings`` with the policy of a manifest, and with the policy file.

    Raises ``UsageError`` (an error in the policy file, with line and key, or the manifest names what fsspec reads, and
    no rule of the settings says how: most packages of fsspec find credentials of this machine).
    """
    policies = []
    if adapter_set is not None:
        policies += [adapter_set.policy] if adapter_set.policy is not None else []
        base = [] if adapter_set.base is None else [(f"{adapter_set.file}: base", adapter_set.base)]
        for at, ref in [*base, *((one.at, one.ref) for one in adapter_set.adapters)]:
            if ref.scheme == FSSPEC and rule_of(ref, settings) is None:
                prefix = str(ref).partition("://")[0] + "://"
                said = f"{at}: {ref}: a manifest needs a matching rule in the settings for {prefix}"
                raise UsageError(said, hint=f'add to the settings file: [[sources]] match = "{prefix}…"')
    if policy is not None:
        from lora_cli.documents.policy import read_policy

        policies.append(read_policy(policy))
    return replace(settings, policies=tuple(policies))


def refuse(
    request: Request, settings: Settings, ref: AdapterRef | None = None, files: Sequence[RemoteFile] | None = None
) -> None:
    """Checks limits and policies of what is known of an adapter.

    ``ref`` is where it was found, if not where it was asked for: the folder of a checkpoint. ``files`` are those that
    would be fetched; None before they are known. Raises ``Refused``.
    """
    if files is not None:
        total, most = sum(file.size or 0 for file in files), settings.max_bytes
        if most is not None and total > most:
            hint = "raise max_bytes (LORA_CLI_MAX_BYTES)"
            raise Refused(f"{request.label} has {total} bytes, but {most} are allowed", hint=hint)
    if not settings.policies:
        return
    from lora_cli.documents.policy import denials, violations

    asked, means = _asked(request, ref)
    scheme, _, address = settings.hub_endpoint.partition("://")
    authority, slash, path = address.partition("/")
    hub = f"{canonical_host(authority, scheme.lower())}{slash}{path}".lower()
    if asked.scheme in {"https", "http"} and f"{asked.location}/".startswith(f"{hub}/"):
        raise Refused(f"{asked}: a policy applies, and this is an address of the Hub", hint="write hf://ORG/NAME")
    known = request.sha256 or (request.locked.digest if request.locked is not None else None)
    # The rules allow a tag, not the commits that it meant; and a path and its links lead to one place.
    named, policies = asked, settings.policies
    if asked.scheme == "file":
        named, policies = means, tuple(map(_with_real_paths, settings.policies))
    found = [one for policy in policies for one in violations(policy, (named,), known, files)]
    found += [one for policy in policies for one in denials(policy, asked, means)]
    if distinct := list(dict.fromkeys(found)):
        more = f" (and {len(distinct) - 1} more)" if len(distinct) > 1 else ""
        raise Refused(f"{asked}: {distinct[0]}{more}", hint=distinct[0].hint)


def accept(request: Request, snapshot: Snapshot, settings: Settings, ref: AdapterRef | None = None) -> tuple[str, ...]:
    """The signers that policies require of a complete snapshot, whose bytes are what was promised.

    Raises ``Refused`` (a limit or policy forbids it, or its signature is missing or wrong), ``Corrupt`` (its digest
    differs from the manifest's, or its files from the lock's), ``MissingExtra``, ``UsageError``, ``Offline``,
    ``Unreachable`` (see ``signed_by``).
    """
    check_promised(request, snapshot.files, ref)
    refuse(request, settings, ref, [RemoteFile(path, blob.size, blob.sha256) for path, blob in snapshot.files.items()])
    if not settings.policies:
        return ()
    return check_signed(request, settings, ref, files_of(snapshot, request.ref), snapshot.files)


def accept_in_place(request: Request, files: Files, settings: Settings) -> tuple[str, ...]:
    """The signers that policies require of ``files`` that are read where they are, and are what was promised.

    A lock is compared with the bytes that are on this disk, else with the listing. A digest that is unknown before a
    fetch is only an error if a policy needs it.

    Raises ``Refused`` (a policy denies it, or needs a digest that is unknown before a fetch; or it differs from the
    lock), ``Corrupt`` (its digest differs from the manifest's), ``LoraCliError`` (what the source raises).
    """
    at, planned = files.revision.pinned, files_to_fetch(files.revision)
    is_signed, blobs = bool(signatures_for(request, settings, at)), dict[str, Blob]()
    refuse(request, settings, at, planned)
    if request.locked is not None:
        select_locked(files.revision, request.locked, USUAL, planned)
    if request.sha256 is None and request.locked is None and not is_signed:
        return ()
    if files.on_disk or not is_signed:  # what an origin lists may be the signed files, and what it sends others
        blobs = {file.path: blob for file in planned if (blob := files.blob(file)) is not None}
    if len(blobs) < max(1, len(planned)):
        if not is_signed and (request.sha256 is None or not settings.policies):
            return ()
        hint = "fetch it first: lora-cli fetch verifies it, and validate then reads the cached files"
        why = "policy require_signature: " if is_signed else ""
        raise Refused(f"{files.ref}: {why}its digest is unknown before it is fetched", hint=hint)
    check_promised(request, blobs, files.ref)
    return check_signed(replace(request, selection=EVERYTHING), settings, at, files, blobs)


def check_promised(request: Request, files: Mapping[str, Blob], ref: AdapterRef | None = None) -> None:
    """Compares files with the digest of the manifest, and with the lock; with globs, only those that the lock has.

    Raises ``Corrupt`` (they differ), ``Refused`` (an origin without revisions differs from the lock).
    """
    digest, locked = snapshot_digest(files.items()), request.locked
    if request.sha256 is not None and digest != request.sha256:
        raise Corrupt(
            f"{request.ref}: the manifest has sha256 {request.sha256}, but its files have {digest}",
            hint="pin the intended revision, or write the new digest after you checked the changes",
        )
    if locked is None:
        return
    wrong = sorted(path for path, blob in files.items() if locked.files.get(path, blob) != blob)
    if wrong and (ref or request.ref).scheme not in WITH_REVISIONS:
        raise lock_mismatch(locked, f"{wrong[0]} has different bytes from the locked ones")
    others = [] if request.selection.include else sorted(files.keys() ^ locked.files.keys())
    if others and (ref or request.ref).scheme not in WITH_REVISIONS:
        raise lock_mismatch(locked, f"{others[0]} is {'new' if others[0] in files else 'gone'} since it was locked")
    if wrong or (not request.selection.include and digest != locked.digest):
        what = f"{wrong[0]} is {files[wrong[0]].sha256}" if wrong else f"the snapshot is {digest}"
        raise Corrupt(
            f"{locked.name}: {what}, which differs from the lock",
            hint="the received files differ from the locked ones: check both before you run --upgrade",
        )


def byte_limit(settings: Settings) -> int | None:
    """The lowest limit on the bytes of one adapter, of the settings and policies; None for no limit."""
    limits = (settings.max_bytes, *(policy.max_bytes for policy in settings.policies))
    return min((limit for limit in limits if limit is not None), default=None)


def signatures_for(request: Request, settings: Settings, ref: AdapterRef | None = None) -> "list[RequiredSignature]":
    """The entries of ``require_signature`` in all policies that are for an adapter, found at ``ref``."""
    if not (entries := [entry for policy in settings.policies for entry in policy.require_signature]):
        return []
    from lora_cli.refs.reference import matches

    names = _asked(request, ref)

    def applies(glob: str) -> bool:
        return any(matches(one, name) for one in {glob, _real_glob(glob)} for name in names)

    return [entry for entry in entries if entry.sources is None or any(map(applies, entry.sources))]


def signed_by(request: Request, settings: Settings, ref: AdapterRef | None, files: Files) -> "Signed | None":
    """What the signature signs that policies require of an adapter, found at ``ref``; None where none is required.

    Raises ``Refused`` (it has none, or it is by none of the allowed signers), ``MissingExtra``, ``UsageError``,
    ``Offline``, ``Unreachable`` (as ``verify``, or the extra ``signing`` is not installed).
    """
    if not (required := signatures_for(request, settings, ref)):
        return None
    rule = "policy require_signature"
    try:
        from lora_cli.signing import verify
    except ImportError as error:
        raise MissingExtra(rule, "signing", error.name or "model-signing") from error
    where, name, own = f"{_asked(request, ref)[0]}: {rule}", SIGNATURE, files.file(SIGNATURE)
    if request.signature is not None:
        name = request.signature.name
        try:
            data = request.signature.read_bytes()
        except OSError as error:
            raise UsageError(f"{request.signature} cannot be read: {error.strerror}", hint="check its path") from error
    elif own is not None:
        data = read_beginning(files, own, LARGEST_SIGNATURE)
    else:
        hint = f"ask its publisher for a {SIGNATURE}; if it has one now, fetch --upgrade locks it"
        raise Refused(f"{where}: it has no {SIGNATURE}", hint=hint)
    return verify(data, required, f"{where}: {name}", offline=settings.offline)


def signed_beside(
    request: Request, settings: Settings, revision: Revision, files: Sequence[RemoteFile], signed: "Signed"
) -> list[RemoteFile]:
    """The signed files of a revision beside ``files``: they are downloaded and compared, and not published.

    Raises ``Refused`` (a file was added or removed, or a limit forbids it), ``FormatError`` (one can never be read).
    """
    listed = {file.path: file for file in revision.files}
    if revision.ref.scheme in {"https", "http"}:  # they list nothing: they were asked for the usual files
        listed |= {path: RemoteFile(path, None) for path in signed.files.keys() - listed.keys()}
    signed.check({}, listed, signed.files.keys() - listed.keys())
    beside = [listed[path] for path in sorted(signed.files.keys() - {file.path for file in files})]
    check_readable(revision, beside)
    # Policies are about what is published: a signed training run has pickles.
    refuse(request, replace(settings, policies=(), max_bytes=byte_limit(settings)), None, [*files, *beside])
    return beside


def check_signed(
    request: Request, settings: Settings, ref: AdapterRef | None, files: Files, blobs: Mapping[str, Blob]
) -> tuple[str, ...]:
    """Compares the selected files, ``blobs``, with the signature that policies require, and gives its signers.

    Raises ``Refused`` (they are not the signed ones), ``LoraCliError`` (as ``signed_by``).
    """
    if (signed := signed_by(request, settings, ref, files)) is None:
        return ()
    wanted = set(signed.files)
    with suppress(LoraCliError):  # a list without an adapter
        listed = Revision(request.ref, "", tuple(RemoteFile(path, None) for path in signed.files))
        wanted = {file.path for file in select_files(listed, request.selection)}
    signed.check(blobs, blobs, wanted)
    return signed.by


def _asked(request: Request, ref: AdapterRef | None) -> tuple[AdapterRef, AdapterRef]:
    """The reference as it was asked for, and what that means: a tag's commit, or where a path and its links lead to."""
    means = ref or request.locked_ref
    if means.scheme == "file":
        return means, replace(means, location=os.path.realpath(means.location))
    return replace(means, revision=request.ref.revision) if means.scheme == request.ref.scheme else means, means


def _with_real_paths(policy: "Policy") -> "Policy":
    """``policy`` with each local folder in its globs also given with links resolved."""
    globs = {key: getattr(policy, key) for key in ("allow_sources", "deny_sources") if getattr(policy, key) is not None}
    both = {key: tuple(path for one in several for path in {one, _real_glob(one)}) for key, several in globs.items()}
    return policy.model_copy(update=both)


def _real_glob(glob: str) -> str:
    """A glob over local paths with the links before its first wildcard resolved."""
    stem = re.split(r"[*?[]", glob.removeprefix("file://"), maxsplit=1)[0]
    if not glob.startswith("file:///"):
        return glob
    folder = stem if f"file://{stem}" == glob else stem.rpartition("/")[0]
    return "file://" + os.path.realpath(folder or "/").rstrip("/") + glob[len("file://") + len(folder) :]
