"""What is no LoRA adapter of PEFT is known for what it is: made by the real libraries where they run."""

import contextlib
import json
import tarfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

from lora_cli.check import Checked, Terms, check_in_place
from lora_cli.core.formats import DIALECTS, FORMATS, METHODS, STAND_INS, dialects
from lora_cli.core.inspection import inspection_of
from lora_cli.settings import Settings
from tests.making import (
    Q_PROJ,
    as_raw,
    llama_modules,
    llama_tensors,
    lora_tensors,
    raw,
    safetensors_bytes,
    write_adapter,
    write_base_config,
    write_safetensors,
)

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "P_TUNING": {"num_virtual_tokens": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 2},
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1]},
    "ADAPTION_PROMPT": {"adapter_layers": 1, "adapter_len": 4},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2]},
    "POLY": {"n_tasks": 2, "r": 2},
    "BOFT": {"boft_block_size": 4},
    "OFT": {"oft_block_size": 4, "r": 0},
    "C3A": {"block_size": 8},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "FOURIERFT": {"n_frequency": 10},
    "WAVEFT": {"n_frequency": 10},
    "VBLORA": {"vector_length": 8, "num_vectors": 8, "topk": 2, "r": 2},
    "HRA": {"r": 2},
    "MISS": {"r": 4},
    "SHIRA": {"r": 2},
    "ROAD": {"group_size": 8},
}
UNTARGETED = {
    "MULTITASK_PROMPT_TUNING",
    "PROMPT_TUNING",
    "PREFIX_TUNING",
    "P_TUNING",
    "CPT",
    "CARTRIDGE",
    "ADAPTION_PROMPT",
}
OTHERS = {"LORA", "XLORA", "ADAMSS"}
"""What the loop below leaves out: LoRA itself; X-LoRA, which is made of LoRAs; AdaMSS, which needs scikit-learn."""


def judged(directory: Path) -> Checked:
    checked = check_in_place(str(directory), Terms(), Settings(cache_dir=directory / "cache"))
    assert checked.error is None
    return checked


def errors(checked: Checked) -> list[str]:
    assert checked.verdict is not None
    return [found.code for found in checked.verdict.findings if found.severity.label == "error"]


def known_as(checked: Checked) -> str:
    assert checked.adapter is not None
    return checked.adapter.foreign.format.name if checked.adapter.foreign is not None else ""


def tiny() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=64,
    )
    model: torch.nn.Module = LlamaForCausalLM(config)
    return model


@pytest.mark.parametrize("method", sorted({one.value for one in PeftType} - OTHERS))
def test_each_other_method_of_peft_is_known_by_its_config_and_by_its_names(method: str, tmp_path: Path) -> None:
    options = {"task_type": "CAUSAL_LM", **OPTIONS.get(method, {})}
    if method not in UNTARGETED:
        options["target_modules"] = ["q_proj", "v_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](**options)
        peft.get_peft_model(tiny(), config).save_pretrained(str(tmp_path / "a"))

    checked = judged(tmp_path / "a")

    assert known_as(checked) == method.lower()
    assert errors(checked) == ["LC201"]
    fields = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(fields | {"peft_type": "LORA"}))
    if METHODS[method].keys:
        assert known_as(judged(tmp_path / "a")) == method.lower()
        assert "LC109" in errors(judged(tmp_path / "a"))


def test_every_method_that_peft_has_stands_in_the_table() -> None:
    assert METHODS.keys() == {one.value for one in PeftType} - {"LORA"}


def mlx(directory: Path) -> None:
    tensors = {f"{Q_PROJ}.lora_a": raw(np.ones((64, 4))), f"{Q_PROJ}.lora_b": raw(np.ones((4, 64)))}
    write_safetensors(directory / "adapters.safetensors", tensors)
    parameters = {"rank": 8, "scale": 20.0, "dropout": 0.0}
    config = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": parameters}
    (directory / "adapter_config.json").write_text(json.dumps(config))


def renamed_mlx(directory: Path) -> None:
    mlx(directory)
    (directory / "adapters.safetensors").rename(directory / "adapter_model.safetensors")


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


