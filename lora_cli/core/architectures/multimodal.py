"""Wrappers for images, as their ``*ForConditionalGeneration`` classes have them: a text model and a vision tower."""

from collections.abc import Mapping
from dataclasses import replace

from lora_cli.core.architectures.decoders import DENSE, FOUR_NORMS, LLAMA4_TEXT
from lora_cli.core.architectures.table import Bare, Family, Number, Part, Row, Rows
from lora_cli.core.architectures.templates import (
    GATED_MLP,
    attention,
    decoder,
    gated,
    grouped,
    sizes,
    square,
    two_layers,
)

SIGLIP = Part(
    section="vision_config",
    model_type="siglip_vision_model",
    fields={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 16,
        "patches_per_side": "image_size // patch_size",
        "vision_use_head": True,
    },
    prefix="model.vision_tower.",
    rows=(
        Bare("embeddings.patch_embedding.weight", ("hidden_size", "num_channels", "patch_size", "patch_size")),
        Row("embeddings.position_embedding", "patches_per_side * patches_per_side", "hidden_size", kind="embedding"),
        Bare("head.probe", ("1", "1", "hidden_size"), when="vision_use_head"),
        Bare("head.attention.in_proj_weight", ("3 * hidden_size", "hidden_size"), when="vision_use_head"),
        *square("head.attention.out_proj", when="vision_use_head"),
        *two_layers("head.mlp.fc1", "head.mlp.fc2", when="vision_use_head"),
    ),
    layers="encoder.layers",
    layer_rows=(
        *square("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"),
        *two_layers("mlp.fc1", "mlp.fc2"),
    ),
)

GEMMA3 = Family(
    replace(DENSE["gemma3_text"].text, section="text_config", model_type="gemma3_text", prefix="model.language_model."),
    SIGLIP,
    joint=(
        Bare(
            "model.multi_modal_projector.mm_input_projection_weight",
            ("vision_config.hidden_size", "text_config.hidden_size"),
        ),
    ),
    tied=True,
    norms=(
        *FOUR_NORMS,
        *("q_norm", "k_norm", "mm_soft_emb_norm", "layer_norm1", "layer_norm2", "layernorm", "post_layernorm"),
    ),
)

LLAMA4_VISION = Part(
    section="vision_config",
    model_type="llama4_vision_model",
    fields={
        "hidden_size": 768,
        "intermediate_size": 5632,
        "num_hidden_layers": 34,
        "num_channels": 3,
        "image_size": 448,
        "patch_size": 14,
        "patches_per_side": "image_size // patch_size",
        "vision_output_dim": 7680,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
    },
    prefix="vision_model.",
    rows=(
        Bare("positional_embedding_vlm", ("patches_per_side * patches_per_side + 1", "hidden_size")),
        Row("patch_embedding.linear", "num_channels * patch_size * patch_size", "hidden_size"),
        Row("vision_adapter.mlp.fc1", "intermediate_size", "projector_input_dim"),
        Row("vision_adapter.mlp.fc2", "projector_output_dim", "projector_output_dim"),
    ),
    layers="model.layers",
    layer_rows=(
        *square("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *two_layers("mlp.fc1", "mlp.fc2"),
    ),
)

LLAMA4 = Family(
    replace(
        LLAMA4_TEXT,
        section="text_config",
        model_type="llama4_text",
        prefix="language_model.model.",
        outer=(Row("language_model.lm_head", "hidden_size", "vocab_size"),),
    ),
    LLAMA4_VISION,
    joint=(Row("multi_modal_projector.linear_1", "vision_config.vision_output_dim", "text_config.hidden_size"),),
    tied_in=("text_config",),
    norms=("input_layernorm", "post_attention_layernorm", "norm", "layernorm_pre", "layernorm_post"),
)


def qwen_vl(name: str, vision: Part) -> Family:
    """Qwen2's text model next to a vision transformer; ``name`` is the ``model_type``."""
    text = decoder(sizes(152064, 8192, 29568, 80, 64, grouped(8)), (*attention(qkv_bias=True), *GATED_MLP))
    return Family(
        replace(
            text,
            section="text_config",
            model_type=f"{name}_text",
            also=(name,),
            flat=True,
            prefix="model.language_model.",
        ),
        replace(vision, model_type=f"{name}_vision", also=(name,)),
        tied_in=("", "text_config"),
        norms=("input_layernorm", "post_attention_layernorm", "norm", "norm1", "norm2", "ln_q"),
    )


def qwen_tower(fields: Mapping[str, int], width: str, out: str, mlp: Rows) -> Part:
    """A vision transformer: patches of ``width`` going in, merged and ``out`` wide coming out; q, k and v in one."""
    merged = f"{width} * spatial_merge_size * spatial_merge_size"
    patch = (width, "in_channels", "temporal_patch_size", "patch_size", "patch_size")
    return Part(
        section="vision_config",
        fields={
            "depth": Number(32, aliases=("num_hidden_layers",)),
            **fields,
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        prefix="model.visual.",
        rows=(
            Bare("patch_embed.proj.weight", patch),
            *square("merger.mlp.0", width=merged),
            Row("merger.mlp.2", merged, out, bias=True),
        ),
        layers="blocks",
        layer_count="depth",
        layer_rows=(Row("attn.qkv", width, f"3 * {width}", bias=True), *square("attn.proj", width=width), *mlp),
    )


FAMILIES: Mapping[str, Family] = {
    "gemma3": GEMMA3,
    "llama4": LLAMA4,
    "qwen2_5_vl": qwen_vl(
        "qwen2_5_vl",
        qwen_tower(
            {"hidden_size": 3584, "out_hidden_size": 3584, "intermediate_size": 3420},
            "hidden_size",
            "out_hidden_size",
            gated("mlp", "intermediate_size", bias=True),
        ),
    ),
    "qwen2_vl": qwen_vl(
        "qwen2_vl",
        qwen_tower(
            {"embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4},
            "embed_dim",
            "hidden_size",
            two_layers("mlp.fc1", "mlp.fc2", "embed_dim * mlp_ratio", "embed_dim"),
        ),
    ),
}
