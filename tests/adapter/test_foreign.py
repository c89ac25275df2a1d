"""What is no LoRA adapter of PEFT is known for what it is: made by the real libraries where they run."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft.utils import PeftType

from lora_cli.adapter.adapter import FORMATS, METHODS, STAND_INS, dialects
from lora_cli.judging.inspection import inspection_of
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import (
    Q_PROJ,
    Raw,
    llama_tensors,
    lora_tensors,
    raw,
    write_adapter,
    write_base_config,
    write_safetensors,
)


def judged(directory: Path) -> Result:
    checked = judge_one(Request("", str(directory)), Terms(), Settings(cache_dir=directory / "cache"))
    assert checked.error is None
    return checked


def errors(checked: Result) -> list[str]:
    return [found.code for found in checked.findings if str(found.severity) == "error"]


def known_as(checked: Result) -> str:
    assert checked.adapter is not None
    return checked.adapter.foreign.format.title if checked.adapter.foreign is not None else ""


def holding(file: str, names: Iterable[str]) -> Callable[[Path], object]:
    """Writes a file with tensors of these names."""
    tensors: dict[str, Raw] = {name: raw(np.ones((4, 4))) for name in names}
    return lambda directory: write_safetensors(directory / file, tensors)


def mlx(directory: Path) -> None:
    holding("adapters.safetensors", [f"{Q_PROJ}.lora_a", f"{Q_PROJ}.lora_b"])(directory)
    config = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0}}
    (directory / "adapter_config.json").write_text(json.dumps(config))


def gguf_adapter(directory: Path) -> None:
    writer = gguf.GGUFWriter(directory / "adapter.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def merged(directory: Path) -> None:
    write_base_config(directory)
    write_safetensors(directory / "model.safetensors", llama_tensors())


def merged_under_our_name(directory: Path) -> None:
    write_adapter(directory)
    write_safetensors(directory / "adapter_model.safetensors", llama_tensors())


def without_weights(file: str, data: bytes = b"") -> Callable[[Path], object]:
    """Writes an adapter with this file in place of its weights."""

    def write(directory: Path) -> None:
        (write_adapter(directory) / "adapter_model.safetensors").unlink()
        (directory / file).write_bytes(data)

    return write


kohya = holding("style.safetensors", [f"lora_unet_down_blocks_0.lora_{name}.weight" for name in ("down", "up")])
UNET = lora_tensors({"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (64, 64)}, prefix="")
FLUX = lora_tensors({"transformer.single_transformer_blocks.0.attn.to_q": (64, 64)}, prefix="")
DIFFUSERS = "a diffusers LoRA for images"
FOREIGN: list[tuple[Callable[[Path], object], str]] = [
    (mlx, "an MLX LoRA"),
    (gguf_adapter, "a GGUF model for llama.cpp"),
    (kohya, "a Kohya LoRA for images"),
    (holding("flux.safetensors", UNET), DIFFUSERS),
    (holding("adapter_model.safetensors", FLUX), DIFFUSERS),
    (merged, "a full model"),
    (lambda directory: torch.save({"a": torch.ones(2)}, directory / "pytorch_model.bin"), "a full model"),
    (merged_under_our_name, "a full model"),
    (without_weights("adapter_model-00001-of-00002.safetensors"), "a PEFT adapter in shards"),
    (without_weights("adapter_model-00001-of-00002.bin"), "a PEFT adapter in shards"),
    (without_weights("adapter_model.tensors", b"|TZR|\x03\0\0\0"), "an adapter in vLLM's tensorizer format"),
]


@pytest.mark.parametrize(("make", "name"), FOREIGN)
def test_another_format_is_known_by_name_and_is_the_one_error(
    make: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    make(tmp_path)
    assert known_as(checked := judged(tmp_path)) == name
    assert errors(checked) == ["LC104" if "shards" in name else "LC109"]
    assert checked.adapter is not None
    assert name in inspection_of(checked.adapter).format


STOOD_IN = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a git-lfs pointer"),
    (b"# xet version 0\nfilesize = 12345\nhash = 'abc'\n", "a Xet pointer"),
    (b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Sign in</title></html>", "a web page"),
]


@pytest.mark.parametrize(("data", "name"), STOOD_IN)
@pytest.mark.parametrize("path", ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"])
def test_what_was_put_in_the_place_of_a_file_is_named(data: bytes, name: str, path: str, tmp_path: Path) -> None:
    without_weights(path, data)(tmp_path)
    checked = judged(tmp_path)
    assert "LC107" in errors(checked) if path == "adapter_config.json" else errors(checked) == ["LC102"]
    assert any(f"is {name}, not the file itself" in found.problem.message for found in checked.findings)


def test_the_tables_have_what_peft_has_and_what_is_made_here() -> None:
    assert {one.value for one in PeftType} - {"LORA"} == METHODS
    assert {name for _, name in FOREIGN} == {one.title for one in FORMATS}
    assert {name for _, name in STOOD_IN} == {one.title for one in STAND_INS}


def test_an_adapter_beside_other_formats_is_judged_as_one(tmp_path: Path) -> None:
    for make in (mlx, kohya, merged, write_adapter):
        make(tmp_path)
    assert (known_as(judged(tmp_path)), errors(judged(tmp_path))) == ("", [])


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"peft_type": "IA3"}, "an adapter of IA3"),
        ({"peft_type": "LORRA"}, ""),
        ({"fine_tune_type": "lora", "num_layers": 4}, "an MLX LoRA"),
        ({"rank": 4, "revision": "main"}, "another program's config"),
        ({"base_model_name_or_path": "acme/base"}, ""),
        ({"r": 8, "misspelt": 1}, ""),
        ({}, ""),
    ],
)
def test_a_config_that_is_no_loras_is_one_error(config: dict[str, object], name: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert known_as(checked := judged(tmp_path)) == name
    assert not name or errors(checked) == ["LC201"]


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


def test_the_dialect_of_a_name_is_known() -> None:
    assert {name: dialects([name]) for name in NAMED} == NAMED
