"""Weights of the base that PEFT saved along: left out where they equal the base's, and only there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lora_cli.cli.main import main

WEIGHTS = "adapter_model.safetensors"

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # PEFT tells that it saves embeddings
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


def trained(folder: Path, dtype: torch.dtype = torch.float32, *, tied: bool = False) -> tuple[Path, Path]:
    """A base, and an adapter as PEFT saves it, of a model that was loaded in ``dtype``."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=96, num_hidden_layers=2, tie_word_embeddings=tied, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    model = LlamaForCausalLM.from_pretrained(folder / "base", dtype=dtype)
    saved = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"], "init_lora_weights": False}
    get_peft_model(model, LoraConfig(r=8, task_type="CAUSAL_LM", **saved)).save_pretrained(str(folder / "sql"))
    return folder / "base", folder / "sql"


def repaired(adapter: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    words = ["--engine", "vllm", "--base", str(base), "--to", str(adapter.parent / "out"), "--format", "json"]
    main(["repair", str(adapter), *words])
    return json.loads(capsys.readouterr().out)["adapters"][0]["repair"]


def logits(base: Path, adapter: Path) -> Any:
    model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), str(adapter))
    with torch.no_grad():
        return model(torch.arange(1, 12).reshape(1, -1)).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.model." * 2], ids=["named", "odd"])
def test_what_was_not_trained_is_left_out(
    prefix: str, tied: bool, dtype: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = trained(tmp_path, dtype, tied=tied)
    answer = logits(base, adapter)
    named = {name.replace("base_model.model.", prefix): one for name, one in load_file(adapter / WEIGHTS).items()}
    save_file(named, adapter / WEIGHTS)

    found = repaired(adapter, base, capsys)
    assert (found["before"]["outcome"], found["after"]["outcome"], found["refusals"]) == ("rejects", "ok", [])
    assert [change["step"] for change in found["changes"]] == ["names"] * (prefix != "base_model.model.") + ["copies"]
    assert all("lora_" in name for name in load_file(tmp_path / "out" / WEIGHTS))
    # What was saved in bfloat16 is the base's weight rounded, and the base itself is not.
    assert (logits(base, tmp_path / "out") - answer).abs().max() <= (1e-6 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("known", [False, True])
def test_a_weight_that_was_trained_is_refused_and_one_that_may_be(
    known: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = trained(tmp_path)
    tensors = load_file(adapter / WEIGHTS)
    tensors["base_model.model.lm_head.weight"][-1, -1] *= 1.001
    save_file(tensors, adapter / WEIGHTS)
    found = repaired(adapter, base if known else base / "config.json", capsys)
    assert "lm_head" in found["refusals"][0]["message"]
    assert not (tmp_path / "out").exists()
