"""Qwen3: a head_dim of its own, whatever hidden_size and heads are."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, GATED_MLP, LM_HEAD, attention
from lora_cli.core.architectures.table import Family, Number, Part

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 151936,
                "hidden_size": 4096,
                "intermediate_size": 22016,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": Number(32, null="num_attention_heads"),
                "head_dim": 128,
                "attention_bias": False,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(*attention(qkv_bias="attention_bias", o_bias="attention_bias"), *GATED_MLP),
            outer=LM_HEAD,
        ),
    ),
)
