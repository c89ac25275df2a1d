"""What an adapter has beside plain factors is composed onto the whole model as PEFT composes it, row by row."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cli.base.base_model import BaseModel
from lora_cli.base.reading import read_base
from lora_cli.errors import LoraCliError, Refused
from lora_cli.runtime.adapter_loader import load_into
from lora_cli.runtime.composable import largest_rank, scalings
from lora_cli.runtime.generation_batch import greedy
from lora_cli.runtime.lora_slots import Slots
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.plan import Plan, TierLimits, plan_slots, slot_requirements
from lora_cli.runtime.transformers_model import ComposedModel, load_model
from lora_cli.runtime.variants import extra_weight_bytes, read_extra_weights
from lora_cli.runtime.worker import Worker
from lora_cli.sources.files import files_at
from tests.making import VOCAB
from tests.warm.families import save_model, with_peft
from tests.warm.reading import read
from tests.warm.test_peft_oracle import TOLERANCE, tokens

QV = ["q_proj", "v_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

CASES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "DoRA": ("llama", {}, {"target_modules": "all-linear", "use_dora": True}),
    "DoRA, rslora, patterns": (
        "llama",
        {},
        {"target_modules": QV, "use_dora": True, "use_rslora": True, "rank_pattern": {"layers.1.self_attn.q_proj": 7}},
    ),
    "DoRA on conv1d with biases": (
        "gpt2",
        {},
        {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True},
    ),
    "DoRA on an embedding": ("llama", {}, {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "DoRA and trained biases": ("qwen2", {}, {"target_modules": QV, "use_dora": True, "bias": "all"}),
    "trained biases": ("qwen2", {}, {"target_modules": QV, "bias": "all"}),
    "trained biases, norms too": (
        "gpt2",
        {},
        {"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True},
    ),
    "lora_only biases": ("qwen2", {}, {"target_modules": QV, "bias": "lora_only"}),
    "biases on lora_B": ("llama", {}, {"target_modules": QV, "lora_bias": True}),
    "a whole head": ("llama", {}, {"target_modules": QV, "modules_to_save": ["lm_head"]}),
    "a whole embedding, and norms": (
        "llama",
        {},
        {"target_modules": QV, "modules_to_save": ["embed_tokens", "input_layernorm"]},
    ),
    "a whole embedding of a tied model": (
        "llama",
        {"tie_word_embeddings": True},
        {"target_modules": QV, "modules_to_save": ["embed_tokens"]},
    ),
    "a whole block": ("llama", {}, {"target_modules": QV, "modules_to_save": ["mlp"]}),
    "fused experts": ("mixtral", {}, {"target_modules": QV, "target_parameters": EXPERTS}),
    "fused experts alone": ("mixtral", {}, {"target_modules": [], "target_parameters": EXPERTS[1:]}),
    "fused experts of qwen3": (
        "qwen3_moe",
        {},
        {"target_modules": QV, "target_parameters": EXPERTS, "rank_pattern": {"experts.down_proj": 2}},
    ),
    "fused experts of gpt-oss, which are transposed": (
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
        {"target_modules": QV, "target_parameters": EXPERTS},
    ),
    "a router's bare weight": ("mixtral", {}, {"target_modules": QV, "target_parameters": ["mlp.gate.weight"]}),
}  # fmt: skip


class Pair:
    """One case: PEFT's model, and ours over the same two directories, with a plain adapter in another slot."""

    def __init__(self, directory: Path, case: str, undo: ExitStack) -> None:
        family, overrides, config = CASES[case]
        self.base_directory = save_model(directory / "base", family, **overrides)
        self.peft, self.directory = with_peft(directory / "adapter", self.base_directory, r=4, lora_alpha=8, **config)
        self.base: BaseModel = read_base(files_at(self.base_directory), family)
        self.adapter = read(self.directory)
        self.scaling = scalings(self.adapter, self.base, full_model=True)
        attention = "c_attn" if family == "gpt2" else "k_proj"
        _, plain = with_peft(directory / "plain", self.base_directory, seed=1, r=4, target_modules=[attention])
        on = {path for path in self.base.modules if path.endswith(attention)} | set(self.scaling)
        self.slots = Slots({path: self.base.modules[path] for path in self.base.modules if path in on}, 2, 16)
        self.ours = ComposedModel(load_model(self.base_directory, dtype=torch.float32, device="cpu"), self.slots)
        self.plain = load_into(self.slots, plain, read(plain), scalings(read(plain), self.base))
        self.slot = load_into(self.slots, self.directory, self.adapter, self.scaling)
        self.beside = read_extra_weights(self.directory, self.adapter, self.base, torch.float32)
        undo.enter_context(self.ours.with_extra_weights(self.slot, self.beside))


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as undo:
        yield Pair(tmp_path_factory.mktemp("pair"), request.param, undo)


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_our_logits_are_pefts(pair: Pair) -> None:
    ids = tokens()
    with torch.inference_mode():
        theirs = pair.peft(input_ids=ids).logits
    ours = pair.ours.logits(ids, [pair.slot] * len(ids))
    assert off(ours, theirs) <= TOLERANCE
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    assert off(pair.ours.logits(ids, [0] * len(ids)), theirs) > 100 * TOLERANCE
    with pair.ours.with_slots([pair.slot] * len(ids)):  # without its extra weights it is another model
        variants, pair.ours._variants = pair.ours._variants, {}
        with torch.inference_mode():
            without = pair.ours.model(input_ids=ids).logits
        pair.ours._variants = variants
    assert off(without, theirs) > 100 * TOLERANCE


