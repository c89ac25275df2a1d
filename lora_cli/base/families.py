"""A line for each family of base models: its shape, and the fields of its config class with their defaults.

Adding a family: a line here, a function in ``shapes`` if its shape is new, and two configs in ``tests/base`` that the
transformers model itself then checks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lora_cli import parse
from lora_cli.base import shapes
from lora_cli.base.base_model import BaseModel
from lora_cli.base.shapes import Build, Config, Model, decoder
from lora_cli.did_you_mean import did_you_mean
from lora_cli.errors import FormatError
from lora_cli.text import shown

WHERE = "config.json"

Defaults = Mapping[str, int | None]

NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
FOUR_NORMS = (*NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
QUERY_NORMS = (*NORMS, "q_norm", "k_norm")

GATED_EXPERTS = {
    "gate": "gate.weight",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "down_proj": "down_proj",
}
MIXTRAL_EXPERTS = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}


class UnknownArchitecture(FormatError):
    """A config whose ``model_type`` is none of the families, or that has none."""


@dataclass(frozen=True, slots=True)
class Family:
    """One ``model_type``: the function that builds its language model, and the defaults of its config class.

    ``tied`` is the default of ``tie_word_embeddings``, and ``tied_in`` the sections (empty: the whole config) of which
    any one may set it. ``norms`` are the last names of its norms: modules that LoRA is not put on, and that
    ``modules_to_save`` may name. ``names`` are as in ``Config``. ``experts`` are the names that a model of
    transformers 4 has for its router and for each expert's projections, in PEFT's order, to the parameter that each is
    or is a part of now; empty for a family whose adapters PEFT does not convert.

    A wrapper has its text model in ``text_config`` (``flat``: or beside it, as it once was), and builds the model of
    ``vision_config`` with ``vision``, which also gets the width of the text model.
    """

    build: Build
    defaults: Defaults
    tied: bool = False
    norms: tuple[str, ...] = NORMS
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    experts: Mapping[str, str] = field(default_factory=dict)
    vision: Callable[[Model, Config, int], None] | None = None
    vision_defaults: Defaults = field(default_factory=dict)
    flat: bool = False
    tied_in: tuple[str, ...] = ("",)


def sizes(
    vocab_size: int,
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    **more: int | None,
) -> Defaults:
    """The fields of a decoder of LLaMA's shape, and more of them."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": head_dim,
        **more,
    }


LLAMA = Family(decoder(shapes.llama), sizes(32000, 4096, 11008, 32, 32, attention_bias=False, mlp_bias=False))
"""And everything that is published under its name (SmolLM2, Yi, TinyLlama, DeepSeek distillations)."""

GEMMA3 = Family(
    decoder(shapes.llama),
    sizes(262208, 2304, 9216, 26, 8, 4, 256, attention_bias=False),
    tied=True,
    norms=(*FOUR_NORMS, "q_norm", "k_norm"),
)

QWEN2_MOE = {"decoder_sparse_step": 1, "mlp_only_layers": None}

