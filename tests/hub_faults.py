"""What the small Hub does wrong when it is told to, and what it notes of each request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

CHUNK = 1 << 20


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests whose ``"METHOD origin path?query"`` the regex ``match`` finds.

    ``times`` requests are hit (-1: all) after the first ``after`` are let through. ``status`` answers at once, with
    ``headers`` and ``body``; ``delay_s`` waits first. Of an answer that goes out: ``cut_at`` closes the connection
    after so many body bytes, ``stall_at`` waits there for ``stall_s``, ``flip_at`` inverts the byte at that offset of
    the file, ``drip_s`` sends ``drip_bytes`` at a time with that pause, ``ignore_range`` answers 200 with everything.
    """

    match: str = ""
    times: int = 1
    after: int = 0
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    delay_s: float = 0
    cut_at: int | None = None
    stall_at: int | None = None
    stall_s: float = 60
    flip_at: int | None = None
    drip_s: float = 0
    drip_bytes: int = 1
    ignore_range: bool = False


@dataclass(frozen=True, slots=True)
class Logged:
    """One answered request. ``origin`` is ``api`` or ``cdn``; ``at`` is a monotonic time in seconds."""

    method: str
    origin: str
    target: str
    authorized: bool
    range: str
    status: int
    at: float
