"""A line for each family of base models: its shape, and the fields of its config class with their defaults.

Adding a family: a line here, a function in ``shapes`` if its shape is new, and two configs in ``tests/base`` that the
transformers model itself then checks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any

from lora_cli import parse
from lora_cli.base import shapes
from lora_cli.base.base_model import BaseModel
from lora_cli.base.shapes import Build, Config, Model, decoder
from lora_cli.errors import FormatError
from lora_cli.text import did_you_mean, shown

WHERE = "config.json"

Defaults = dict[str, int | None]


class UnknownArchitecture(FormatError):
    """A config whose ``model_type`` is none of the families, or that has none."""


@dataclass(frozen=True, slots=True)
class Experts:
    """The names of experts in transformers 4, where each projection was a module, in adapters and checkpoints.

    ``projections`` maps the last name of each, and of the router, to the parameter that it is, or is a part of, in
    transformers 5, in the order of the parts. ``block`` is the module around router and experts, which is ``mlp`` now.
    Experts that all tokens share are modules still, with the same last names.
    """

    projections: Mapping[str, str]
    block: str = "mlp"

    def parts_of(self, parameter: str) -> list[str]:
        """The projections that are ``parameter`` together."""
        return [old for old, new in self.projections.items() if new == parameter]


SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
"""The fields that every family has."""


@dataclass(frozen=True, slots=True)
class Family:
    """One ``model_type``: the function that builds its language model, and the fields of its config class.

    ``sizes`` are the defaults of ``SIZES``, in their order, and ``more`` those of its other fields. ``tied`` is that of
    ``tie_word_embeddings``, and ``tied_in`` the sections (empty: the whole config) of which any one may set it.
    ``experts`` are those that PEFT renames in adapters of transformers 4.

    A wrapper has its text model in ``text_config``, or beside it, and builds the model of ``vision_config`` with
    ``vision``, which also gets the width of the text model.
    """

    build: Build
    sizes: Sequence[int | None]
    more: Defaults = field(default_factory=dict)
    tied: bool = False
    vision: Callable[[Model, Config, int], None] | None = None
    vision_defaults: Defaults = field(default_factory=dict)
    tied_in: tuple[str, ...] = ("",)
    experts: Experts | None = None

    @property
    def defaults(self) -> Defaults:
        """The fields of the config class with their defaults."""
        return dict(zip_longest(SIZES, self.sizes)) | self.more


def fields(**defaults: int | None) -> Defaults:
    """The fields of a config class with their defaults."""
    return defaults


GATED = Experts(
    {"gate": "gate.weight", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
)
NUMBERED = Experts(
    {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}, "block_sparse_moe"
)
OTHER_EXPERTS: Mapping[str, Experts] = {
    **dict.fromkeys(("minimax", "minimax_m2"), NUMBERED),
    **dict.fromkeys(
        (
            *("afmoe", "beam", "cohere2_moe", "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo"),
            *("glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum"),
            *("olmoe", "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "sarvam_mla"),
            *("solar_open", "Dots3NoteTextModel", "UnlimitedOcrTextModel"),
        ),
        GATED,
    ),
}
"""Those of families that have no line here and are as transformers builds them."""

LIKE_LLAMA = decoder(shapes.llama)
LLAMA = Family(LIKE_LLAMA, (32000, 4096, 11008, 32, 32), fields(attention_bias=False, mlp_bias=False))
GEMMA3 = Family(LIKE_LLAMA, (262208, 2304, 9216, 26, 8, 4, 256), fields(attention_bias=False), tied=True)
LLAMA4 = Family(
    decoder(shapes.llama4, shapes.llama4_sparse),
    (202048, 5120, 8192, 48, 40, 8, 128),
    fields(attention_bias=False, num_experts=16, intermediate_size_mlp=16384)
    | fields(interleave_moe_layer_step=1, moe_layers=None),
)
LLAMA4_EYE = fields(image_size=448, patch_size=14, num_channels=3, vision_output_dim=7680)
DEEPSEEK = decoder(shapes.deepseek, shapes.deepseek_sparse)
MLA = fields(kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
MLA |= fields(attention_bias=False)
QWEN_MOE = decoder(shapes.qwen_moe, shapes.qwen_sparse)
SPARSE = fields(decoder_sparse_step=1, mlp_only_layers=None)
BERT = Family(
    partial(shapes.bert, root="bert.", head="cls.predictions.", dense="transform.dense"),
    (30522, 768, 3072, 12),
    fields(max_position_embeddings=512, type_vocab_size=2),
    tied=True,
)
BLOOM = decoder(shapes.bloom, root="transformer.", embedding="word_embeddings", layers="h.")
WRAPPED = decoder(shapes.llama, root="model.language_model.")
QWEN_EYE = fields(depth=32, hidden_size=3584, in_channels=3, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
QWEN_VL = replace(
    Family(WRAPPED, (152064, 8192, 29568, 80, 64, 8), fields(qkv_bias=True)),
    vision=shapes.qwen_vision,
    tied_in=("", "text_config"),
)

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,  # and what is published under its name: SmolLM2, Yi, TinyLlama
    "granite": LLAMA,  # its multipliers are outside the modules
    "mistral": Family(LIKE_LLAMA, (32000, 4096, 14336, 32, 32, 8)),
    "cohere": Family(LIKE_LLAMA, (256000, 8192, 22528, 40, 64), fields(attention_bias=False), tied=True),
    "gemma": Family(LIKE_LLAMA, (256000, 3072, 24576, 28, 16, 16, 256), fields(attention_bias=False), tied=True),
    "gemma2": Family(LIKE_LLAMA, (256000, 2304, 9216, 26, 8, 4, 256), fields(attention_bias=False), tied=True),
    "gemma3_text": GEMMA3,
    "olmo2": Family(LIKE_LLAMA, (50304, 4096, 11008, 32, 32), fields(attention_bias=False)),
    "phi": Family(decoder(shapes.phi, head_bias=True), (51200, 2048, 8192, 24, 32), fields(attention_bias=True)),
    "phi3": Family(decoder(shapes.phi3), (32064, 3072, 8192, 32, 32)),
    "qwen2": Family(LIKE_LLAMA, (151936, 4096, 22016, 32, 32, 32), fields(qkv_bias=True)),
    "qwen3": Family(LIKE_LLAMA, (151936, 4096, 22016, 32, 32, 32, 128), fields(attention_bias=False)),
    "stablelm": Family(LIKE_LLAMA, (50304, 2560, 6912, 32, 32, 32), fields(qkv_bias=False)),
    "starcoder2": Family(decoder(shapes.starcoder2), (49152, 3072, 12288, 30, 24, 2), fields(use_bias=True), tied=True),
    "deepseek_v2": Family(
        DEEPSEEK,
        (102400, 4096, 11008, 32, 32),
        MLA
        | fields(mlp_bias=False, first_k_dense_replace=0, n_shared_experts=2)
        | fields(num_experts=64, moe_intermediate_size=1407),
        experts=GATED,
    ),
    "deepseek_v3": Family(  # also R1 and Kimi K2
        DEEPSEEK,
        (129280, 7168, 18432, 61, 128),
        MLA | fields(first_k_dense_replace=3, n_shared_experts=1, num_experts=256, moe_intermediate_size=2048),
        experts=GATED,
    ),
    "gpt_oss": Family(
        decoder(shapes.gpt_oss), (201088, 2880, 2880, 36, 64, 8, 64), fields(attention_bias=True, num_experts=128)
    ),
    "llama4_text": LLAMA4,
    "mixtral": Family(
        decoder(shapes.mixtral), (32000, 4096, 14336, 32, 32, 8), fields(num_experts=8), experts=NUMBERED
    ),
    "qwen2_moe": Family(
        QWEN_MOE,
        (151936, 2048, 5632, 24, 16, 16),
        SPARSE
        | fields(qkv_bias=True, num_experts=60, moe_intermediate_size=1408, shared_expert_intermediate_size=5632),
    ),
    "qwen3_moe": Family(
        QWEN_MOE,
        (151936, 2048, 6144, 24, 32, 4),
        SPARSE | fields(attention_bias=False, num_experts=128, moe_intermediate_size=768),
        experts=GATED,
    ),
    "gpt2": Family(shapes.gpt2, (50257, 768, None, 12), fields(n_inner=None, max_position_embeddings=1024), tied=True),
    "gptj": Family(
        decoder(shapes.gptj, root="transformer.", embedding="wte", layers="h.", head_bias=True),
        (50400, 4096, None, 28),
        fields(n_inner=None),
    ),
    "gpt_neox": Family(
        decoder(shapes.gpt_neox, root="gpt_neox.", embedding="embed_in"),
        (50432, 6144, 24576, 44),
        fields(attention_bias=True),
    ),
    "bloom": Family(BLOOM, (250880, 64, None, 2), fields(bias=True), tied=True),
    "falcon": Family(
        BLOOM,
        (65024, 4544, None, 32, 71),
        fields(bias=False, new_decoder_architecture=False, multi_query=True, num_kv_heads=None, ffn_hidden_size=None),
        tied=True,
    ),
    "opt": Family(
        shapes.opt,
        (50272, 768, None, 12),
        fields(max_position_embeddings=2048, ffn_dim=3072, word_embed_proj_dim=None, enable_bias=True),
        tied=True,
    ),
    "bert": BERT,
    "roberta": replace(
        BERT,
        build=partial(shapes.bert, root="roberta.", head="lm_head.", dense="dense"),
        more=BERT.more | fields(vocab_size=50265),
    ),
    "gemma3": replace(
        GEMMA3,
        build=WRAPPED,
        vision=shapes.siglip,
        vision_defaults=fields(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_channels=3)
        | fields(image_size=224, patch_size=16, vision_use_head=True),
    ),
    "llama4": replace(
        LLAMA4,
        build=decoder(
            *(shapes.llama4, shapes.llama4_sparse), root="language_model.model.", head="language_model.lm_head"
        ),
        vision=shapes.llama4_vision,
        vision_defaults=fields(hidden_size=768, intermediate_size=5632, num_hidden_layers=34, **LLAMA4_EYE)
        | fields(projector_input_dim=4096, projector_output_dim=4096),
        tied_in=("text_config",),
    ),
    "qwen2_vl": replace(QWEN_VL, vision_defaults=fields(embed_dim=1280, mlp_ratio=4, **QWEN_EYE)),
    "qwen2_5_vl": replace(QWEN_VL, vision_defaults=fields(out_hidden_size=3584, intermediate_size=3420, **QWEN_EYE)),
}
"""Every known ``model_type``."""


def experts_of(model_type: str) -> Experts | None:
    """The experts of a family that PEFT renames in adapters of transformers 4; None if there are none."""
    return FAMILIES[model_type].experts if model_type in FAMILIES else OTHER_EXPERTS.get(model_type)


def base_from_config(config: Mapping[str, Any], name: str) -> BaseModel:
    """The base model that a ``config.json`` describes, with the module paths of its class for text generation.

    For a multimodal wrapper that is the ``*ForConditionalGeneration`` class; for all others ``*ForCausalLM``.
    A key that is missing means what transformers' config class of the family takes for it. ``name`` is how the user
    called the model.

    Raises:
        UnknownArchitecture: the ``model_type`` is of no family, or is missing.
        FormatError: it is an adapter's config, or a field has the wrong type or is beyond what any model has.
    """
    config = parse.mapping(config, WHERE)
    if "peft_type" in config:
        raise FormatError("is the config of an adapter", where=WHERE, hint="use the config of its base model")
    if "model_type" not in config:
        raise UnknownArchitecture("model_type is missing", where=WHERE)
    model_type = parse.text(config["model_type"], f"{WHERE}: model_type")
    family = FAMILIES.get(model_type)
    if family is None:
        hint = did_you_mean(model_type, FAMILIES)
        raise UnknownArchitecture(f"unknown architecture {shown(model_type)}", where=f"{WHERE}: model_type", hint=hint)

    def section(key: str, defaults: Defaults) -> Config:
        where = f"{WHERE}: {key}" if key else WHERE
        return Config(parse.mapping(config.get(key) or {} if key else config, where), defaults, where)

    text = section("text_config" if family.vision and config.get("text_config") is not None else "", family.defaults)
    model, ties = Model(), [section(key, fields(tie_word_embeddings=family.tied)) for key in family.tied_in]
    family.build(model, text)
    if family.vision is not None:
        family.vision(model, section("vision_config", family.vision_defaults), text.hidden_size)
    dtypes = [one.get(key) for one in (config, text.fields) for key in ("dtype", "torch_dtype")]
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    return BaseModel(
        name=name,
        model_type=model_type,
        modules=model.modules,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        tied_embeddings=any(one.tie_word_embeddings for one in ties),
        parameters=model.parameters,
        source=f"config.json ({model_type}{f', quantised: {method}' if isinstance(method, str) else ''})",
        dtype=next((one for one in dtypes if isinstance(one, str)), "").removeprefix("torch.")[:32],
        heads=text.num_attention_heads or None,
        architecture=architecture_of(config),
    )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that the config names first; empty where it names none."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first[:128] if isinstance(first, str) else ""
