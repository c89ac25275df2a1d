"""What a server knows of one adapter."""

from dataclasses import dataclass

from lora_cli.core.item import Item
from lora_cli.core.results import LoadReport
from lora_cli.runtime.plan import Job


@dataclass(slots=True)
class Entry:
    """One adapter: what was asked for, and what came of it.

    ``job`` is it on this disk, judged. ``report`` is its last load's, ``proved_by`` the number of the child that proved
    it (``WarmProcess.starts``; 0: none). ``remote`` says that its bytes came from their origin when it was brought.
    ``last_used`` is in seconds since 1970.
    """

    item: Item
    job: Job | None = None
    report: LoadReport | None = None
    proved_by: int = 0
    remote: bool = False
    requests: int = 0
    last_used: float | None = None
