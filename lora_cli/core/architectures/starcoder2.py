"""StarCoder2: separate projections, an MLP of two layers, biases everywhere unless ``use_bias`` is false."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD, attention
from lora_cli.core.architectures.table import Family, Part, Row

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 49152,
                "hidden_size": 3072,
                "intermediate_size": 12288,
                "num_hidden_layers": 30,
                "num_attention_heads": 24,
                "num_key_value_heads": 2,
                "head_dim": "hidden_size // num_attention_heads",
                "use_bias": True,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(
                *attention(qkv_bias="use_bias", o_bias="use_bias"),
                Row("mlp.c_fc", "hidden_size", "intermediate_size", bias="use_bias"),
                Row("mlp.c_proj", "intermediate_size", "hidden_size", bias="use_bias"),
            ),
            outer=LM_HEAD,
        ),
    ),
    tied=True,
)
