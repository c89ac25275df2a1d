"""Phi-3 and Phi-4: q, k and v in one projection, gate and up in another."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD
from lora_cli.core.architectures.table import Family, Part, Row

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 32064,
                "hidden_size": 3072,
                "intermediate_size": 8192,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": "num_attention_heads",
                "head_dim": "hidden_size // num_attention_heads",
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(
                Row(
                    "self_attn.qkv_proj",
                    "hidden_size",
                    "num_attention_heads * head_dim + 2 * num_key_value_heads * head_dim",
                ),
                Row("self_attn.o_proj", "num_attention_heads * head_dim", "hidden_size"),
                Row("mlp.gate_up_proj", "hidden_size", "2 * intermediate_size"),
                Row("mlp.down_proj", "intermediate_size", "hidden_size"),
            ),
            outer=LM_HEAD,
        ),
    ),
)
