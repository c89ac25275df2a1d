"""Requests, and traces of them: JSON lines of what was asked for.

A line is an adapter's name, or an object; all keys but ``adapter`` may be left out, and others are ignored:

    {"t": 0.25, "adapter": "sql", "prompt_tokens": 128, "output_tokens": 16}
"""

from pathlib import Path
from typing import Any, NamedTuple

from lora_cli import parse
from lora_cli.errors import FormatError, UsageError

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 16
EXAMPLE = 'a line is {"t": 0.25, "adapter": "sql"}, or only "sql"'


class Request(NamedTuple):
    """One request: the adapter, seconds from the start of the run (None: it has no time), and tokens in and out."""

    adapter: str
    time_s: float | None = None
    prompt_tokens: int = PROMPT_TOKENS
    output_tokens: int = OUTPUT_TOKENS


def read_trace(file: Path) -> list[Request]:
    """The requests of a file, ordered by their times, the first of them at 0.

    Raises:
        LoraCliError: it cannot be read, has no requests, or a line is wrong: the message has its number.
    """
    from lora_cli.documents.document import read_text

    found = []
    for number, line in enumerate(read_text(file, "trace").split("\n"), 1):
        if line.strip():
            try:
                found.append(_request(parse.json_value(line.encode(), "")))
            except FormatError as error:
                raise UsageError(f"{file}: line {number}: {error.message}", hint=EXAMPLE) from error
    if not found:
        raise UsageError(f"{file}: the trace has no requests", hint=EXAMPLE)
    times_s = [one.time_s for one in found if one.time_s is not None]
    if not times_s:
        return found
    if len(times_s) < len(found):
        raise UsageError(f"{file}: {len(found) - len(times_s)} of {len(found)} requests have no t", hint=EXAMPLE)
    ordered = sorted(zip(times_s, found, strict=True), key=lambda timed: timed[0])
    return [one._replace(time_s=time_s - ordered[0][0]) for time_s, one in ordered]


def _request(value: Any) -> Request:
    if isinstance(value, str):
        return Request(value)
    fields = parse.mapping(value, "")
    time_s = fields.get("t")
    return Request(
        parse.text(parse.required(fields, "adapter", ""), "adapter"),
        None if time_s is None else parse.number(time_s, "t"),
        parse.integer(fields.get("prompt_tokens", PROMPT_TOKENS), "prompt_tokens", minimum=1),
        parse.integer(fields.get("output_tokens", OUTPUT_TOKENS), "output_tokens", minimum=1),
    )
