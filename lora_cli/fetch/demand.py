"""What must hold for an adapter, whatever its origin gives: an operator's policy, and a digest."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lora_cli.core.policy import Policy, Violation, violations
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Snapshot
from lora_cli.errors import Corrupt, Refused
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter


@dataclass(frozen=True, slots=True)
class Demand:
    """The policy, the snapshot digest that a manifest demands (None: any), and what its lock says (None: nothing)."""

    policy: Policy = field(default_factory=Policy)
    sha256: str | None = None
    locked: "LockedAdapter | None" = None

    @property
    def known_sha256(self) -> str | None:
        """The snapshot digest as it is known before a byte is fetched."""
        return self.sha256 or (self.locked.digest if self.locked is not None else None)


def check_reference(demand: Demand, ref: AdapterRef, settings: Settings) -> None:
    """Before anything is asked for: may this be fetched at all?

    Raises:
        Refused: the policy says no.
    """
    host = urlsplit(endpoint_of(ref, settings)).hostname
    _refuse(ref, violations(demand.policy, ref, sha256=demand.known_sha256, host=host))


def check_files(demand: Demand, ref: AdapterRef, files: Iterable[RemoteFile]) -> None:
    """Before a byte is fetched: may these files be?

    Raises:
        Refused: the policy says no.
    """
    _refuse(ref, violations(demand.policy, ref, sha256=demand.known_sha256, files=files))


def check_size(name: str, total: int, most: int | None) -> None:
    """Whether an adapter is within ``--max-bytes``, wherever its bytes are.

    Raises:
        Refused: it is larger than ``most`` bytes (None: no limit).
    """
    if most is not None and total > most:
        raise Refused(f"{name} has {total} bytes, and {most} are allowed", hint="raise --max-bytes to take it")


def check_snapshot(demand: Demand, ref: AdapterRef, snapshot: Snapshot) -> None:
    """Before anybody is given it: is it what it must be?

    Raises:
        Refused: the policy says no.
        Corrupt: it has another digest than the manifest says.
    """
    if demand.sha256 is not None and snapshot.digest != demand.sha256:
        raise Corrupt(
            f"{ref}: the manifest says sha256 {demand.sha256}, and its files make {snapshot.digest}",
            hint="pin the revision that was meant, or write the new digest after you looked at what changed",
        )
    files = [RemoteFile(path, blob.size, blob.sha256) for path, blob in snapshot.files.items()]
    found = violations(demand.policy, ref, sha256=demand.known_sha256, files=files, digest=snapshot.digest)
    _refuse(ref, found)


def _refuse(ref: AdapterRef, found: tuple[Violation, ...]) -> None:
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise Refused(f"{ref}: {found[0]}{more}", hint=found[0].hint)
