"""``warm --endpoint --send-tensors``: adapters for an SGLang that shares no file system with this machine."""

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from lora_cli.cli.main import main
from tests.endpoint.engine import Engine
from tests.endpoint.sets import NAMES, QUERIES, Warm, actions, write_set
from tests.making import write_adapter


def sglang(**flags: int) -> Engine:
    engine = Engine("sglang", version="0.5.23")
    engine.flags.update({"tp_size": 2, **flags})
    return engine


def test_tensors_are_sent_to_each_rank_with_their_checksums_and_kept(folder: Path, warm: Warm) -> None:
    entries = "  - {name: sql, source: ./sql, pinned: true}\n  - {name: chat, source: ./chat}\n"
    (folder / "set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries}")
    with sglang() as engine:
        code, document = warm(engine, "--send-tensors")
        assert (code, actions(document)) == (0, dict.fromkeys(NAMES, "loaded")), json.dumps(document)
        assert sorted(engine.said) == [("send", "chat"), ("send", "sql")]
        assert engine.pinned == {"sql"}
        tensors = load_file(folder / "sql" / "adapter_model.safetensors")
        assert engine.checksums["sql"] == {
            name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()
        }
        assert document["servers"][0]["note"] == ""
        code, document = warm(engine, "--send-tensors")
        assert (code, actions(document)) == (0, dict.fromkeys(NAMES, "kept"))
        assert "does not say which tensors" in document["servers"][0]["note"]


def test_what_is_sent_replaces_nothing(folder: Path, warm: Warm) -> None:
    with sglang() as engine:
        assert warm(engine)[0] == 0
        write_adapter(folder / "sql", modules=QUERIES, r=4, lora_alpha=20, seed=7)
        code, document = warm(engine, "--send-tensors", "--allow-unload")
        assert (code, actions(document)) == (1, {"sql": "failed", "chat": "kept"})
        assert "new name" in document["servers"][0]["adapters"][0]["error"]["hint"]


@pytest.mark.parametrize(
    ("flags", "code", "said"), [({"max_loaded_loras": 1}, 1, "evicts"), ({"tp_size": True}, 7, "")]
)
def test_what_cannot_be_sent_is_said(warm: Warm, flags: dict[str, int], code: int, said: str) -> None:
    with sglang(**flags) as engine:
        if not said:
            del engine.flags["tp_size"]
        ended, document = warm(engine, "--send-tensors")
        failed = [one["error"]["message"] for one in document["servers"][0]["adapters"] if one["error"]]
        assert (ended, len(failed)) == (code, 1 if said else 2)
        assert (said or "tp_size") in failed[0]


def test_a_request_has_a_largest_size(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.endpoint.servers.LARGEST_SENT", 1000)
    with sglang() as engine:
        code, document = warm(engine, "--send-tensors")
        assert (code, engine.said) == (1, [])
        assert "too large" in document["servers"][0]["adapters"][0]["error"]["message"]


def test_only_sglang_takes_tensors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(folder, *NAMES)
    words = ["warm", "-f", str(folder / "set.yaml"), "--send-tensors"]
    assert main([*words, "--endpoint", "http://127.0.0.1:1", "--engine", "vllm"]) == 2
    assert "is for SGLang" in capsys.readouterr().err
    assert main(words) == 2
    assert "--send-tensors is for --endpoint" in capsys.readouterr().err
