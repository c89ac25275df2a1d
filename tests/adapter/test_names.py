"""The grammar of tensor names, and how they become pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.adapter import INFIXES, PEFT_PREFIX, Key, LoraPair, Part, pair_up, parse_key
from lora_cli.adapter.safetensors import TensorInfo

P, Q = PEFT_PREFIX, "model.layers.0.self_attn.q_proj"
E = "model.embed_tokens"
WRAPPED = f"{P}model._fsdp_wrapped_module.layers.0._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight"

CANONICAL: dict[str, tuple[str, Part, str]] = {
    f"{P}{Q}.lora_A.weight": (Q, "lora_A", ""),
    f"{P}{Q}.lora_B.weight": (Q, "lora_B", ""),
    f"{P}{Q}.lora_B.bias": (Q, "lora_bias", ""),
    f"{P}{Q}.lora_magnitude_vector.weight": (Q, "magnitude", ""),
    f"{P}{Q}.lora_diag": (Q, "diag", ""),
    f"{P}{E}.lora_embedding_A": (E, "lora_embedding_A", ""),
    f"{P}{Q}.base_layer.bias": (Q, "bias", "bias"),
    f"{P}{E}.token_adapter.trainable_tokens_delta": (E, "trainable_tokens", ""),
    f"{P}lm_head.weight": ("lm_head", "saved", "weight"),
    f"{P}model.layers.0.mlp.experts.base_layer.lora_B.weight": ("model.layers.0.mlp.experts.base_layer", "lora_B", ""),
    f"{P}model.{Q}.lora_A.weight": (f"model.{Q}", "lora_A", ""),
    f"{P}{Q}.lora_A": (Q, "unknown", ""),
    f"{P}{Q}.lora_C.weight": (f"{Q}.lora_C", "unknown", ""),
    f"{P}{Q}.lora_A.two.names.weight": (f"{Q}.lora_A.two.names", "unknown", ""),
    P[:-1]: ("", "unknown", ""),
}
"""Names as PEFT writes them, or next to it: the module, the part, and the parameter's own name."""

OTHERS = {
    f"{P}score.modules_to_save.default.weight": Key("", "score", "saved", P, "default", (), "weight"),
    f"{P}{Q}.lora_A.default.weight": Key("", Q, "lora_A", P, "default"),
    f"{P}_orig_mod.{Q}.lora_A.weight": Key("", Q, "lora_A", infixes=("_orig_mod",)),
    f"module.{P}{Q}.lora_A.weight": Key("", Q, "lora_A", infixes=("module",)),
    WRAPPED: Key("", Q, "lora_A", infixes=("_fsdp_wrapped_module", "_checkpoint_wrapped_module")),
    f"{Q}.lora_A.weight": Key("", Q, "lora_A", ""),
    f"{P}{P}{Q}.lora_A.weight": Key("", Q, "lora_A", P + P),
    "lora_unet_down_blocks_0.lora_down.weight": Key("", "lora_unet_down_blocks_0.lora_down", "unknown", ""),
    "": Key("", "", "unknown", ""),
}


@pytest.mark.parametrize("name", [*CANONICAL, *OTHERS])
def test_a_name_is_taken_apart(name: str) -> None:
    read, wanted = parse_key(name), OTHERS.get(name)
    if name in CANONICAL:
        module, part, param = CANONICAL[name]
        wanted = Key(name, module, part, param=param)
    assert wanted is not None
    assert (read.name, read.module, read.part, read.prefix) == (name, wanted.module, wanted.part, wanted.prefix)
    assert (read.adapter_name, read.infixes, read.param) == (wanted.adapter_name, wanted.infixes, wanted.param)
    assert read.canonical == (name in CANONICAL)


@given(st.text() | st.lists(st.sampled_from(["m", "lora_A", "weight", "", "base_layer", *INFIXES])).map(".".join))
def test_every_string_has_a_key(name: str) -> None:
    assert parse_key(name).name == name


def paired(*names: str, shape: tuple[int, ...] = (4, 8)) -> dict[str, LoraPair]:
    tensors = {name: TensorInfo(name, "F32", shape, 0, 0, "f") for name in names}
    return pair_up(tensors, {name: parse_key(name) for name in names})


def test_tensors_are_paired_by_module_in_the_order_of_their_first_one() -> None:
    pairs = paired(
        *(f"{P}q.lora_B.weight", f"{P}k.lora_B.weight", f"{P}q.lora_A.weight", f"{P}q.lora_magnitude_vector"),
        *(f"{P}v.lora_A.default.weight", f"{P}v.lora_A.weight", f"{P}_orig_mod.v.lora_B.weight", f"{P}lm_head.weight"),
        *(f"{P}wte.lora_embedding_A", f"{P}wte.lora_embedding_B", f"{P}experts.base_layer.lora_A.weight"),
    )
    assert [(module, *(one and one.name for one in (pair.a, pair.b))) for module, pair in pairs.items()] == [
        ("q", f"{P}q.lora_A.weight", f"{P}q.lora_B.weight"),
        ("k", None, f"{P}k.lora_B.weight"),
        ("v", f"{P}v.lora_A.weight", f"{P}_orig_mod.v.lora_B.weight"),
        ("wte", f"{P}wte.lora_embedding_A", f"{P}wte.lora_embedding_B"),
        ("experts.base_layer", f"{P}experts.base_layer.lora_A.weight", None),
    ]
    assert [pair.embedding for pair in pairs.values()] == [False, False, False, True, False]
    assert [pair.rank for pair in pairs.values()] == [4, 8, 4, 4, 4]
    assert paired(f"{P}q.lora_A.weight", f"{P}q.lora_B.weight", shape=(4,))["q"].rank is None
