"""Mistral."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, GATED_MLP, LM_HEAD, attention
from lora_cli.core.architectures.table import Family, Number, Part

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
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(*attention(), *GATED_MLP),
            outer=LM_HEAD,
        ),
    ),
)
