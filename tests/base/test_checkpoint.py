"""A checkpoint that transformers saved tells, by its header alone, the model that transformers loads from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.adapter.safetensors import TensorInfo, parse_header
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.base.checkpoint import base_from_tensors
from lora_cli.errors import FormatError
from tests.base.configs import CONFIGS, GPT2, GROUPED, cases
from tests.base.oracle import facts, stated, transformers_model


def saved(model: Any, directory: Path) -> dict[str, TensorInfo]:
    """The tensors in the header of the file that ``save_pretrained`` writes."""
    model.to_empty(device="cpu").save_pretrained(directory)
    data = (directory / "model.safetensors").read_bytes()
    return parse_header(data[8 : 8 + int.from_bytes(data[:8], "little")], len(data), "model.safetensors").tensors


def headers(shapes: Mapping[str, tuple[int, ...]], **dtypes: str) -> dict[str, TensorInfo]:
    """Tensors by name, as a header tells of them; ``dtypes`` maps a last name to its dtype (else F16)."""
    return {
        name: TensorInfo(name, dtypes.get(name.rpartition(".")[2], "F16"), shape, 0, 0, "model.safetensors")
        for name, shape in shapes.items()
    }


def base_of(shapes: Mapping[str, tuple[int, ...]], **dtypes: str) -> BaseModel:
    return base_from_tensors(headers(shapes, **dtypes), "base")


def refusal(shapes: Mapping[str, tuple[int, ...]], **dtypes: str) -> str:
    with pytest.raises(FormatError) as caught:
        base_of(shapes, **dtypes)
    return caught.value.message


ENCODERS = ("bert", "roberta")
"""A header does not tell where the head of an encoder stands: without a config, its tied one is not known."""


@pytest.mark.parametrize(
    ("family", "config"),
    [case for case in cases() if case[0] not in ENCODERS],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_header_tells_the_same_model_as_the_config(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    model = transformers_model(config)
    named = {"model_type": family, "architectures": [type(model).__name__]}
    base = base_from_tensors(saved(model, tmp_path), "base", named)
    assert stated(base) == facts(model)
    assert (base.name, base.model_type, base.source) == ("base", family, "checkpoint header")
    assert base.architecture == type(model).__name__


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bloom", "falcon", "opt"])
def test_a_model_saved_without_its_head_has_the_paths_of_the_class_with_one(family: str, tmp_path: Path) -> None:
    model = transformers_model({"model_type": family, **CONFIGS[family][0], "tie_word_embeddings": True})
    expected = facts(model)
    tensors = saved(model.base_model, tmp_path)
    assert not any(name.startswith(model.base_model_prefix + ".") for name in tensors)
    assert stated(base_from_tensors(tensors, "base")) == expected


def test_a_checkpoint_of_an_older_transformers_has_the_paths_of_today() -> None:
    base = base_of(
        {
            "gpt_neox.embed_in.weight": (96, 48),
            "gpt_neox.layers.0.attention.dense.weight": (48, 48),
            "embed_out.weight": (96, 48),
        }
    )
    assert base.modules["lm_head"] == BaseModule(48, 96)
    assert not base.tied_embeddings
    siglip = base_of(
        {
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (36, 24),
            "language_model.model.layers.0.mlp.up_proj.weight": (80, 48),
            "language_model.model.embed_tokens.weight": (96, 48),
        }
    )
    assert set(siglip.modules) == {
        "model.vision_tower.encoder.layers.0.mlp.fc1",
        "model.language_model.layers.0.mlp.up_proj",
        "model.language_model.embed_tokens",
        "lm_head",
    }


def test_the_attention_mask_in_an_old_gpt2_checkpoint_is_no_parameter() -> None:
    shapes = {"h.0.attn.bias": (1, 1, 20, 20), "h.0.attn.c_attn.weight": (48, 144), "h.0.attn.c_attn.bias": (144,)}
    base = base_of({"wte.weight": (96, 48), **shapes})
    assert dict(base.parameters) == {}
    assert base.modules["transformer.h.0.attn.c_attn"] == BaseModule(48, 144, "conv1d", bias=True)


def test_a_square_layer_with_a_bias_is_linear_unless_its_neighbours_are_transposed(tmp_path: Path) -> None:
    square = {"model.layers.0.c_proj.weight": (48, 48), "model.layers.0.c_proj.bias": (48,)}
    assert base_of(square).modules["model.layers.0.c_proj"].kind == "linear"
    wide = {"model.layers.0.c_fc.weight": (192, 48), "model.layers.0.c_fc.bias": (192,)}
    assert base_of(square | wide).modules["model.layers.0.c_proj"].kind == "linear"
    gpt2 = transformers_model({"model_type": "gpt2", **GPT2})
    base = base_from_tensors(saved(gpt2, tmp_path), "base")
    assert {module.kind for path, module in base.modules.items() if ".c_" in path} == {"conv1d"}


EXPERTS = {
    f"model.layers.0.mlp.experts.{i}.{role}.weight": (48, 20) if role == "down_proj" else (20, 48)
    for i in range(3)
    for role in ("gate_proj", "up_proj", "down_proj")
}


def test_experts_stored_one_by_one_are_one_parameter() -> None:
    base = base_of({"model.embed_tokens.weight": (96, 48), "model.layers.0.mlp.gate.weight": (3, 48), **EXPERTS})
    assert dict(base.parameters) == {
        "model.layers.0.mlp.gate.weight": (3, 48),
        "model.layers.0.mlp.experts.gate_up_proj": (3, 40, 48),
        "model.layers.0.mlp.experts.down_proj": (3, 48, 20),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"model.layers.0.mlp.experts.2.down_proj.weight": None},
        {"model.layers.0.mlp.experts.9.up_proj.weight": (20, 48)},
        {"model.layers.0.mlp.experts.1.up_proj.weight": (21, 48)},
    ],
)
def test_experts_that_do_not_fit_one_tensor_stay_modules(change: dict[str, Any]) -> None:
    shapes = {name: shape for name, shape in (EXPERTS | change).items() if shape is not None}
    base = base_of(shapes)
    assert set(base.modules) == {name.removesuffix(".weight") for name in shapes}


LAYER = "model.layers.0.self_attn.k_proj"
EMBEDDING = {"model.embed_tokens.weight": (96, 64)}


@pytest.mark.parametrize(
    ("stored", "dtypes", "method"),
    [
        ({"qweight": (8, 32), "qzeros": (2, 4), "scales": (2, 32), "g_idx": (64,)}, {"qweight": "I32"}, "gptq"),
        ({"qweight": (16, 32), "qzeros": (2, 8), "scales": (2, 32)}, {"qweight": "I32"}, "gptq"),
        ({"qweight": (64, 4), "qzeros": (2, 4), "scales": (2, 32)}, {"qweight": "I32"}, "awq"),
        ({"weight": (32, 64), "weight_scale_inv": (1, 1)}, {"weight": "F8_E4M3"}, "fp8"),
        ({"weight": (32, 64), "SCB": (32,)}, {"weight": "I8"}, "bitsandbytes 8-bit"),
    ],
)
def test_a_packed_weight_has_the_shape_that_it_stands_for(
    stored: dict[str, tuple[int, ...]], dtypes: dict[str, str], method: str
) -> None:
    base = base_of(EMBEDDING | {f"{LAYER}.{leaf}": shape for leaf, shape in stored.items()}, **dtypes)
    assert base.modules[LAYER] == BaseModule(d_in=64, d_out=32)
    assert set(base.modules) == {LAYER, "model.embed_tokens", "lm_head"}
    assert dict(base.parameters) == {}
    assert base.source == f"checkpoint header, quantised: {method}"


@pytest.mark.parametrize(
    ("stored", "method"),
    [
        ({"weight": (1024, 1), "weight.absmax": (32,)}, "4-bit"),
        ({"weight_packed": (32, 8)}, "compressed-tensors"),
        ({"W_q": (8, 8)}, "HQQ"),
    ],
)
def test_a_packing_that_hides_the_dimensions_is_refused_by_name(
    stored: dict[str, tuple[int, ...]], method: str
) -> None:
    message = refusal({f"{LAYER}.{leaf}": shape for leaf, shape in stored.items()}, weight="U8")
    assert message.startswith("model.safetensors: the checkpoint is quantised (")
    assert method in message
    assert LAYER in message


def test_a_packed_weight_without_what_unpacks_it_is_refused() -> None:
    assert "without scales" in refusal({f"{LAYER}.qweight": (8, 32)})
    assert "without g_idx or qzeros" in refusal({f"{LAYER}.qweight": (8, 32), f"{LAYER}.scales": (2, 32)})


def test_what_is_no_language_model_is_refused() -> None:
    assert "not a language model" in refusal({"model.norm.weight": (48,)})
    assert "not a language model" in refusal({})
    assert "an adapter's weights" in refusal({f"base_model.model.{LAYER}.lora_A.weight": (4, 64)})


def test_layers_are_counted_in_the_language_model_and_bounded() -> None:
    vision = {f"model.vision_tower.encoder.layers.{i}.mlp.fc1.weight": (36, 24) for i in range(9)}
    text = {f"model.language_model.layers.{i}.mlp.up_proj.weight": (80, 48) for i in range(2)}
    assert base_of(vision | text).num_layers == 2
    assert base_of({"lm_head.weight": (96, 48)}).num_layers == 0
    deep = {f"model.layers.{MAX_LAYERS}.mlp.up_proj.weight": (80, 48)}
    assert "over the limit" in refusal(deep)
    assert base_of({"model.layers.0.mlp.up_proj.weight": (80, 48)}).hidden_size == 48


NAMES = st.lists(
    st.sampled_from(
        ["model", "layers", "0", "1", "7" * 12, "mlp", "experts", "gate", "c_fc", "wte", "lm_head", "weight"]
    )
    | st.sampled_from(["bias", "qweight", "scales", "g_idx", "qzeros", "up_proj", "w1", "embed_tokens", ""]),
    min_size=1,
    max_size=6,
).map(".".join)


@given(st.dictionaries(NAMES, st.lists(st.integers(0, 2**64), max_size=4).map(tuple), max_size=12))
def test_whatever_a_header_holds_there_is_a_model_or_a_format_error(shapes: dict[str, tuple[int, ...]]) -> None:
    try:
        base = base_of(shapes)
    except FormatError:
        return
    assert base.modules
    assert 0 <= base.num_layers <= MAX_LAYERS


def test_the_family_is_the_configs_word_or_unknown() -> None:
    tensors = headers({"model.embed_tokens.weight": (96, 48), f"{LAYER}.weight": (32, 48)})
    assert base_from_tensors(tensors, "base").model_type == "unknown"
    assert base_from_tensors(tensors, "base", {"model_type": "seed_oss"}).model_type == "seed_oss"
    assert base_from_tensors(tensors, "base", {"model_type": GROUPED}).model_type == "unknown"