def test_a_mixed_batch_is_each_row_on_its_own_in_any_order(pair: Pair) -> None:
    ids, rows = tokens(rows=6), [pair.slot, 0, pair.plain, pair.slot, pair.plain, 0]
    alone = torch.cat([pair.ours.logits(ids[row : row + 1], [slot]) for row, slot in enumerate(rows)])
    assert off(pair.ours.logits(ids, rows), alone) <= TOLERANCE
    order = [5, 2, 0, 3, 1, 4]
    permuted = pair.ours.logits(ids[order], [rows[row] for row in order])
    assert off(permuted, alone[order]) <= TOLERANCE


def test_rows_of_the_base_are_the_bases_to_the_bit(pair: Pair) -> None:
    ids = tokens(rows=2)
    plain = load_model(pair.base_directory, dtype=torch.float32, device="cpu")
    with torch.inference_mode():
        assert torch.equal(pair.ours.logits(ids, [0, 0]), plain(input_ids=ids).logits)


def test_with_a_cache_it_says_what_full_forwards_say(pair: Pair) -> None:
    prompt = tokens(rows=1)[0].tolist()
    answer, _ = greedy(pair.ours, prompt, pair.slot, 4, stop=())
    ids = list(prompt)
    for token in answer:
        assert token == int(pair.ours.logits(torch.tensor([ids]), [pair.slot])[0, -1].argmax())
        ids.append(token)


def test_its_bytes_are_known_before_it_is_read(pair: Pair) -> None:
    held = [
        *(one for each in pair.beside.values() for one in (*each.params.values(), each.magnitude, each.shift)),
        *(one for each in pair.beside.values() for update in each.updates.values() for one in (update.a, update.b)),
    ]
    assert extra_weight_bytes(pair.adapter, pair.base, torch.float32) == sum(
        one.nbytes for one in held if one is not None
    )
    assert largest_rank(pair.adapter, pair.base) <= 16


def test_module_by_module_it_is_refused_by_name_with_what_to_do(pair: Pair) -> None:
    with pytest.raises(Refused, match="cannot be composed") as refused:
        scalings(pair.adapter, pair.base)
    assert refused.value.hint == "use --forward model, which supports it"


def test_when_it_leaves_the_slot_nothing_of_it_stays(tmp_path: Path) -> None:
    with ExitStack() as undo:
        pair = Pair(tmp_path, "DoRA and trained biases", undo)
        ids = tokens()
        varied = pair.ours.logits(ids, [pair.slot] * 2)
    plain = pair.ours.logits(ids, [pair.slot] * 2)
    assert off(plain, varied) > 100 * TOLERANCE
    pair.slots.clear(pair.slot)
    base = load_model(pair.base_directory, dtype=torch.float32, device="cpu")
    with torch.inference_mode():
        assert torch.equal(pair.ours.logits(ids, [pair.slot] * 2), base(input_ids=ids).logits)


def test_no_nan_beside_the_factors_of_one_adapter_reaches_another(tmp_path: Path) -> None:
    with ExitStack() as undo:
        pair = Pair(tmp_path, "a whole head", undo)
        for one in pair.beside.values():
            for tensor in one.params.values():
                tensor.fill_(float("nan"))
        logits = pair.ours.logits(tokens(rows=3), [pair.slot, 0, pair.plain])
        assert torch.isfinite(logits).all(2).all(1).tolist() == [False, True, True]


def test_a_saved_module_that_the_model_does_not_have_so_is_refused_by_name(tmp_path: Path) -> None:
    with ExitStack() as undo:
        pair = Pair(tmp_path, "a whole head", undo)
        pair.beside["lm_head"].params["weight"].resize_(VOCAB + 1, 64)
        with pytest.raises(LoraCliError, match=r"lm_head.weight is \[257, 64\], but the model's is \[256, 64\]"):
            undo.enter_context(pair.ours.with_extra_weights(pair.plain, pair.beside))


@pytest.mark.parametrize("case", ["DoRA", "a whole head", "biases on lora_B", "fused experts", "fused experts alone"])
def test_the_warm_process_proves_it_over_the_whole_model_and_again_after_an_eviction(case: str, tmp_path: Path) -> None:
    family, overrides, config = CASES[case]
    base_directory = save_model(tmp_path / "base", family, **overrides)
    base = read_base(files_at(base_directory), family)
    jobs = []
    for seed in range(3):
        _, directory = with_peft(tmp_path / str(seed), base_directory, seed=seed, r=4, **config)
        jobs.append(LoraRequest(str(seed), directory, read(directory)))
    plan = Plan(base, (), TierLimits(1, 2), base_directory, forward="model")
    plan = plan_slots(plan, [slot_requirements(job.adapter, plan.base) for job in jobs])
    worker = Worker(plan)
    for job in (*jobs, *jobs):
        report = worker.load(job)
        assert (report.error, report.tier) == ("", "disk")
    assert worker.cpu_tier.used_bytes() == 2 * (
        worker.host_slots.slot_bytes + extra_weight_bytes(jobs[0].adapter, base, torch.float32)
    )
    assert worker.load(jobs[1]).tier == "cpu"
    modules = Worker(replace(plan, forward="modules"))
    refused = modules.load(jobs[0])
    assert (refused.stage, refused.exit_code) == ("read", 1)
    assert refused.hint == "use --forward model, which supports it"
