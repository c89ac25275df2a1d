"""``lora-cli inspect --engine-args``: as an operator pastes it, as a CI job reads it, and with wrong input."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config

Captured = pytest.CaptureFixture[str]
WEIGHTS = "adapter_model.safetensors"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SET = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base that is a folder, and adapters on it: two small ones, and one of a high rank on all of its modules."""
    write_base_config(tmp_path / "base", torch_dtype="bfloat16")
    write_adapter(tmp_path / "tone", modules=llama_modules(("q_proj", "v_proj")), r=4)
    write_adapter(tmp_path / "support", modules=llama_modules(ATTENTION), r=12)
    write_adapter(tmp_path / "sql", modules=llama_modules(), r=40)
    return tmp_path


def manifest(folder: Path, *names: str, engine: str = "", pinned: tuple[str, ...] = ()) -> str:
    entries = [f"  - {{name: {name}, source: ./{name}, pinned: {str(name in pinned).lower()}}}\n" for name in names]
    (folder / "set.yaml").write_text(SET + engine + "adapters:\n" + "".join(entries))
    return str(folder / "set.yaml")


def asked(capsys: Captured, *argv: str, code: int = 0) -> dict[str, Any]:
    assert main(["inspect", *argv, "--format", "json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)["engine_args"]
    return document


def test_a_manifest_is_served_by_the_smallest_flags(folder: Path, capsys: Captured) -> None:
    found = asked(capsys, "-f", manifest(folder, "tone", "support"), "--engine-args", "vllm")

    assert found["flags"] == [
        *("--enable-lora", "--max-lora-rank", "16", "--max-loras", "2", "--max-cpu-loras", "2"),
        *("--lora-target-modules", "q_proj", "v_proj", "k_proj", "o_proj"),
        *("--lora-modules", f"tone={folder}/tone", f"support={folder}/support"),
    ]
    # q, k, v and o of two layers 64 wide, with two key heads of 16: (128 + 96 + 96 + 128) · 2 · 16 · 2 bytes
    assert found["slot_bytes"] == 28_672


def test_what_people_are_shown_is_what_a_shell_runs(folder: Path, capsys: Captured) -> None:
    file = manifest(folder, "tone", "sql")
    found = asked(capsys, "-f", file, "--engine-args", "vllm")
    assert main(["inspect", "-f", file, "--engine-args", "vllm"]) == 0
    shown = capsys.readouterr().out

    fake = folder / "bin" / "vllm"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    for command in (shown, found["command"]):
        ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env={"PATH": path})
        assert ran.stdout.splitlines() == ["serve", str(folder / "base"), *found["flags"]]


def test_sglang_has_a_slot_for_the_base_and_is_told_who_is_pinned(folder: Path, capsys: Captured) -> None:
    file = manifest(folder, "tone", "support", pinned=("tone",))
    found = asked(capsys, "-f", file, "--engine-args", "sglang")

    assert found["flags"] == [
        *("--enable-lora", "--max-lora-rank", "12", "--max-loras-per-batch", "3", "--max-loaded-loras", "3"),
        *("--lora-target-modules", "q_proj", "v_proj", "k_proj", "o_proj"),
        "--lora-strict-loading",
        "--lora-paths",
        json.dumps({"lora_name": "tone", "lora_path": f"{folder}/tone", "pinned": True}),
        f"support={folder}/support",
    ]
    file = manifest(folder, "tone", engine="engine: {name: sglang, max_loras: 1}\n", pinned=("tone",))
    assert main(["inspect", "-f", file, "--engine-args", "sglang"]) == 2
    told = "1 slots are too few: 1 adapters are pinned, and requests to the base use one slot"
    assert told in capsys.readouterr().err


def test_the_manifests_engine_bounds_it(folder: Path, capsys: Captured) -> None:
    engine = 'engine: {name: vllm, version: "0.32", max_lora_rank: 8, max_loras: 1, max_cpu_loras: 2}\n'
    file = manifest(folder, "tone", "support", engine=engine)
    found = asked(capsys, "-f", file, "--engine-args", "vllm")

    assert (found["version"], found["max_loras"], found["max_cpu_loras"]) == ("0.32", 1, 2)
    assert found["note"] == "the manifest's max_lora_rank is 8, but 16 is needed"
    other = asked(capsys, "-f", file, "--engine-args", "sglang")
    assert other["max_loras"] == 3


def test_what_no_flag_serves_is_left_out_and_1_is_where_nothing_is_served(folder: Path, capsys: Captured) -> None:
    write_adapter(folder / "dora", modules=llama_modules(("q_proj",)), config={"use_dora": True})
    write_adapter(folder / "wide", modules=llama_modules(("q_proj",)), r=600)
    write_adapter(folder / "torn")
    odd = write_adapter(folder / "odd", modules={"model.layers.0.self_attn.q_proj": (64, 64)},
                        config={"target_modules": ["q_proj", "fc1"]})  # fmt: skip
    gpt2 = write_base_config(folder / "gpt2", "gpt2")
    conv = write_adapter(folder / "conv", modules={"transformer.h.0.attn.c_attn": (64, 192)})
    (folder / "torn" / "adapter_model.safetensors").write_bytes(b"PK")
    found = asked(capsys, "-f", manifest(folder, "tone", "dora", "wide", "torn"), "--engine-args", "vllm")

    reasons = {one["name"]: one["reason"] for one in found["left_out"]}
    assert "use_dora is true; vLLM 0.33 rejects it" in reasons["dora"]
    assert "the rank is 600 (r), but --max-lora-rank is 512" in reasons["wide"]
    assert reasons["torn"].startswith("LC102 ")
    assert found["served"] == ["tone"]
    assert asked(capsys, str(folder / "wide"), "--engine-args", "vllm", code=1)["flags"] == []
    found = asked(capsys, str(folder / "tone"), str(folder / "gone"), "--engine-args", "vllm", code=3)
    assert (found["served"], [one["exit_code"] for one in found["left_out"]]) == ([str(folder / "tone")], [3])
    found = asked(capsys, str(odd), "--engine-args", "sglang", code=1)
    assert found["left_out"][0]["reason"] == "--lora-target-modules does not accept fc1"
    found = asked(capsys, str(conv), "--base", str(gpt2), "--engine-args", "vllm", code=1)
    assert "of which it has no class with LoRA" in found["left_out"][0]["reason"]


def test_what_is_served_otherwise_than_trained_is_told(folder: Path, capsys: Captured) -> None:
    write_adapter(folder / "rs", modules=llama_modules(("q_proj", "v_proj")), r=64, config={"use_rslora": True})
    alone = asked(capsys, "-f", manifest(folder, "tone"), "--engine-args", "sglang")
    found = asked(capsys, "-f", manifest(folder, "tone", "rs"), "--engine-args", "sglang")

    assert [one["name"] for one in found["served_wrong"]] == ["rs"]
    assert found["served"] == ["tone"]
    assert found["slot_bytes"] == alone["slot_bytes"]
    assert found["flags"][found["flags"].index("--lora-paths") + 1 :] == [f"tone={folder}/tone"]
    assert main(["inspect", "-f", manifest(folder, "rs"), "--engine-args", "sglang"]) == 1
    assert "--enable-lora" not in capsys.readouterr().out
    assert main(["inspect", "-f", manifest(folder, "tone", "rs"), "--engine-args", "sglang"]) == 0
    assert " for 1 of 2 adapters " in " ".join("".join(capsys.readouterr()).split())


def test_experts_and_their_routers_count(tmp_path: Path, capsys: Captured) -> None:
    base = write_base_config(tmp_path / "base", "mixtral")
    modules = {f"model.layers.{n}.block_sparse_moe.experts.{e}.{w}": shape for n in range(2) for e in range(4)
               for w, shape in {"w1": (64, 128), "w3": (64, 128), "w2": (128, 64)}.items()}  # fmt: skip
    adapter = write_adapter(tmp_path / "a", modules=modules, r=8)
    found = asked(capsys, str(adapter), "--base", str(base), "--engine-args", "vllm@0.33")

    assert found["lora_target_modules"] == ["experts"]
    assert found["slot_bytes"] == 2 * 4 * (192 + 192 + 192) * 8 * 2


def test_an_adapter_of_the_hub_is_named_once_it_is_here(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_base_config(tmp_path / "base")
    folder = write_adapter(tmp_path / "sql", modules=llama_modules(("q_proj", "v_proj")))
    file = tmp_path / "set.yaml"
    file.write_text(SET + "adapters:\n  - {name: sql, source: hf://acme/sql}\n")
    with Hub() as hub:
        hub.add("acme/sql", {path.name: path.read_bytes() for path in folder.iterdir()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        cache = ["--cache-dir", str(tmp_path / "cache")]
        assert main([*cache, "inspect", "-f", str(file), "--engine-args", "vllm"]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert "not cached sql: lora-cli fetch -f downloads them, or with --publish DIR for vLLM's resolver" in said
        assert main([*cache, "fetch", "-f", str(file)]) == 0
        capsys.readouterr()
        found = asked(capsys, *cache, "-f", str(file), "--engine-args", "vllm")

    (snapshot,) = (tmp_path / "cache" / "snapshots" / "sha256").glob("*/adapter_model.safetensors")
    assert found["flags"][-1] == f"sql={snapshot.parent}"
    assert snapshot.read_bytes() == (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--engine-args", "vlm"], "unknown engine 'vlm'"),
        (["--engine-args", "vllm@x"], "is not a version of vLLM"),
        (["--engine-args", "peft"], "the flags of PEFT are unknown"),
    ],
)
def test_a_wrong_command_line_ends_with_2(argv: list[str], said: str, folder: Path, capsys: Captured) -> None:
    assert main(["inspect", str(folder / "tone"), *argv]) == 2
    assert said in capsys.readouterr().err
