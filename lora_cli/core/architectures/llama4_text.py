"""Llama 4, text only: experts ``[experts, d_in, d_out]`` beside a shared one, in every n-th layer or where listed."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD, attention, gated
from lora_cli.core.architectures.table import MAX_EXPERTS, MAX_LAYERS, Bare, Family, Number, Part, Row, Values


def layer_kind(values: Values, i: int) -> str:
    """Whether layer ``i`` has experts (``sparse``) or one gated MLP (``dense``)."""
    listed = values.layers.get("moe_layers")
    step = values.numbers["interleave_moe_layer_step"]
    return "sparse" if (i in listed if listed is not None else (i + 1) % step == 0) else "dense"


TEXT = Part(
    fields={
        "vocab_size": 202048,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": Number(16, maximum=MAX_EXPERTS),
        "interleave_moe_layer_step": Number(1, maximum=MAX_LAYERS),
        "moe_layers": frozenset(),
        "attention_bias": False,
    },
    prefix="model.",
    rows=EMBED_TOKENS,
    layer_rows=(
        *attention(qkv_bias="attention_bias", o_bias="attention_bias"),
        Row("feed_forward.router", "hidden_size", "num_local_experts", when="sparse"),
        Bare(
            "feed_forward.experts.gate_up_proj", ("num_local_experts", "hidden_size", "2 * intermediate_size"), "sparse"
        ),
        Bare("feed_forward.experts.down_proj", ("num_local_experts", "intermediate_size", "hidden_size"), "sparse"),
        *gated("feed_forward.shared_expert", "intermediate_size", when="sparse"),
        *gated("feed_forward", "intermediate_size_mlp", when="dense"),
    ),
    outer=LM_HEAD,
    layer_kind=layer_kind,
)

FAMILY = Family(parts=(TEXT,))
