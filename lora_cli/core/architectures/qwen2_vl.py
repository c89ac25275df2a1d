"""Qwen2-VL: Qwen2's text model and a vision transformer inside ``Qwen2VLForConditionalGeneration``."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, GATED_MLP, LM_HEAD, attention
from lora_cli.core.architectures.table import Bare, Family, Number, Part, Row, Rows

TEXT = Part(
    section="text_config",
    model_type="qwen2_vl_text",
    also=("qwen2_vl",),
    flat=True,
    fields={
        "vocab_size": 152064,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": Number(8, null="num_attention_heads"),
        "head_dim": "hidden_size // num_attention_heads",
    },
    prefix="model.language_model.",
    rows=EMBED_TOKENS,
    layer_rows=(*attention(qkv_bias=True), *GATED_MLP),
    outer=LM_HEAD,
)


def tower(width: str, out: str) -> Rows:
    """What stands around the blocks: patches of ``width`` going in, merged and ``out`` wide coming out."""
    merged = f"{width} * spatial_merge_size * spatial_merge_size"
    patch = (width, "in_channels", "temporal_patch_size", "patch_size", "patch_size")
    return (
        Bare("patch_embed.proj.weight", patch),
        Row("merger.mlp.0", merged, merged, bias=True),
        Row("merger.mlp.2", merged, out, bias=True),
    )


def block_attention(width: str) -> Rows:
    """The attention of one block: q, k and v in one."""
    return (
        Row("attn.qkv", width, f"3 * {width}", bias=True),
        Row("attn.proj", width, width, bias=True),
    )


FAMILY = Family(
    parts=(
        TEXT,
        Part(
            section="vision_config",
            model_type="qwen2_vl_vision",
            also=("qwen2_vl",),
            fields={
                "depth": Number(32, aliases=("num_hidden_layers",)),
                "embed_dim": 1280,
                "hidden_size": 3584,
                "mlp_ratio": 4,
                "in_channels": 3,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
            prefix="model.visual.",
            rows=tower("embed_dim", "hidden_size"),
            layers="blocks",
            layer_count="depth",
            layer_rows=(
                *block_attention("embed_dim"),
                Row("mlp.fc1", "embed_dim", "embed_dim * mlp_ratio", bias=True),
                Row("mlp.fc2", "embed_dim * mlp_ratio", "embed_dim", bias=True),
            ),
        ),
    ),
    tied_in=("", "text_config"),
)
