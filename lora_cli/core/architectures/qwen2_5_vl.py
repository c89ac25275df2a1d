"""Qwen2.5-VL: Qwen2-VL with gated MLPs in its vision transformer."""

from dataclasses import replace

from lora_cli.core.architectures.decoder import gated
from lora_cli.core.architectures.qwen2_vl import TEXT, block_attention, tower
from lora_cli.core.architectures.table import Family, Number, Part

FAMILY = Family(
    parts=(
        replace(TEXT, model_type="qwen2_5_vl_text", also=("qwen2_5_vl",)),
        Part(
            section="vision_config",
            model_type="qwen2_5_vl_vision",
            also=("qwen2_5_vl",),
            fields={
                "depth": Number(32, aliases=("num_hidden_layers",)),
                "hidden_size": 3584,
                "out_hidden_size": 3584,
                "intermediate_size": 3420,
                "in_channels": 3,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
            prefix="model.visual.",
            rows=tower("hidden_size", "out_hidden_size"),
            layers="blocks",
            layer_count="depth",
            layer_rows=(*block_attention("hidden_size"), *gated("mlp", "intermediate_size", bias=True)),
        ),
    ),
    tied_in=("", "text_config"),
)
