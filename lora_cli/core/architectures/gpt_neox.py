"""GPT-NeoX and Pythia: q, k and v in one projection."""

from lora_cli.core.architectures.decoder import LM_HEAD
from lora_cli.core.architectures.table import Family, Part, Row

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 50432,
                "hidden_size": 6144,
                "intermediate_size": 24576,
                "num_hidden_layers": 44,
                "attention_bias": True,
            },
            prefix="gpt_neox.",
            rows=(Row("embed_in", "vocab_size", "hidden_size", kind="embedding"),),
            layer_rows=(
                Row("attention.query_key_value", "hidden_size", "3 * hidden_size", bias="attention_bias"),
                Row("attention.dense", "hidden_size", "hidden_size", bias="attention_bias"),
                Row("mlp.dense_h_to_4h", "hidden_size", "intermediate_size", bias=True),
                Row("mlp.dense_4h_to_h", "intermediate_size", "hidden_size", bias=True),
            ),
            outer=LM_HEAD,
        ),
    ),
)
