"""Gemma, the first: LLaMA's modules with a head dimension of its own, tied by default."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, GATED_MLP, LM_HEAD, attention
from lora_cli.core.architectures.table import Family, Part

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 256000,
                "hidden_size": 3072,
                "intermediate_size": 24576,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 16,
                "head_dim": 256,
                "attention_bias": False,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(*attention(qkv_bias="attention_bias", o_bias="attention_bias"), *GATED_MLP),
            outer=LM_HEAD,
        ),
    ),
    tied=True,
)
