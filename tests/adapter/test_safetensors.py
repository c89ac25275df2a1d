"""The header of a safetensors file, beside the library that defines the format."""

import json
import math
import re
import time
import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from lora_cli.adapter.safetensors import (
    DTYPE_BITS,
    HEADER_CAP,
    Header,
    header_length,
    parse_header,
)
from lora_cli.errors import FormatError
from tests.adapter.headers import MALFORMED, entry, two, with_header
from tests.making import Raw, safetensors_bytes

EXAMPLES = settings(deadline=None, max_examples=60)


def ours(data: bytes) -> Header:
    length = header_length(data[:8], len(data), "f")
    return parse_header(data[8 : 8 + length], len(data), "f")


def meaning(data: bytes, header: Header) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (t.dtype, t.shape, data[t.start : t.stop]) for name, t in header.tensors.items()}


def theirs(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    read: Any = deserialize  # it has no types
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in read(data)}


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
raws = st.builds(
    lambda dtype, shape, fill: Raw(dtype, shape, bytes([fill]) * (math.prod(shape) * DTYPE_BITS[dtype] // 8)),
    st.sampled_from(sorted(dtype for dtype, bits in DTYPE_BITS.items() if bits >= 8)),
    shapes,
    st.integers(0, 255),
)
files = st.dictionaries(st.text(max_size=12).filter(lambda name: name != "__metadata__"), raws, max_size=5)
metadatas = st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)


@EXAMPLES
@given(files, metadatas)
def test_what_the_library_reads_means_the_same_to_us(
    tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None
) -> None:
    data = safetensors_bytes(tensors, metadata)
    header = ours(data)
    assert meaning(data, header) == theirs(data)
    assert header.metadata == (metadata or {})


@EXAMPLES
@given(
    st.dictionaries(
        st.text(max_size=12).filter(lambda name: name != "__metadata__"),
        st.builds(
            np.zeros,
            shapes,
            st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.int64, np.bool_, np.uint16]),
        ),
        max_size=5,
    ),
    metadatas,
)
def test_nothing_that_the_library_wrote_is_an_error(tensors: dict[str, Any], metadata: dict[str, str] | None) -> None:
    # Without tensors and with empty metadata, safetensors 0.8 writes what it cannot read itself.
    assume(tensors or metadata != {})
    data = save(tensors, metadata)
    header = ours(data)
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == {n: a.shape for n, a in tensors.items()}
    assert header.metadata == (metadata or {})


VALID = [
    safetensors_bytes({}),
    safetensors_bytes({"a": Raw("F32", (2, 1), b"12345678")}, {"format": "pt"}),
    safetensors_bytes(
        {
            "model.q.lora_A.weight": Raw("BF16", (1, 2), b"1234"),
            "empty": Raw("F16", (0, 7), b""),
            "scalar": Raw("I64", (), b"12345678"),
            "ünï": Raw("U8", (3,), b"abc"),
        },
        {"a": "b", "c": '"}{'},
    ),
]

ODD_TOKENS = (
    *("-0", "-1", "0.0", "1e2", "1E0", "NaN", "Infinity", "null", "true", "false", "007", "1_0", "9" * 30),
    *(str(2**64), str(2**64 - 1), str(2**63), '""', "[]", "{}", "[[]]", '"F32"', '"f32"', '"\\ud800"', '"\\u0000"'),
    *("\t", "\x00", "\ufeff", '"a":', ",", "}", "{", "]", "[", ":", "//", " "),
    *('"shape":[1],', '"__metadata__":{},', '"dtype":"U8",', '"x":1,'),
)
ODD_JSON = st.sampled_from(ODD_TOKENS)


JSON_TOKEN = re.compile(rb'"(?:[^"\\\\]|\\\\.)*"|[\[\]{}:,]|[^\[\]{}:,"\\s]+')


@st.composite
def with_odd_tokens(draw: st.DrawFn) -> bytes:
    """A valid file in whose header one or two JSON tokens are others."""
    data = draw(st.sampled_from(VALID))
    length = int.from_bytes(data[:8], "little")
    tokens = JSON_TOKEN.findall(data[8 : 8 + length])
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(tokens) - 1))
        number = st.integers(0, 9).map(lambda n: str(n).encode())
        odd = ODD_JSON.map(lambda text: text.encode("utf-8", "surrogatepass"))
        tokens[at] = draw(odd | number | st.sampled_from(tokens) | st.just(b""))
    return with_header(b"".join(tokens), data[8 + length :])


