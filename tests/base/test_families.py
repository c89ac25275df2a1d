"""A family's model is the one that transformers builds of the same config; what no model has is refused by its key."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import FAMILIES, SIZES, base_from_config
from lora_cli.checks.base import NORM
from lora_cli.errors import FormatError
from tests.base.configs import CONFIGS, GROUPED, IMAGES
from tests.base.oracle import facts, stated, transformers_model

LLAMA = {"model_type": "llama", **GROUPED}
MOE = {"model_type": "qwen3_moe", **GROUPED}
GEMMA3 = {"model_type": "gemma3", **IMAGES}
HUGE = 10**12


def made(config: dict[str, Any]) -> BaseModel:
    return base_from_config(config, "base")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_the_modules_and_shapes_of_transformers_and_its_norms_are_named_so(
    family: str, tmp_path: Path
) -> None:
    """From each config, from one without a key, whose default is the class's, and from the one that is saved."""
    assert len(CONFIGS[family]) >= 2
    for config in ({}, *CONFIGS[family]):
        model = transformers_model({"model_type": family, **config})
        base = made({"model_type": family, **config})
        assert stated(base) == facts(model)
        assert (base.name, base.model_type, base.source) == ("base", family, f"config.json ({family})")
        for path, module in model.named_modules():
            if "norm" in type(module).__name__.lower() and next(module.parameters(), None) is not None:
                assert NORM.search(path.rpartition(".")[2])
    transformers_model({"model_type": family, **CONFIGS[family][0]}).config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert stated(made(saved)) == facts(transformers_model({"model_type": family, **CONFIGS[family][0]}))


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "source", "config.json (llama, quantised: gptq)"),
        ({"torch_dtype": "torch.float16"}, "dtype", "float16"),
        ({}, "heads", 6),
        ({"model_type": "gpt2", "num_attention_heads": None}, "heads", None),
        ({"architectures": ["SomeModel", "Other"]}, "architecture", "SomeModel"),
    ],
)
def test_what_else_a_config_tells(config: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(made(LLAMA | config), field) == value


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LLAMA | {"num_hidden_layers": HUGE}, f"num_hidden_layers: must be at most 4096, not {HUGE}"),
        (LLAMA | {"hidden_size": 0}, "hidden_size: must be at least 1, not 0"),
        (LLAMA | {"hidden_size": "48"}, 'hidden_size: must be an integer, not a string: "48"'),
        (LLAMA | {"attention_bias": "yes"}, 'attention_bias: must be a boolean, not a string: "yes"'),
        (MOE | {"num_local_experts": -1}, "num_local_experts: must be at least 0, not -1"),
        (MOE | {"mlp_only_layers": ["0"]}, 'mlp_only_layers[0]: must be an integer, not a string: "0"'),
        (GEMMA3 | {"text_config": {"hidden_size": HUGE}}, "text_config: hidden_size: must be at most"),
        (GEMMA3 | {"text_config": [1]}, "text_config: must be an object, not a list: [1]"),
        ({}, "model_type is missing"),
        ({"model_type": "qwen3moe"}, "transformers cannot build a model of type 'qwen3moe'"),
    ],
)
def test_what_no_model_has_is_refused_by_its_key(config: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        made(config)
    assert caught.value.message.startswith(f"config.json: {message}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(family=st.sampled_from([*FAMILIES]), data=st.data())
def test_whatever_the_fields_hold_there_is_a_model_or_a_format_error(family: str, data: st.DataObject) -> None:
    keys = st.sampled_from([*SIZES, *FAMILIES[family].more, *FAMILIES[family].vision_defaults])
    small = st.dictionaries(keys, st.integers(-2, 64) | JSON, max_size=4)
    config = {"model_type": family, **CONFIGS[family][0], **data.draw(small)}
    if "vision_config" in config:
        config |= {section: data.draw(small | JSON) for section in ("text_config", "vision_config")}
    with suppress(FormatError):
        made(config)
