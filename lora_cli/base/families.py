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
from lora_cli.base.shapes import Config, Model
from lora_cli.errors import FormatError
from lora_cli.text import did_you_mean, shown

WHERE = "config.json"

Defaults = dict[str, int | None]


class UnknownArchitecture(FormatError):
    """A config whose ``model_type`` is none of the families, or that has none."""


@dataclass(frozen=True, slots=True)
class Family:
    """One ``model_type``: the function that builds its language model, and the fields of its config class.

    ``tied`` is the default of ``tie_word_embeddings``, and ``tied_in`` the sections (empty: the whole config) of which
    any one may set it.

    A wrapper has its text model in ``text_config``, or beside it, and builds the model of ``vision_config`` with
    ``vision``, which also gets the width of the text model.
    """

    build: Callable[[Model, Config], None]
    defaults: Defaults
    tied: bool = False
    vision: Callable[[Model, Config, int], None] | None = None
    vision_defaults: Defaults = field(default_factory=dict)
    tied_in: tuple[str, ...] = ("",)


SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)


def family(
    build: Callable[[Model, Config], None],
    sizes: Sequence[int | None],
    more: Defaults | None = None,
    tied: bool = False,
) -> Family:
    """A family by its default sizes, in the order of ``SIZES``, and its other fields."""
    return Family(build, dict(zip_longest(SIZES, sizes)) | (more or {}), tied)


def fields(**defaults: int | None) -> Defaults:
    """The fields of a config class with their defaults."""
    return defaults


