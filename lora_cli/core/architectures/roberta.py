"""RoBERTa with its language-modelling head: BERT's modules, a head of its own."""

from lora_cli.core.architectures.bert import EMBEDDINGS, FIELDS, LAYER
from lora_cli.core.architectures.table import Family, Part, Row

FAMILY = Family(
    parts=(
        Part(
            fields={**FIELDS, "vocab_size": 50265},
            prefix="roberta.",
            rows=EMBEDDINGS,
            layers="encoder.layer",
            layer_rows=LAYER,
            outer=(
                Row("lm_head.dense", "hidden_size", "hidden_size", bias=True),
                Row("lm_head.decoder", "hidden_size", "vocab_size", bias=True),
            ),
        ),
    ),
    tied=True,
)
