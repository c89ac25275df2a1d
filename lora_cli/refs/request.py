"""One adapter that is asked for: its name, reference and files, what is demanded of them, and what a lock has of it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_cli.errors import LoraCliError, Refused, UsageError
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


NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""The pattern of an adapter's name: safe as the name of a folder."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files to fetch: those that an adapter needs, plus those of ``include``.

    These are globs over the path, in which ``*`` also matches slashes. Pickled weights are fetched only with
    ``allow_pickle``, and only where there are no safetensors. ``locked`` is the digest of a lock's files where these
    differ from this selection. ``latest`` selects from the latest checkpoint (``fetching.file_selection``). ``base`` is
    the config of a base model, and nothing else.
    """

    include: tuple[str, ...] = ()
    allow_pickle: bool = False
    locked: str = ""
    latest: bool = False
    base: bool = False

    def __str__(self) -> str:
        """Empty for the usual files; else a text that is the same for equal selections only."""
        if self.locked:
            return f"locked {self.locked}"
        parts = [f"+{glob}" for glob in sorted(self.include)]
        flags = {"pickle": self.allow_pickle, "latest": self.latest, "base": self.base}
        return " ".join([*parts, *(name for name, given in flags.items() if given)])


USUAL = Selection()
BASE = Selection(base=True)
EVERYTHING = Selection(allow_pickle=True)
"""What is read of an adapter that is not fetched."""


@dataclass(frozen=True, slots=True)
class Request:
    """One adapter that was asked for, under its ``name`` in the manifest, or as the command line writes it.

    ``source`` is its reference, or a text that is still to be parsed. ``sha256`` is the snapshot digest that the
    manifest demands (None: any), ``locked`` the entry in its lock, and ``signature`` a file with its signature, in
    place of the one among its files. One to ``keep_loaded`` is not evicted by a server.

    ``written`` is the reference as the user or the manifest writes it, and ``at`` is ``file:line`` of that manifest, ""
    on a command line. ``invalid`` is why it cannot be fetched, as where ``source`` is no reference.
    """

    name: str
    source: str | AdapterRef
    sha256: str | None = None
    keep_loaded: bool = False
    locked: LockedAdapter | None = None
    selection: Selection = USUAL
    signature: Path | None = None
    written: str = ""
    at: str = ""
    invalid: LoraCliError | None = None

    @property
    def ref(self) -> AdapterRef:
        """The parsed reference.

        Raises:
            UsageError: there is none.
        """
        if self.invalid is not None:
            raise self.invalid
        assert isinstance(self.source, AdapterRef)
        return self.source

    @property
    def locked_ref(self) -> AdapterRef:
        """The reference at the revision that the lock has for it.

        Raises:
            UsageError: there is no reference, or the locked revision is not a commit.
        """
        return self.ref if self.locked is None else ref_at(self.ref, self.locked)

    @property
    def canonical(self) -> str | None:
        """The reference in reports; None if there is none."""
        return None if self.invalid is not None else str(self.source)

    @property
    def label(self) -> str:
        """The name, else the reference."""
        return self.name or str(self.source)


@dataclass(frozen=True, slots=True)
class LockFlags:
    """What is asked of a lock. ``some``: only some of the manifest's adapters are named.

    With ``keep_going`` an adapter that is not ``locked`` fails alone.
    """

    locked: bool = False
    check: bool = False
    upgrade: bool = False
    some: bool = False
    keep_going: bool = False

    @property
    def given(self) -> list[str]:
        """The names of the given options."""
        return [name for name in ("locked", "check", "upgrade") if getattr(self, name)]
