"""LLaMA, and everything that is published under its name (SmolLM2, Yi, TinyLlama, DeepSeek distillations)."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD, attention, gated
from lora_cli.core.architectures.table import Family, Part

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 32000,
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": "num_attention_heads",
                "head_dim": "hidden_size // num_attention_heads",
                "attention_bias": False,
                "mlp_bias": False,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(
                *attention(qkv_bias="attention_bias", o_bias="attention_bias"),
                *gated("mlp", "intermediate_size", bias="mlp_bias"),
            ),
            outer=LM_HEAD,
        ),
    ),
)
