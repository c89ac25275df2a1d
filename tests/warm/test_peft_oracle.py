"""PEFT owns the format: our factors are its deltas, and our logits are its logits, on tiny models of the families."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cli.base.base_model import BaseModel
from lora_cli.base.reading import read_base
from lora_cli.sources.files import files_at
from lora_cli.warm.composed import ComposedModel, Slot, load_model
from lora_cli.warm.proof import prove
from lora_cli.warm.weights import hold
from tests.making import VOCAB
from tests.warm.families import deltas, greedy, save_model, with_peft
from tests.warm.reading import load

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5
"""Of max |logit|: PEFT itself is several times as far from float64."""

CASES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "llama q/v": ("llama", {}, {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}),
    "llama all-linear rslora": (
        "llama",
        {"tie_word_embeddings": True},
        {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "use_rslora": True},
    ),
    "llama patterns": (
        "llama",
        {},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "o_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 7},
            "alpha_pattern": {"o_proj": 3},
            "use_rslora": True,
        },
    ),
    "llama embedding and head": (
        "llama",
        {},
        {"r": 3, "lora_alpha": 5, "target_modules": ["embed_tokens", "lm_head", "k_proj"]},
    ),
    "gpt2 conv1d": (
        "gpt2",
        {},
        {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    ),
    "gpt2 embedding": (
        "gpt2",
        {},
        {"r": 4, "lora_alpha": 8, "target_modules": ["wte", "c_attn"], "fan_in_fan_out": True},
    ),
    "qwen2": ("qwen2", {}, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "qwen3": ("qwen3", {}, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "gemma2": ("gemma2", {}, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "gemma2 scaled embedding": ("gemma2", {}, {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens"]}),
    "phi3": ("phi3", {}, {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "gate_up_proj"]}),
    "gpt_neox": ("gpt_neox", {}, {"r": 4, "lora_alpha": 8, "target_modules": ["query_key_value", "dense_4h_to_h"]}),
}  # fmt: skip


class Pair:
    """One case: PEFT's model, and ours over the same two directories."""

    def __init__(self, directory: Path, case: str) -> None:
        family, base, config = CASES[case]
        self.base_directory = save_model(directory / "base", family, **base)
        self.peft, adapter = with_peft(directory / "adapter", self.base_directory, **config)
        self.base: BaseModel = read_base(files_at(self.base_directory), family)
        self.weights = load(adapter, self.base)
        self.slot = Slot(hold("one", self.weights, torch.float32), {})
        model = load_model(self.base_directory, dtype=torch.float32, device="cpu")
        self.ours = ComposedModel(model, self.base.modules)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), request.param)


def tokens(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(3))


def peft_logits(pair: Pair, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = pair.peft(input_ids=ids).logits
    return logits


def test_our_update_is_pefts_delta_weight(pair: Pair) -> None:
    theirs = deltas(pair.peft)
    assert pair.weights.keys() == theirs.keys()
    for path, module in pair.weights.items():
        ours = module.scaling * (module.b @ module.a)
        kind = pair.base.modules[path].kind
        ours = ours if kind == "linear" else ours.t()
        assert torch.allclose(ours, theirs[path], rtol=0, atol=1e-6 * float(theirs[path].abs().max())), path


def test_our_logits_are_pefts(pair: Pair) -> None:
    pair.ours.refuse("one", pair.weights)
    ids = tokens()
    theirs, ours = peft_logits(pair, ids), pair.ours.logits(ids, pair.slot)
    assert float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    base = pair.ours.logits(ids, None)
    assert float((base - theirs).abs().max()) > 100 * TOLERANCE * float(theirs.abs().max())


def test_the_base_without_an_adapter_is_the_base_to_the_bit(pair: Pair) -> None:
    ids = tokens()
    composed = pair.ours.logits(ids, None)
    plain = load_model(pair.base_directory, dtype=torch.float32, device="cpu")
    with torch.inference_mode():
        assert torch.equal(composed, plain(input_ids=ids).logits)


def test_every_module_is_proved_with_the_models_own_weights(pair: Pair) -> None:
    proof = prove(pair.slot.adapter, pair.weights, pair.ours)
    assert proof.holds, proof.worst
    assert proof.weights == "base"


def test_greedy_with_a_cache_says_what_full_forwards_say(pair: Pair) -> None:
    prompt = tokens(rows=1)[0].tolist()
    answer = greedy(pair.ours, prompt, pair.slot, 5)
    ids = list(prompt)
    for token in answer:
        logits = pair.ours.logits(torch.tensor([ids]), pair.slot)[0, -1]
        assert token == int(logits.argmax())
        ids.append(token)
    assert len(answer) == 5
    assert greedy(pair.ours, prompt, pair.slot, 5, answer[2]) == answer[: answer.index(answer[2])]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_real_adapters_on_the_real_model_are_pefts(real_model: Path, real_adapters: dict[str, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = read_base(files_at(real_model), "smollm2")
    loaded = {name: load(directory, base) for name, directory in real_adapters.items()}
    # In float64, since float32 differs by processor: by 3e-5 of the largest logit on some.
    ours = ComposedModel(load_model(real_model, dtype=torch.float64, device="cpu"), base.modules)
    peft: Any = AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float64)
    ids = torch.randint(base.vocab_size or 2, (2, 12), generator=torch.Generator().manual_seed(4))
    for number, (name, weights) in enumerate(loaded.items()):
        if number:
            peft.load_adapter(real_adapters[name], name)
        else:
            peft = PeftModel.from_pretrained(peft, real_adapters[name], adapter_name=name)
        peft.set_adapter(name)
        peft.double().eval()
        theirs = deltas(peft, name)
        assert weights.keys() == theirs.keys()
        for path, module in weights.items():
            delta = module.scaling * (module.b.double() @ module.a.double())
            assert torch.allclose(delta, theirs[path], rtol=0, atol=1e-6 * float(theirs[path].abs().max())), path
        with torch.inference_mode():
            want = peft(input_ids=ids).logits
        got = ours.logits(ids, Slot(hold(name, weights, torch.float64), {}))
        assert float((got - want).abs().max()) <= 1e-6 * float(want.abs().max())
        assert torch.equal(got.argmax(-1), want.argmax(-1))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_in_float64_our_logits_are_pefts_to_a_millionth(family: str, tmp_path: Path) -> None:
    targets = {"gpt2": ["c_attn", "c_proj", "wte"], "gpt_neox": ["query_key_value", "dense", "embed_in"]}.get(
        family, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "embed_tokens"]
    )
    directory = save_model(tmp_path / "base", family)
    peft, adapter = with_peft(tmp_path / "adapter", directory, r=4, lora_alpha=16, target_modules=targets)
    base, ids = read_base(files_at(directory), family), tokens()
    ours = ComposedModel(load_model(directory, dtype=torch.float64, device="cpu"), base.modules)
    got = ours.logits(ids, Slot(hold("one", load(adapter, base), torch.float64), {}))
    with torch.inference_mode():
        want = peft.double()(input_ids=ids).logits
    assert got.dtype == torch.float64
    assert float((got - want).abs().max()) <= 1e-6 * float(want.abs().max())
