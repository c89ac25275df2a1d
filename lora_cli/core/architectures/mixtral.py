"""Mixtral: Mistral's attention, and experts in every layer."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD, attention, fused_experts
from lora_cli.core.architectures.table import MAX_EXPERTS, Family, Number, Part

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 32000,
                "hidden_size": 4096,
                "intermediate_size": 14336,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": Number(8, null="num_attention_heads"),
                "head_dim": "hidden_size // num_attention_heads",
                "num_local_experts": Number(8, aliases=("num_experts",), maximum=MAX_EXPERTS),
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(*attention(), *fused_experts("num_local_experts", "intermediate_size")),
            outer=LM_HEAD,
        ),
    ),
)
