"""No pickle that runs something is taken for data: every gadget, however it is written."""

import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lora_cli.adapter.pickle_allowlist import TRAINER, WEIGHTS, Allowed
from lora_cli.adapter.pickle_machine import read_pickle
from lora_cli.errors import FormatError, UnsafePickle
from tests.adapter.gadgets import FORMS, GADGETS, live

LISTS = {"weights": WEIGHTS, "trainer": TRAINER}


def read_all(data: bytes, allowed: Allowed) -> None:
    at = 0
    while at < len(data):
        _, at = read_pickle(data, allowed, at)


@pytest.mark.parametrize("allowed", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_runs_something_is_refused_however_it_is_written(form: str, allowed: Allowed) -> None:
    for module, name in GADGETS:
        with pytest.raises(UnsafePickle) as caught:
            read_all(FORMS[form](module, name), allowed)
        reached = caught.value.global_name
        assert reached in {f"{module}.{name}", f"{module.replace('__builtin__', 'builtins')}.{name}"}, (module, name)
        assert caught.value.position >= 0
        assert caught.value.opcode in {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "NEWOBJ", "SETITEM", "OBJ"}


LOADS = """
import pathlib, pickle, sys
mark = pathlib.Path(sys.argv[1])
for line in sys.stdin.read().split():
    try:
        pickle.loads(bytes.fromhex(line))
    except Exception:
        pass
    print(mark.exists(), file=sys.stderr)
    mark.unlink(missing_ok=True)
"""
"""Loads each pickle, and says whether it left its mark."""


def test_the_live_gadgets_run_when_pickle_loads_them_and_are_refused_here(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    gadgets = dict(live(str(mark)))
    for name, data in gadgets.items():
        for allowed in LISTS.values():
            with pytest.raises(UnsafePickle):
                read_pickle(data, allowed)
        assert not mark.exists(), name

    del gadgets["dotted name"]  # It takes seconds to import transformers.
    wants = [sys.executable, "-c", LOADS, str(mark)]
    lines = "\n".join(data.hex() for data in gadgets.values()).encode()
    ran = subprocess.run(wants, input=lines, check=True, timeout=60, capture_output=True).stderr.decode().split()
    assert ran == ["True"] * len(gadgets), dict(zip(gadgets, ran, strict=False))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80\x02]cos\nsystem\n.", "os.system"),
        (b"\x80\x04\x82\x01.", "EXT1 is refused"),
        (b"\x80\x04\x83\x01\x00.", "EXT2 is refused"),
        (b"\x80\x04\x84\x01\x00\x00\x00.", "EXT4 is refused"),
        (b"Psomething\n.", "PERSID is refused"),
        (b"\x80\x05\x97.", "NEXT_BUFFER is refused"),
        (b"\x80\x02ccollections\nOrderedDict\n}\x85R.", "called with arguments"),
        (b"\x80\x02ctorch\nSize\nK\x02\x85R)R.", "calls a size"),
        (b"\x80\x02X\x01\x00\x00\x00aX\x01\x00\x00\x00b\x93.", "a.b"),
        (b"\x80\x02K\x01]s.", "stack empty"),
        (b"\x80\x02]ccollections\nOrderedDict\na.", "is not allowed in data"),
        (b"\x80\x02}K\x01ccollections\nOrderedDict\ns.", "is not allowed in data"),
        (b"\x80\x02ctorch\nSize\n\x85.", "is not allowed in data"),
        (b"\x80\x02}ctorch\nSize\nb.", "is not allowed in data"),
        (b"\x80\x02]K\x01b.", "sets the state of a list"),
        (b"\x80\x02X\x01\x00\x00\x00a}b.", "sets the state of a string"),
        (b"\x80\x02X\x01\x00\x00\x00aK\x01a.", "appends to a string"),
        (b"\x80\x02ctorch\nfloat32\n}b.", "sets the state of torch.float32"),
        (b"\x80\x02ctorch\nfloat32\n)\x81.", "torch.float32"),
        (b"\x80\x02ctorch\nfloat32\n)R.", "may not be called"),
        (b"\x80\x02]ctorch._utils\n_rebuild_tensor_v2\n)R.", "is not called as torch calls it"),
    ],
)
def test_what_is_no_data_is_refused_and_said(data: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says.replace(".", r"\.")):
        read_pickle(data, WEIGHTS)


