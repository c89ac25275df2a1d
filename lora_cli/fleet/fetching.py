"""``fetch --ray``: adapters fetched by the nodes of a cluster, each into the cache that it sees at the same path."""

from collections.abc import Iterator, Sequence

from lora_cli.errors import MachineError
from lora_cli.fetching.many import Outcome, Wanted, bring_all
from lora_cli.fetching.plan import Selection
from lora_cli.fleet.cluster import joined, spread
from lora_cli.settings import Settings
from lora_cli.store import Store


def bring_fleet(
    address: str, wanted: Sequence[Wanted], settings: Settings, selection: Selection, *, link: bool
) -> Iterator[Outcome]:
    """As ``bring_all``, on the cluster at ``address``. Raises as ``joined``."""
    with joined(address, "fetch") as processors:
        yield from spread(_bring, wanted, processors, settings, selection, link, lost=_lost)


def _bring(batch: Sequence[Wanted], settings: Settings, selection: Selection, link: bool) -> list[Outcome]:
    return list(bring_all(batch, Store(settings.cache_dir), settings, selection=selection, link=link))


def _lost(item: Wanted, reason: str) -> Outcome:
    error = MachineError(f"{item.name}: {reason}", hint="fetch it by itself, and look at that node's memory and disk")
    return Outcome(item, None, error, 0.0)
