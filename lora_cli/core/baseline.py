"""Known findings: a file of what was found before, so that only what is new refuses.

An entry is a rule, an adapter and a place in it: no message, whose numbers may change, and no digest, so that it holds
for the next version of the adapter too. ``count`` is how often the rule found something there.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lora_cli.core import parse
from lora_cli.errors import FormatError, UsageError

SCHEMA = "lora_cli/baseline/1"
_KEYS = ("adapter", "code", "file", "field", "count")
_HINT = "write it with lora-cli validate --write-baseline FILE"


class Entry(NamedTuple):
    """One thing that is known: what ``code`` finds in an adapter, at a file and a field, module or tensor in it."""

    adapter: str
    code: str
    file: str
    field: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """The entries of each adapter, and how often each was found; ``where`` is the file."""

    where: str
    counts: Mapping[str, Mapping[Entry, int]]

    def of(self, adapter: str) -> Counter[Entry]:
        """Those of one adapter."""
        return Counter(self.counts.get(adapter, {}))


def render_baseline(entries: Iterable[Entry]) -> str:
    """The file, the same for the same entries, one to a line: a change of it can be read."""
    counted = sorted(Counter(entries).items())
    rows = [json.dumps({**entry._asdict(), "count": count}) for entry, count in counted]
    body = ",\n".join(f"  {row}" for row in rows)
    return f'{{"schema": {json.dumps(SCHEMA)}, "findings": [\n{body}\n]}}\n'


def load_baseline(text: str, where: str) -> Baseline:
    """The baseline in a file.

    Raises:
        UsageError: it is none, or is wrong somewhere.
    """
    try:
        document = parse.json_object(text.encode(errors="surrogatepass"), where)
        parse.one_of([SCHEMA])(parse.required(document, "schema", where), f"{where}: schema")
        rows = parse.sequence(parse.required(document, "findings", where), f"{where}: findings")
        counts: dict[str, dict[Entry, int]] = {}
        for number, row in enumerate(rows):
            entry, count = _entry(row, f"{where}: findings[{number}]")
            counts.setdefault(entry.adapter, {})[entry] = count
    except FormatError as error:
        raise UsageError(error.message, hint=_HINT) from error
    return Baseline(where, counts)


def _entry(row: Any, where: str) -> tuple[Entry, int]:
    fields = parse.mapping(row, where)
    for key in fields:
        if key not in _KEYS:
            raise FormatError(f"the key {parse.shown(key)} is not known", where=where)
    texts = [parse.text(parse.required(fields, key, where), f"{where}: {key}") for key in Entry._fields]
    return Entry(*texts), parse.integer(parse.required(fields, "count", where), f"{where}: count", minimum=1)
