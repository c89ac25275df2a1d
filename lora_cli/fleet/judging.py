"""``validate --ray``: adapters judged on the nodes of a cluster, which read them where those are."""

from collections.abc import Container, Iterator, Mapping, Sequence

from lora_cli.errors import MachineError
from lora_cli.fetching.demand import Demand
from lora_cli.fleet.cluster import joined, spread
from lora_cli.settings import Settings
from lora_cli.validation.many import Item, check_all
from lora_cli.validation.outcome import Checked
from lora_cli.validation.verdict import Terms


def check_fleet(
    address: str,
    items: Sequence[Item],
    terms: Terms,
    settings: Settings,
    *,
    demands: Mapping[Item, Demand],
    latest: Container[Item],
) -> Iterator[Checked]:
    """As ``check_all``, without contents, on the cluster at ``address``. Raises as ``joined``."""
    chosen = frozenset(item for item in items if item in latest)
    with joined(address, "validate") as processors:
        yield from spread(_judge, items, processors, terms, settings, dict(demands), chosen, lost=_lost)


def _judge(
    batch: Sequence[Item], terms: Terms, settings: Settings, demands: Mapping[Item, Demand], latest: Container[Item]
) -> list[Checked]:
    return list(check_all(batch, terms, settings, contents=False, demands=demands, latest=latest))


def _lost(item: Item, reason: str) -> Checked:
    name, ref = item
    hint = "judge it by itself, and look at that node's memory"
    return Checked(name or str(ref), str(ref), error=MachineError(f"{name or ref}: {reason}", hint=hint))
