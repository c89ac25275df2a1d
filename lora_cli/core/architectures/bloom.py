"""BLOOM: q, k and v in one, biases everywhere but in the head, which is tied."""

from lora_cli.core.architectures.table import Family, Number, Part, Row

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 250880,
                "n_embed": Number(64, aliases=("hidden_size",)),
                "n_layer": Number(2, aliases=("num_hidden_layers",)),
            },
            prefix="transformer.",
            rows=(Row("word_embeddings", "vocab_size", "n_embed", kind="embedding"),),
            layers="h",
            layer_count="n_layer",
            layer_rows=(
                Row("self_attention.query_key_value", "n_embed", "3 * n_embed", bias=True),
                Row("self_attention.dense", "n_embed", "n_embed", bias=True),
                Row("mlp.dense_h_to_4h", "n_embed", "4 * n_embed", bias=True),
                Row("mlp.dense_4h_to_h", "4 * n_embed", "n_embed", bias=True),
            ),
            outer=(Row("lm_head", "n_embed", "vocab_size"),),
        ),
    ),
    tied=True,
    hidden_size="n_embed",
)
