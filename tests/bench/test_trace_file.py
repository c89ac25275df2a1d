"""Traces as JSON lines: what is written is read back, and what is wrong is said with its line."""

import json
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.trace import LONGEST_LINE, Request, Trace, build_trace, read_trace, trace_lines
from lora_cli.errors import MachineError, NotFound, UsageError

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
GAPS = st.floats(0, 1e5).map(lambda gap: round(gap, 6))


def read(data: bytes) -> Trace:
    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_trace(Path(file.name))


@given(st.lists(st.tuples(GAPS, NAMES, st.integers(0, 10_000_000), st.integers(0, 9)), min_size=1, max_size=20))
def test_what_is_written_is_read_back(drawn: list[tuple[float, str, int, int]]) -> None:
    now, requests = 0.0, []
    for gap, name, prompt, output in drawn:
        now = round(now + gap, 6)
        requests.append(Request(now, name, prompt, output))
    assert list(read("".join(trace_lines(build_trace(requests))).encode())) == requests


def test_times_tokens_and_empty_lines_may_be_left_out_and_other_keys_may_stand_there() -> None:
    trace = read(b'{"adapter": "a"}\n\n{"adapter": "b", "session": 7, "prompt_tokens": 3}')
    assert list(trace) == [Request(0.0, "a", 128, 16), Request(0.0, "b", 3, 16)]
    assert not trace.timed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON: Expecting property name enclosed in double quotes at column 2"),
        ("[]", "line 2: must be an object, not a list"),
        ("{}", "line 2: the request: adapter is missing"),
        ('{"adapter": 1}', "line 2: adapter: must be a string"),
        ('{"adapter": ""}', "line 2: adapter: must have 1 to 4096 characters, not 0"),
        ('{"adapter": "a", "t": 0.5}', "line 2: t: must be at least 1.0, as in the previous line, not 0.5"),
        ('{"adapter": "a", "t": 1700000000}', "line 2: t: must be at most 100000000 seconds"),
        ('{"adapter": "a", "t": "1"}', "line 2: t: must be a number"),
        ('{"adapter": "a", "t": NaN}', "line 2: t: must be finite"),
        ('{"adapter": "a", "output_tokens": -1}', "line 2: output_tokens: must be at least 0"),
        ('{"adapter": "' + "a" * LONGEST_LINE + '"}', "line 2: is longer than 65536 bytes"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"t": 1.0, "adapter": "a"}\n' + line + "\n")
    with pytest.raises(UsageError) as caught:
        read_trace(file)
    assert caught.value.message.startswith(f"{file}: {message}")


def test_a_trace_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(UsageError, match="it has no requests"):
        read_trace(tmp_path / "empty")
    with pytest.raises(NotFound, match="trace not found"):
        read_trace(tmp_path / "none")
    with pytest.raises(MachineError, match="cannot be read"):
        read_trace(tmp_path)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UsageError, match="line 1: not UTF-8 at byte 0"):
        read(b"\xff")


def test_a_name_keeps_its_quotes() -> None:
    (line,) = trace_lines(build_trace([Request(0.25, 'a"\n\u2028', 1, 2)]))
    assert json.loads(line) == {"t": 0.25, "adapter": 'a"\n\u2028', "prompt_tokens": 1, "output_tokens": 2}
    assert line.count("\n") == 1
