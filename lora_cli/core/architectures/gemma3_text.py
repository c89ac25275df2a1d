"""Gemma 3, text only."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, GATED_MLP, LM_HEAD, attention
from lora_cli.core.architectures.table import Family, Part

TEXT = Part(
    fields={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "attention_bias": False,
    },
    prefix="model.",
    rows=EMBED_TOKENS,
    layer_rows=(*attention(qkv_bias="attention_bias", o_bias="attention_bias"), *GATED_MLP),
    outer=LM_HEAD,
)

FAMILY = Family(parts=(TEXT,), tied=True)
