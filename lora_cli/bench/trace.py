"""The requests to a server and their times: one trace for every policy and server that is compared; also a file.

A file has one JSON object a line, in the order of time:

    {"t": 0.012345, "adapter": "sql", "prompt_tokens": 128, "output_tokens": 16}

``t`` is in seconds from the start, and may be left out of all lines: the requests then come as fast as they can. Token
counts may be left out too. Other keys (``session``, ``rank``) are for other readers, and are ignored.
"""

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lora_cli import parse
from lora_cli.errors import FormatError, MachineError, NotFound, UsageError


class Request(NamedTuple):
    """One request: seconds from the start of the run, the adapter's name, and tokens in and out."""

    time_s: float
    adapter: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order in which they come, in columns: a million of them take 20 MB.

    ``which[i]`` is the place in ``names`` of the adapter that request ``i`` asks for. Times never fall.
    """

    names: tuple[str, ...]
    which: "array[int]"
    times_s: "array[float]"
    prompt_tokens: "array[int]"
    output_tokens: "array[int]"

    def __len__(self) -> int:
        return len(self.which)

    def __iter__(self) -> Iterator[Request]:
        names = self.names
        for which, *others in zip(self.which, self.times_s, self.prompt_tokens, self.output_tokens, strict=True):
            yield Request(others[0], names[which], int(others[1]), int(others[2]))

    def keys(self) -> list[str]:
        """The adapter of each request."""
        names = self.names
        return [names[which] for which in self.which]

    @property
    def timed(self) -> bool:
        """Whether requests have times; if all are 0 they have none."""
        return bool(self.times_s) and self.times_s[-1] > 0


def build_trace(requests: Iterable[Request]) -> Trace:
    """The trace of these requests; adapters are named in the order in which they are first asked for."""
    places: dict[str, int] = {}
    which, times_s, prompt_tokens, output_tokens = array("I"), array("d"), array("I"), array("I")
    for one in requests:
        which.append(places.setdefault(one.adapter, len(places)))
        times_s.append(one.time_s)
        prompt_tokens.append(one.prompt_tokens)
        output_tokens.append(one.output_tokens)
    return Trace(tuple(places), which, times_s, prompt_tokens, output_tokens)


MOST_REQUESTS = 10_000_000
MOST_TOKENS = 10_000_000
LONGEST_LINE = 65_536
LONGEST_NAME = 4_096
LATEST_S = 1e8
"""Three years: a larger value is a time of day, or milliseconds."""

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 16
"""The defaults of a line without token counts."""


def trace_lines(trace: Trace) -> Iterator[str]:
    """Every line of a trace's file, with its line feed."""
    quoted = [json.dumps(name, ensure_ascii=False) for name in trace.names]
    for time_s, which, prompt, output in zip(
        trace.times_s, trace.which, trace.prompt_tokens, trace.output_tokens, strict=True
    ):
        yield (
            f'{{"t": {time_s!r}, "adapter": {quoted[which]}, "prompt_tokens": {prompt}, "output_tokens": {output}}}\n'
        )


def read_trace(file: Path) -> Trace:
    """The trace of a file.

    Raises:
        NotFound: there is no such file.
        UsageError: a line is wrong (the message has its number), or there are none or too many.
        MachineError: it cannot be read.
    """
    trace = build_trace(_requests(bounded_lines(file), str(file)))
    if not len(trace):
        raise UsageError(f"{file}: it has no requests", hint='{"t": 0.5, "adapter": "sql"}')
    return trace


def bounded_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, with their numbers from 1.

    Raises:
        NotFound: there is no such file.
        UsageError: a line is longer than ``LONGEST_LINE``.
        MachineError: it cannot be read.
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE + 1), b""), 1):
                if len(line) > LONGEST_LINE:
                    raise UsageError(f"{file}: line {number}: is longer than {LONGEST_LINE} bytes")
                if line.strip():
                    yield number, line
    except FileNotFoundError as error:
        raise NotFound(f"{file}: trace not found", hint="--save-trace writes one") from error
    except OSError as error:
        raise MachineError(f"{file} cannot be read: {error.strerror or error}") from error


def _requests(lines: Iterable[tuple[int, bytes]], where: str) -> Iterator[Request]:
    """The requests of all lines."""
    before, found = 0.0, 0
    for number, line in lines:
        try:
            one = _request(line, before)
        except FormatError as error:
            said = error.message.replace("line 1 column", "column")
            raise UsageError(f"{where}: line {number}: {said}", hint="a trace has one JSON object per line") from error
        if found == MOST_REQUESTS:
            raise UsageError(f"{where}: line {number}: a trace has at most {MOST_REQUESTS} requests")
        before, found = one.time_s, found + 1
        yield one


def _request(line: bytes, before: float) -> Request:
    fields = parse.json_object(line.strip(), "")
    time_s = float(parse.number(fields.get("t", before), "t"))
    if not before <= time_s <= LATEST_S:
        limit = f"at least {before}, as in the previous line" if time_s < before else f"at most {LATEST_S:.0f} seconds"
        raise FormatError(f"must be {limit}, not {time_s}", where="t")
    name = parse.text(parse.required(fields, "adapter", "the request"), "adapter")
    if not 0 < len(name) <= LONGEST_NAME:
        raise FormatError(f"must have 1 to {LONGEST_NAME} characters, not {len(name)}", where="adapter")
    return Request(
        time_s,
        name,
        parse.integer(fields.get("prompt_tokens", PROMPT_TOKENS), "prompt_tokens", minimum=0, maximum=MOST_TOKENS),
        parse.integer(fields.get("output_tokens", OUTPUT_TOKENS), "output_tokens", minimum=0, maximum=MOST_TOKENS),
    )
