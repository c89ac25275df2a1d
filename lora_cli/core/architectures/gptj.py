"""GPT-J: separate projections without biases, an MLP and a head with them."""

from lora_cli.core.architectures.table import Family, Number, Part, Row

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 50400,
                "n_embd": Number(4096, aliases=("hidden_size",)),
                "n_layer": Number(28, aliases=("num_hidden_layers",)),
                "n_inner": "4 * n_embd",
            },
            prefix="transformer.",
            rows=(Row("wte", "vocab_size", "n_embd", kind="embedding"),),
            layers="h",
            layer_count="n_layer",
            layer_rows=(
                Row("attn.k_proj", "n_embd", "n_embd"),
                Row("attn.v_proj", "n_embd", "n_embd"),
                Row("attn.q_proj", "n_embd", "n_embd"),
                Row("attn.out_proj", "n_embd", "n_embd"),
                Row("mlp.fc_in", "n_embd", "n_inner", bias=True),
                Row("mlp.fc_out", "n_inner", "n_embd", bias=True),
            ),
            outer=(Row("lm_head", "n_embd", "vocab_size", bias=True),),
        ),
    ),
    hidden_size="n_embd",
)
