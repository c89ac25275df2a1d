"""Whole models: what cannot be composed is refused by name, and a prompt is answered without and with an adapter."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lora_cli.base.base_model import BaseModule
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.runtime.adapter_weights import LoraWeights
from lora_cli.runtime.full_model import ChatTokenizer
from lora_cli.runtime.lora_slots import Slots
from lora_cli.runtime.plan import Plan, TierLimits
from lora_cli.runtime.transformers_model import ComposedModel, load_model, moved
from lora_cli.runtime.warm_process import WarmProcess
from tests.making import HIDDEN, Q_PROJ, VOCAB, llama_modules, write_adapter, write_base_config
from tests.warm.families import save_model, tiny_model
from tests.warm.jobs import job
from tests.warm.reading import LLAMA, read
from tests.warm.tiny import put, weights

WORDS = ("hello", "world", "what", "is", "the", "capital", "of", "user", "assistant")
TEMPLATE = "{% for m in messages %}user {{ m.content }} {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"


def write_tokenizer(directory: Path, template: str | None = None) -> None:
    """A tokenizer of words: ids 3 to 11 are ``WORDS``, the others ``w<id>``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: 3 + i for i, word in enumerate(WORDS)}
    vocabulary |= {f"w{i}": i for i in range(len(vocabulary), VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(directory)


def composed(model: nn.Module, path: str, module: BaseModule) -> ComposedModel:
    return ComposedModel(model, Slots({path: module}, 1, 4))


class Attention(nn.Module):
    """Uses its projection's weight without calling it, and a linear layer on rows that it flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2)
        self.proj = nn.Linear(8, 8)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        class Output:
            logits = self.proj(torch.ones(input_ids.numel(), 8))

        return Output()


class Positions(nn.Embedding):
    """An embedding of something else than tokens."""


def with_positions() -> nn.Module:
    model = Attention()
    model.positions = Positions(8, 8)
    return model


@pytest.mark.parametrize(
    ("model", "path", "module", "reason"),
    [
        (lambda: tiny_model("mixtral"), "model.layers.0.mlp.gate", BaseModule(HIDDEN, 4), "is a MixtralTopKRouter"),
        (lambda: tiny_model("mixtral"), "model.layers.0.mlp.experts", BaseModule(HIDDEN, 4), "is a MixtralExperts"),
        (
            lambda: tiny_model("llama"),
            "model.layers.9.mlp.up_proj",
            BaseModule(HIDDEN, 4),
            "is not a module of the model",
        ),
        (lambda: tiny_model("llama"), Q_PROJ, BaseModule(HIDDEN, 4), "maps 64 to 64 in the model and 64 to 4"),
        (lambda: tiny_model("llama"), Q_PROJ, BaseModule(HIDDEN, 4, kind="embedding"), "is a Linear"),
        (with_positions, "positions", BaseModule(8, 8, kind="embedding"), "is a Positions"),
        (Attention, "attn.out_proj", BaseModule(8, 8), "is used by nn.MultiheadAttention without being called"),
    ],
)
def test_what_cannot_be_composed_onto_the_real_model_is_refused_by_name(
    model: Any, path: str, module: BaseModule, reason: str
) -> None:
    ours = composed(model(), path, module)
    assert reason in ours.refused[path]
    with pytest.raises(Refused, match=f"mine: {path} {reason}"):
        ours.refuse("mine", ["other", path])


def test_rows_that_a_module_flattened_are_not_told_apart_by_guessing() -> None:
    ours = composed(Attention(), "proj", BaseModule(8, 8))
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert ours.logits(ids, [1, 1]).shape == (6, 8)
    with pytest.raises(Refused, match="proj mixes the rows of a batch"):
        ours.logits(ids, [1, 0])


def test_what_an_adapter_changes_is_measured_over_all_logits() -> None:
    modules = {path: LLAMA.modules[path] for path in llama_modules()}
    slots = Slots(modules, 1, 4)
    slot = put(slots, weights(modules=modules))
    ours = ComposedModel(tiny_model("llama"), slots)
    ids = torch.arange(9)[None]
    base, adapted = ours.logits(ids, [0]), ours.logits(ids, [slot])
    assert not torch.equal(base, adapted)
    found = moved(ours, ids, slot, base)
    assert found.max_abs_logit_delta == pytest.approx(float((adapted - base).abs().max()))
    divergence = torch.nn.functional.kl_div(
        adapted.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none"
    )
    assert found.kl == pytest.approx(float(divergence.sum(-1).mean()), rel=1e-3)
    assert (found.top1_changed, found.positions) == (int((adapted.argmax(-1) != base.argmax(-1)).sum()), 9)


def test_an_adapter_that_moves_no_logit_or_breaks_one_does_not_pass() -> None:
    modules = {Q_PROJ: LLAMA.modules[Q_PROJ]}
    slots = Slots(modules, 2, 4)
    ours = ComposedModel(tiny_model("llama"), slots)
    ids = torch.arange(9)[None]
    base = ours.logits(ids, [0])
    with pytest.raises(Refused, match="the adapter changes nothing"):
        moved(ours, ids, put(slots, weights(modules=modules, size=0.0)), base)
    broken: LoraWeights = weights(modules=modules)
    broken.modules[Q_PROJ].b[0, 0] = float("inf")
    with pytest.raises(Refused, match="not finite"):
        moved(ours, ids, put(slots, broken), base)


def test_a_checkpoint_that_lacks_weights_is_not_filled_up_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, "llama")
    kept = load_file(tmp_path / "model.safetensors")
    del kept[f"{Q_PROJ}.weight"]
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(FormatError, match=f"its checkpoint lacks 1 weights, the first is {Q_PROJ}.weight"):
        load_model(tmp_path, dtype=torch.float32, device="cpu")


def test_a_folder_that_is_no_model_is_an_error_with_transformers_reason(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="transformers cannot load it"):
        load_model(tmp_path, dtype=torch.float32, device="cpu")
    write_base_config(tmp_path)
    with pytest.raises(FormatError, match="transformers cannot load it"):
        load_model(tmp_path, dtype=torch.float32, device="cpu")


def test_code_that_a_base_brings_along_is_not_run(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(FormatError):
        load_model(tmp_path, dtype=torch.float32, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("template", "ids"), [(None, [3, 4]), (TEMPLATE, [10, 3, 4, 11])], ids=["plain text", "chat template"]
)
def test_a_prompt_goes_through_the_tokenizers_own_template_when_it_has_one(
    tmp_path: Path, template: str | None, ids: list[int]
) -> None:
    write_tokenizer(tmp_path, template)
    chat = ChatTokenizer(tmp_path)
    assert chat.ids("hello world") == ids
    assert chat.decode([3, 2, 4]).strip() == "hello world"
    assert chat.stops(None) == {2}
    with pytest.raises(UsageError, match="character 6 is half a surrogate pair"):
        chat.ids("hello \udcff")  # as an argument that is not UTF-8 comes


def test_a_base_without_a_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    with pytest.raises(FormatError, match="has no tokenizer that transformers can load"):
        ChatTokenizer(tmp_path)


@pytest.fixture(scope="module")
def full_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    """The tiny llama with a tokenizer, in one warm process with two slots."""
    base = save_model(tmp_path_factory.mktemp("base"), "llama")
    write_tokenizer(base, TEMPLATE)
    with WarmProcess(
        Plan(LLAMA, tuple(llama_modules()), TierLimits(2, 2, 8), base, device="cpu", forward="model")
    ) as process:
        assert process.start().weights == "base"
        yield process


def test_the_whole_model_is_run_with_the_adapter_and_answers_beside_the_base(
    full_model: WarmProcess, tmp_path: Path
) -> None:
    one, other = job(tmp_path / "one", modules=llama_modules()), job(tmp_path / "other", seed=5)
    report = full_model.load(one)
    assert report.error == ""
    assert list(report.stage_ms) == ["read", "slot", "proof", "model"]
    assert report.moved is not None
    assert report.moved.kl > 0
    assert full_model.load(other).error == ""
    first, second = (full_model.answer(each, "what is the capital", 6) for each in (one, other))
    assert (first.adapter, first.prompt, first.base) == ("one", "what is the capital", second.base)
    assert len(first.adapted.split()) <= 6
    assert first.adapted != first.base
    assert first.max_abs_logit_delta > second.max_abs_logit_delta > 0


def test_a_broken_adapter_does_not_change_what_the_model_says_next(full_model: WarmProcess, tmp_path: Path) -> None:
    sound = job(tmp_path / "sound", modules=llama_modules(), seed=3)
    before = full_model.answer(sound, "hello world", 4)
    poisoned = job(tmp_path / "poisoned", modules=llama_modules())
    weights_file = tmp_path / "poisoned" / "adapter_model.safetensors"
    data = bytearray(weights_file.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"
    weights_file.write_bytes(data)
    assert "NaN or Inf" in full_model.load(poisoned).error
    assert full_model.answer(sound, "hello world", 4) == before


@pytest.mark.slow
def test_a_whole_model_needs_its_checkpoint_on_this_disk(tmp_path: Path) -> None:
    with WarmProcess(Plan(LLAMA, (Q_PROJ,), TierLimits(1, 1, 8), device="cpu", forward="model")) as process:
        with pytest.raises(UsageError, match="--forward model needs the base's weights"):
            process.start()
        report = process.load(job(tmp_path / "one"))
    assert (report.stage, report.exit_code) == ("start", 2)


def test_reading_an_adapter_needs_no_torch(tmp_path: Path) -> None:
    assert read(write_adapter(tmp_path)).pairs.keys() == {Q_PROJ}


def test_the_same_rows_have_another_adapter_once_their_slot_has() -> None:
    modules = {Q_PROJ: LLAMA.modules[Q_PROJ]}
    slots = Slots(modules, 1, 4)
    ours, ids = ComposedModel(tiny_model("llama"), slots), torch.arange(9)[None]
    base = ours.logits(ids, [1])
    first = ours.logits(ids, [put(slots, weights(modules=modules))])
    assert torch.equal(ours.logits(ids, [1]), first)
    slots.clear(1)
    assert torch.equal(ours.logits(ids, [1]), base)
    second = ours.logits(ids, [put(slots, weights(modules=modules, seed=1))])
    assert not torch.equal(first, base)
    assert not torch.equal(second, first)


@pytest.mark.slow
def test_no_nan_of_one_adapter_reaches_another_row_of_its_batch() -> None:
    modules = {path: LLAMA.modules[path] for path in llama_modules()}
    slots = Slots(modules, 3, 32)
    ours, ids = ComposedModel(tiny_model("llama"), slots), torch.arange(24).view(4, 6)
    poisoned: LoraWeights = weights("poisoned", r=8, modules=modules)
    for one in poisoned.modules.values():
        one.a.fill_(float("nan"))
    sound, bad, wide = (
        put(slots, each) for each in (weights(modules=modules), poisoned, weights(r=20, modules=modules))
    )
    rows = [bad, 0, wide, sound]
    logits = ours.logits(ids, rows)
    assert torch.isfinite(logits).all(2).all(1).tolist() == [False, True, True, True]
    for row in (1, 2, 3):
        alone = ours.logits(ids[row : row + 1], [rows[row]])[0]
        assert float((logits[row] - alone).abs().max()) <= 2e-5 * float(alone.abs().max())
