"""Weights of the base that PEFT saved along: left out where they equal the base's, and only there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lora_cli.engines import choose_engine
from lora_cli.judging.base_model import open_base
from lora_cli.refs.request import Request
from lora_cli.repair import RepairOptions, RepairReport, repair_adapter
from lora_cli.settings import Settings

TOKENS = torch.arange(1, 12).reshape(1, -1)

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # PEFT tells that it saves embeddings
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


def base_of(folder: Path, *, tied: bool) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=96, num_hidden_layers=2, tie_word_embeddings=tied, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def trained(base: Path, to: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """An adapter as PEFT saves it, of a model that was loaded in ``dtype``."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=dtype)
    lora = LoraConfig(r=8, task_type="CAUSAL_LM", init_lora_weights=False, **config)
    get_peft_model(model, lora).save_pretrained(str(to))
    return to


def repaired(adapter: Path, base: Path, to: Path | None = None, engine: str = "vllm") -> RepairReport:
    settings = Settings(cache_dir=base.parent / "cache")
    wish = RepairOptions(choose_engine(engine), open_base(str(base), settings), to=to, base_ref=str(base))
    return repair_adapter(Request("", str(adapter)), wish, settings)


def logits(base: Path, adapter: Path) -> torch.Tensor:
    model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), str(adapter))
    with torch.no_grad():
        out: torch.Tensor = model(TOKENS).logits
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
def test_saved_modules_that_were_not_trained_are_left_out(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", tied=tied)
    saved = ["lm_head", "embed_tokens"]
    adapter = trained(base, tmp_path / "sql", dtype, target_modules=["q_proj"], modules_to_save=saved)

    found = repaired(adapter, base, tmp_path / "out")

    assert (found.before.outcome.label, found.after.outcome.label, found.refusals) == ("rejects", "ok", ())
    assert all("lora_" in name for name in load_file(tmp_path / "out" / "adapter_model.safetensors"))
    difference = (logits(base, tmp_path / "out") - logits(base, adapter)).abs().max()
    # What was saved in bfloat16 is the base's weight rounded, and the base itself is not.
    assert difference <= (1e-6 if dtype == torch.float32 else 0.05)


def test_a_weight_that_was_trained_is_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", tied=False)
    adapter = trained(base, tmp_path / "sql", target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.weight"][-1, -1] *= 1.001
    save_file(tensors, adapter / "adapter_model.safetensors")

    found = repaired(adapter, base, tmp_path / "out")

    said = "base_model.model.lm_head.weight is not the base's own weight: it was trained, or belongs to another base"
    assert said in [refusal.message for refusal in found.refusals]
    assert not (tmp_path / "out").exists()


def test_without_the_bases_weights_nobody_knows(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", tied=False)
    adapter = trained(base, tmp_path / "sql", target_modules=["q_proj"], modules_to_save=["lm_head"])

    found = repaired(adapter, base / "config.json")

    said = {refusal.message: refusal.hint for refusal in found.refusals}
    hint = said["whether base_model.model.lm_head.weight is the base's own weight is unknown"]
    assert hint.startswith("give --base a folder with the model's safetensors")


def test_a_copy_under_an_odd_name_is_one_too(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", tied=False)
    adapter = trained(base, tmp_path / "sql", target_modules=["q_proj"], modules_to_save=["lm_head"])
    named = load_file(adapter / "adapter_model.safetensors")
    bare = {name.removeprefix("base_model.model."): tensor for name, tensor in named.items()}
    save_file(bare, adapter / "adapter_model.safetensors")

    found = repaired(adapter, base, tmp_path / "out")

    assert (found.after.outcome.label, found.refusals) == ("ok", ())
    assert {change.step for change in found.changes} == {"names", "copies"}
