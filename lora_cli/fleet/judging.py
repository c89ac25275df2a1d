"""``validate --ray``: adapters validated on the nodes of a cluster, which read them where those are."""

from collections.abc import Iterator, Sequence

from lora_cli.errors import MachineError
from lora_cli.fleet.ray_cluster import joined, spread
from lora_cli.judging.validate import check_all
from lora_cli.judging.verdict import Checked, Terms
from lora_cli.redaction import without_secrets
from lora_cli.refs.request import Request
from lora_cli.settings import Settings


def check_fleet(address: str, items: Sequence[Request], terms: Terms, settings: Settings) -> Iterator[Checked]:
    """As ``check_all``, without contents, on the cluster at ``address``. Raises as ``joined``."""
    with joined(address, "validate") as processors:
        yield from spread(_judge, items, processors, terms, settings, lost=_lost)


def _judge(batch: Sequence[Request], terms: Terms, settings: Settings) -> list[Checked]:
    return list(check_all(batch, terms, settings, contents=False))


def _lost(item: Request, reason: str) -> Checked:
    error = MachineError(f"{item.name}: {reason}", hint="validate it alone, and check that node's memory")
    return Checked(item.name, without_secrets(str(item.source)), error=error)
