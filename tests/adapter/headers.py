"""Headers of safetensors files, made by hand, and every way in which one can be malformed."""

import json
from typing import Any

from lora_cli.adapter.safetensors import HEADER_CAP


def with_header(header: str | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def two(first: tuple[int, int], second: tuple[int, int]) -> str:
    shape = {"a": (first[1] - first[0],), "b": (second[1] - second[0],)}
    return json.dumps({"a": entry("U8", shape["a"], first), "b": entry("U8", shape["b"], second)})


ONE = json.dumps({"a": entry()})

MALFORMED = {
    "nothing at all": (b"", "truncated: 0 bytes"),
    "half a length": (b"\x01\x02\x03", "truncated: 3 bytes"),
    "a length beyond the file": (with_header(ONE)[:-3], "truncated: the header ends at byte"),
    "a length beyond the cap": ((HEADER_CAP + 1).to_bytes(8, "little") + b"{}", "limit is 100000000"),
    "an HTML page": (b"<!DOCTYPE html><html>", "not a safetensors file"),
    "no header": (with_header(""), "the header has 0 bytes"),
    "not UTF-8": (with_header(b'{"\xff":{}}'), "not UTF-8 at byte 10"),
    "not JSON": (with_header("{nonsense}"), "not JSON: expected a string at character 1"),
    "JSON that ends early": (with_header('{"a":{"dtype":"U8"'), "does not end within"),
    "JSON that goes on": (with_header("{} {}"), "text after the end of its JSON"),
    "a trailing comma": (with_header(ONE[:-1] + ",}", b"1234"), "expected a string"),
    "no comma": (with_header('{"__metadata__":{} "b":{}}'), "expected , or }"),
    "no colon": (with_header('{"a" {}}'), "expected :"),
    "a list": (with_header("[]"), "does not start with {"),
    "white space first": (with_header(" " + ONE, b"1234"), "does not start with {"),
    "a name twice": (with_header('{"a":%s,"a":%s}' % ((json.dumps(entry()),) * 2), b"1234"), "f: a: appears twice"),
    "a field twice": (with_header('{"a":{"dtype":"U8","dtype":"U8"}}'), "f: a: a field appears twice"),
    "metadata twice": (with_header('{"__metadata__":{},"__metadata__":{}}'), "__metadata__ appears twice"),
    "a metadata key twice": (with_header('{"__metadata__":{"a":"","a":""}}'), "__metadata__ has 'a' twice"),
    "metadata that is a list": (with_header('{"__metadata__":[]}'), "__metadata__ is not an object"),
    "a number in metadata": (with_header('{"__metadata__":{"a":1}}'), "not a string, under 'a'"),
    "half a surrogate pair": (with_header('{"\\ud800":{}}'), "half a surrogate pair"),
    "an entry that is a list": (with_header('{"a":[]}'), "f: a: its entry is not an object"),
    "a field missing": (with_header('{"a":{"dtype":"U8","shape":[]}}'), "f: a: data_offsets is missing"),
    "an unknown field": (
        with_header(json.dumps({"a": entry() | {"x": 1}}), b"1234"),
        "f: a: x is not a field of the format",
    ),
    "an unknown dtype": (with_header(json.dumps({"a": entry("F33")}), b"1234"), "f: a: unknown dtype 'F33'"),
    "a dtype that is a number": (with_header(json.dumps({"a": entry() | {"dtype": 3}}), b"1234"), "unknown dtype '3'"),
    "a negative dimension": (with_header(json.dumps({"a": entry(shape=(-4,))}), b"1234"), "-4 is not an unsigned"),
    "minus zero": (with_header('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "-0 is not an unsigned"),
    "a fraction": (with_header(json.dumps({"a": entry(shape=(4.0,))}), b"1234"), "4.0 is not an unsigned"),
    "NaN": (with_header('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'), "NaN is not an unsigned"),
    "a dimension beyond 64 bits": (
        with_header(json.dumps({"a": entry(shape=(2**64,))}), b"1234"),
        "is not an unsigned",
    ),
    "a dimension of a million digits": (
        with_header('{"a":{"dtype":"U8","shape":[' + "9" * 60_000 + '],"data_offsets":[0,0]}}'),
        "is not an unsigned",
    ),
    "true as a dimension": (with_header(json.dumps({"a": entry(shape=(True,))}), b"1"), "shape is not a list"),
    "a shape that is a number": (
        with_header(json.dumps({"a": entry() | {"shape": 4}}), b"1234"),
        "shape is not a list",
    ),
    "a shape that overflows": (with_header(json.dumps({"a": entry(shape=(2**40, 2**40, 0))})), "overflows 64 bits"),
    "a shape whose bits overflow": (
        with_header(json.dumps({"a": entry("F64", (2**60,), (0, 4))}), b"1234"),
        "overflows",
    ),
    "half a byte": (with_header(json.dumps({"a": entry("F4", (3,), (0, 1))}), b"1"), "does not fill whole bytes"),
    "offsets backwards": (with_header(json.dumps({"a": entry(offsets=(4, 0))}), b"1234"), "start <= stop"),
    "three offsets": (with_header(json.dumps({"a": entry(offsets=(0, 2, 4))}), b"1234"), "data_offsets are not"),
    "more bytes than the shape": (with_header(json.dumps({"a": entry(shape=(3,))}), b"1234"), "takes 3 bytes"),
    "fewer bytes than the shape": (with_header(json.dumps({"a": entry(shape=(5,))}), b"1234"), "data_offsets span 4"),
    "an overlap": (with_header(two((0, 4), (2, 6)), b"123456"), "f: b: starts at byte"),
    "a gap": (with_header(two((0, 2), (3, 5)), b"12345"), "leaves a gap"),
    "a gap before the first": (with_header(json.dumps({"a": entry(offsets=(1, 5))}), b"12345"), "leaves a gap"),
    "missing bytes": (with_header(ONE, b"123"), "truncated: the tensors end at byte"),
    "trailing bytes": (with_header(ONE, b"12345"), "1 bytes follow the last tensor"),
    "an entry nested too deep": (with_header('{"a":{"x":' + "[" * 20_000 + "}"), "nested too deep"),
    "an entry without an end": (with_header('{"a":{"x":"' + "y" * 70_000 + '"}}'), "does not end within 65536"),
}
"""What is wrong: the file, and what its error says."""
