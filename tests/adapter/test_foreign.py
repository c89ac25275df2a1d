"""What is no LoRA adapter of PEFT is known for what it is: made by the real libraries where they run."""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

from lora_cli.adapter.formats import DIALECTS, FORMATS, METHODS, STAND_INS, dialects
from lora_cli.judging.inspection import inspection_of
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.adapter.foreign_files import FOREIGN, kohya, merged, mlx
from tests.making import (
    as_raw,
    llama_modules,
    lora_tensors,
    safetensors_bytes,
    write_adapter,
)


def judged(directory: Path) -> Result:
    checked = judge_one(Request("", str(directory)), Terms(), Settings(cache_dir=directory / "cache"))
    assert checked.error is None
    return checked


def errors(checked: Result) -> list[str]:
    assert checked.error is None
    return [found.code for found in checked.findings if str(found.severity) == "error"]


def known_as(checked: Result) -> str:
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


@pytest.mark.parametrize(
    ("method", "options"), [("IA3", {"feedforward_modules": []}), ("ADALORA", {"total_step": 10}), ("LOHA", {})]
)
def test_another_method_of_peft_is_one_error(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    options = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](**options)
        peft.get_peft_model(tiny(), config).save_pretrained(str(tmp_path / "a"))

    checked = judged(tmp_path / "a")

    assert checked.adapter is not None
    assert checked.adapter.foreign is not None
    assert checked.adapter.foreign.format.title == f"an adapter of {method}"
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
    assert checked.error is None
    assert f"is {title}, not the file itself" in checked.findings[0].problem.message
    assert checked.findings[0].problem.hint


def test_an_adapter_beside_other_formats_is_judged_as_one(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    for make in (mlx, kohya, merged):
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
        "the adapter's name in tensor names",
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


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"lora_parameters": {"rank": 8}, "num_layers": 16}, "mlx"),
        ({"lora_layers": 16, "adapter_path": "adapters", "model": "acme/base"}, "mlx"),
        ({"fine_tune_type": "lora", "num_layers": 4}, "mlx"),
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
