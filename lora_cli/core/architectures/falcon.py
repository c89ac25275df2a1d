"""Falcon: q, k and v in one, whose width depends on how heads are grouped."""

from lora_cli.core.architectures.table import Family, Number, Part, Row, Values


def layer_kind(values: Values, _: int) -> str:
    """How key-value heads are grouped: ``grouped`` (40B and later), ``single`` (7B) or ``each``."""
    if values.flags["new_decoder_architecture"]:
        return "grouped"
    return "single" if values.flags["multi_query"] else "each"


QKV = "self_attention.query_key_value"

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 65024,
                "n_embed": Number(4544, aliases=("hidden_size",)),
                "num_hidden_layers": 32,
                "num_attention_heads": 71,
                "num_kv_heads": "num_attention_heads",
                "ffn_hidden_size": "4 * n_embed",
                "head_dim": "n_embed // num_attention_heads",
                "new_decoder_architecture": False,
                "multi_query": True,
                "bias": False,
            },
            prefix="transformer.",
            rows=(Row("word_embeddings", "vocab_size", "n_embed", kind="embedding"),),
            layers="h",
            layer_rows=(
                Row(QKV, "n_embed", "2 * num_kv_heads * head_dim + n_embed", bias="bias", when="grouped"),
                Row(QKV, "n_embed", "n_embed + 2 * head_dim", bias="bias", when="single"),
                Row(QKV, "n_embed", "3 * n_embed", bias="bias", when="each"),
                Row("self_attention.dense", "n_embed", "n_embed", bias="bias"),
                Row("mlp.dense_h_to_4h", "n_embed", "ffn_hidden_size", bias="bias"),
                Row("mlp.dense_4h_to_h", "ffn_hidden_size", "n_embed", bias="bias"),
            ),
            outer=(Row("lm_head", "n_embed", "vocab_size"),),
            layer_kind=layer_kind,
        ),
    ),
    tied=True,
    hidden_size="n_embed",
)