def kohya(directory: Path, prefix: str = "lora_unet_down_blocks_0_attentions_0_proj_in") -> None:
    down, up = raw(np.ones((4, 64, 1, 1))), raw(np.ones((64, 4, 1, 1)))
    tensors = {
        f"{prefix}.lora_down.weight": down,
        f"{prefix}.lora_up.weight": up,
        f"{prefix}.alpha": raw(np.array(4.0)),
    }
    write_safetensors(directory / "style.safetensors", tensors, {"ss_network_module": "networks.lora"})


def lycoris(directory: Path) -> None:
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha")
    write_safetensors(
        directory / "style.safetensors", {f"lora_unet_mid.{name}": raw(np.ones((4, 4))) for name in names}
    )


def diffusers(directory: Path, name: str = "pytorch_lora_weights.safetensors") -> None:
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    write_safetensors(directory / name, lora_tensors({module: (64, 64)}, prefix=""))


def flux(directory: Path) -> None:
    module = "transformer.single_transformer_blocks.0.attn.to_q"
    write_safetensors(directory / "adapter_model.safetensors", lora_tensors({module: (64, 64)}, prefix=""))


def merged(directory: Path) -> None:
    write_base_config(directory)
    write_safetensors(directory / "model.safetensors", llama_tensors())


def merged_shards(directory: Path) -> None:
    write_base_config(directory)
    write_safetensors(directory / "model-00001-of-00001.safetensors", llama_tensors())
    (directory / "model.safetensors.index.json").write_text("{}")


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
    write_adapter(directory)
    (directory / "adapter_model.safetensors").unlink()
    for i in (1, 2):
        torch.save({"a": torch.ones(2)}, directory / f"adapter_model-0000{i}-of-00002.bin")


def tensorizer(directory: Path) -> None:
    write_adapter(directory)
    (directory / "adapter_model.safetensors").unlink()
    (directory / "adapter_model.tensors").write_bytes(b"|TZR|\x03\x00\x00\x00" + bytes(100))


def tensorrt(directory: Path) -> None:
    np.save(directory / "model.lora_weights.npy", np.ones((1, 2, 8), dtype=np.float16))
    np.save(directory / "model.lora_config.npy", np.array([[[0, 0, 8]]], dtype=np.int32))


def nemo(directory: Path) -> None:
    (directory / "model_config.yaml").write_text("peft: {peft_scheme: lora}\n")
    torch.save({"a": torch.ones(2)}, directory / "model_weights.ckpt")
    with tarfile.open(directory / "adapter.nemo", "w") as archive:
        for name in ("model_config.yaml", "model_weights.ckpt"):
            archive.add(directory / name, name)
            (directory / name).unlink()


def nemo_unpacked(directory: Path) -> None:
    (directory / "model_config.yaml").write_text("peft: {peft_scheme: lora}\n")
    torch.save({"a": torch.ones(2)}, directory / "model_weights.ckpt")


FOREIGN: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "MLX": (mlx, "mlx"),
    "MLX, renamed": (renamed_mlx, "mlx"),
    "a GGUF LoRA": (lambda directory: gguf_file(directory, gguf.GGUFType.ADAPTER), "gguf-lora"),
    "a GGUF model": (lambda directory: gguf_file(directory, gguf.GGUFType.MODEL), "gguf"),
    "a GGML LoRA": (lambda directory: put(directory / "ggml-adapter-model.bin", b"algg\x01\0\0\0"), "ggml"),
    "Kohya": (kohya, "kohya"),
    "Kohya's text encoder": (lambda directory: kohya(directory, "lora_te1_text_model_layers_0_mlp_fc1"), "kohya"),
    "LyCORIS": (lycoris, "kohya"),
    "diffusers": (diffusers, "diffusers"),
    "diffusers under another name": (lambda directory: diffusers(directory, "flux.safetensors"), "diffusers"),
    "diffusers' transformer under PEFT's name": (flux, "diffusers"),
    "a merged model": (merged, "merged"),
    "a merged model in shards": (merged_shards, "merged"),
    "a merged model, pickled": (merged_pickle, "merged"),
    "a merged model under PEFT's name": (merged_under_our_name, "merged"),
    "shards": (sharded, "sharded"),
    "pickled shards": (sharded_pickle, "sharded"),
    "tensorizer": (tensorizer, "tensorizer"),
    "TensorRT-LLM": (tensorrt, "tensorrt-llm"),
    "NeMo": (nemo, "nemo"),
    "NeMo, unpacked": (nemo_unpacked, "nemo"),
}  # fmt: skip


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.mark.parametrize(("make", "name"), FOREIGN.values(), ids=FOREIGN)
def test_another_format_is_known_by_name_and_is_the_one_error(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    make(tmp_path)

    checked = judged(tmp_path)

    assert known_as(checked) == name
    assert errors(checked) == ["LC104" if name == "sharded" else "LC109"]
    assert checked.adapter is not None
    found = next(one for one in FORMATS if one.name == name)
    assert found.title in inspection_of(checked.adapter).format


def test_every_format_in_the_table_is_made_by_a_test() -> None:
    assert {name for _, name in FOREIGN.values()} == {one.name for one in FORMATS}
    assert {name for _, name in STOOD_IN} == {one.name for one in STAND_INS}


STOOD_IN = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "lfs-pointer"),
    (b"# xet version 0\nfilesize = 12345\nhash = 'abc'\n", "xet-pointer"),
    (b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Sign in</title></html>", "html"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "xml"),
    (b"Entry not found", "message"),
    (b'{"error":"Repository not found"}', "message"),
]


