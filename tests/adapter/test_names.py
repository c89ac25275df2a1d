"""The grammar of tensor names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.names import INFIXES, PEFT_PREFIX, Key, parse_key

Q = "model.layers.0.self_attn.q_proj"
P = PEFT_PREFIX

NAMES = {
    f"{P}{Q}.lora_A.weight": Key("", Q, "lora_A"),
    f"{P}{Q}.lora_B.weight": Key("", Q, "lora_B"),
    f"{P}{Q}.lora_B.bias": Key("", Q, "lora_bias"),
    f"{P}{Q}.lora_magnitude_vector": Key("", Q, "magnitude"),
    f"{P}{Q}.lora_magnitude_vector.weight": Key("", Q, "magnitude"),
    f"{P}{Q}.lora_diag": Key("", Q, "diag"),
    f"{P}{Q}.lora_monteclora_sampler.std_prior": Key("", Q, "variant"),
    f"{P}model.embed_tokens.lora_embedding_A": Key("", "model.embed_tokens", "lora_embedding_A"),
    f"{P}model.embed_tokens.base_layer.weight": Key("", "model.embed_tokens", "base_layer", param="weight"),
    f"{P}{Q}.base_layer.bias": Key("", Q, "bias", param="bias"),
    f"{P}model.embed_tokens.token_adapter.trainable_tokens_delta": Key("", "model.embed_tokens", "trainable_tokens"),
    f"{P}lm_head.weight": Key("", "lm_head", "saved", param="weight"),
    f"{P}score.modules_to_save.default.weight": Key("", "score", "saved", adapter_name="default", param="weight"),
    f"{P}model.layers.0.mlp.experts.base_layer.lora_B.weight": Key(
        "", "model.layers.0.mlp.experts.base_layer", "lora_B"
    ),
    f"{P}{Q}.lora_A.default.weight": Key("", Q, "lora_A", adapter_name="default"),
    f"{P}{Q}.lora_B.my_adapter.bias": Key("", Q, "lora_bias", adapter_name="my_adapter"),
    f"{P}{Q}.lora_magnitude_vector.default.weight": Key("", Q, "magnitude", adapter_name="default"),
    f"{P}_orig_mod.{Q}.lora_A.weight": Key("", Q, "lora_A", infixes=("_orig_mod",)),
    f"{P}model.layers.0._orig_mod.self_attn.q_proj.lora_A.weight": Key("", Q, "lora_A", infixes=("_orig_mod",)),
    f"module.{P}{Q}.lora_A.weight": Key("", Q, "lora_A", infixes=("module",)),
    f"{P}model._fsdp_wrapped_module.layers.0._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight": Key(
        "", Q, "lora_A", infixes=("_fsdp_wrapped_module", "_checkpoint_wrapped_module")
    ),
    f"{Q}.lora_A.weight": Key("", Q, "lora_A", prefix=""),
    f"{P}{P}{Q}.lora_A.weight": Key("", Q, "lora_A", prefix=P + P),
    f"{P}model.{Q}.lora_A.weight": Key("", f"model.{Q}", "lora_A"),
    f"base_model.{Q}.lora_A.weight": Key("", Q.removeprefix("model."), "lora_A"),
    f"{P}{Q}.lora_A": Key("", Q, "unknown"),
    f"{P}{Q}.lora_A.bias": Key("", f"{Q}.lora_A", "unknown"),
    f"{P}{Q}.lora_C.weight": Key("", f"{Q}.lora_C", "unknown"),
    f"{P}{Q}.lora_A.two.names.weight": Key("", f"{Q}.lora_A.two.names", "unknown"),
    "lora_unet_down_blocks_0.lora_down.weight": Key("", "lora_unet_down_blocks_0.lora_down", "unknown", prefix=""),
    "lora_A.weight": Key("", "lora_A", "unknown", prefix=""),
    "weight": Key("", "", "unknown", prefix=""),
    "": Key("", "", "unknown", prefix=""),
    P[:-1]: Key("", "", "unknown"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_apart(name: str) -> None:
    wanted = NAMES[name]
    read = parse_key(name)
    assert read.name == name
    assert (read.module, read.part, read.prefix) == (wanted.module, wanted.part, wanted.prefix)
    assert (read.adapter_name, read.infixes, read.param) == (wanted.adapter_name, wanted.infixes, wanted.param)


@pytest.mark.parametrize("name", NAMES)
def test_only_what_peft_writes_is_canonical(name: str) -> None:
    oddities = ("default", "my_adapter", "_orig_mod", "wrapped_module", "module.base", P + P)
    assert parse_key(name).canonical == (name.startswith(P[:-1]) and not any(odd in name for odd in oddities))


components = st.sampled_from(["model", "layers", "0", "17", "self_attn", "q_proj", "base", "experts", "modules"])
paths = st.lists(components, min_size=1, max_size=6).map(".".join)
endings = st.sampled_from(
    [
        ("lora_A", ".lora_A{}.weight"),
        ("lora_B", ".lora_B{}.weight"),
        ("lora_bias", ".lora_B{}.bias"),
        ("lora_embedding_A", ".lora_embedding_A{}"),
        ("lora_embedding_B", ".lora_embedding_B{}"),
        ("magnitude", ".lora_magnitude_vector{}"),
        ("diag", ".lora_diag{}"),
    ]
)


@settings(deadline=None, max_examples=300)
@given(paths, endings, st.sampled_from(["", "default", "sql-v2"]), st.integers(0, 2), st.data())
def test_every_way_to_write_a_factor_is_read_back(
    path: str, ending: tuple[str, str], adapter_name: str, prefixes: int, data: st.DataObject
) -> None:
    part, suffix = ending
    plain = PEFT_PREFIX * prefixes + path + suffix.format("." + adapter_name if adapter_name else "")
    parts = plain.split(".")
    infix = data.draw(st.sampled_from(("", *INFIXES)))
    # A wrapper stands in front of a module, so never within the part's own name.
    at = data.draw(st.integers(0, 2 * prefixes + len(path.split("."))))
    name = ".".join([*parts[:at], infix, *parts[at:]]) if infix else plain
    key = parse_key(name)
    assert (key.module, key.part, key.adapter_name) == (path, part, adapter_name)
    assert key.prefix == PEFT_PREFIX * prefixes
    assert key.infixes == ((infix,) if infix else ())
    assert key.canonical == (prefixes == 1 and not infix and not adapter_name)


@given(st.text() | st.lists(components | st.sampled_from(["lora_A", "weight", "", "base_layer"])).map(".".join))
def test_every_string_has_a_key(name: str) -> None:
    assert parse_key(name).name == name
