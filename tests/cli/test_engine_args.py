"""``lora-cli inspect --engine-args``: as an operator pastes it, as a CI job reads it, and with wrong input."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Run
from tests.hub_server import Hub
from tests.making import base_config, llama_modules, write_adapter, write_base_config

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Path:
    """A base that is a folder, and adapters on it: two small ones, and one of a high rank on all of its modules."""
    write_base_config(tmp_path / "base", torch_dtype="bfloat16")
    write_adapter(tmp_path / "tone", modules=llama_modules(("q_proj", "v_proj")), r=4)
    write_adapter(tmp_path / "support", modules=llama_modules(ATTENTION), r=12)
    write_adapter(tmp_path / "sql", modules=llama_modules(), r=40)
    return tmp_path


def set_of(*names: str, engine: str = "", pinned: str = "", source: str = "./") -> None:
    entries = [
        f"  - {{name: {name}, source: {source}{name}, keep_loaded: {str(name == pinned).lower()}}}\n" for name in names
    ]
    head = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n{engine}"
    Path("set.yaml").write_text(f"{head}adapters:\n{''.join(entries)}")


def args(run: Run, line: str, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = run(f"inspect {line} --format json", code).document["engine_args"]
    return document


def test_a_manifest_is_served_by_the_smallest_flags_which_a_shell_runs_as_they_are_shown(here: Path, run: Run) -> None:
    set_of("tone", "support")
    found = args(run, "-f set.yaml --engine-args vllm")
    assert found["flags"] == [
        *("--enable-lora", "--max-lora-rank", "16", "--max-loras", "2", "--max-cpu-loras", "2"),
        *("--lora-target-modules", "q_proj", "v_proj", "k_proj", "o_proj"),
        *("--lora-modules", f"tone={here}/tone", f"support={here}/support"),
    ]
    # q, k, v and o of two layers 64 wide, with two key heads of 16: (128 + 96 + 96 + 128) · 2 · 16 · 2 bytes
    assert found["slot_bytes"] == 28_672
    shown = run("inspect -f set.yaml --engine-args vllm").out
    Path("bin").mkdir()
    Path("bin/vllm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    Path("bin/vllm").chmod(0o755)
    path = f"{here}/bin{os.pathsep}{os.environ['PATH']}"
    for command in (shown, found["command"]):
        ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env={"PATH": path})
        assert ran.stdout.splitlines() == ["serve", f"{here}/base", *found["flags"]]


def test_sglang_has_a_slot_for_the_base_and_is_told_who_is_pinned(here: Path, run: Run) -> None:
    set_of("tone", "support", pinned="tone")
    assert args(run, "-f set.yaml --engine-args sglang")["flags"] == [
        *("--enable-lora", "--max-lora-rank", "12", "--max-loras-per-batch", "3", "--max-loaded-loras", "3"),
        *("--lora-target-modules", "q_proj", "v_proj", "k_proj", "o_proj"),
        *("--lora-strict-loading", "--lora-paths"),
        json.dumps({"lora_name": "tone", "lora_path": f"{here}/tone", "pinned": True}),
        f"support={here}/support",
    ]
    set_of("tone", engine="engine: {name: sglang, max_loras: 1}\n", pinned="tone")
    told = "1 slots are too few: 1 adapters are to be kept loaded, and requests to the base use one slot"
    assert told in run("inspect -f set.yaml --engine-args sglang", 2).err


def test_the_manifests_engine_bounds_it(run: Run) -> None:
    engine = 'engine: {name: vllm, version: "0.32", max_lora_rank: 8, max_loras: 1, max_cpu_loras: 2}\n'
    set_of("tone", "support", engine=engine)
    found = args(run, "-f set.yaml --engine-args vllm")
    assert (found["version"], found["max_loras"], found["max_cpu_loras"]) == ("0.32", 1, 2)
    assert found["note"] == "the manifest's max_lora_rank is 8, but 16 is needed"
    assert args(run, "-f set.yaml --engine-args sglang")["max_loras"] == 3


def test_c3_what_no_flag_serves_is_left_out_and_1_is_where_nothing_is_served(here: Path, run: Run) -> None:
    write_adapter(here / "dora", modules=llama_modules(("q_proj",)), config={"use_dora": True})
    write_adapter(here / "wide", modules=llama_modules(("q_proj",)), r=600)
    write_adapter(here / "odd", config={"target_modules": ["q_proj", "fc1"]})
    write_adapter(here / "torn")
    (here / "torn/adapter_model.safetensors").write_bytes(b"PK")
    set_of("tone", "dora", "wide", "torn")
    found = args(run, "-f set.yaml --engine-args vllm")
    reasons = {one["name"]: one["reason"] for one in found["left_out"]}
    assert "use_dora is true; vLLM 0.33 rejects it" in reasons["dora"]
    assert "the rank is 600 (r), but --max-lora-rank is 512" in reasons["wide"]
    assert reasons["torn"].startswith("LC102 ")
    assert (found["served"], found["flags"][-1]) == (["tone"], f"tone={here}/tone")
    found = args(run, "./wide --engine-args vllm", 1)
    assert (found["flags"], found["max_lora_rank"], found["max_loras"], found["slot_bytes"]) == ([], 0, 0, 0)
    found = args(run, "./tone ./gone --engine-args vllm", 3)
    assert (found["served"], [one["exit_code"] for one in found["left_out"]]) == (["./tone"], [3])
    (left,) = args(run, "./odd --engine-args sglang", 1)["left_out"]
    assert left["reason"] == "--lora-target-modules does not accept fc1"


def test_c3_what_is_served_otherwise_than_trained_is_left_out_and_told(here: Path, run: Run) -> None:
    write_adapter(here / "rs", modules=llama_modules(("q_proj", "v_proj")), r=64, config={"use_rslora": True})
    set_of("tone")
    alone = args(run, "-f set.yaml --engine-args sglang")
    set_of("tone", "rs")
    found = args(run, "-f set.yaml --engine-args sglang")
    assert ([one["name"] for one in found["left_out"]], found["served"]) == (["rs"], ["tone"])
    assert (found["slot_bytes"], found["flags"]) == (alone["slot_bytes"], alone["flags"])
    assert " for 1 of 2 adapters " in run("inspect -f set.yaml --engine-args sglang").text
    assert "--enable-lora" not in run("inspect ./rs --engine-args sglang", 1).out


def test_an_adapter_of_the_hub_is_named_once_it_is_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    set_of("tone", source="hf://acme/")
    with Hub() as hub:
        hub.add("acme/tone", Path("tone"))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        said = run("inspect -f set.yaml --engine-args vllm").text
        assert "not cached tone: lora-cli fetch -f downloads them, or with --publish DIR for vLLM's resolver" in said
        snapshot = run("fetch -f set.yaml").out.strip()
        assert args(run, "-f set.yaml --engine-args vllm")["flags"][-1] == f"tone={snapshot}"
        hub.add("acme/base", {"sub/config.json": base_config()})
        assert "acme/base" not in args(run, "./tone --base hf://acme/base/sub --engine-args vllm")["command"]


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("vlm", "unknown engine 'vlm'"),
        ("vllm@x", "is not a version of vLLM"),
        ("peft", "the flags of PEFT are unknown"),
    ],
)
def test_a_wrong_engine_ends_with_2(engine: str, said: str, run: Run) -> None:
    assert said in run(f"inspect ./tone --engine-args {engine}", 2).err


def test_to_a_pipe_the_command_alone_is_written_and_what_it_costs_to_standard_error(run: Run) -> None:
    out, err = run("inspect ./sql --engine-args vllm")
    assert out.startswith('  vllm serve "$MODEL" \\\n    --enable-lora \\\n')
    assert err.startswith("vLLM 0.33 for 1 adapter\n\n  slot ")
    assert run("inspect ./sql --engine-args vllm -q") == (out, "")