def test_getattr_reaches_members_of_enumerations_and_nothing_else() -> None:
    enum = b"ctransformers.trainer_utils\nIntervalStrategy\n"
    getattr_of = b"\x80\x02cbuiltins\ngetattr\n" + enum

    def called(member: bytes) -> bytes:
        return getattr_of + b"X" + len(member).to_bytes(4, "little") + member + b"\x86R."

    assert read_pickle(called(b"STEPS"), TRAINER)
    for member in (b"__class__", b"_member_map_", b"a.b", b""):
        with pytest.raises(UnsafePickle, match="not a member"):
            read_pickle(called(member), TRAINER)
    with pytest.raises(UnsafePickle):
        read_pickle(called(b"STEPS"), WEIGHTS)
    with pytest.raises(UnsafePickle, match="a type that is not an enumeration"):
        read_pickle(pickle.dumps(getattr, 2)[:-1].replace(b"q\x00", b"") + b"K\x01K\x02\x86R.", TRAINER)


def test_a_hook_that_would_be_called_later_is_refused() -> None:
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    tensor = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02\x85K\x01\x85\x89%st R."
    empty, full = b"ccollections\nOrderedDict\n)R", b"ccollections\nOrderedDict\n)RK\x01K\x02s"

    assert read_pickle((tensor % empty).replace(b" ", b""), WEIGHTS)
    with pytest.raises(UnsafePickle, match="hooks"):
        read_pickle((tensor % full).replace(b" ", b""), WEIGHTS)


@pytest.mark.parametrize("factory", [b"ccollections\nOrderedDict\n", b"K\x07", b"cnumpy\nndarray\n"])
def test_a_defaultdict_makes_dictionaries_lists_and_numbers_only(factory: bytes) -> None:
    assert read_pickle(b"\x80\x02ccollections\ndefaultdict\ncbuiltins\ndict\n\x85R.", TRAINER)
    with pytest.raises(UnsafePickle, match=r"factory|is not allowed in data"):
        read_pickle(b"\x80\x02ccollections\ndefaultdict\n" + factory + b"\x85R.", TRAINER)


@dataclass
class Dtype:
    """A numpy dtype with a state of our own."""

    name: str
    state: tuple[object, ...]

    def __reduce__(self) -> tuple[object, ...]:
        return np.dtype, (self.name, False, True), self.state


OBJECT = Dtype("O8", (3, "|", None, None, None, -1, -1, 0))
"""Of an array with it numpy takes the bytes for pointers."""


@pytest.mark.parametrize(
    "dtype",
    [
        OBJECT,
        Dtype("V8", (3, "|", None, ("a",), {"a": (OBJECT, 0)}, 8, 1, 0)),
        Dtype("V8", (3, "|", (OBJECT, (1,)), None, None, 8, 1, 0)),
        Dtype("V8", (3, "|", None, None, None, 1 << 30, 1, 0)),
        Dtype("f8", (3, "<", None, None, None, 1, 1, 0)),
        Dtype("f8", (3, "<", None, None, None, -1, -1)),
    ],
)
def test_a_dtype_has_the_layout_of_its_name(dtype: Dtype) -> None:
    with pytest.raises(UnsafePickle, match="another layout"):
        read_pickle(pickle.dumps({"rng": dtype}, 4), TRAINER)


@pytest.mark.parametrize("name", ["?", "i1", ">u8", "f2", "c16", "S5", "S", "U", "U5", "V8", "m8", "M8", "O"])
def test_what_numpy_writes_is_read(name: str) -> None:
    for value in (np.zeros(3, name), np.dtype(name), np.zeros(3, name)[0]):
        for protocol in (2, 4, 5):
            assert read_pickle(pickle.dumps(value, protocol), TRAINER)
