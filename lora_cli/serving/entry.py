"""What a server knows of one adapter."""

from dataclasses import dataclass

from lora_cli.core.item import Item
from lora_cli.core.results import LoadReport
from lora_cli.runtime.messages import Job, Needs


@dataclass(slots=True)
class Entry:
    """One adapter: what was asked for, and what came of it.

    ``by_client`` says that a client named it: then each fetch checks that it may. ``job`` is it on this disk, judged,
    and ``needs`` what it needs of the slots. ``report`` is its last load's, ``proved_by`` the number of the child that
    proved it (``WarmProcess.starts``; 0: none). ``remote`` says that its bytes came from their origin when it was
    brought. ``last_used`` is in seconds since 1970.
    """

    item: Item
    by_client: bool = False
    job: Job | None = None
    needs: Needs | None = None
    report: LoadReport | None = None
    proved_by: int = 0
    remote: bool = False
    requests: int = 0
    last_used: float | None = None
