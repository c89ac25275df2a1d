"""StableLM: LLaMA's modules, biases on q, k and v where ``use_qkv_bias`` says so."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, GATED_MLP, LM_HEAD, attention
from lora_cli.core.architectures.table import Family, Part

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 50304,
                "hidden_size": 2560,
                "intermediate_size": 6912,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 32,
                "use_qkv_bias": False,
                "head_dim": "hidden_size // num_attention_heads",
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(*attention(qkv_bias="use_qkv_bias"), *GATED_MLP),
            outer=LM_HEAD,
        ),
    ),
)
