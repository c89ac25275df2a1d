"""Phi-1 to Phi-2: separate projections, ``dense`` for o, an MLP of two layers, and biases everywhere."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, attention
from lora_cli.core.architectures.table import Family, Part, Row

QKV = tuple(row for row in attention(qkv_bias=True) if not row.path.endswith("o_proj"))

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 51200,
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 24,
                "num_attention_heads": 32,
                "num_key_value_heads": "num_attention_heads",
                "head_dim": "hidden_size // num_attention_heads",
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(
                *QKV,
                Row("self_attn.dense", "num_attention_heads * head_dim", "hidden_size", bias=True),
                Row("mlp.fc1", "hidden_size", "intermediate_size", bias=True),
                Row("mlp.fc2", "intermediate_size", "hidden_size", bias=True),
            ),
            outer=(Row("lm_head", "hidden_size", "vocab_size", bias=True),),
        ),
    ),
)
