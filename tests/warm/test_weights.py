"""Factors are read as they are, and what the runtime cannot compose is refused by name."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as numpy_load
from safetensors.torch import load_file

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.reading import read_header
from lora_cli.base.base_model import BaseModel
from lora_cli.base.reading import has_weights
from lora_cli.errors import Corrupt, FormatError, MachineError, Refused
from lora_cli.sources.files import files_at
from lora_cli.warm.base_weights import CheckpointWeights, SyntheticWeights
from lora_cli.warm.composable import largest_rank, scalings
from lora_cli.warm.plan import LoraRequest, Plan
from lora_cli.warm.weights import read_tensors, read_weights, weight_bytes
from lora_cli.warm.worker import refuse_changed_copies
from tests.making import HIDDEN, Q_PROJ, VOCAB, Raw, llama_modules, raw, write_adapter, write_base, write_safetensors
from tests.warm.reading import LLAMA, load, read

A, B = f"base_model.model.{Q_PROJ}.lora_A.weight", f"base_model.model.{Q_PROJ}.lora_B.weight"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_the_factors_are_those_that_safetensors_itself_reads(tmp_path: Path, dtype: str) -> None:
    write_adapter(tmp_path, modules=llama_modules(), dtype=dtype, r=3)
    weights = load(tmp_path)
    oracle = load_file(tmp_path / "adapter_model.safetensors")
    assert weights.keys() == llama_modules().keys()
    for path, module in weights.items():
        assert torch.equal(module.a, oracle[f"base_model.model.{path}.lora_A.weight"])
        assert torch.equal(module.b, oracle[f"base_model.model.{path}.lora_B.weight"])
        assert module.rank == 3
    assert weight_bytes(read(tmp_path)) == sum(tensor.nbytes for tensor in oracle.values())


def test_tensors_that_are_not_aligned_are_read_all_the_same(tmp_path: Path) -> None:
    a, b = np.arange(3, dtype=np.float32).reshape(1, 3), np.arange(10, dtype=np.float64).reshape(5, 2)
    write_safetensors(tmp_path / "odd.safetensors", {"a": a, "b": b})
    files = files_at(tmp_path)
    tensors = read_tensors(tmp_path, read_header(files, *files).values())
    assert torch.equal(tensors["a"], torch.from_numpy(a))
    assert torch.equal(tensors["b"], torch.from_numpy(b))


def test_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    write_adapter(tmp_path).joinpath("adapter_model.safetensors").unlink()
    torch.save({A: torch.ones(4, 64), B: torch.ones(64, 4)}, tmp_path / "adapter_model.bin")
    with pytest.raises(Refused, match="its weights are in a pickle"):
        load(tmp_path)


def test_scaling_is_per_module_with_rslora_and_patterns(tmp_path: Path) -> None:
    config = {"use_rslora": True, "rank_pattern": {"v_proj": 16}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}}
    modules = llama_modules(["q_proj", "v_proj"])
    ranks = {path: 16 for path in modules if path.endswith("v_proj")}
    weights = load(write_adapter(tmp_path, modules=modules, r=4, lora_alpha=8, ranks=ranks, config=config))
    scaling = {path.split(".", 2)[2]: module.scaling for path, module in weights.items()}
    assert scaling == {
        "0.self_attn.q_proj": 8 / math.sqrt(4),
        "1.self_attn.q_proj": 3 / math.sqrt(4),
        "0.self_attn.v_proj": 8 / math.sqrt(16),
        "1.self_attn.v_proj": 8 / math.sqrt(16),
    }
    assert largest_rank(read(tmp_path), LLAMA) == 16


def test_a_file_that_was_cut_after_it_was_judged_is_corrupt_not_a_crash(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    adapter = read(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(Corrupt, match="does not match its header"):
        read_weights(tmp_path, adapter, scalings(adapter, LLAMA))
    file.unlink()
    with pytest.raises(MachineError, match="cannot read"):
        read_weights(tmp_path, adapter, scalings(adapter, LLAMA))


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"use_dora": True}, {}, "DoRA cannot be composed"),
        ({}, {A.replace("lora_A", "lora_magnitude_vector"): np.ones(HIDDEN, np.float32)}, "factor .magnitude"),
        ({"bias": "all"}, {}, "biases cannot be composed"),
        ({"lora_bias": True}, {}, "biases on lora_B cannot"),
        ({}, {B.replace("weight", "bias"): np.ones(HIDDEN, np.float32)}, "not a LoRA factor .lora_bias"),
        ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save cannot be composed"),
        ({}, {"base_model.model.lm_head.weight": np.ones((VOCAB + 1, HIDDEN), np.float32)}, "not a LoRA factor .saved"),
        ({}, {"base_model.model.lm_head.bias": np.ones(VOCAB, np.float32)}, "not a LoRA factor .saved"),
        ({}, {"base_model.model.score.weight": np.ones((2, HIDDEN), np.float32)}, "not a LoRA factor .saved"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, {}, "fused experts and bare parameters"),
        ({"trainable_token_indices": [1, 2]}, {}, "trainable_token_indices of its config cannot"),
        ({"layer_replication": [[0, 2]]}, {}, "layer_replication of its config"),
        ({"alora_invocation_tokens": [5]}, {}, "alora_invocation_tokens of"),
        ({"use_qalora": True}, {}, "use_qalora of"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, "base weights changed by its initialisation"),
        ({"init_lora_weights": "olora"}, {}, "base weights changed by its initialisation"),
        ({}, {A.replace("lora_A", "lora_C"): np.ones((4, 4), np.float32)}, "not a LoRA factor .unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_composed_is_refused_by_name(
    tmp_path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        load(write_adapter(tmp_path, config=config, tensors=tensors))


@pytest.mark.parametrize(
    ("drop", "tensors", "said"),
    [
        (
            [A, B],
            {A.replace("layers.0", "layers.7"): np.ones((4, HIDDEN), np.float32)},
            "is not a module of tiny llama",
        ),
        ([A, B], {A.replace("lora_A.weight", "lora_embedding_A"): np.ones((4, HIDDEN), np.float32)}, "of kind linear"),
    ],
)
def test_factors_of_no_module_of_the_base_are_refused_by_name(
    tmp_path: Path, drop: list[str], tensors: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        load(write_adapter(tmp_path, tensors=tensors, drop=drop))


COPY = "base_model.model.lm_head.base_layer.weight"


PLAN = Plan(LLAMA, 1, 1)


def lora(folder: Path, adapter: Adapter) -> LoraRequest:
    return LoraRequest("adapter", folder / "adapter", adapter)


def with_copy(directory: Path, change: float = 0.0, dtype: str = "float32") -> Adapter:
    """An adapter beside the output layer's own weight, as PEFT saves it, over the base in ``directory / "base"``."""
    write_base(directory / "base")
    own = raw(numpy_load(directory / "base" / "model.safetensors")["lm_head.weight"] + np.float32(change), dtype)
    return read(write_adapter(directory / "adapter", tensors={COPY: own}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_of_the_bases_own_weight_says_nothing_and_is_compared(tmp_path: Path, dtype: str) -> None:
    adapter = with_copy(tmp_path, dtype=dtype)
    assert scalings(adapter, LLAMA).keys() == {Q_PROJ}
    refuse_changed_copies(lora(tmp_path, adapter), PLAN, CheckpointWeights(tmp_path / "base", LLAMA))


def test_a_copy_that_differs_from_the_base_is_refused(tmp_path: Path) -> None:
    adapter = with_copy(tmp_path, change=1e-6)
    with pytest.raises(Refused, match=f"{COPY} differs from the base's own weight"):
        refuse_changed_copies(lora(tmp_path, adapter), PLAN, CheckpointWeights(tmp_path / "base", LLAMA))


def test_a_copy_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="the base's weights are missing"):
        refuse_changed_copies(lora(tmp_path, with_copy(tmp_path)), PLAN, SyntheticWeights(LLAMA))


def test_an_embedding_adapter_has_the_vocabulary_on_its_a_side(tmp_path: Path) -> None:
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    factors = {f"{name}A": np.ones((4, VOCAB), np.float32), f"{name}B": np.ones((HIDDEN, 4), np.float32)}
    weights = load(write_adapter(tmp_path, modules={}, tensors=factors, config={"target_modules": ["embed_tokens"]}))
    assert weights["model.embed_tokens"].embedding


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bases_weights_are_the_checkpoints_own(tmp_path: Path, shards: int, dtype: str) -> None:
    directory = write_base(tmp_path, shards=shards, dtype=dtype)
    assert has_weights(directory)
    base = CheckpointWeights(directory, LLAMA)
    oracle = {key: value for file in directory.glob("*.safetensors") for key, value in load_file(file).items()}
    for module in LLAMA.modules:
        assert torch.equal(base.weight(module), oracle[f"{module}.weight"])


def test_a_tied_output_has_the_embeddings_weights(tmp_path: Path) -> None:
    directory = write_base(tmp_path, tie_word_embeddings=True)
    tied = BaseModel("tied", "llama", LLAMA.modules, 2, HIDDEN, VOCAB, tied_embeddings=True)
    base = CheckpointWeights(directory, tied)
    oracle = load_file(directory / "model.safetensors")
    assert torch.equal(base.weight("lm_head"), oracle["model.embed_tokens.weight"])


def test_a_checkpoint_that_lacks_a_module_or_holds_it_quantised_says_so(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"the checkpoint has no lm_head\.weight"):
        CheckpointWeights(write_base(tmp_path / "tied", tie_word_embeddings=True), LLAMA).weight("lm_head")
    packed = {f"{Q_PROJ}.weight": Raw("I8", (2, 2), b"1234")}
    write_safetensors(tmp_path / "int" / "model.safetensors", packed)
    with pytest.raises(FormatError, match=r"q_proj\.weight is I8 \[2, 2\], not a plain weight of shape \[64, 64\]"):
        CheckpointWeights(tmp_path / "int", LLAMA)


def test_of_a_single_file_and_an_index_the_single_file_counts_as_it_does_for_transformers(tmp_path: Path) -> None:
    base = write_base(tmp_path)
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": "stale.safetensors"}}')
    assert CheckpointWeights(base, LLAMA).weight("lm_head").shape == (256, 64)


def test_of_two_shards_with_one_name_the_one_counts_that_the_index_names(tmp_path: Path) -> None:
    directory = write_base(tmp_path / "base", shards=2)
    module = "model.layers.0.self_attn.k_proj"  # in the first of the two
    name = f"{module}.weight"
    index = directory / "model.safetensors.index.json"
    shard_of = json.loads(index.read_text())["weight_map"]
    (other,) = set(shard_of.values()) - {shard_of[name]}
    right = load_file(directory / shard_of[name])[name]
    held = {key: raw(value.numpy()) for key, value in load_file(directory / other).items()}
    write_safetensors(directory / other, held | {name: raw(np.zeros(right.shape))})
    assert torch.equal(CheckpointWeights(directory, LLAMA).weight(module), right)
