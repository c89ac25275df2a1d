"""Request rates on disk: so that a server that was restarted knows which adapters are hot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_cli.core import parse
from lora_cli.core.log import logger
from lora_cli.errors import FormatError
from lora_cli.store.disk import read_small, replace_file
from lora_cli.tiers.access_history import History

SCHEMA = "lora_cli/warm-history/1"
LARGEST = 32 << 20
TIERS = ("gpu", "cpu")

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class RequestRates:
    """Saved rates: ``tiers`` is ``TierContents.history``, ``keys`` has the tiers' key of each adapter by name."""

    tiers: Mapping[str, object] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    def hottest(self) -> Sequence[str]:
        """Names by their recent request rate, the highest first.

        The CPU tier sees only requests that miss the GPU tier, so the GPU tier's rates come first.
        """
        ranked: dict[str, None] = {}
        for tier in TIERS:
            if tier in self.tiers:
                known = History.restored(self.tiers[tier], tier)
                ranked |= dict.fromkeys(known.hottest(len(known)))
        place = {key: number for number, key in enumerate(ranked)}
        return sorted(
            (name for name, key in self.keys.items() if key in place), key=lambda name: place[self.keys[name]]
        )


NO_RATES = RequestRates()


def read_rates(file: Path) -> RequestRates:
    """The rates that an earlier server saved; ``NO_RATES`` if the file is missing or invalid."""
    data = read_small(file, LARGEST)
    if data is None:
        return NO_RATES
    try:
        return _read(data, str(file))
    except FormatError as error:
        log.warning("the request rates of the last run cannot be read: %s", error.message)
        return NO_RATES


def _read(data: bytes, where: str) -> RequestRates:
    fields = parse.json_object(data, where)
    parse.one_of([SCHEMA])(fields.get("schema"), f"{where}: schema")
    tiers: dict[str, Any] = parse.mapping(fields.get("tiers"), f"{where}: tiers")
    known = {tier: tiers[tier] for tier in TIERS if tier in tiers}
    for tier, state in known.items():
        History.restored(state, f"{where}: {tier}")
    return RequestRates(known, parse.map_of(parse.text)(fields.get("keys"), f"{where}: keys"))


def save_rates(file: Path, rates: RequestRates) -> None:
    """Save the rates for the next server. Raises ``OSError`` if the file cannot be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    value = {"schema": SCHEMA, "tiers": dict(rates.tiers), "keys": dict(rates.keys)}
    replace_file(file, json.dumps(value, separators=(",", ":")).encode())
