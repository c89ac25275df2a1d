"""Whole models: what cannot be composed is refused by name, and what an adapter changes is measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lora_cli.base.base_model import BaseModule
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.warm.composed import ComposedModel, FullModel, Slot, load_model
from lora_cli.warm.generation import Generation
from lora_cli.warm.plan import Plan
from tests.making import HIDDEN, Q_PROJ, llama_modules, write_base_config
from tests.warm.families import save_model, tiny_model
from tests.warm.reading import LLAMA
from tests.warm.tiny import put, weights
from tests.warm.tokenizer import write_tokenizer

LINEAR = {path: LLAMA.modules[path] for path in llama_modules()}


def two_bytes_each(ids: Sequence[int]) -> str:
    return ("ż" * 9).encode()[: len(ids)].decode(errors="replace")


@pytest.mark.parametrize(
    ("model", "path", "module", "reason"),
    [
        (lambda: tiny_model("mixtral"), "model.layers.0.mlp.gate", BaseModule(HIDDEN, 4), "is a MixtralTopKRouter"),
        (lambda: tiny_model("mixtral"), "model.layers.0.mlp.experts", BaseModule(HIDDEN, 4), "is a MixtralExperts"),
        (lambda: tiny_model("llama"), "model.layers.9.up_proj", BaseModule(HIDDEN, 4), "is not a module of the model"),
        (lambda: tiny_model("llama"), Q_PROJ, BaseModule(HIDDEN, 4), "maps 64 to 64 in the model and 64 to 4"),
        (lambda: tiny_model("llama"), Q_PROJ, BaseModule(HIDDEN, 4, kind="embedding"), "is a Linear"),
    ],
)
def test_what_cannot_be_composed_onto_the_real_model_is_refused_by_name(
    model: Any, path: str, module: BaseModule, reason: str
) -> None:
    with pytest.raises(Refused, match=f"mine: {path} {reason}"):
        ComposedModel(model(), {path: module}).refuse("mine", [path])


def test_what_an_adapter_changes_is_measured_over_all_logits_and_ends_with_it(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    plan = Plan(LLAMA, 1, 1, base_directory=tmp_path)
    model = FullModel(plan, torch.float32, torch.device("cpu"))
    ours, ids = model, torch.randint(256, (1, 16), generator=torch.Generator().manual_seed(0))
    sound = Slot(put(weights(modules=LINEAR)), {})
    base, adapted = ours.logits(ids, None), ours.logits(ids, sound)
    assert not torch.equal(base, adapted)
    assert torch.equal(ours.logits(ids, None), base)
    found = model.check(sound)
    assert found.max_abs_logit_delta == pytest.approx(float((adapted - base).abs().max()))
    kl = nn.functional.kl_div(adapted.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none")
    assert found.kl == pytest.approx(float(kl.sum(-1).mean()), rel=1e-3)
    assert (found.top1_changed, found.positions) == (int((adapted.argmax(-1) != base.argmax(-1)).sum()), 16)
    with pytest.raises(Refused, match="the adapter changes nothing"):
        model.check(Slot(put(weights(modules=LINEAR, size=0.0)), {}))
    broken = Slot(put(weights(modules=LINEAR)), {})
    broken.adapter.modules[Q_PROJ].b[0, 0] = float("inf")
    with pytest.raises(Refused, match="not finite"):
        model.check(broken)
    broken.adapter.modules["model.layers.1.mlp.down_proj"].a.fill_(float("nan"))
    generation = Generation(ours, [[3, 4]], broken, 2, frozenset(), lambda _: "")
    with pytest.raises(Refused, match="logits are NaN"):
        generation.step()
    generation = Generation(ours, [[3, 4]], sound, 5, frozenset(), two_bytes_each)
    assert [generation.step()[0].text for _ in range(5)] == ["", "ż", "", "ż", "\ufffd"]  # no half of a character
    assert (model.decode([3]), 2 in model.ends) == ("", True)
    with pytest.raises(FormatError, match="has no tokenizer that transformers can load"):
        model.prompt_ids("hello", 1)
    most: int = vars(model.model.config)["max_position_embeddings"]
    assert model.prompt_ids((3, 4), most - 2) == (3, 4)
    with pytest.raises(UsageError, match=f"the model's context has {most}"):
        model.prompt_ids((3, 4), most - 1)
    write_tokenizer(tmp_path)
    assert FullModel(plan, torch.float32, torch.device("cpu")).prompt_ids("hello world", 1) == (3, 4)


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
    fields = {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(FormatError):
        load_model(tmp_path, dtype=torch.float32, device="cpu")
    assert not (tmp_path / "ran").exists(), "no code that a base brings along is run"
