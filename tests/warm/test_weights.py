"""Factors are read as they are, and what the runtime cannot compose is refused by name."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as numpy_load
from safetensors.torch import load_file

from lora_cli.base.reading import has_weights
from lora_cli.errors import Corrupt, FormatError, MachineError, Refused
from lora_cli.warm.base_weights import CheckpointWeights, SyntheticWeights
from lora_cli.warm.composable import scalings
from lora_cli.warm.plan import LoraRequest, Plan
from lora_cli.warm.weights import read_weights
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


def test_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    write_adapter(tmp_path).joinpath("adapter_model.safetensors").unlink()
    torch.save({A: torch.ones(4, 64), B: torch.ones(64, 4)}, tmp_path / "adapter_model.bin")
    with pytest.raises(Refused, match="its weights are in a pickle"):
        load(tmp_path)


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


ONES = np.ones((4, HIDDEN), np.float32)


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"use_dora": True}, {}, "DoRA cannot be composed"),
        ({}, {A.replace("lora_A", "lora_magnitude_vector"): ONES[0]}, "factor .magnitude"),
        ({"bias": "all"}, {}, "biases cannot be composed"),
        ({"lora_bias": True}, {}, "biases on lora_B cannot"),
        ({}, {B.replace("weight", "bias"): ONES[0]}, "not a LoRA factor .lora_bias"),
        ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save cannot be composed"),
        ({}, {"base_model.model.lm_head.weight": np.ones((VOCAB + 1, HIDDEN), np.float32)}, "not a LoRA factor .saved"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, {}, "fused experts and bare parameters"),
        ({"trainable_token_indices": [1, 2]}, {}, "trainable_token_indices of its config"),
        ({"use_qalora": True}, {}, "use_qalora of"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, "base weights changed by its initialisation"),
        ({}, {A.replace("lora_A", "lora_C"): np.ones((4, 4), np.float32)}, "not a LoRA factor .unknown"),
        ({}, {A.replace("layers.0", "layers.7"): ONES}, "is not a module of tiny llama"),
        ({}, {A.replace("q_proj.lora_A.weight", "k_proj.lora_embedding_A"): ONES}, "of kind linear"),
    ],
)
def test_what_cannot_be_composed_is_refused_by_name(
    tmp_path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        load(write_adapter(tmp_path, config=config, tensors=tensors))


COPY = "base_model.model.lm_head.base_layer.weight"


@pytest.mark.parametrize(
    ("change", "dtype", "said"),
    [(0.0, "float32", ""), (0.0, "bfloat16", ""), (1e-6, "float32", f"{COPY} differs from the base's own weight")],
)
def test_a_copy_of_the_bases_own_weight_says_nothing_and_is_compared(
    tmp_path: Path, change: float, dtype: str, said: str
) -> None:
    """PEFT saves the output layer's own weight beside an adapter."""
    own = numpy_load(write_base(tmp_path / "base") / "model.safetensors")["lm_head.weight"] + np.float32(change)
    folder = write_adapter(tmp_path / "adapter", tensors={COPY: raw(own, dtype)})
    lora, plan = LoraRequest("adapter", folder, read(folder), "adapter"), Plan(LLAMA, 1, 1)
    assert scalings(lora.adapter, LLAMA).keys() == {Q_PROJ}
    with pytest.raises(Refused, match=said) if said else nullcontext():
        refuse_changed_copies(lora, plan, CheckpointWeights(tmp_path / "base", LLAMA))
    with pytest.raises(Refused, match="the base's weights are missing"):
        refuse_changed_copies(lora, plan, SyntheticWeights(LLAMA))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bases_weights_are_the_checkpoints_own(tmp_path: Path, shards: int, dtype: str) -> None:
    directory = write_base(tmp_path, shards=shards, dtype=dtype)
    assert has_weights(directory)
    base = CheckpointWeights(directory, LLAMA)
    oracle = {key: value for file in directory.glob("*.safetensors") for key, value in load_file(file).items()}
    for module in LLAMA.modules:
        assert torch.equal(base.weight(module), oracle[f"{module}.weight"])


def test_a_checkpoint_that_lacks_a_module_or_holds_it_quantised_says_so(tmp_path: Path) -> None:
    directory = write_base(tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(FormatError, match=r"the checkpoint has no lm_head\.weight"):
        CheckpointWeights(directory, LLAMA).weight("lm_head")
    tied = CheckpointWeights(directory, replace(LLAMA, tied_embeddings=True))
    assert torch.equal(tied.weight("lm_head"), tied.weight("model.embed_tokens"))
    packed = {f"{Q_PROJ}.weight": Raw("I8", (2, 2), b"1234")}
    write_safetensors(tmp_path / "int" / "model.safetensors", packed)
    with pytest.raises(FormatError, match=r"q_proj\.weight is I8 \[2, 2\], not a plain weight of shape \[64, 64\]"):
        CheckpointWeights(tmp_path / "int", LLAMA)
