"""BERT with its language-modelling head. Other heads (and the pooler that comes with them) are not in the table."""

from collections.abc import Mapping

from lora_cli.core.architectures.table import Default, Family, Part, Row, Rows

FIELDS: Mapping[str, Default] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "add_cross_attention": False,
}

EMBEDDINGS: Rows = (
    Row("embeddings.word_embeddings", "vocab_size", "hidden_size", kind="embedding"),
    Row("embeddings.position_embeddings", "max_position_embeddings", "hidden_size", kind="embedding"),
    Row("embeddings.token_type_embeddings", "type_vocab_size", "hidden_size", kind="embedding"),
)


def attention(path: str, when: str = "") -> Rows:
    """Separate query, key, value and output, all as wide as the model."""
    names = ("self.query", "self.key", "self.value", "output.dense")
    return tuple(Row(f"{path}.{name}", "hidden_size", "hidden_size", bias=True, when=when) for name in names)


LAYER: Rows = (
    *attention("attention"),
    *attention("crossattention", when="add_cross_attention"),
    Row("intermediate.dense", "hidden_size", "intermediate_size", bias=True),
    Row("output.dense", "intermediate_size", "hidden_size", bias=True),
)

FAMILY = Family(
    parts=(
        Part(
            fields=FIELDS,
            prefix="bert.",
            rows=EMBEDDINGS,
            layers="encoder.layer",
            layer_rows=LAYER,
            outer=(
                Row("cls.predictions.transform.dense", "hidden_size", "hidden_size", bias=True),
                Row("cls.predictions.decoder", "hidden_size", "vocab_size", bias=True),
            ),
        ),
    ),
    tied=True,
)
