"""The opcodes, beside what pickletools and pickle itself make of the same bytes."""

import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.pickle_allowlist import TRAINER, Items, Opaque
from lora_cli.adapter.pickle_machine import HANDLERS, LONGEST_NUMBER, OPCODES, Truncated, opcodes, read_pickle
from lora_cli.errors import FormatError

PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=12,
)


def test_every_opcode_of_python_has_a_handler() -> None:
    assert HANDLERS.keys() == {opcode.name for opcode in OPCODES.values()} - {"STOP"}


@given(PLAIN, st.integers(0, 5))
def test_opcodes_arguments_and_positions_are_those_of_pickletools(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)

    ours = [(op.name, op.at) for op in opcodes(data)]

    theirs = list(pickletools.genops(data))
    assert ours == [(op.name, at) for op, _, at in theirs]
    for op, (_, arg, _) in zip(opcodes(data), theirs, strict=True):
        if not isinstance(op.arg, tuple | bool) and op.name not in {"STRING", "BINSTRING", "SHORT_BINSTRING"}:
            assert op.arg == arg or (op.arg != op.arg and arg != arg), op.name


def described(value: Any) -> Any:
    """What is read of a plain value: dictionaries as pairs, sets and bytes of old protocols as something opaque."""
    if isinstance(value, Items | dict):
        return {key: described(one) for key, one in (value.pairs if isinstance(value, Items) else value.items())}
    if isinstance(value, list | tuple):
        return type(value)(described(one) for one in value)
    return "opaque" if isinstance(value, Opaque | bytes | set) else value


@given(PLAIN, st.integers(0, 5))
def test_plain_values_are_read_as_python_reads_them(value: Any, protocol: int) -> None:
    def same(ours: Any, theirs: Any) -> bool:
        if isinstance(theirs, dict):
            return (
                isinstance(ours, dict) and ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
            )
        if isinstance(theirs, list | tuple):
            return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
        return bool(ours == theirs) or (ours != ours and theirs != theirs)

    data = pickle.dumps(value, protocol)
    read, end = read_pickle(data, TRAINER)

    assert end == len(data)
    assert same(described(read), described(pickle.loads(data)))


def test_shared_and_recursive_values_are_shared() -> None:
    loop: list[Any] = []
    loop.append(loop)
    read, _ = read_pickle(pickle.dumps(loop, 2), TRAINER)
    assert read[0] is read

    read, _ = read_pickle(pickle.dumps(OrderedDict(a=1, b=2), 4), TRAINER)
    assert read.pairs == [("a", 1), ("b", 2)]


@given(PLAIN, st.integers(0, 5), st.data())
def test_what_is_cut_off_asks_for_more(value: Any, protocol: int, data: st.DataObject) -> None:
    whole = pickle.dumps(value, protocol)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Truncated):
        list(opcodes(whole[:cut]))


@pytest.mark.parametrize(
    "data",
    [
        b"\x8b" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20) + b".",
        b"\x8b\xff\xff\xff\xff.",
        b"L" + b"9" * 5000 + b"L\n.",
        b"I" + b"1" * 5000 + b"\n.",
        b"I" + b"1_000" + b"\xff\n.",
        b"Fnot a number\n.",
        b"g-1\n.",
        b"p-1\n.",
        b"\x80\x06.",
        b"T\xff\xff\xff\xff.",
        b"S'unclosed\n.",
        b"Sx\n.",
        b"S'\\x'\n.",
        b"V\\uZZZZ\n.",
        b"X\x01\x00\x00\x00\xff.",
        b"c\xff\n\xff\n.",
        b"\xff.",
        b"K\x01K\x02.",
        b".",
        b"(.",
        b"0.",
        b"1.",
        b"t.",
        b"2.",
        b"h\x00.",
        b"\x94.",
        b"(K\x01d.",
        b"K\x01Q.",
        b"}(K\x01u.",
        b"NNR.",
    ],
)
def test_what_is_malformed_is_one_error_with_its_byte(data: bytes) -> None:
    with pytest.raises(FormatError, match="byte "):
        read_pickle(data, TRAINER)


def test_a_number_may_be_as_long_as_a_random_state_has_them() -> None:
    assert read_pickle(pickle.dumps(1 << (8 * LONGEST_NUMBER - 10), 2), TRAINER)[0] == 1 << (8 * LONGEST_NUMBER - 10)
