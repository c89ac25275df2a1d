"""``Lock``: what the adapters of a manifest meant at one moment, file by file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Blob, snapshot_digest
from lora_cli.errors import UsageError


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

    @property
    def by_name(self) -> dict[str, LockedAdapter]:
        """Its adapters by what they are called."""
        return {adapter.name: adapter for adapter in self.adapters}

    def adapter(self, name: str) -> LockedAdapter | None:
        """The one of that name, or None."""
        return next((adapter for adapter in self.adapters if adapter.name == name), None)


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


@dataclass(frozen=True, slots=True)
class Changes:
    """How the lock ``after`` differs from the one ``before``, by the adapters' names; false when it does not."""

    before: Lock = Lock(())
    after: Lock = Lock(())

    @property
    def added(self) -> list[str]:
        """The adapters that are new."""
        return sorted(self.after.by_name.keys() - self.before.by_name.keys())

    @property
    def changed(self) -> list[str]:
        """The adapters that are locked differently."""
        before, after = self.before.by_name, self.after.by_name
        return sorted(name for name in before.keys() & after.keys() if before[name] != after[name])

    @property
    def removed(self) -> list[str]:
        """The adapters that are no longer locked."""
        return sorted(self.before.by_name.keys() - self.after.by_name.keys())

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)