@pytest.mark.parametrize(("data", "name"), STOOD_IN)
@pytest.mark.parametrize("path", ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"])
def test_what_was_put_in_the_place_of_a_file_is_named(data: bytes, name: str, path: str, tmp_path: Path) -> None:
    write_adapter(tmp_path)
    if path == "adapter_model.bin":
        (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / path).write_bytes(data)

    checked = judged(tmp_path)

    title = next(one.title for one in STAND_INS if one.name == name)
    assert errors(checked) == ["LC107" if path == "adapter_config.json" else "LC102"]
    assert checked.verdict is not None
    assert f"is {title}, not the file itself" in checked.verdict.findings[0].problem.message
    assert checked.verdict.findings[0].problem.hint


def test_an_adapter_beside_other_formats_is_judged_as_one(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    for make in (mlx, kohya, tensorrt, merged):
        with contextlib.suppress(FileExistsError):
            make(tmp_path)
    write_adapter(tmp_path)

    assert known_as(judged(tmp_path)) == ""
    assert errors(judged(tmp_path)) == []


def test_a_lora_of_gpt2_without_a_prefix_is_not_taken_for_images(tmp_path: Path) -> None:
    write_adapter(tmp_path, modules={"transformer.h.0.attn.c_attn": (64, 192)}, prefix="")
    assert known_as(judged(tmp_path)) == ""
    assert "LC303" in errors(judged(tmp_path))


def named() -> Iterator[tuple[str, dict[str, Any]]]:
    modules = llama_modules(["q_proj"])
    plain = lora_tensors(modules)
    yield "", plain
    yield "fused projections", lora_tensors({"model.layers.0.self_attn.qkv_proj": (64, 128)})
    yield "one module for each expert", lora_tensors({"model.layers.0.mlp.experts.0.up_proj": (64, 128)})
    yield "fused experts", lora_tensors({"model.layers.0.mlp.experts": (64, 128)})
    yield (
        "names of torch.compile",
        {name.replace("model.model", "model._orig_mod.model"): one for name, one in plain.items()},
    )
    yield "names of FSDP", {f"_fsdp_wrapped_module.{name}": one for name, one in plain.items()}
    yield (
        "the adapter's name in its names",
        {name.replace(".weight", ".default.weight"): one for name, one in plain.items()},
    )


def test_inspect_names_the_dialect(tmp_path: Path) -> None:
    seen = set()
    for title, tensors in named():
        write_adapter(tmp_path)
        (tmp_path / "adapter_model.safetensors").write_bytes(
            safetensors_bytes({k: as_raw(v) for k, v in tensors.items()})
        )
        adapter = judged(tmp_path).adapter
        assert adapter is not None
        assert dialects(adapter.tensors) == ((title,) if title else ())
        assert inspection_of(adapter).format == ", ".join(filter(None, ["PEFT LoRA", "safetensors", title]))
        seen.add(title)
    assert seen - {""} == set(DIALECTS.values())
