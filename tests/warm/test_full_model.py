"""Whole models: what cannot be composed is refused by name, and a prompt is answered without and with an adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lora_cli.base.base_model import BaseModule
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.warm.composed import ComposedModel, Slot, load_model
from lora_cli.warm.full_model import FullModel, moved
from lora_cli.warm.generation import Generation, Sampling
from lora_cli.warm.plan import Plan
from lora_cli.warm.weights import LoadedAdapter
from tests.making import HIDDEN, Q_PROJ, llama_modules, write_base_config
from tests.warm.families import save_model, tiny_model
from tests.warm.reading import LLAMA
from tests.warm.tiny import put, weights
from tests.warm.tokenizer import TEMPLATE, write_tokenizer

LINEAR = {path: LLAMA.modules[path] for path in llama_modules()}
IDS = torch.arange(9)[None]


class Attention(nn.Module):
    """Uses its projection's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2)
        self.positions = Positions(8, 8)


class Positions(nn.Embedding):
    """An embedding of something else than tokens."""


@pytest.mark.parametrize(
    ("model", "path", "module", "reason"),
    [
        (lambda: tiny_model("mixtral"), "model.layers.0.mlp.gate", BaseModule(HIDDEN, 4), "is a MixtralTopKRouter"),
        (lambda: tiny_model("mixtral"), "model.layers.0.mlp.experts", BaseModule(HIDDEN, 4), "is a MixtralExperts"),
        (lambda: tiny_model("llama"), "model.layers.9.up_proj", BaseModule(HIDDEN, 4), "is not a module of the model"),
        (lambda: tiny_model("llama"), Q_PROJ, BaseModule(HIDDEN, 4), "maps 64 to 64 in the model and 64 to 4"),
        (lambda: tiny_model("llama"), Q_PROJ, BaseModule(HIDDEN, 4, kind="embedding"), "is a Linear"),
        (Attention, "positions", BaseModule(8, 8, kind="embedding"), "is a Positions"),
        (Attention, "attn.out_proj", BaseModule(8, 8), "is used by nn.MultiheadAttention without being called"),
    ],
)
def test_what_cannot_be_composed_onto_the_real_model_is_refused_by_name(
    model: Any, path: str, module: BaseModule, reason: str
) -> None:
    with pytest.raises(Refused, match=f"mine: {path} {reason}"):
        ComposedModel(model(), {path: module}).refuse("mine", [path])


def slot(held: LoadedAdapter) -> Slot:
    return Slot(1, held, {})


def test_what_an_adapter_changes_is_measured_over_all_logits_and_ends_with_it() -> None:
    ours = ComposedModel(tiny_model("llama"), LINEAR)
    base, adapted = ours.logits(IDS, None), ours.logits(IDS, slot(put(weights(modules=LINEAR))))
    assert not torch.equal(base, adapted)
    assert torch.equal(ours.logits(IDS, None), base)
    found = moved(ours, IDS, slot(put(weights(modules=LINEAR))), base)
    assert found.max_abs_logit_delta == pytest.approx(float((adapted - base).abs().max()))
    kl = nn.functional.kl_div(adapted.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none")
    assert found.kl == pytest.approx(float(kl.sum(-1).mean()), rel=1e-3)
    assert (found.top1_changed, found.positions) == (int((adapted.argmax(-1) != base.argmax(-1)).sum()), 9)
    with pytest.raises(Refused, match="the adapter changes nothing"):
        moved(ours, IDS, slot(put(weights(modules=LINEAR, size=0.0))), base)
    broken = put(weights(modules=LINEAR))
    broken.modules[Q_PROJ].b[0, 0] = float("inf")
    with pytest.raises(Refused, match="not finite"):
        moved(ours, IDS, slot(broken), base)
    broken.modules["model.layers.1.mlp.down_proj"].a.fill_(float("nan"))
    generation = Generation(ours, [[3, 4]], slot(broken), Sampling(2), lambda _: "")
    with pytest.raises(Refused, match="logits are NaN"):
        generation.step()


def test_a_checkpoint_that_lacks_weights_or_is_no_model_is_not_filled_up_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, "llama")
    kept = load_file(tmp_path / "model.safetensors")
    del kept[f"{Q_PROJ}.weight"]
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(FormatError, match=f"its checkpoint lacks 1 weights, the first is {Q_PROJ}.weight"):
        load_model(tmp_path, dtype=torch.float32, device="cpu")
    with pytest.raises(FormatError, match="transformers cannot load it"):
        load_model(write_base_config(tmp_path / "empty").parent, dtype=torch.float32, device="cpu")


def test_code_that_a_base_brings_along_is_not_run(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(FormatError):
        load_model(tmp_path, dtype=torch.float32, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain text", "chat template"])
def test_a_prompt_goes_through_the_tokenizers_own_template_when_it_has_one(
    tmp_path: Path, template: str | None
) -> None:
    model = full_model(tmp_path)
    with pytest.raises(FormatError, match="has no tokenizer that transformers can load"):
        model.answer(slot(put(weights(modules=LINEAR))), "hello world", 4)
    assert (model.has_tokenizer, model.decode([3])) == (False, "")
    write_tokenizer(tmp_path, template)
    said = model.answer(slot(put(weights(modules=LINEAR))), "hello world", 4)
    again = model.answer(slot(put(weights(modules=LINEAR, seed=1))), "hello world", 4)
    plain = greedy_text(model, [10, 3, 4, 11] if template else [3, 4])
    assert said.base == again.base == plain
    assert said.adapted != said.base
    assert said.max_abs_logit_delta > 0
    assert 2 in model.ends
    with pytest.raises(UsageError, match="the prompt is empty"):
        model.answer(slot(put({})), "", 4)


def full_model(folder: Path) -> FullModel:
    save_model(folder, "llama")
    return FullModel(Plan(LLAMA, 1, 1, base_directory=folder), torch.float32, torch.device("cpu"))


def greedy_text(model: FullModel, prompt: list[int]) -> str:
    generation = Generation(model.composed, [prompt], None, Sampling(4, ends=model.ends), model.decode)
    said = ""
    while not generation.ended:
        said += "".join(delta.text for delta in generation.step())
    return said.strip()
