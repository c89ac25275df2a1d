"""Cohere Command R: LLaMA's modules side by side in a layer, tied by default."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, GATED_MLP, LM_HEAD, attention
from lora_cli.core.architectures.table import Family, Part

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 256000,
                "hidden_size": 8192,
                "intermediate_size": 22528,
                "num_hidden_layers": 40,
                "num_attention_heads": 64,
                "num_key_value_heads": "num_attention_heads",
                "head_dim": "hidden_size // num_attention_heads",
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
