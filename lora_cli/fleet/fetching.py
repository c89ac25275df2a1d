"""``fetch --ray``: adapters fetched by the nodes of a cluster, each into the cache that it sees at the same path."""

from collections.abc import Iterator, Sequence

from lora_cli.errors import MachineError
from lora_cli.fetching.batch import Outcome, fetch_all
from lora_cli.fleet.ray_cluster import joined, spread
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.store import Store


def bring_fleet(address: str, requests: Sequence[Request], settings: Settings) -> Iterator[Outcome]:
    """As ``fetch_all``, on the cluster at ``address``. Raises as ``joined``."""
    with joined(address, "fetch") as processors:
        yield from spread(_bring, requests, processors, settings, lost=_lost)


def _bring(batch: Sequence[Request], settings: Settings) -> list[Outcome]:
    return list(fetch_all(batch, Store(settings.cache_dir), settings))


def _lost(request: Request, reason: str) -> Outcome:
    error = MachineError(f"{request.name}: {reason}", hint="fetch it alone, and check that node's memory and disk")
    return Outcome(request, None, error, 0.0)
