"""``Lock``: what the adapters of a manifest meant at one moment, file by file."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_cli.errors import Refused, UsageError
from lora_cli.refs.reference import WITH_REVISIONS, AdapterRef
from lora_cli.refs.snapshot import Blob, snapshot_digest

THE_BASE = "the base"
"""The name of the base model among the adapters; no adapter can have that name."""


@dataclass(frozen=True, slots=True)
class LockedAdapter:
    """One adapter, pinned; or the base model, of which ``config.json`` is all.

    ``source`` is as the manifest writes it. ``revision`` is the origin's immutable id: a commit of the Hub, which can
    be asked for again, or what distinguishes one listing of a bucket or web folder from another; it is empty if the
    origin has none that another machine could check (a local folder). ``files`` maps POSIX paths to blobs.
    ``endpoint`` is the address that was asked when it was locked, "" of a local folder: the same bytes of a mirror are
    what is locked. ``config`` is the text of a base's ``config.json``. ``manifest`` is the manifest's file, for hints;
    it is not in the lock.
    """

    name: str
    source: str
    revision: str
    files: Mapping[str, Blob]
    endpoint: str = field(default="", compare=False)
    config: str = ""
    manifest: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """The snapshot's name."""
        return snapshot_digest(self.files.items())


Lock = Mapping[str, LockedAdapter]
"""All adapters of a manifest, pinned, by name; and its base, called ``THE_BASE``, where that is locked."""


def ref_at(ref: AdapterRef, locked: LockedAdapter) -> AdapterRef:
    """``ref`` at the locked revision, where its kind has revisions that can be asked for (the Hub, OCI registries).

    ORG/NAME that was locked as a folder next to the manifest stays one if it is gone: a lock has no other revision "".

    Raises:
        UsageError: the lock names no commit of a Hub repository, or no digest of an artifact.
    """
    if ref.scheme not in WITH_REVISIONS:
        return ref
    if ref.scheme == "hf" and not locked.revision:
        return AdapterRef("file", str(Path(locked.manifest).absolute().parent / locked.source))
    pinned = replace(ref, revision=locked.revision)
    if not pinned.pinned:
        said = f"{locked.name} is locked at {locked.revision!r}, which is not a commit or digest"
        raise UsageError(said, hint=upgrade_hint(locked))
    return pinned


def lock_mismatch(locked: LockedAdapter, what: str) -> Refused:
    """The error for an origin that differs from the lock, and how to update the lock."""
    return Refused(f"{locked.name}: {what}", hint=upgrade_hint(locked))


def upgrade_hint(locked: LockedAdapter) -> str:
    """How to lock the origin's current version."""
    file, name = shlex.quote(locked.manifest or "MANIFEST"), "" if locked.name == THE_BASE else f" {locked.name}"
    return f"lora-cli fetch -f {file} --upgrade{name} locks the current version, after you checked the changes"