MLA = {
    "attention_bias": False,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
DEEPSEEK = Family(
    decoder(shapes.deepseek),
    {
        **sizes(102400, 4096, 11008, 32, 32, mlp_bias=False, moe_intermediate_size=1407, first_k_dense_replace=0),
        **MLA,
        "num_experts": 64,
        "n_shared_experts": 2,
    },
    norms=("input_layernorm", "post_attention_layernorm", "norm", "q_a_layernorm", "kv_a_layernorm"),
    names={"num_experts": ("n_routed_experts", "num_experts")},
    experts=GATED_EXPERTS,
)

LLAMA4 = Family(
    decoder(shapes.llama4),
    sizes(
        *(202048, 5120, 8192, 48, 40, 8, 128),
        attention_bias=False,
        intermediate_size_mlp=16384,
        num_local_experts=16,
        interleave_moe_layer_step=1,
        moe_layers=None,
    ),
)

GPT_NAMES = {
    "hidden_size": ("n_embd", "hidden_size"),
    "num_hidden_layers": ("n_layer", "num_hidden_layers"),
    "max_position_embeddings": ("n_positions", "max_position_embeddings"),
}

BERT = sizes(30522, 768, 3072, 12, max_position_embeddings=512, type_vocab_size=2, add_cross_attention=False)

QWEN_VL = Family(
    decoder(shapes.qwen2, root="model.language_model."),
    sizes(152064, 8192, 29568, 80, 64, 8),
    norms=(*NORMS, "norm1", "norm2", "ln_q"),
    flat=True,
    tied_in=("", "text_config"),
)
QWEN_EYE = {
    "depth": 32,
    "hidden_size": 3584,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
VISION_NAMES = {"depth": ("depth", "num_hidden_layers")}

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "granite": LLAMA,  # its multipliers are outside the modules
    "mistral": Family(decoder(shapes.llama), sizes(32000, 4096, 14336, 32, 32, 8)),
    "cohere": Family(
        decoder(shapes.llama),
        sizes(256000, 8192, 22528, 40, 64, attention_bias=False),
        tied=True,
        norms=("input_layernorm", "norm"),
    ),
    "gemma": Family(
        decoder(shapes.llama), sizes(256000, 3072, 24576, 28, 16, 16, 256, attention_bias=False), tied=True
    ),
    "gemma2": Family(
        decoder(shapes.llama),
        sizes(256000, 2304, 9216, 26, 8, 4, 256, attention_bias=False),
        tied=True,
        norms=FOUR_NORMS,
    ),
    "gemma3_text": GEMMA3,
    "olmo2": Family(
        decoder(shapes.llama),
        sizes(50304, 4096, 11008, 32, 32, attention_bias=False),
        norms=("post_attention_layernorm", "post_feedforward_layernorm", "q_norm", "k_norm", "norm"),
    ),
    "phi": Family(
        decoder(shapes.phi, head_bias=True),
        sizes(51200, 2048, 8192, 24, 32),
        norms=("input_layernorm", "final_layernorm"),
    ),
    "phi3": Family(decoder(shapes.phi3), sizes(32064, 3072, 8192, 32, 32)),
    "qwen2": Family(decoder(shapes.qwen2), sizes(151936, 4096, 22016, 32, 32, 32)),
    "qwen3": Family(
        decoder(shapes.llama), sizes(151936, 4096, 22016, 32, 32, 32, 128, attention_bias=False), norms=QUERY_NORMS
    ),
    "stablelm": Family(decoder(shapes.stablelm), sizes(50304, 2560, 6912, 32, 32, 32, use_qkv_bias=False)),
    "starcoder2": Family(decoder(shapes.starcoder2), sizes(49152, 3072, 12288, 30, 24, 2, use_bias=True), tied=True),
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": replace(  # also R1 and Kimi K2
        DEEPSEEK,
        defaults={
            **sizes(129280, 7168, 18432, 61, 128, moe_intermediate_size=2048, first_k_dense_replace=3),
            **MLA,
            "num_experts": 256,
            "n_shared_experts": 1,
        },
        names={"num_experts": ("n_routed_experts", "num_local_experts")},
    ),
    "gpt_oss": Family(
        decoder(shapes.gpt_oss),
        sizes(201088, 2880, 2880, 36, 64, 8, 64, attention_bias=True, num_local_experts=128),
        names={"num_local_experts": ("num_local_experts", "num_experts")},
    ),
    "llama4_text": LLAMA4,
    "mixtral": Family(
        decoder(shapes.mixtral),
        sizes(32000, 4096, 14336, 32, 32, 8, num_local_experts=8),
        names={"num_local_experts": ("num_local_experts", "num_experts")},
        experts=MIXTRAL_EXPERTS,
    ),
    "qwen2_moe": Family(
        decoder(shapes.qwen2_moe),
        {
            **sizes(151936, 2048, 5632, 24, 16, 16, num_experts=60, moe_intermediate_size=1408, qkv_bias=True),
            **QWEN2_MOE,
            "shared_expert_intermediate_size": 5632,
        },
    ),
    "qwen3_moe": Family(
        decoder(shapes.qwen3_moe),
        {
            **sizes(151936, 2048, 6144, 24, 32, 4, num_experts=128, moe_intermediate_size=768, attention_bias=False),
            **QWEN2_MOE,
        },
        norms=QUERY_NORMS,
        names={"num_experts": ("num_experts", "num_local_experts")},
        experts=GATED_EXPERTS,
    ),
    "gpt2": Family(
        shapes.gpt2,
        sizes(50257, 768, 3072, 12, n_inner=None, max_position_embeddings=1024, add_cross_attention=False),
        tied=True,
        norms=("ln_1", "ln_2", "ln_cross_attn", "ln_f"),
        names=GPT_NAMES,
    ),
    "gptj": Family(shapes.gptj, sizes(50400, 4096, 16384, 28, n_inner=None), norms=("ln_1", "ln_f"), names=GPT_NAMES),
    "gpt_neox": Family(
        shapes.gpt_neox,
        sizes(50432, 6144, 24576, 44, attention_bias=True),
        norms=("input_layernorm", "post_attention_layernorm", "final_layer_norm"),
    ),
    "bloom": Family(
        shapes.bloom,
        sizes(250880, 64, 256, 2, bias=True),
        tied=True,
        norms=("word_embeddings_layernorm", "input_layernorm", "post_attention_layernorm", "ln_f"),
        names={"hidden_size": ("n_embed", "hidden_size"), "num_hidden_layers": ("n_layer", "num_hidden_layers")},
    ),
    "falcon": Family(
        shapes.bloom,
        sizes(
            *(65024, 4544, 18176, 32, 71),
            bias=False,
            num_kv_heads=None,
            ffn_hidden_size=None,
            new_decoder_architecture=False,
            multi_query=True,
        ),
        tied=True,
        norms=("ln_attn", "ln_mlp", "input_layernorm", "ln_f"),
        names={"hidden_size": ("n_embed", "hidden_size")},
    ),
    "opt": Family(
        shapes.opt,
        sizes(
            *(50272, 768, 3072, 12),
            ffn_dim=3072,
            max_position_embeddings=2048,
            word_embed_proj_dim=None,
            enable_bias=True,
        ),
        tied=True,
        norms=("self_attn_layer_norm", "final_layer_norm"),
    ),
    "bert": Family(
        shapes.bert("bert.", "cls.predictions.transform.dense", "cls.predictions.decoder"),
        BERT,
        tied=True,
        norms=("LayerNorm",),
    ),
    "roberta": Family(
        shapes.bert("roberta.", "lm_head.dense", "lm_head.decoder"),
        {**BERT, "vocab_size": 50265},
        tied=True,
        norms=("LayerNorm", "layer_norm"),
    ),
    "gemma3": replace(
        GEMMA3,
        build=decoder(shapes.llama, root="model.language_model."),
        norms=(*GEMMA3.norms, "mm_soft_emb_norm", "layer_norm1", "layer_norm2", "layernorm", "post_layernorm"),
        vision=shapes.siglip,
        vision_defaults={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_channels": 3,
            "image_size": 224,
            "patch_size": 16,
            "vision_use_head": True,
        },
    ),
    "llama4": replace(
        LLAMA4,
        build=decoder(shapes.llama4, root="language_model.model.", head="language_model.lm_head"),
        norms=(*NORMS, "layernorm_pre", "layernorm_post"),
        vision=shapes.llama4_vision,
        vision_defaults={
            "hidden_size": 768,
            "intermediate_size": 5632,
            "num_hidden_layers": 34,
            "num_channels": 3,
            "image_size": 448,
            "patch_size": 14,
            "vision_output_dim": 7680,
            "projector_input_dim": 4096,
            "projector_output_dim": 4096,
        },
        tied_in=("text_config",),
    ),
    "qwen2_vl": replace(
        QWEN_VL, vision=shapes.qwen2_vision, vision_defaults={**QWEN_EYE, "embed_dim": 1280, "mlp_ratio": 4}
    ),
    "qwen2_5_vl": replace(
        QWEN_VL,
        vision=shapes.qwen25_vision,
        vision_defaults={**QWEN_EYE, "out_hidden_size": 3584, "intermediate_size": 3420},
    ),
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
    fields = parse.mapping(config, WHERE)
    if "peft_type" in fields:
        raise FormatError("is the config of an adapter", where=WHERE, hint="use the config of its base model")
    if "model_type" not in fields:
        raise UnknownArchitecture("model_type is missing", where=WHERE)
    model_type = parse.text(fields["model_type"], f"{WHERE}: model_type")
    family = FAMILIES.get(model_type)
    if family is None:
        hint = did_you_mean(model_type, FAMILIES)
        raise UnknownArchitecture(f"unknown architecture {shown(model_type)}", where=f"{WHERE}: model_type", hint=hint)

    def section(key: str) -> tuple[Mapping[str, Any], str]:
        """The fields of a section (empty: of the whole config), and what errors call it."""
        if not key or (key == "text_config" and family.flat and fields.get(key) is None):
            return fields, WHERE
        return parse.mapping(fields.get(key) or {}, f"{WHERE}: {key}"), f"{WHERE}: {key}"

    given, where = section("text_config" if family.vision else "")
    text, model = Config(given, family.defaults, family.names, where), Model()
    family.build(model, text)
    if family.vision is not None:
        eye, where = section("vision_config")
        family.vision(model, Config(eye, family.vision_defaults, VISION_NAMES, where), text.hidden_size)
    tied = [Config(one, {"tie_word_embeddings": family.tied}, {}, at) for one, at in map(section, family.tied_in)]
    dtypes = [one.get(key) for one in (fields, given) for key in ("dtype", "torch_dtype")]
    heads = [given.get(key) for key in ("num_attention_heads", "n_head", "n_heads", "num_heads")]
    return BaseModel(
        name=name,
        model_type=model_type,
        modules=model.modules,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        tied_embeddings=any([one.flag("tie_word_embeddings") for one in tied]),
        parameters=model.parameters,
        source=f"config.json ({model_type}{_quantised(fields.get('quantization_config'))})",
        dtype=next((one for one in dtypes if isinstance(one, str)), "").removeprefix("torch.")[:32],
        heads=next((one for one in heads if type(one) is int and one > 0), None),
        architecture=architecture_of(fields),
    )


def _quantised(quantization: Any) -> str:
    """``", quantised: <method>"`` where the config says that the checkpoint is."""
    if not isinstance(quantization, Mapping):
        return ""
    method = quantization.get("quant_method")
    return f", quantised: {method if isinstance(method, str) else 'by an unknown method'}"


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that the config names first; empty where it names none."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first[:128] if isinstance(first, str) else ""
