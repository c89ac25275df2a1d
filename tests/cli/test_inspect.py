"""``lora-cli inspect``: what an adapter is, wherever it is: within kilobytes, whatever is inside."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Run
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
WEIGHTS = 21_000_000


def test_it_says_what_the_adapter_is(tmp_path: Path, run: Run) -> None:
    config = {"rank_pattern": {"k_proj": 2}, "peft_version": "0.21.2"}
    modules = {Q: (64, 64), K: (64, 32)}
    write_adapter(tmp_path / "sql", config=config, modules=modules, ranks={K: 2}, dtype="bfloat16")
    said = dict(re.findall(r"^  (\S+) +(.+(?:\n {8}.+)*)", run("inspect ./sql").out, re.MULTILINE))
    told = {
        "format": "PEFT LoRA, safetensors",
        "base": "tiny/base at 5f0b02c75b57c5855da9ae460ce51323ea669d8a",
        "rank": "4 (1 module), 2 (1 module)",
        "scaling": "2 (1 module), 4 (1 module)",
        "targets": "k_proj, q_proj (2 modules)",
        "layers": "0-1 (2)",
        "dtype": "BF16",
        "parameters": "704",
        "features": "rank_pattern",
        "PEFT": "0.21.2",
    }
    assert {name: " ".join(said.get(name, "").split()) for name in told} == told


def test_a_manifest_is_inspected_by_name_with_its_base(tmp_path: Path, run: Run) -> None:
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "sql", modules=llama_modules())
    entries = "[{name: sql, source: ./sql}, {name: gone, source: ./gone}]"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters: {entries}\n")
    first, second, summary = run("inspect -f set.yaml", 3).out.split("\n\n")
    assert first.startswith("sql\n  source ")
    assert "applies     14/14 modules" in first
    assert second.startswith("gone: not read\n  there is no folder")
    assert summary == "2 adapters: 1 read, 1 not read\n"


@pytest.fixture
def compared(tmp_path: Path) -> None:
    """``sql``, ``other`` and ``broken``, whose weights are none."""
    write_adapter(tmp_path / "sql", modules={**llama_modules(), "lm_head": (64, 256)}, dtype="bfloat16")
    write_adapter(tmp_path / "other", modules=llama_modules(), lora_alpha=16)
    (write_adapter(tmp_path / "broken", lora_alpha=16) / "adapter_model.safetensors").write_bytes(b"PK")


def diff(run: Run, line: str, code: int = 0) -> Any:
    return run(f"inspect {line} --format json", code).document["adapters"][0]["diff"]


def test_a_diff_says_what_the_other_is(compared: None, tmp_path: Path, run: Run) -> None:
    found = diff(run, "./sql --diff ./other")
    assert found["source"] == f"file://{tmp_path}/other"
    assert [change["name"] for change in found["fields"]] == ["target_modules", "lora_alpha"]
    assert found["fields"][1] == {"name": "lora_alpha", "a": 8, "b": 16}
    tensor = f"base_model.model.{Q}.lora_A.weight"
    assert found["tensors"][0] == {"name": tensor, "a": "BF16 [4, 64]", "b": "F32 [4, 64]"}
    assert [change["b"] for change in found["tensors"] if "lm_head" in change["name"]] == [None, None]
    out = run("inspect ./sql --diff ./other").out
    assert " 8 -> 16\n" in out
    assert re.search(r"layers\.\*\S+  BF16 \[4, 64\]   F32 \[4, 64\] +2\n", out)
    Path("other").rename(write_adapter(tmp_path / "run/checkpoint-1").with_name("checkpoint-9"))
    assert diff(run, "./sql --diff run/checkpoint-latest")["source"] == f"file://{tmp_path}/run/checkpoint-9"
    found = diff(run, "./broken --diff ./sql", 1)
    assert ([change["name"] for change in found["fields"]], found["tensors"]) == (
        ["target_modules", "lora_alpha"],
        None,
    )


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("./sql ./other --diff ./sql", 2, "--diff compares one adapter with another"),
        ("./sql --diff ./gone", 3, "there is no folder"),
        ("./sql --diff=", 2, ""),
        ("./sql --diff ./broken", 1, "adapter_model.safetensors"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_so(
    line: str, code: int, said: str, compared: None, run: Run
) -> None:
    err = run(f"inspect {line}", code).err
    assert (said in err, "Traceback" in err) == (True, False)


def test_21_mb_elsewhere_are_known_within_200_kb(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of the files beside it."""
    r = 21_000_000 // (4 * 14 * (64 + 64)) // 8 * 8
    folder = write_adapter(tmp_path / "large", modules=dict.fromkeys(llama_modules(), (64, 64)), r=r)
    (folder / "README.md").write_text("more text\n" * 100_000)
    with Hub() as hub:
        hub.add("acme/large", folder)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        (one,) = run("inspect acme/large --format json").document["adapters"]
    assert one["inspection"]["weight_bytes"] > 18_000_000
    ranges = [asked.range for asked in hub.requests if asked.origin == "cdn" or "README" in asked.target]
    read = [int(last) - int(first) + 1 for first, last in (one.removeprefix("bytes=").split("-") for one in ranges)]
    assert 0 < sum(read) < 200_000
