"""What is no LoRA adapter of PEFT is known for what it is: made by the real libraries where they run."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import gguf
import numpy as np
import pytest
from peft.utils import PeftType

from lora_cli.adapter.reading import FORMATS, METHODS, STAND_INS
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import Q_PROJ, llama_tensors, lora_tensors, raw, write_adapter, write_safetensors

MLX_CONFIG = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0}}
UNET = lora_tensors({"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (64, 64)}, prefix="")
FLUX = lora_tensors({"transformer.single_transformer_blocks.0.attn.to_q": (64, 64)}, prefix="")


def judged(directory: Path) -> tuple[Result, str, list[str]]:
    """The result, the title of the format that it was known as, and the codes of its errors."""
    result = judge_one(Request("", str(directory)), Terms(Settings(cache_dir=directory / "cache")))
    assert result.error is None
    assert result.adapter is not None
    title = result.adapter.foreign.title if result.adapter.foreign is not None else ""
    return result, title, [one.code for one in result.findings if str(one.severity) == "error"]


def holding(file: str, names: Iterable[str]) -> Callable[[Path], object]:
    """Writes a file with tensors of these names."""
    return lambda folder: write_safetensors(folder / file, {name: raw(np.ones((4, 4))) for name in names})


def mlx(directory: Path) -> None:
    holding("adapters.safetensors", [f"{Q_PROJ}.lora_a", f"{Q_PROJ}.lora_b"])(directory)
    (directory / "adapter_config.json").write_text(json.dumps(MLX_CONFIG))


def gguf_adapter(directory: Path) -> None:
    writer = gguf.GGUFWriter(directory / "adapter.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def instead(file: str, data: bytes = b"") -> Callable[[Path], object]:
    """Writes an adapter with this file in place of its weights, or of its config."""

    def write(directory: Path) -> None:
        gone = "adapter_config.json" if file == "adapter_config.json" else "adapter_model.safetensors"
        (write_adapter(directory) / gone).unlink()
        (directory / file).write_bytes(data)

    return write


kohya = holding("style.safetensors", ["lora_unet_down_blocks_0.lora_down.weight"])
merged = holding("model.safetensors", llama_tensors())
FOREIGN: list[tuple[Callable[[Path], object], str]] = [
    (mlx, "an MLX LoRA"),
    (gguf_adapter, "a GGUF model for llama.cpp"),
    (kohya, "a Kohya LoRA for images"),
    (holding("flux.safetensors", UNET), "a diffusers LoRA for images"),
    (holding("adapter_model.safetensors", FLUX), "a diffusers LoRA for images"),
    (merged, "a full model"),
    (holding("adapter_model.safetensors", llama_tensors()), "a full model"),
    (instead("pytorch_model.bin"), "a full model"),
    (instead("adapter_model-00001-of-00002.bin"), "a PEFT adapter in shards"),
    (instead("adapter_model.tensors", b"|TZR|\x03\0\0\0"), "an adapter in vLLM's tensorizer format"),
]


@pytest.mark.parametrize(("make", "name"), FOREIGN)
def test_another_format_is_known_by_name_and_is_the_one_error(
    make: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    make(tmp_path)
    assert judged(tmp_path)[1:] == (name, ["LC109"])


STOOD_IN = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a git-lfs pointer"),
    (b"# xet version 0\nfilesize = 12345\nhash = 'abc'\n", "a Xet pointer"),
    (b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Sign in</title></html>", "a web page"),
]


@pytest.mark.parametrize(("data", "name"), STOOD_IN)
@pytest.mark.parametrize("path", ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"])
def test_what_was_put_in_the_place_of_a_file_is_named(data: bytes, name: str, path: str, tmp_path: Path) -> None:
    instead(path, data)(tmp_path)
    result, _, errors = judged(tmp_path)
    assert errors == ["LC107" if path == "adapter_config.json" else "LC102"]
    assert f"is {name}, not the file itself" in result.findings[0].problem.message


def test_the_tables_have_what_peft_has_and_what_is_made_here() -> None:
    assert {one.value for one in PeftType} - {"LORA"} == METHODS
    assert {name for _, name in FOREIGN} == {one.title for one in FORMATS}
    assert {name for _, name in STOOD_IN} == {one.title for one in STAND_INS}


def test_an_adapter_beside_other_formats_is_judged_as_one(tmp_path: Path) -> None:
    for make in (mlx, kohya, merged, write_adapter):
        make(tmp_path)
    assert judged(tmp_path)[1:] == ("", [])
    write_adapter(tmp_path, modules={"transformer.h.0.attn.c_attn": (64, 192)}, prefix="")  # of GPT-2, not of images
    assert judged(tmp_path)[1] == ""
