"""What must hold for an adapter, whatever its origin gives: an operator's policy, and a digest."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Snapshot
from lora_cli.errors import Corrupt, Refused
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter
    from lora_cli.core.policy import Policy


@dataclass(frozen=True, slots=True)
class Demand:
    """The policy, the snapshot digest that a manifest demands, and what its lock says; None where nobody demands."""

    policy: "Policy | None" = None
    sha256: str | None = None
    locked: "LockedAdapter | None" = None

    @property
    def max_bytes(self) -> int | None:
        """The most that the policy allows an adapter to have; None: no limit."""
        return self.policy.max_bytes if self.policy is not None else None

    @property
    def known_sha256(self) -> str | None:
        """The snapshot digest as it is known before a byte is fetched."""
        return self.sha256 or (self.locked.digest if self.locked is not None else None)


def check_reference(demand: Demand, ref: AdapterRef, settings: Settings) -> None:
    """Before anything is asked for: may this be fetched at all?

    Raises:
        Refused: the policy says no.
    """
    if demand.policy is None:
        return
    host = urlsplit(endpoint_of(ref, settings)).hostname
    _refuse(demand, ref, host=host)


def check_files(demand: Demand, ref: AdapterRef, files: Iterable[RemoteFile]) -> None:
    """Before a byte is fetched: may these files be?

    Raises:
        Refused: the policy says no.
    """
    _refuse(demand, ref, files=files)


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
    _refuse(demand, ref, files=files, digest=snapshot.digest)


def _refuse(demand: Demand, ref: AdapterRef, **about: Any) -> None:
    """Raises when the policy, if there is one, says no to ``about``."""
    if demand.policy is None:
        return
    from lora_cli.core.policy import violations

    found = violations(demand.policy, ref, sha256=demand.known_sha256, **about)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise Refused(f"{ref}: {found[0]}{more}", hint=found[0].hint)
