"""The header of a safetensors file, beside the library that defines the format."""

import json
import re
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from lora_cli.adapter.reading import read_header
from lora_cli.adapter.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.errors import FormatError
from tests.adapter.remote import remote
from tests.making import Raw, safetensors_bytes

Meaning = dict[str, tuple[str, tuple[int, ...], bytes]]


def with_header(header: str | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return len(text).to_bytes(8, "little") + text + body


def of(*entries: Any, body: bytes = b"") -> bytes:
    """A file with these entries; ``a`` is the first."""
    return with_header(json.dumps(dict(zip("abc", entries, strict=False))), body)


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def read(data: bytes, *, sized: bool = True) -> dict[str, TensorInfo]:
    _, files = remote({"f": data}, sized=sized)
    return read_header(files, *files)


def ours(data: bytes) -> Meaning:
    return {name: (t.dtype, t.shape, data[t.start : t.stop]) for name, t in read(data).items()}


def theirs(data: bytes) -> Meaning:
    library: Any = deserialize  # it has no types
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in library(data)}


BODY, ONE, NO_NUMBER = b"1234", json.dumps({"a": entry()}), "a known dtype, a list and a pair of 64-bit integers"
EMPTY = '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'

MALFORMED: Mapping[str, tuple[bytes, str]] = {
    "nothing": (b"", "ends at byte 8 of 0"),
    "not UTF-8": (with_header(b'{"\xff":{}}'), "can't decode byte 0xff"),
    "not JSON": (with_header("{nonsense}"), "Expecting property name"),
    "a blank first": (with_header(f" {EMPTY}"), "does not start with {"),
    "a name twice": (with_header(f"{EMPTY[:-1]},{EMPTY[1:]}"), "a key appears twice"),
    "half a surrogate pair": (with_header('{"\\ud800":{}}'), "surrogates not allowed"),
    "a field missing": (of({"dtype": "U8", "shape": []}), "f: a: not as the format says: a value is missing"),
    "an unknown field": (of(entry(x=1), body=BODY), NO_NUMBER),
    "an object as a dtype": (of(entry({"U8": None}), body=BODY), "not of the type that belongs there"),
    "true as a dimension": (of(entry(shape=(True,), offsets=(0, 1)), body=b"1"), NO_NUMBER),
    "a dimension of too many digits": (with_header(EMPTY.replace("[0]", f"[{'9' * 60_000}]")), "digits"),
    "a product beyond 64 bits": (of(entry(shape=(2**40, 2**40, 0), offsets=(0, 0))), "overflows 64 bits"),
    "half a byte": (of(entry("F4", (3,), (0, 1)), body=b"1"), "F4 [3] does not take the 1 bytes"),
    "offsets backwards": (of(entry(offsets=(4, 0)), body=BODY), "does not take the -4 bytes"),
    "a gap": (of(entry(), entry(offsets=(5, 9)), body=b"123456789"), "f: b: starts at byte"),
    "deep nesting": (with_header('{"a":{"x":' + "[" * 20_000 + "}"), "f: not as the format says"),
    "minus zero": (with_header(EMPTY.replace("[0]", "[-0]")), "-0"),
    "a long name": (with_header(EMPTY.replace('"a"', f'"{"x" * 1025}"')), "1025 characters, over the limit of 1024"),
}
"""What is wrong: the file, and what its error says."""

OURS_ALONE = {"a blank first", "a name twice", "an unknown field", "an object as a dtype", "a long name"}
"""What we refuse and the library does not."""


@pytest.mark.parametrize("name", MALFORMED)
def test_what_the_library_refuses_is_an_error_that_says_where(name: str) -> None:
    data, message = MALFORMED[name]
    with pytest.raises(FormatError) as caught:
        read(data)
    assert message in str(caught.value)
    assert caught.value.where.startswith("f")
    if name not in OURS_ALONE:
        with pytest.raises(SafetensorError):
            theirs(data)


