"""OPT: two positions more than it says, and projections around layers that are wider than the embedding."""

from collections.abc import Mapping

from lora_cli.core.architectures.table import Family, Part, Row, Values


def derived(values: Values) -> Mapping[str, bool]:
    """Whether the embedding has another width than the layers."""
    return {"projected": values.numbers["word_embed_proj_dim"] != values.numbers["hidden_size"]}


FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 50272,
                "hidden_size": 768,
                "ffn_dim": 3072,
                "num_hidden_layers": 12,
                "max_position_embeddings": 2048,
                "word_embed_proj_dim": "hidden_size",
                "enable_bias": True,
            },
            prefix="model.decoder.",
            rows=(
                Row("embed_tokens", "vocab_size", "word_embed_proj_dim", kind="embedding"),
                Row("embed_positions", "max_position_embeddings + 2", "hidden_size", kind="embedding"),
                Row("project_out", "hidden_size", "word_embed_proj_dim", when="projected"),
                Row("project_in", "word_embed_proj_dim", "hidden_size", when="projected"),
            ),
            layer_rows=(
                Row("self_attn.k_proj", "hidden_size", "hidden_size", bias="enable_bias"),
                Row("self_attn.v_proj", "hidden_size", "hidden_size", bias="enable_bias"),
                Row("self_attn.q_proj", "hidden_size", "hidden_size", bias="enable_bias"),
                Row("self_attn.out_proj", "hidden_size", "hidden_size", bias="enable_bias"),
                Row("fc1", "hidden_size", "ffn_dim", bias="enable_bias"),
                Row("fc2", "ffn_dim", "hidden_size", bias="enable_bias"),
            ),
            outer=(Row("lm_head", "word_embed_proj_dim", "vocab_size"),),
            derived=derived,
        ),
    ),
    tied=True,
)
