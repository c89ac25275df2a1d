"""The terminal output of ``place``: the strategies, and the servers with their options."""

import shlex
from collections.abc import Iterator

from rich.console import RenderableType

from lora_cli.bench.placement import PlacementReport
from lora_cli.core.text import counted, names, safe
from lora_cli.render.terminal import facts, table_or_blocks

STRATEGY_HEADER = ("strategy", "busiest", "rank padding", "slots", "slots x rank", "hits", "copies")
SERVER_HEADER = ("server", "adapters", "load", "hits", "options", "names")
TERMS = {
    "busiest": "the tokens of the busiest server, divided by the mean",
    "rank padding": "how many times an adapter's rank its server's slots have, in the mean of all tokens",
    "slots x rank": "the sum over all servers, in proportion to the memory of their slots",
    "hits": "estimated share of requests whose adapter is in a slot (LRU, independent requests)",
    "copies": "adapters on servers; one that is hot for a server is on several",
}


def place_parts(report: PlacementReport) -> Iterator[RenderableType]:
    """A table of the strategies, one of the servers, and the definitions."""
    rows = [
        (
            name,
            f"{one.busiest_server:.2f}",
            f"{one.rank_padding:.2f}",
            str(one.slots),
            str(one.slot_ranks),
            _share(one.hit_ratio),
            str(one.copies),
        )
        for name, one in report.strategies.items()
    ]
    yield table_or_blocks(STRATEGY_HEADER, rows)
    yield ""
    servers = [
        (
            str(one.server),
            str(len(one.placed.adapters)),
            f"{one.placed.load_share:.1%}",
            _share(one.placed.hit_ratio),
            shlex.join(one.flags),
            safe(names(one.placed.adapters)),
        )
        for one in report.servers
    ]
    yield table_or_blocks(SERVER_HEADER, servers)
    traffic = f"{counted(report.requests, 'request')}" if report.requests else "the same for all adapters"
    yield from ("", *facts([("adapters", str(report.adapters)), ("traffic", traffic), *TERMS.items()], 0))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