LLAMA = family(shapes.llama, (32000, 4096, 11008, 32, 32), fields(attention_bias=False, mlp_bias=False))
GEMMA3 = family(shapes.llama, (262208, 2304, 9216, 26, 8, 4, 256), fields(attention_bias=False), tied=True)
LLAMA4 = family(shapes.llama4, (202048, 5120, 8192, 48, 40, 8, 128), fields(attention_bias=False, num_experts=16))
LLAMA4.defaults.update(fields(intermediate_size_mlp=16384, interleave_moe_layer_step=1, moe_layers=None))
LLAMA4_EYE = fields(image_size=448, patch_size=14, num_channels=3, vision_output_dim=7680)
MLA = fields(kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
MLA |= fields(attention_bias=False)
SPARSE = fields(decoder_sparse_step=1, mlp_only_layers=None)
BERT = family(
    partial(shapes.bert, root="bert.", head="cls.predictions.", dense="transform.dense"),
    (30522, 768, 3072, 12),
    fields(max_position_embeddings=512, type_vocab_size=2),
    tied=True,
)
QWEN_EYE = fields(depth=32, hidden_size=3584, in_channels=3, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
QWEN_VL = replace(
    family(
        partial(shapes.llama, root="model.language_model."), (152064, 8192, 29568, 80, 64, 8), fields(qkv_bias=True)
    ),
    vision=shapes.qwen_vision,
    tied_in=("", "text_config"),
)

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,  # and what is published under its name: SmolLM2, Yi, TinyLlama
    "granite": LLAMA,  # its multipliers are outside the modules
    "mistral": family(shapes.llama, (32000, 4096, 14336, 32, 32, 8)),
    "cohere": family(shapes.llama, (256000, 8192, 22528, 40, 64), fields(attention_bias=False), tied=True),
    "gemma": family(shapes.llama, (256000, 3072, 24576, 28, 16, 16, 256), fields(attention_bias=False), tied=True),
    "gemma2": family(shapes.llama, (256000, 2304, 9216, 26, 8, 4, 256), fields(attention_bias=False), tied=True),
    "gemma3_text": GEMMA3,
    "olmo2": family(shapes.llama, (50304, 4096, 11008, 32, 32), fields(attention_bias=False)),
    "phi": family(partial(shapes.phi, head_bias=True), (51200, 2048, 8192, 24, 32), fields(attention_bias=True)),
    "phi3": family(shapes.phi3, (32064, 3072, 8192, 32, 32)),
    "qwen2": family(shapes.llama, (151936, 4096, 22016, 32, 32, 32), fields(qkv_bias=True)),
    "qwen3": family(shapes.llama, (151936, 4096, 22016, 32, 32, 32, 128), fields(attention_bias=False)),
    "stablelm": family(shapes.llama, (50304, 2560, 6912, 32, 32, 32), fields(qkv_bias=False)),
    "starcoder2": family(shapes.starcoder2, (49152, 3072, 12288, 30, 24, 2), fields(use_bias=True), tied=True),
    "deepseek_v2": family(
        shapes.deepseek,
        (102400, 4096, 11008, 32, 32),
        MLA
        | fields(mlp_bias=False, first_k_dense_replace=0, n_shared_experts=2)
        | fields(num_experts=64, moe_intermediate_size=1407),
    ),
    "deepseek_v3": family(  # also R1 and Kimi K2
        shapes.deepseek,
        (129280, 7168, 18432, 61, 128),
        MLA | fields(first_k_dense_replace=3, n_shared_experts=1, num_experts=256, moe_intermediate_size=2048),
    ),
    "gpt_oss": family(
        shapes.gpt_oss, (201088, 2880, 2880, 36, 64, 8, 64), fields(attention_bias=True, num_experts=128)
    ),
    "llama4_text": LLAMA4,
    "mixtral": family(shapes.mixtral, (32000, 4096, 14336, 32, 32, 8), fields(num_experts=8)),
    "qwen2_moe": family(
        shapes.qwen_moe,
        (151936, 2048, 5632, 24, 16, 16),
        SPARSE
        | fields(qkv_bias=True, num_experts=60, moe_intermediate_size=1408, shared_expert_intermediate_size=5632),
    ),
    "qwen3_moe": family(
        shapes.qwen_moe,
        (151936, 2048, 6144, 24, 32, 4),
        SPARSE | fields(attention_bias=False, num_experts=128, moe_intermediate_size=768),
    ),
    "gpt2": family(shapes.gpt2, (50257, 768, None, 12), fields(n_inner=None, max_position_embeddings=1024), tied=True),
    "gptj": family(shapes.gptj, (50400, 4096, None, 28), fields(n_inner=None)),
    "gpt_neox": family(shapes.gpt_neox, (50432, 6144, 24576, 44), fields(attention_bias=True)),
    "bloom": family(shapes.bloom, (250880, 64, None, 2), fields(bias=True), tied=True),
    "falcon": family(
        shapes.bloom,
        (65024, 4544, None, 32, 71),
        fields(bias=False, new_decoder_architecture=False, multi_query=True, num_kv_heads=None, ffn_hidden_size=None),
        tied=True,
    ),
    "opt": family(
        shapes.opt,
        (50272, 768, None, 12),
        fields(max_position_embeddings=2048, ffn_dim=3072, word_embed_proj_dim=None, enable_bias=True),
        tied=True,
    ),
    "bert": BERT,
    "roberta": replace(
        BERT,
        build=partial(shapes.bert, root="roberta.", head="lm_head.", dense="dense"),
        defaults=BERT.defaults | fields(vocab_size=50265),
    ),
    "gemma3": replace(
        GEMMA3,
        build=partial(shapes.llama, root="model.language_model."),
        vision=shapes.siglip,
        vision_defaults=fields(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_channels=3)
        | fields(image_size=224, patch_size=16, vision_use_head=True),
    ),
    "llama4": replace(
        LLAMA4,
        build=partial(shapes.llama4, root="language_model.model.", head="language_model.lm_head"),
        vision=shapes.llama4_vision,
        vision_defaults=fields(hidden_size=768, intermediate_size=5632, num_hidden_layers=34, **LLAMA4_EYE)
        | fields(projector_input_dim=4096, projector_output_dim=4096),
        tied_in=("text_config",),
    ),
    "qwen2_vl": replace(QWEN_VL, vision_defaults=fields(embed_dim=1280, mlp_ratio=4, **QWEN_EYE)),
    "qwen2_5_vl": replace(QWEN_VL, vision_defaults=fields(out_hidden_size=3584, intermediate_size=3420, **QWEN_EYE)),
}
"""Every known ``model_type``."""


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
        tied_embeddings=any(one.flag("tie_word_embeddings") for one in ties),
        parameters=model.parameters,
        source=f"config.json ({model_type}{f', quantised: {method}' if isinstance(method, str) else ''})",
        dtype=next((one for one in dtypes if isinstance(one, str)), "").removeprefix("torch.")[:32],
        heads=text.optional("num_attention_heads") or None,
        architecture=architecture_of(config),
    )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that the config names first; empty where it names none."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first[:128] if isinstance(first, str) else ""
