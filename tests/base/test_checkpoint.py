"""A checkpoint that transformers saved tells, by its header alone, the model that transformers loads from it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.safetensors import TensorInfo, parse_header
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.base.checkpoint import base_from_tensors
from lora_cli.errors import FormatError
from tests.base.configs import cases
from tests.base.oracle import facts, stated, transformers_model

Shapes = Mapping[str, tuple[int, ...]]


def saved(model: Any, directory: Path) -> dict[str, TensorInfo]:
    """The tensors in the header of the file that ``save_pretrained`` writes."""
    model.to_empty(device="cpu").save_pretrained(directory)
    data = (directory / "model.safetensors").read_bytes()
    return parse_header(data[8 : 8 + int.from_bytes(data[:8], "little")], len(data), "model.safetensors").tensors


def base_of(
    shapes: Shapes, config: Mapping[str, Any] | None = None, dtypes: Mapping[str, str] = MappingProxyType({})
) -> BaseModel:
    """The base by a header with such tensors; ``dtypes`` maps a last name to its dtype (else F16)."""
    tensors = {
        name: TensorInfo(name, dtypes.get(name.rpartition(".")[2], "F16"), shape, 0, 0, "model.safetensors")
        for name, shape in shapes.items()
    }
    return base_from_tensors(tensors, "base", config)


OTHERWISE = {"bert", "gpt_oss", "roberta", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "llama4"}
"""A header does not tell where the head of an encoder or of Llama 4 is, nor what experts are in memory."""


@pytest.mark.parametrize(
    ("family", "config"),
    [case for case in cases() if case[0] not in OTHERWISE and case[1].get("word_embed_proj_dim") is None],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_header_tells_the_same_model_as_the_config(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    model = transformers_model(config)
    named = {"model_type": family, "architectures": [type(model).__name__]}
    base = base_from_tensors(saved(model, tmp_path), "base", named)
    assert stated(base) == facts(model)
    assert (base.name, base.model_type, base.source) == ("base", family, "checkpoint header")
    assert base.architecture == type(model).__name__


LAYER = "model.layers.0.self_attn.k_proj"
EMBEDDING = {"model.embed_tokens.weight": (96, 64)}
MASKED = {"h.0.attn.bias": (1, 1, 20, 20), "h.0.attn.c_attn.weight": (48, 144), "h.0.attn.c_attn.bias": (144,)}
SIGLIP = {
    "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (36, 24),
    "language_model.model.layers.0.mlp.up_proj.weight": (80, 48),
    "language_model.model.layers.1.mlp.up_proj.weight": (80, 48),
    "language_model.model.embed_tokens.weight": (96, 48),
}


@pytest.mark.parametrize(
    ("shapes", "path", "module"),
    [
        (EMBEDDING | {f"{LAYER}.weight": (32, 64)}, "lm_head", BaseModule(64, 96)),
        (SIGLIP, "model.language_model.layers.1.mlp.up_proj", BaseModule(48, 80)),
        (SIGLIP, "model.vision_tower.encoder.layers.0.mlp.fc1", BaseModule(24, 36)),
        ({"wte.weight": (96, 48), **MASKED}, "transformer.h.0.attn.c_attn", BaseModule(48, 144, "conv1d", bias=True)),
        ({"a.c_proj.weight": (48, 48), "a.c_proj.bias": (48,)}, "a.c_proj", BaseModule(48, 48, bias=True)),
        ({"a.experts.0.w1.weight": (20, 48)}, "a.experts.0.w1", BaseModule(48, 20)),
        ({f"{LAYER}.weight": (32, 64), f"{LAYER}.weight_scale_inv": (1, 1)}, LAYER, BaseModule(64, 32)),
    ],
)
def test_a_module_of_a_header(shapes: Shapes, path: str, module: BaseModule) -> None:
    base = base_of(shapes)
    assert base.modules[path] == module
    assert base.parameters == {}
    assert base.num_layers == (2 if shapes is SIGLIP else 0 if path.startswith("a.") else 1)


@pytest.mark.parametrize(
    ("shapes", "dtypes", "message"),
    [
        ({f"{LAYER}.qweight": (8, 32), f"{LAYER}.scales": (2, 32)}, {"qweight": "I32"}, f"{LAYER}.qweight is I32"),
        ({f"{LAYER}.weight": (1024, 1)}, {"weight": "U8"}, "is quantised"),
        ({f"{LAYER}.weight": (32, 64)}, {"weight": "I8"}, "is quantised"),
        ({"a.experts.gate_up_proj_blocks": (4, 64, 90, 16)}, {"gate_up_proj_blocks": "U8"}, "is quantised"),
        ({"model.norm.weight": (48,)}, {}, "not a language model"),
        ({}, {}, "not a language model"),
        ({f"base_model.model.{LAYER}.lora_A.weight": (4, 64)}, {}, "an adapter's weights"),
        ({"model.layers.4096.mlp.up_proj.weight": (80, 48)}, {}, "4097 layers, over the limit"),
    ],
)
def test_what_is_no_plain_language_model_is_refused(shapes: Shapes, dtypes: dict[str, str], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        base_of(shapes, dtypes=dtypes)
    assert message in caught.value.message


NAMES = st.lists(
    st.sampled_from(
        ["model", "layers", "0", "7" * 12, "experts", "gate", "c_attn", "wte", "lm_head", "weight", "bias", ""]
    ),
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
    assert 0 <= base.num_layers <= 4096
