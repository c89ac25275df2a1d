"""Known findings: a file of what was found before, so that only what is new refuses.

An entry is a rule, an adapter and a place in it: no message, whose numbers may change, and no digest, so that it holds
for the next version of the adapter too. ``count`` is how often the rule found something there.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field, InstanceOf

from lora_cli.documents.document import Document, Model, Places
from lora_cli.documents.field_types import Context, Several, choice, whole
from lora_cli.documents.yaml_nodes import YamlPlaces, compose
from lora_cli.errors import DocumentError, FormatError, UsageError
from lora_cli.parse import json_value

SCHEMA = "lora_cli/baseline/1"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
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


Words = InstanceOf[str]
"""Text, half surrogate pairs too: those are how Python has the bytes of a file's name that are no UTF-8."""


class BaselineEntry(Model):
    """What one rule finds at one place of an adapter."""

    adapter: Words
    """What the report calls the adapter."""
    code: Words
    """The rule."""
    file: Words
    """The file in the adapter, or empty."""
    field: Words
    """The field, module or tensor in the file, or empty."""
    count: Annotated[int, whole(1, 10**15)]
    """How often it is found there."""


class BaselineFile(Model):
    """Findings that are known and do not count."""

    format: Annotated[str, choice((SCHEMA,))] = Field(alias="schema")
    """The version of this format."""
    findings: Several[BaselineEntry]
    """One for each place."""


def render_baseline(entries: Iterable[Entry]) -> str:
    """The file, the same for the same entries, one to a line: a change of it can be read."""
    counted = sorted(Counter(entries).items())
    rows = [json.dumps({**entry._asdict(), "count": count}) for entry, count in counted]
    body = ",\n".join(f"  {row}" for row in rows)
    return f'{{"schema": {json.dumps(SCHEMA)}, "findings": [\n{body}\n]}}\n'


def load_baseline(text: str, where: str) -> Baseline:
    """The baseline in a file.

    Raises:
        UsageError: every mistake with file, line and key.
    """
    try:
        value = json_value(text.encode(errors="surrogatepass"), where)
        _check_kind(value, where)
        found = Document(where, value, lambda: _places(text, where)).read(BaselineFile, Context())
    except DocumentError as error:
        raise error.with_hint(_HINT) from error
    except (FormatError, UsageError) as error:
        raise UsageError(error.message, hint=_HINT) from error
    counts: dict[str, dict[Entry, int]] = {}
    for one in found.findings:
        counts.setdefault(one.adapter, {})[Entry(one.adapter, one.code, one.file, one.field)] = one.count
    return Baseline(where, counts)


def _check_kind(value: Any, where: str) -> None:
    """Whether a document can be a baseline at all: another one would be wrong in each of its keys.

    Raises:
        UsageError: it is the JSON output of a command, or has nothing of a baseline.
    """
    if not isinstance(value, dict):
        return
    schema = value.get("schema")
    command = re.match("lora_cli/([a-z-]{1,40})/", schema) if isinstance(schema, str) else None
    if command is not None and command[1] != "baseline":
        raise UsageError(f"{where}: this is a JSON report of {command[1]}, but must be a baseline of validate")
    if command is None and "findings" not in value:
        raise UsageError(f"{where}: this is not a baseline of validate: it has neither schema nor findings")


def _places(text: str, where: str) -> Places:
    """The lines of a JSON text, as YAML gives them, which has no half surrogate pairs, and not all of JSON."""
    try:
        return YamlPlaces(compose(_SURROGATE.sub("?", text), where))
    except UsageError:
        return YamlPlaces(None)
