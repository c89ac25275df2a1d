"""The tensors that are sent to SGLang: their bytes, their checksums, and a pickle that names only what is torch's."""

import base64
import hashlib
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_cli.core.snapshot import Blob, Snapshot
from lora_cli.errors import Corrupt, Refused
from lora_cli.runtime.sent_tensors import sent_adapter
from tests.making import llama_modules, write_adapter

WEIGHTS = "adapter_model.safetensors"

TAKEN = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch.storage _load_from_bytes",
}
"""Of the names that SGLang's ``SafeUnpickler`` takes (``srt/utils/common.py``, 0.5.23), those of a plain tensor."""


def snapshot(directory: Path) -> Snapshot:
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    return Snapshot(
        "", directory, {name: Blob(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "sql", modules=llama_modules(["q_proj"]), r=4)
    return tmp_path / "sql"


def test_the_pickle_has_the_tensors_and_names_nothing_but_torchs_own(directory: Path) -> None:
    sent = sent_adapter(snapshot(directory))
    strings: list[str] = []
    named = set()
    for code, argument, _ in pickletools.genops(sent.tensors):
        if code.name in {"GLOBAL", "INST"}:
            named.add(argument)
        elif code.name == "STACK_GLOBAL":
            named.add(" ".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    assert named <= TAKEN
    expected = load_file(directory / WEIGHTS)
    tensors = pickle.loads(sent.tensors)
    assert tensors.keys() == expected.keys() == sent.checksums.keys()
    for name, tensor in expected.items():
        assert np.array_equal(tensors[name].numpy(), tensor)
        assert sent.checksums[name] == hashlib.sha256(tensor.tobytes()).hexdigest()
    assert sent.config["r"] == 4
    assert sent.added_tokens is None
    assert base64.b64encode(sent.tensors).startswith(b"gA")  # what SGLang takes for a pickle


def test_a_file_that_was_changed_is_not_sent(directory: Path) -> None:
    known = snapshot(directory)
    data = bytearray((directory / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).write_bytes(data)
    with pytest.raises(Corrupt, match="was changed"):
        sent_adapter(known)


def test_only_safetensors_are_sent(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "adapter_model.bin")
    with pytest.raises(Refused, match=WEIGHTS):
        sent_adapter(snapshot(directory))


def test_added_tokens_are_sent(directory: Path) -> None:
    (directory / "added_tokens.json").write_text('{"<x>": 32000}')
    assert sent_adapter(snapshot(directory)).added_tokens == {"<x>": 32000}
