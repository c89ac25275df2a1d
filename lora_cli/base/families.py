"""A line for each family of base models: its shape, and the fields of its config class with their defaults.

Adding a family: a line here, a function in ``shapes`` if its shape is new, and two configs in ``tests/base`` that the
transformers model itself then checks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lora_cli import parse
from lora_cli.base import shapes
from lora_cli.base.base_model import BaseModel
from lora_cli.base.shapes import Config, Model
from lora_cli.did_you_mean import did_you_mean
from lora_cli.errors import FormatError
from lora_cli.text import shown

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


def sizes(
    vocab: int,
    hidden: int,
    intermediate: int | None,
    layers: int,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    **more: int | None,
) -> Defaults:
    """The fields of a decoder of LLaMA's shape, and others."""
    text = {"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    return fields(**text, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, **more)


def fields(**defaults: int | None) -> Defaults:
    """The fields of a config class with their defaults."""
    return defaults


LLAMA = sizes(32000, 4096, 11008, 32, 32, attention_bias=False, mlp_bias=False)
GEMMA3 = sizes(262208, 2304, 9216, 26, 8, 4, 256, attention_bias=False)
LLAMA4 = sizes(202048, 5120, 8192, 48, 40, 8, 128, attention_bias=False, intermediate_size_mlp=16384, num_experts=16)
LLAMA4 |= fields(interleave_moe_layer_step=1, moe_layers=None)
BERT = sizes(30522, 768, 3072, 12, max_position_embeddings=512, type_vocab_size=2, add_cross_attention=False)
QWEN_VL = sizes(152064, 8192, 29568, 80, 64, 8, qkv_bias=True)
MLA = fields(kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
SPARSE = fields(decoder_sparse_step=1, mlp_only_layers=None)
SIGLIP = fields(image_size=224, patch_size=16, num_channels=3, vision_use_head=True)
LLAMA4_EYE = fields(image_size=448, patch_size=14, num_channels=3, vision_output_dim=7680)
QWEN_EYE = fields(depth=32, hidden_size=3584, in_channels=3, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)

qwen_vl = partial(
    Family,
    partial(shapes.llama, root="model.language_model."),
    QWEN_VL,
    vision=shapes.qwen_vision,
    tied_in=("", "text_config"),
)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(shapes.llama, LLAMA),  # and what is published under its name: SmolLM2, Yi, TinyLlama
    "granite": Family(shapes.llama, LLAMA),  # its multipliers are outside the modules
    "mistral": Family(shapes.llama, sizes(32000, 4096, 14336, 32, 32, 8)),
    "cohere": Family(shapes.llama, sizes(256000, 8192, 22528, 40, 64, attention_bias=False), tied=True),
    "gemma": Family(shapes.llama, sizes(256000, 3072, 24576, 28, 16, 16, 256, attention_bias=False), tied=True),
    "gemma2": Family(shapes.llama, sizes(256000, 2304, 9216, 26, 8, 4, 256, attention_bias=False), tied=True),
    "gemma3_text": Family(shapes.llama, GEMMA3, tied=True),
    "olmo2": Family(shapes.llama, sizes(50304, 4096, 11008, 32, 32, attention_bias=False)),
    "phi": Family(partial(shapes.phi, head_bias=True), sizes(51200, 2048, 8192, 24, 32, attention_bias=True)),
    "phi3": Family(shapes.phi3, sizes(32064, 3072, 8192, 32, 32)),
    "qwen2": Family(shapes.llama, sizes(151936, 4096, 22016, 32, 32, 32, qkv_bias=True)),
    "qwen3": Family(shapes.llama, sizes(151936, 4096, 22016, 32, 32, 32, 128, attention_bias=False)),
    "stablelm": Family(shapes.llama, sizes(50304, 2560, 6912, 32, 32, 32, qkv_bias=False)),
    "starcoder2": Family(shapes.starcoder2, sizes(49152, 3072, 12288, 30, 24, 2, use_bias=True), tied=True),
    "deepseek_v2": Family(
        shapes.deepseek,
        sizes(102400, 4096, 11008, 32, 32, attention_bias=False, mlp_bias=False, first_k_dense_replace=0)
        | fields(num_experts=64, n_shared_experts=2, moe_intermediate_size=1407, **MLA),
    ),
    "deepseek_v3": Family(  # also R1 and Kimi K2
        shapes.deepseek,
        sizes(129280, 7168, 18432, 61, 128, attention_bias=False, first_k_dense_replace=3)
        | fields(num_experts=256, n_shared_experts=1, moe_intermediate_size=2048, **MLA),
    ),
    "gpt_oss": Family(shapes.gpt_oss, sizes(201088, 2880, 2880, 36, 64, 8, 64, attention_bias=True, num_experts=128)),
    "llama4_text": Family(shapes.llama4, LLAMA4),
    "mixtral": Family(shapes.mixtral, sizes(32000, 4096, 14336, 32, 32, 8, num_experts=8)),
    "qwen2_moe": Family(
        shapes.qwen_moe,
        sizes(151936, 2048, 5632, 24, 16, 16, qkv_bias=True, num_experts=60, moe_intermediate_size=1408)
        | fields(shared_expert_intermediate_size=5632, **SPARSE),
    ),
    "qwen3_moe": Family(
        shapes.qwen_moe,
        sizes(
            151936, 2048, 6144, 24, 32, 4, attention_bias=False, num_experts=128, moe_intermediate_size=768, **SPARSE
        ),
    ),
    "gpt2": Family(
        shapes.gpt2,
        sizes(50257, 768, None, 12, n_inner=None, max_position_embeddings=1024, add_cross_attention=False),
        tied=True,
    ),
    "gptj": Family(shapes.gptj, sizes(50400, 4096, None, 28, n_inner=None)),
    "gpt_neox": Family(shapes.gpt_neox, sizes(50432, 6144, 24576, 44, attention_bias=True)),
    "bloom": Family(shapes.bloom, sizes(250880, 64, None, 2, bias=True), tied=True),
    "falcon": Family(
        shapes.bloom,
        sizes(65024, 4544, None, 32, 71, bias=False, new_decoder_architecture=False, multi_query=True)
        | fields(num_kv_heads=None, ffn_hidden_size=None),
        tied=True,
    ),
    "opt": Family(
        shapes.opt,
        sizes(50272, 768, None, 12, max_position_embeddings=2048)
        | fields(ffn_dim=3072, word_embed_proj_dim=None, enable_bias=True),
        tied=True,
    ),
    "bert": Family(
        partial(shapes.bert, root="bert.", head="cls.predictions.", dense="transform.dense"), BERT, tied=True
    ),
    "roberta": Family(
        partial(shapes.bert, root="roberta.", head="lm_head.", dense="dense"),
        BERT | fields(vocab_size=50265),
        tied=True,
    ),
    "gemma3": Family(
        partial(shapes.llama, root="model.language_model."),
        GEMMA3,
        tied=True,
        vision=shapes.siglip,
        vision_defaults=fields(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, **SIGLIP),
    ),
    "llama4": Family(
        partial(shapes.llama4, root="language_model.model.", head="language_model.lm_head"),
        LLAMA4,
        vision=shapes.llama4_vision,
        vision_defaults=fields(hidden_size=768, intermediate_size=5632, num_hidden_layers=34, **LLAMA4_EYE)
        | fields(projector_input_dim=4096, projector_output_dim=4096),
        tied_in=("text_config",),
    ),
    "qwen2_vl": qwen_vl(vision_defaults=fields(embed_dim=1280, mlp_ratio=4, **QWEN_EYE)),
    "qwen2_5_vl": qwen_vl(vision_defaults=fields(out_hidden_size=3584, intermediate_size=3420, **QWEN_EYE)),
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
    heads = [text.fields.get(key) for key in ("num_attention_heads", "n_head", "n_heads", "num_heads")]
    quantised, method = config.get("quantization_config"), None
    if isinstance(quantised, Mapping):
        method = quantised.get("quant_method", "")
        method = method if isinstance(method, str) and method else "by an unknown method"
    return BaseModel(
        name=name,
        model_type=model_type,
        modules=model.modules,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        tied_embeddings=any(one.flag("tie_word_embeddings") for one in ties),
        parameters=model.parameters,
        source=f"config.json ({model_type}{f', quantised: {method}' if method else ''})",
        dtype=next((one for one in dtypes if isinstance(one, str)), "").removeprefix("torch.")[:32],
        heads=next((one for one in heads if type(one) is int and one > 0), None),
        architecture=architecture_of(config),
    )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that the config names first; empty where it names none."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first[:128] if isinstance(first, str) else ""
