"""Llama 4 with images: the text model with its own head inside ``Llama4ForConditionalGeneration``, and a tower."""

from dataclasses import replace

from lora_cli.core.architectures.llama4_text import TEXT
from lora_cli.core.architectures.table import Bare, Family, Part, Row

VISION = Part(
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
        Row("self_attn.q_proj", "hidden_size", "hidden_size", bias=True),
        Row("self_attn.k_proj", "hidden_size", "hidden_size", bias=True),
        Row("self_attn.v_proj", "hidden_size", "hidden_size", bias=True),
        Row("self_attn.o_proj", "hidden_size", "hidden_size", bias=True),
        Row("mlp.fc1", "hidden_size", "intermediate_size", bias=True),
        Row("mlp.fc2", "intermediate_size", "hidden_size", bias=True),
    ),
)

FAMILY = Family(
    parts=(
        replace(
            TEXT,
            section="text_config",
            model_type="llama4_text",
            prefix="language_model.model.",
            outer=(Row("language_model.lm_head", "hidden_size", "vocab_size"),),
        ),
        VISION,
    ),
    joint=(Row("multi_modal_projector.linear_1", "vision_config.vision_output_dim", "text_config.hidden_size"),),
    tied_in=("text_config",),
)
