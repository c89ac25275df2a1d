"""``validate --ray``: adapters validated on the nodes of a cluster, which read them where those are."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lora_cli.errors import MachineError
from lora_cli.fleet.ray_cluster import joined, spread
from lora_cli.judging.judge import Terms, judge_all
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings


def judge_fleet(address: str, items: Sequence[Request], terms: Terms, settings: Settings) -> Iterator[Result]:
    """As ``judge_all``, without contents, on the cluster at ``address``. Raises as ``joined``."""
    with joined(address, "validate") as processors:
        yield from spread(_judge, items, processors, terms, settings, lost=_lost)


def _judge(batch: Sequence[Request], terms: Terms, settings: Settings) -> list[Result]:
    return list(judge_all(batch, terms, settings, contents=False))


def _lost(item: Request, reason: str) -> Result:
    error = MachineError(f"{item.name}: {reason}", hint="validate it alone, and check that node's memory")
    return replace(Result.of(item), error=error)
