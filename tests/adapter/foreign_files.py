"""Files of other formats, by their own libraries where those run, and which name each is known by."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch

from tests.making import (
    Q_PROJ,
    llama_tensors,
    lora_tensors,
    raw,
    write_adapter,
    write_base_config,
    write_safetensors,
)


def mlx(directory: Path) -> None:
    tensors = {f"{Q_PROJ}.lora_a": raw(np.ones((64, 4))), f"{Q_PROJ}.lora_b": raw(np.ones((4, 64)))}
    write_safetensors(directory / "adapters.safetensors", tensors)
    parameters = {"rank": 8, "scale": 20.0, "dropout": 0.0}
    config = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": parameters}
    (directory / "adapter_config.json").write_text(json.dumps(config))


def gguf_file(directory: Path, kind: str) -> None:
    writer = gguf.GGUFWriter(directory / "adapter.gguf", "llama")
    writer.add_type(kind)
    if kind == gguf.GGUFType.ADAPTER:
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 16.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def kohya(directory: Path) -> None:
    names = [f"lora_unet_down_blocks_0_attentions_0_proj_in.lora_{name}.weight" for name in ("down", "up")]
    write_safetensors(directory / "style.safetensors", {name: raw(np.ones((4, 4, 1, 1))) for name in names})


def diffusers(directory: Path) -> None:
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    write_safetensors(directory / "flux.safetensors", lora_tensors({module: (64, 64)}, prefix=""))


def flux(directory: Path) -> None:
    module = "transformer.single_transformer_blocks.0.attn.to_q"
    write_safetensors(directory / "adapter_model.safetensors", lora_tensors({module: (64, 64)}, prefix=""))


def merged(directory: Path) -> None:
    write_base_config(directory)
    write_safetensors(directory / "model.safetensors", llama_tensors())


def merged_pickle(directory: Path) -> None:
    write_base_config(directory)
    torch.save({"model.embed_tokens.weight": torch.ones(2, 2)}, directory / "pytorch_model.bin")


def merged_under_our_name(directory: Path) -> None:
    write_adapter(directory)
    write_safetensors(directory / "adapter_model.safetensors", llama_tensors())


def sharded(directory: Path, ending: str = "safetensors") -> None:
    write_adapter(directory)
    (directory / "adapter_model.safetensors").rename(directory / f"adapter_model-00001-of-00002.{ending}")


def sharded_pickle(directory: Path) -> None:
    sharded(directory, "bin")


def tensorizer(directory: Path) -> None:
    write_adapter(directory)
    (directory / "adapter_model.safetensors").unlink()
    (directory / "adapter_model.tensors").write_bytes(b"|TZR|\x03\x00\x00\x00" + bytes(100))


KOHYA, DIFFUSERS = "a Kohya LoRA for images", "a diffusers LoRA for images"
FOREIGN: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "MLX": (mlx, "an MLX LoRA"),
    "a GGUF LoRA": (lambda directory: gguf_file(directory, gguf.GGUFType.ADAPTER), "a GGUF LoRA for llama.cpp"),
    "a GGUF model": (lambda directory: gguf_file(directory, gguf.GGUFType.MODEL), "a GGUF model for llama.cpp"),
    "Kohya": (kohya, KOHYA),
    "diffusers": (diffusers, DIFFUSERS),
    "diffusers' transformer under PEFT's name": (flux, DIFFUSERS),
    "a merged model": (merged, "a full model"),
    "a merged model, pickled": (merged_pickle, "a full model"),
    "a merged model under PEFT's name": (merged_under_our_name, "a full model"),
    "shards": (sharded, "a PEFT adapter in shards"),
    "pickled shards": (sharded_pickle, "a PEFT adapter in shards"),
    "tensorizer": (tensorizer, "an adapter in vLLM's tensorizer format"),
}  # fmt: skip