@st.composite
def with_odd_bytes(draw: st.DrawFn) -> bytes:
    """A valid file with a few bytes replaced, put in or taken out; the length is mostly mended."""
    data = draw(st.sampled_from(VALID))
    length = int.from_bytes(data[:8], "little")
    header, body = bytearray(data[8 : 8 + length]), bytearray(data[8 + length :])
    for _ in range(draw(st.integers(1, 2))):
        part = draw(st.sampled_from([header, header, body]))
        at = draw(st.integers(0, len(part)))
        part[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    stated = draw(st.sampled_from([len(header)] * 8 + [length, len(header) + 1, 0, 2**63, HEADER_CAP + 1]))
    return stated.to_bytes(8, "little") + bytes(header) + bytes(body)


@settings(deadline=None, max_examples=600)
@given(with_odd_tokens() | with_odd_bytes())
def test_any_mutation_is_a_format_error_or_means_what_the_library_says(data: bytes) -> None:
    try:
        header = ours(data)
    except FormatError:
        return
    assert meaning(data, header) == theirs(data)


@EXAMPLES
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 2**66) | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "data_offsets", "x", "__metadata__"]), inner, max_size=4
            )
        ),
    )
)
def test_any_json_as_an_entry_is_judged_as_the_library_judges_it(value: Any) -> None:
    data = with_header(json.dumps({"a": value}))
    try:
        header = ours(data)
    except FormatError:
        return
    assert meaning(data, header) == theirs(data)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(sorted(DTYPE_BITS)),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 2**32, 2**61, 2**63, 2**64 - 1]), max_size=4),
    st.integers(0, 16),
    st.integers(0, 16),
)
def test_dtype_shape_and_offsets_are_accepted_exactly_when_the_library_does(
    dtype: str, shape: list[int], start: int, stop: int
) -> None:
    data = with_header(json.dumps({"a": entry(dtype, shape, (start, stop))}), b"x" * stop)
    try:
        accepted = theirs(data)
    except SafetensorError:
        with pytest.raises(FormatError):
            ours(data)
    else:
        assert meaning(data, ours(data)) == accepted


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_a_dtype_has_the_size_that_the_library_gives_it(dtype: str) -> None:
    nbytes = DTYPE_BITS[dtype]
    data = with_header(json.dumps({"a": entry(dtype, (8,), (0, nbytes))}), b"x" * nbytes)
    assert meaning(data, ours(data)) == theirs(data)


@pytest.mark.parametrize("name", MALFORMED)
def test_every_malformation_is_an_error_that_says_where(name: str) -> None:
    data, message = MALFORMED[name]
    with pytest.raises(FormatError) as caught:
        ours(data)
    assert message in str(caught.value)
    assert caught.value.where.startswith("f")


def test_a_header_can_be_read_before_the_size_of_the_file_is_known() -> None:
    data = VALID[1]
    header = parse_header(data[8 : 8 + header_length(data[:8], None, "f")], None, "f")
    assert header == ours(data)


def test_offsets_are_from_the_beginning_of_the_file() -> None:
    data = with_header(two((0, 2), (2, 5)), b"aabbb")
    tensors = ours(data).tensors
    assert [data[t.start : t.stop] for t in tensors.values()] == [b"aa", b"bbb"]
    assert [t.nbytes for t in tensors.values()] == [2, 3]


def test_tensors_come_in_the_order_of_their_bytes_however_the_header_lists_them() -> None:
    data = with_header(two((2, 5), (0, 2)), b"bbaaa")
    assert list(ours(data).tensors) == ["b", "a"]
    assert meaning(data, ours(data)) == theirs(data)


def many(count: int) -> bytes:
    entries = {
        f"base_model.model.model.layers.{i}.q.lora_A.weight": entry("U8", (1,), (i, i + 1)) for i in range(count)
    }
    return with_header(json.dumps(entries), b"x" * count)


def seconds(count: int, attempt: int) -> float:
    data = many(count)
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    begun = time.process_time()
    tensors = parse_header(header, len(data), f"attempt {attempt}").tensors  # another name: not the cached one
    spent = time.process_time() - begun
    assert len(tensors) == count
    return spent


@pytest.mark.slow
def test_time_grows_with_the_header_and_not_with_its_square() -> None:
    spent = {count: min(seconds(count, attempt) for attempt in range(3)) for count in (1_000, 16_000)}
    # 16 times the header; quadratic would be 256 times the time.
    assert spent[16_000] < 80 * max(spent[1_000], 0.005)


def test_the_last_header_is_kept_and_another_one_is_not_taken_for_it() -> None:
    one, other = many(3), many(4)
    assert ours(one) is ours(one)
    assert [len(ours(data).tensors) for data in (one, other, one)] == [3, 4, 3]


@pytest.mark.parametrize(
    "filler", ["[],", "{},", '{"a":', "[", '"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'[:-1] + ","]
)
def test_memory_stays_in_proportion_to_the_header_whatever_stands_in_it(filler: str) -> None:
    header = ('{"b":{"x":[' + filler * (4_000_000 // len(filler))).encode()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            parse_header(header, None, "f")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(header)


@pytest.mark.slow
def test_memory_of_a_valid_header_is_a_small_multiple_of_it() -> None:
    data = many(20_000)
    tracemalloc.start()
    try:
        header = ours(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(header.tensors) == 20_000
    assert peak < 10 * len(data)
