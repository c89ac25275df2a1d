"""GPT-2: transposed linear layers (``Conv1D``), q, k and v in one."""

from lora_cli.core.architectures.table import Family, Number, Part, Row

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 50257,
                "n_positions": Number(1024, aliases=("max_position_embeddings",)),
                "n_embd": Number(768, aliases=("hidden_size",)),
                "n_layer": Number(12, aliases=("num_hidden_layers",)),
                "n_inner": "4 * n_embd",
                "add_cross_attention": False,
            },
            prefix="transformer.",
            rows=(
                Row("wte", "vocab_size", "n_embd", kind="embedding"),
                Row("wpe", "n_positions", "n_embd", kind="embedding"),
            ),
            layers="h",
            layer_count="n_layer",
            layer_rows=(
                Row("attn.c_attn", "n_embd", "3 * n_embd", kind="conv1d", bias=True),
                Row("attn.c_proj", "n_embd", "n_embd", kind="conv1d", bias=True),
                Row("crossattention.c_attn", "n_embd", "2 * n_embd", "conv1d", bias=True, when="add_cross_attention"),
                Row("crossattention.q_attn", "n_embd", "n_embd", "conv1d", bias=True, when="add_cross_attention"),
                Row("crossattention.c_proj", "n_embd", "n_embd", "conv1d", bias=True, when="add_cross_attention"),
                Row("mlp.c_fc", "n_embd", "n_inner", kind="conv1d", bias=True),
                Row("mlp.c_proj", "n_inner", "n_embd", kind="conv1d", bias=True),
            ),
            outer=(Row("lm_head", "n_embd", "vocab_size"),),
        ),
    ),
    tied=True,
    hidden_size="n_embd",
)
