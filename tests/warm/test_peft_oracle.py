"""PEFT owns the format: our factors are its deltas, and our logits are its logits, on tiny models of the families."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cli.base.base_model import BaseModel
from lora_cli.base.reading import read_base
from lora_cli.runtime.generation_batch import greedy
from lora_cli.runtime.lora_slots import Slots
from lora_cli.runtime.numerical_proof import prove
from lora_cli.runtime.transformers_model import ComposedModel, load_model
from lora_cli.sources.files import files_at
from tests.making import VOCAB
from tests.runtime.families import deltas, save_model, with_peft
from tests.runtime.reading import load
from tests.runtime.tiny import put

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
        modules = {path: self.base.modules[path] for path in self.weights.modules}
        self.slots = Slots(modules, 2, 16)
        self.slot = put(self.slots, self.weights)
        model = load_model(self.base_directory, dtype=torch.float32, device="cpu")
        self.ours = ComposedModel(model, self.slots)


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
    assert pair.weights.modules.keys() == theirs.keys()
    for path, module in pair.weights.modules.items():
        ours = module.scaling * (module.b @ module.a)
        kind = pair.base.modules[path].kind
        ours = ours if kind == "linear" else ours.t()
        assert torch.allclose(ours, theirs[path], rtol=0, atol=1e-6 * float(theirs[path].abs().max())), path


def test_our_logits_are_pefts(pair: Pair) -> None:
    assert pair.ours.refused == {}
    ids = tokens()
    theirs, ours = peft_logits(pair, ids), pair.ours.logits(ids, [pair.slot] * len(ids))
    assert float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    base = pair.ours.logits(ids, [0] * len(ids))
    assert float((base - theirs).abs().max()) > 100 * TOLERANCE * float(theirs.abs().max())


def test_the_base_in_slot_0_is_the_base_to_the_bit(pair: Pair) -> None:
    ids = tokens()
    composed = pair.ours.logits(ids, [0, 0])
    plain = load_model(pair.base_directory, dtype=torch.float32, device="cpu")
    with torch.inference_mode():
        assert torch.equal(composed, plain(input_ids=ids).logits)


def test_a_mixed_batch_is_each_row_on_its_own(pair: Pair) -> None:
    ids = tokens(rows=3)
    mixed = pair.ours.logits(ids, [pair.slot, 0, pair.slot])
    for row, slot in enumerate([pair.slot, 0, pair.slot]):
        alone = pair.ours.logits(ids[row : row + 1], [slot])[0]
        assert float((mixed[row] - alone).abs().max()) <= TOLERANCE * float(alone.abs().max())


def test_every_module_is_proved_with_the_models_own_weights(pair: Pair) -> None:
    proof = prove(pair.slots, pair.slot, pair.weights, pair.ours)
    assert proof.holds, proof.worst
    assert proof.weights == "base"


def test_greedy_with_a_cache_says_what_full_forwards_say(pair: Pair) -> None:
    prompt = tokens(rows=1)[0].tolist()
    answer, first = greedy(pair.ours, prompt, pair.slot, 5, stop=())
    ids = list(prompt)
    for token in answer:
        logits = pair.ours.logits(torch.tensor([ids]), [pair.slot])[0, -1]
        assert token == int(logits.argmax())
        ids.append(token)
    assert len(answer) == 5
    assert torch.allclose(first, pair.ours.logits(torch.tensor([prompt]), [pair.slot])[0, -1], atol=1e-4)
    assert greedy(pair.ours, prompt, pair.slot, 5, stop={answer[2]})[0] == answer[: answer.index(answer[2])]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_real_adapters_on_the_real_model_are_pefts(real_model: Path, real_adapters: dict[str, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = read_base(files_at(real_model), "smollm2")
    loaded = {name: load(directory, base) for name, directory in real_adapters.items()}
    # In float64, since float32 differs by processor: by 3e-5 of the largest logit on some.
    slots = Slots({path: base.modules[path] for path in loaded["json"].modules}, 3, 8, dtype=torch.float64)
    ours = ComposedModel(load_model(real_model, dtype=torch.float64, device="cpu"), slots)
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
        assert weights.modules.keys() == theirs.keys()
        for path, module in weights.modules.items():
            delta = module.scaling * (module.b.double() @ module.a.double())
            assert torch.allclose(delta, theirs[path], rtol=0, atol=1e-6 * float(theirs[path].abs().max())), path
        with torch.inference_mode():
            want = peft(input_ids=ids).logits
        got = ours.logits(ids, [put(slots, weights)] * 2)
        assert float((got - want).abs().max()) <= 1e-6 * float(want.abs().max())
        assert torch.equal(got.argmax(-1), want.argmax(-1))
