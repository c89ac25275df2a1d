"""PEFT owns the format: our factors are its deltas, and our logits are its logits, on tiny models of the families."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cli.base.reading import read_base
from lora_cli.errors import LoraCliError, Refused
from lora_cli.sources.files import files_at
from lora_cli.warm.composable import scalings
from lora_cli.warm.composed import ComposedModel, Slot, load_model
from lora_cli.warm.plan import LoraRequest, Plan
from lora_cli.warm.proof import prove
from lora_cli.warm.weights import hold, load_adapter, read_weights
from lora_cli.warm.worker import Worker
from tests.making import VOCAB
from tests.warm.families import deltas, greedy, save_model, with_peft
from tests.warm.reading import load, read

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5
"""Of max |logit|: PEFT itself is several times as far from float64."""

QV = ["q_proj", "v_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
PATTERNS = {
    "target_modules": ["q_proj", "o_proj", "down_proj"],
    "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 7},
    "alpha_pattern": {"o_proj": 3},
    "use_rslora": True,
}
NORMS = {"target_modules": QV, "modules_to_save": ["embed_tokens", "input_layernorm"]}
TIED = {"tie_word_embeddings": True}
TRANSPOSED = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}

Cases = Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]]
FACTORS: Cases = {
    "llama all-linear rslora": ("llama", TIED, {"target_modules": "all-linear", "use_rslora": True}),
    "llama patterns": ("llama", {}, PATTERNS),
    "llama embedding and head": ("llama", {}, {"target_modules": ["embed_tokens", "lm_head", "k_proj"]}),
    "gpt2 conv1d": ("gpt2", {}, {"target_modules": ["c_attn", "c_proj", "c_fc", "wte"], "fan_in_fan_out": True}),
    "qwen2": ("qwen2", {}, {"target_modules": "all-linear"}),
    "qwen3": ("qwen3", {}, {"target_modules": "all-linear"}),
    "gemma2": ("gemma2", {}, {"target_modules": "all-linear"}),
    "gemma2 scaled embedding": ("gemma2", {}, {"target_modules": ["embed_tokens"]}),
    "phi3": ("phi3", {}, {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    "gpt_neox": ("gpt_neox", {}, {"target_modules": ["query_key_value", "dense_4h_to_h"]}),
}
"""Plain LoRA, which is composed module by module as well."""

VARIANTS: Cases = {
    "DoRA": ("llama", {}, {"target_modules": "all-linear", "use_dora": True}),
    "DoRA, rslora, patterns": ("llama", {}, {**PATTERNS, "use_dora": True}),
    "DoRA on conv1d with biases": (
        "gpt2",
        {},
        {"target_modules": ["c_attn"], "use_dora": True, "fan_in_fan_out": True},
    ),
    "DoRA on an embedding": ("llama", {}, {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "DoRA and trained biases": ("qwen2", {}, {"target_modules": QV, "use_dora": True, "bias": "all"}),
    "trained biases, norms too": ("gpt2", {}, {"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True}),
    "lora_only biases": ("qwen2", {}, {"target_modules": QV, "bias": "lora_only"}),
    "biases on lora_B": ("llama", {}, {"target_modules": QV, "lora_bias": True}),
    "a whole head": ("llama", {}, {"target_modules": QV, "modules_to_save": ["lm_head"]}),
    "a whole embedding, and norms": ("llama", {}, NORMS),
    "a whole embedding of a tied model": ("llama", TIED, {"target_modules": QV, "modules_to_save": ["embed_tokens"]}),
    "a whole block": ("llama", {}, {"target_modules": QV, "modules_to_save": ["mlp"]}),
    "fused experts": ("mixtral", {}, {"target_modules": QV, "target_parameters": EXPERTS}),
    "fused experts alone": ("mixtral", {}, {"target_modules": [], "target_parameters": EXPERTS[1:]}),
    "fused experts of qwen3": (
        "qwen3_moe",
        {},
        {"target_modules": QV, "target_parameters": EXPERTS, "rank_pattern": {"experts.down_proj": 2}},
    ),
    "fused experts of gpt-oss, transposed": (
        "gpt_oss",
        TRANSPOSED,
        {"target_modules": QV, "target_parameters": EXPERTS},
    ),
    "a router's bare weight": ("mixtral", {}, {"target_modules": QV, "target_parameters": ["mlp.gate.weight"]}),
}
"""What needs the whole model."""


class Pair:
    """One case: PEFT's model, and ours over the same two directories."""

    def __init__(self, directory: Path, case: str) -> None:
        family, overrides, config = {**FACTORS, **VARIANTS}[case]
        self.base_directory = save_model(directory / "base", family, **overrides)
        self.peft, self.directory = with_peft(directory / "adapter", self.base_directory, r=4, lora_alpha=8, **config)
        self.base = read_base(files_at(self.base_directory), family)
        self.adapter = read(self.directory)
        self.held = load_adapter(self.directory, self.adapter, self.base, torch.float32, full_model=True)
        model = load_model(self.base_directory, dtype=torch.float32, device="cpu")
        self.ours = ComposedModel(model, self.base.modules)
        self.slot = Slot(self.held, self.ours.variants(self.held))


