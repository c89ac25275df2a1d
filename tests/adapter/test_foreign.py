"""What is no LoRA adapter of PEFT is known for what it is: made by the real libraries where they run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from peft.utils import PeftType

from lora_cli.adapter.formats import FORMATS, STAND_INS, dialects
from lora_cli.judging.inspection import inspection_of
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.adapter.foreign_files import FOREIGN, kohya, merged, mlx, sharded, sharded_pickle
from tests.making import write_adapter


def judged(directory: Path) -> Result:
    checked = judge_one(Request("", str(directory)), Terms(), Settings(cache_dir=directory / "cache"))
    assert checked.error is None
    return checked


def errors(checked: Result) -> list[str]:
    assert checked.error is None
    return [found.code for found in checked.findings if str(found.severity) == "error"]


def known_as(checked: Result) -> str:
    assert checked.adapter is not None
    return checked.adapter.foreign.format.title if checked.adapter.foreign is not None else ""


@pytest.mark.parametrize("method", ["IA3", "LOHA"])
def test_another_method_of_peft_is_one_error(method: str, tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": method}))
    assert known_as(checked := judged(tmp_path)) == f"an adapter of {method}"
    assert errors(checked) == ["LC201"]


def test_every_method_that_peft_has_stands_in_the_table() -> None:
    assert {one.value for one in PeftType} - {"LORA"} == METHODS


@pytest.mark.parametrize(("make", "name"), FOREIGN.values(), ids=FOREIGN)
def test_another_format_is_known_by_name_and_is_the_one_error(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    make(tmp_path)

    checked = judged(tmp_path)

    assert known_as(checked) == name
    assert errors(checked) == ["LC104" if make in {sharded, sharded_pickle} else "LC109"]
    assert checked.adapter is not None
    assert name in inspection_of(checked.adapter).format


def test_every_format_in_the_table_is_made_by_a_test() -> None:
    assert {name for _, name in FOREIGN.values()} == {one.title for one in FORMATS}
    assert {name for _, name in STOOD_IN} == {one.title for one in STAND_INS}


STOOD_IN = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a git-lfs pointer"),
    (b"# xet version 0\nfilesize = 12345\nhash = 'abc'\n", "a Xet pointer"),
    (b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Sign in</title></html>", "a web page"),
]


@pytest.mark.parametrize(("data", "name"), STOOD_IN)
@pytest.mark.parametrize("path", ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"])
def test_what_was_put_in_the_place_of_a_file_is_named(data: bytes, name: str, path: str, tmp_path: Path) -> None:
    write_adapter(tmp_path)
    if path == "adapter_model.bin":
        (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / path).write_bytes(data)

    checked = judged(tmp_path)

    assert errors(checked) == ["LC107" if path == "adapter_config.json" else "LC102"]
    assert checked.error is None
    assert f"is {name}, not the file itself" in checked.findings[0].problem.message
    assert checked.findings[0].problem.hint


def test_an_adapter_beside_other_formats_is_judged_as_one(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    for make in (mlx, kohya, merged):
        make(tmp_path)
    write_adapter(tmp_path)

    assert known_as(judged(tmp_path)) == ""
    assert errors(judged(tmp_path)) == []


def test_a_lora_of_gpt2_without_a_prefix_is_not_taken_for_images(tmp_path: Path) -> None:
    write_adapter(tmp_path, modules={"transformer.h.0.attn.c_attn": (64, 192)}, prefix="")
    assert known_as(judged(tmp_path)) == ""
    assert "LC303" in errors(judged(tmp_path))


Q = "base_model.model.model.layers.0.self_attn"
NAMED = {
    f"{Q}.q_proj.lora_A.weight": (),
    f"{Q}.qkv_proj.lora_A.weight": ("fused projections",),
    f"{Q}.experts.0.up_proj.lora_A.weight": ("one module for each expert",),
    f"{Q}.experts.base_layer.lora_A.weight": ("fused experts",),
    f"{Q}._orig_mod.q_proj.lora_A.weight": ("names of torch.compile",),
    f"_fsdp_wrapped_module.{Q}.q_proj.lora_A.weight": ("names of FSDP",),
    f"{Q}.q_proj.lora_A.default.weight": ("the adapter's name in tensor names",),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_dialect_of_a_name_is_known(name: str) -> None:
    assert dialects([name]) == NAMED[name]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"fine_tune_type": "lora", "num_layers": 4}, "an MLX LoRA"),
        ({"base_model_name_or_path": "acme/base"}, ""),
        ({"r": 8, "misspelt": 1}, ""),
        ({}, ""),
    ],
)
def test_a_config_of_mlx_is_one_error(config: dict[str, object], name: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))

    checked = judged(tmp_path)

    assert known_as(checked) == name
    if name:
        assert errors(checked) == ["LC201"]
