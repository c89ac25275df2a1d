"""Public traces of requests to language models: times and tokens, joined with adapters, which none of them has.

Azure LLM inference 2023 and 2024: ``TIMESTAMP,ContextTokens,GeneratedTokens``; their formats are in
AzureLLMInferenceDataset2023.md and AzureLLMInferenceDataset2024.md of https://github.com/Azure/AzurePublicDataset.

BurstGPT: ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``, and from release 1.2 also
``Session ID`` and ``Elapsed time``; its format is in the README of https://github.com/HPMLL/BurstGPT.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path

from lora_cli.bench.trace import LATEST_S, MOST_REQUESTS, MOST_TOKENS, Trace, bounded_lines
from lora_cli.bench.workload import MICROSECONDS, SyntheticWorkload, adapter_places
from lora_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests without adapters, in columns as in ``Trace``; the first comes at 0.

    ``sessions`` are numbers from 1, and 0 for a request without a session.
    """

    title: str
    times_s: "array[float]"
    prompt_tokens: "array[int]"
    output_tokens: "array[int]"
    sessions: "array[int]"


def _time_of_day(text: str) -> float:
    """Seconds since 1970; without a time zone the time is UTC. Raises ``ValueError``."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True)
class _Format:
    """A table's title and its columns; ``seconds`` reads a time."""

    title: str
    time: str
    prompt: str
    output: str
    seconds: Callable[[str], float]
    session: str = ""


FORMATS = (
    _Format("Azure LLM inference", "TIMESTAMP", "ContextTokens", "GeneratedTokens", _time_of_day),
    _Format("BurstGPT", "Timestamp", "Request tokens", "Response tokens", float, "Session ID"),
)


def read_arrivals(file: Path) -> Arrivals | None:
    """The requests of a public trace, sorted by their times; None for a file whose first line is no header of one.

    Raises:
        NotFound: there is no such file.
        UsageError: a line is wrong (the message has its number), or there are none or too many.
        MachineError: it cannot be read.
    """
    lines = bounded_lines(file)
    header = next(lines, (0, b""))[1].decode("utf-8-sig", errors="replace").strip().split(",")
    form = next((one for one in FORMATS if {one.time, one.prompt, one.output} <= {*header}), None)
    if form is None:
        return None
    times_s, columns = array("d"), (array("I"), array("I"), array("I"))
    for time_s, *numbers in _rows(lines, header, form, file):
        times_s.append(time_s)
        for column, number in zip(columns, numbers, strict=True):
            column.append(int(number))
    if not times_s:
        raise UsageError(f"{file}: it has no requests")
    first_s = min(times_s)
    if max(times_s) - first_s > LATEST_S:
        raise UsageError(f"{file}: its times span more than {LATEST_S:.0f} seconds")
    order = sorted(range(len(times_s)), key=times_s.__getitem__)
    prompt, output, sessions = (array("I", (column[row] for row in order)) for column in columns)
    relative = array("d", (round(times_s[row] - first_s, MICROSECONDS) for row in order))
    return Arrivals(form.title, relative, prompt, output, sessions)


def _rows(
    lines: Iterator[tuple[int, bytes]], header: Sequence[str], form: _Format, file: Path
) -> Iterator[tuple[float, int, int, int]]:
    """The time, tokens and session of each line."""
    places = [header.index(name) for name in (form.time, form.prompt, form.output)]
    session = header.index(form.session) if form.session in header else None
    sessions: dict[str, int] = {}
    for found, (number, line) in enumerate(lines):
        fields = line.decode(errors="replace").strip().split(",")
        try:
            time, prompt, output = (fields[place] for place in places)
            row = form.seconds(time), int(prompt[:20]), int(output[:20])
        except (ValueError, IndexError, OverflowError):
            row = inf, 0, 0
        if len(fields) != len(header) or not (abs(row[0]) < 1e12 and 0 <= min(row[1:]) <= max(row[1:]) <= MOST_TOKENS):
            wanted = f"{len(header)} columns, with a time and numbers of tokens"
            raise UsageError(f"{file}: line {number}: must have {wanted}", hint=f"as {form.title} has them")
        if found == MOST_REQUESTS:
            raise UsageError(f"{file}: line {number}: a trace has at most {MOST_REQUESTS} requests")
        name = fields[session] if session is not None else ""
        yield *row, sessions.setdefault(name, len(sessions) + 1) if name else 0


def join_adapters(arrivals: Arrivals, names: Sequence[str], traffic: SyntheticWorkload) -> Trace:
    """The trace of these requests for the adapters of ``traffic``, drawn by its seed; a session keeps its adapter."""
    places, of_session = adapter_places(names, traffic), dict[int, int]()
    which = array("I")
    for session in arrivals.sessions:
        if session not in of_session:
            of_session[session] = next(places)
        which.append(of_session[session])
        of_session.pop(0, None)  # requests without a session have nothing in common
    return Trace(tuple(names), which, arrivals.times_s, arrivals.prompt_tokens, arrivals.output_tokens)
