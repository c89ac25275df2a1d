"""One adapter that is asked for: what it may be called, its reference, its files, and what is demanded of them."""

from dataclasses import dataclass
from pathlib import Path

from lora_cli.errors import UsageError
from lora_cli.refs.lock import LockedAdapter, ref_at
from lora_cli.refs.reference import AdapterRef

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
    place of the one among its files. A ``pinned`` adapter is not evicted by a server.

    ``written`` is the reference as the user or the manifest writes it, and ``at`` is ``file:line`` of that manifest, ""
    on a command line. ``invalid`` is why ``source`` is no reference.
    """

    name: str
    source: str | AdapterRef
    sha256: str | None = None
    pinned: bool = False
    locked: LockedAdapter | None = None
    selection: Selection = USUAL
    signature: Path | None = None
    written: str = ""
    at: str = ""
    invalid: UsageError | None = None

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
    """What is asked of a lock. ``some``: only some of the manifest's adapters are named."""

    locked: bool = False
    check: bool = False
    upgrade: bool = False
    some: bool = False

    @property
    def given(self) -> list[str]:
        """The names of the given options."""
        return [name for name in ("locked", "check", "upgrade") if getattr(self, name)]
