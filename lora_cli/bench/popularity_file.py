"""Popularity as somebody counted it: ``{"sql": 120, "chat": 3.5}``, or the weights alone as a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from lora_cli.bench.popularity import Popularity, parse_popularity, scaled
from lora_cli.bench.result_file import read_bounded
from lora_cli.core import parse
from lora_cli.core.text import shown
from lora_cli.errors import FormatError, UsageError

LARGEST_FILE = 64 << 20
MOST_ADAPTERS = 100_000

_WEIGHT = parse.number_within(0, 1e18)


@dataclass(frozen=True, slots=True)
class Counted:
    """Names (none where the file has a list) and their weights, the largest first where they have names."""

    file: str
    names: tuple[str, ...]
    weights: tuple[Decimal, ...]

    def over(self, names: Sequence[str]) -> Popularity:
        """The popularity of these adapters.

        Raises:
            UsageError: one of them has no weight, or the list is not as long as they are many.
        """
        if not self.names:
            if len(names) != len(self.weights):
                raise UsageError(f"{self.file} has {len(self.weights)} weights, and there are {len(names)} adapters")
            return Popularity(self.file, None, scaled(self.weights))
        by_name = dict(zip(self.names, self.weights, strict=True))
        missing = [name for name in names if name not in by_name]
        if missing:
            raise UsageError(f"{self.file} has no weight for {shown(missing[0])}", hint="give it a 0 at least")
        return Popularity(self.file, None, scaled([by_name[name] for name in names]))


def read_popularity(text: str) -> Popularity | Counted:
    """A family of ``popularity``, or the weights of a file: whatever ends in ``.json``.

    Raises:
        UsageError: there is no such family, or the file is wrong.
        NotFound: there is no such file.
        MachineError: it cannot be read.
    """
    if not text.endswith(".json"):
        return parse_popularity(text)
    data = read_bounded(Path(text), "--popularity", LARGEST_FILE)
    try:
        return _counted(parse.json_value(data, text), text)
    except FormatError as error:
        raise UsageError(error.message, hint='{"sql": 120, "chat": 3.5}') from error


def _counted(value: Any, where: str) -> Counted:
    if isinstance(value, list):
        names: tuple[str, ...] = ()
        weights = parse.list_of(_weight)(value, where)
    else:
        by_name = parse.map_of(_weight)(value, where)
        names = tuple(sorted(by_name, key=lambda name: (-by_name[name], name)))
        weights = tuple(by_name[name] for name in names)
    if not any(weights) or len(weights) > MOST_ADAPTERS:
        raise FormatError(f"must have 1 to {MOST_ADAPTERS} weights, and not only zeros", where=where)
    return Counted(where, names, weights)


def _weight(value: Any, where: str) -> Decimal:
    return Decimal(repr(_WEIGHT(value, where)))