@pytest.fixture(scope="module", params=[*FACTORS, *VARIANTS])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), request.param)


def tokens(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(3))


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_our_logits_are_pefts_and_the_base_is_left_as_it_was(pair: Pair) -> None:
    ids = tokens()
    ours, theirs = pair.ours.logits(ids, pair.slot), logits(pair.peft, ids)
    assert off(ours, theirs) <= TOLERANCE
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    plain = load_model(pair.base_directory, dtype=torch.float32, device="cpu")
    assert torch.equal(pair.ours.logits(ids, None), logits(plain, ids))
    assert off(pair.ours.logits(ids, None), theirs) > 100 * TOLERANCE
    if pair.slot.variants:  # without its extra weights it is another model
        assert off(pair.ours.logits(ids, replace(pair.slot, variants={})), theirs) > 100 * TOLERANCE


def test_greedy_with_a_cache_says_what_full_forwards_say(pair: Pair) -> None:
    prompt = tokens(rows=1)[0].tolist()
    answer = greedy(pair.ours, prompt, pair.slot, 5)
    ids = list(prompt)
    for token in answer:
        assert token == int(pair.ours.logits(torch.tensor([ids]), pair.slot)[0, -1].argmax())
        ids.append(token)
    assert len(answer) == 5
    assert greedy(pair.ours, prompt, pair.slot, 5, answer[2]) == answer[: answer.index(answer[2])]


def test_module_by_module_it_is_proved_or_refused_by_name_with_what_to_do(
    pair: Pair, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["pair"] in VARIANTS:
        with pytest.raises(Refused, match="cannot be composed") as refused:
            scalings(pair.adapter, pair.base)
        assert refused.value.hint == "use --forward model, which supports it"
        return
    weights = read_weights(pair.directory, pair.adapter, scalings(pair.adapter, pair.base))
    theirs = deltas(pair.peft)
    assert weights.keys() == theirs.keys()
    for path, module in weights.items():
        ours = module.scaling * (module.b @ module.a)
        ours = ours if pair.base.modules[path].kind == "linear" else ours.t()
        assert torch.allclose(ours, theirs[path], rtol=0, atol=1e-6 * float(theirs[path].abs().max())), path
    proof = prove(pair.slot.adapter, weights, pair.ours)
    assert (proof.holds, proof.weights) == (True, "base"), proof.worst


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
    assert got.dtype == torch.float64
    assert off(got, logits(peft.double(), ids)) <= 1e-6


def test_a_saved_module_that_the_model_does_not_have_so_is_refused_by_name(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "a whole head")
    pair.held.extra["lm_head"].params["weight"].resize_(VOCAB + 1, 64)
    with pytest.raises(LoraCliError, match=r"lm_head.weight is \[257, 64\], but the model's is \[256, 64\]"):
        pair.ours.variants(pair.held)


@pytest.mark.parametrize("case", ["DoRA", "fused experts", "fused experts alone"])
def test_the_worker_proves_it_over_the_whole_model_and_again_after_an_eviction(case: str, tmp_path: Path) -> None:
    family, overrides, config = VARIANTS[case]
    base_directory = save_model(tmp_path / "base", family, **overrides)
    base = read_base(files_at(base_directory), family)
    jobs = []
    for seed in range(3):
        _, directory = with_peft(tmp_path / str(seed), base_directory, seed=seed, r=4, **config)
        jobs.append(LoraRequest(str(seed), directory, read(directory), str(seed)))
    plan = Plan(base, 1, 2, base_directory=base_directory, device="cpu", forward="model")
    worker = Worker(plan)
    for job in (*jobs, *jobs):
        report = worker.load(job)
        assert report.error == ""
        assert report.moved is not None
    status, held = worker.status()["cpu"], worker.memory.contents().values()
    assert (status["adapters"], status["bytes"]) == (2, sum(one.storage.nbytes for one in held))
    refused = Worker(replace(plan, forward="modules")).load(jobs[0])
    assert (refused.stage, refused.exit_code) == ("read", 1)
