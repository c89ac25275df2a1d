"""Gemma 3 with images: the text model and a SigLIP tower inside ``Gemma3ForConditionalGeneration``."""

from dataclasses import replace

from lora_cli.core.architectures.gemma3_text import TEXT
from lora_cli.core.architectures.table import Bare, Family, Part, Row

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
        Row("head.attention.out_proj", "hidden_size", "hidden_size", bias=True, when="vision_use_head"),
        Row("head.mlp.fc1", "hidden_size", "intermediate_size", bias=True, when="vision_use_head"),
        Row("head.mlp.fc2", "intermediate_size", "hidden_size", bias=True, when="vision_use_head"),
    ),
    layers="encoder.layers",
    layer_rows=(
        Row("self_attn.k_proj", "hidden_size", "hidden_size", bias=True),
        Row("self_attn.v_proj", "hidden_size", "hidden_size", bias=True),
        Row("self_attn.q_proj", "hidden_size", "hidden_size", bias=True),
        Row("self_attn.out_proj", "hidden_size", "hidden_size", bias=True),
        Row("mlp.fc1", "hidden_size", "intermediate_size", bias=True),
        Row("mlp.fc2", "intermediate_size", "hidden_size", bias=True),
    ),
)

FAMILY = Family(
    parts=(
        replace(TEXT, section="text_config", model_type="gemma3_text", prefix="model.language_model."),
        SIGLIP,
    ),
    joint=(
        Bare(
            "model.multi_modal_projector.mm_input_projection_weight",
            ("vision_config.hidden_size", "text_config.hidden_size"),
        ),
    ),
    tied=True,
)