VALID = [
    safetensors_bytes({}),
    safetensors_bytes({dtype: Raw(dtype, (2, 4), bytes(DTYPE_BITS[dtype])) for dtype in DTYPE_BITS}),
    safetensors_bytes({"a": Raw("F32", (2, 1), b"12345678"), "ünï": Raw("F16", (0, 7), b"")}, {"a": "b", "c": '"}{'}),
    of(entry(offsets=(2, 6)), entry(shape=(2,), offsets=(0, 2)), entry("F4", (4,), (6, 8)), body=b"12345678"),
    with_header(f"{EMPTY} \t\n  "),
    with_header('{"__metadata__":null}'),
]

ODD_JSON = st.sampled_from(
    (
        *("-0", "-1", "0.0", "1e2", "1E0", "NaN", "Infinity", "null", "true", "false", "007", "1_0", "9" * 30),
        *(str(2**64), str(2**64 - 1), str(2**63), '""', "[]", "{}", "[[]]", '"F32"', '"f32"', '"\\ud800"', '"\\u0000"'),
        *("\t", "\x00", "\ufeff", '"a":', ",", "}", "{", "]", "[", ":", "//", " "),
        *('"shape":[1],', '"__metadata__":{},', '"dtype":"U8",', '"x":1,'),
    )
)
JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\[\]{}:,"\s]+')


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A valid file in whose header a JSON token or a few bytes are others; the length is mostly mended."""
    data = draw(st.sampled_from(VALID))
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.booleans()) and (tokens := JSON_TOKEN.findall(header)):
            odd = ODD_JSON.map(lambda text: text.encode("utf-8", "surrogatepass"))
            number = st.integers(0, 9).map(lambda n: str(n).encode())
            tokens[draw(st.integers(0, len(tokens) - 1))] = draw(odd | number | st.sampled_from(tokens) | st.just(b""))
            header = b"".join(tokens)
        else:
            at = draw(st.integers(0, len(header)))
            header = header[:at] + draw(st.binary(max_size=2)) + header[at + draw(st.integers(0, 2)) :]
    stated = draw(st.sampled_from([len(header)] * 8 + [length, len(header) + 1, 0, 2**63]))
    return stated.to_bytes(8, "little") + header + body


@settings(deadline=None, max_examples=800)
@given(st.sampled_from(VALID) | mutations())
def test_any_mutation_is_a_format_error_or_means_what_the_library_says(data: bytes) -> None:
    try:
        found = ours(data)
    except FormatError:
        assert data not in VALID
        return
    assert found == theirs(data)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(sorted(DTYPE_BITS)),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 2**32, 2**61, 2**63, 2**64 - 1]), max_size=4),
    st.integers(0, 16),
    st.integers(0, 16),
)
def test_dtype_shape_and_offsets_are_accepted_exactly_when_the_library_does(
    dtype: str, shape: list[int], start: int, stop: int
) -> None:
    bits = DTYPE_BITS[dtype]
    for one, size in ((entry(dtype, shape, (start, stop)), stop), (entry(dtype, (8,), (0, bits)), bits)):
        data = of(one, body=b"x" * size)
        try:
            accepted = theirs(data)
        except SafetensorError:
            with pytest.raises(FormatError):
                ours(data)
        else:
            assert ours(data) == accepted


def test_tensors_are_in_the_order_of_their_bytes_with_places_in_the_file() -> None:
    data = VALID[3]
    assert [(one.name, one.nbytes) for one in read(data).values()] == [("b", 2), ("a", 4), ("c", 2)]
    assert ours(data)["a"] == ("U8", (4,), b"3456")
    assert read(data) == read(data, sized=False), "also before the size of the file is known"


@pytest.mark.parametrize("filler", ["[],", "{},", '{"a":', "[", '"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'])
def test_memory_stays_in_proportion_to_the_header_whatever_stands_in_it(filler: str) -> None:
    data = with_header('{"b":{"x":[' + filler * (4_000_000 // len(filler)))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(data)
    finally:
        tracemalloc.stop()
