"""Qwen3 with experts in every ``decoder_sparse_step``-th layer, except those that ``mlp_only_layers`` lists."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD, attention, fused_experts, gated
from lora_cli.core.architectures.table import MAX_EXPERTS, Family, Number, Part, Values


def layer_kind(values: Values, i: int) -> str:
    """Whether layer ``i`` has experts (``sparse``) or one gated MLP (``dense``)."""
    experts, step = values.numbers["num_experts"], values.numbers["decoder_sparse_step"]
    sparse = i not in values.layers.get("mlp_only_layers", ()) and experts > 0 and (i + 1) % step == 0
    return "sparse" if sparse else "dense"


FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 151936,
                "hidden_size": 2048,
                "intermediate_size": 6144,
                "moe_intermediate_size": 768,
                "num_hidden_layers": 24,
                "num_attention_heads": 32,
                "num_key_value_heads": Number(4),
                "head_dim": "hidden_size // num_attention_heads",
                "num_experts": Number(128, aliases=("num_local_experts",), minimum=0, maximum=MAX_EXPERTS),
                "decoder_sparse_step": 1,
                "mlp_only_layers": frozenset(),
                "attention_bias": False,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(
                *attention(qkv_bias="attention_bias", o_bias="attention_bias"),
                *fused_experts("num_experts", "moe_intermediate_size", when="sparse"),
                *gated("mlp", "intermediate_size", when="dense"),
            ),
            outer=LM_HEAD,
            layer_kind=layer_kind,
        ),
    ),
)
