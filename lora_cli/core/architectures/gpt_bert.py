"""Models before LLaMA: GPT-2 and those after it with fused or biased projections, OPT, BERT and RoBERTa."""

from collections.abc import Mapping

from lora_cli.core.architectures.table import Family, Fields, Number, Part, Row, Rows, Values
from lora_cli.core.architectures.templates import LM_HEAD, square, two_layers

N_EMBED_HEAD: Rows = (Row("lm_head", "n_embed", "vocab_size"),)
WORD_EMBEDDINGS: Rows = (Row("word_embeddings", "vocab_size", "n_embed", kind="embedding"),)

GPT2 = Part(
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
        Row("attn.c_attn", "n_embd", "3 * n_embd", "conv1d", bias=True),
        Row("attn.c_proj", "n_embd", "n_embd", "conv1d", bias=True),
        Row("crossattention.c_attn", "n_embd", "2 * n_embd", "conv1d", bias=True, when="add_cross_attention"),
        Row("crossattention.q_attn", "n_embd", "n_embd", "conv1d", bias=True, when="add_cross_attention"),
        Row("crossattention.c_proj", "n_embd", "n_embd", "conv1d", bias=True, when="add_cross_attention"),
        Row("mlp.c_fc", "n_embd", "n_inner", "conv1d", bias=True),
        Row("mlp.c_proj", "n_inner", "n_embd", "conv1d", bias=True),
    ),
    outer=(Row("lm_head", "n_embd", "vocab_size"),),
)
"""Transposed linear layers (``Conv1D``), q, k and v in one."""

GPTJ = Part(
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
        *square("attn.k_proj", "attn.v_proj", "attn.q_proj", "attn.out_proj", width="n_embd", bias=False),
        *two_layers("mlp.fc_in", "mlp.fc_out", "n_inner", "n_embd"),
    ),
    outer=(Row("lm_head", "n_embd", "vocab_size", bias=True),),
)

GPT_NEOX = Part(
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
        *square("attention.dense", bias="attention_bias"),
        *two_layers("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
    outer=LM_HEAD,
)
"""Also Pythia."""

BLOOM = Part(
    fields={
        "vocab_size": 250880,
        "n_embed": Number(64, aliases=("hidden_size",)),
        "n_layer": Number(2, aliases=("num_hidden_layers",)),
    },
    prefix="transformer.",
    rows=WORD_EMBEDDINGS,
    layers="h",
    layer_count="n_layer",
    layer_rows=(
        Row("self_attention.query_key_value", "n_embed", "3 * n_embed", bias=True),
        *square("self_attention.dense", width="n_embed"),
        *two_layers("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "4 * n_embed", "n_embed"),
    ),
    outer=N_EMBED_HEAD,
)


def falcon_layer_kind(values: Values, _: int) -> str:
    """How key-value heads are grouped: ``grouped`` (40B and later), ``single`` (7B) or ``each``."""
    if values.flags["new_decoder_architecture"]:
        return "grouped"
    return "single" if values.flags["multi_query"] else "each"


QKV = "self_attention.query_key_value"
FALCON = Part(
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
    rows=WORD_EMBEDDINGS,
    layers="h",
    layer_rows=(
        Row(QKV, "n_embed", "2 * num_kv_heads * head_dim + n_embed", bias="bias", when="grouped"),
        Row(QKV, "n_embed", "n_embed + 2 * head_dim", bias="bias", when="single"),
        Row(QKV, "n_embed", "3 * n_embed", bias="bias", when="each"),
        *square("self_attention.dense", width="n_embed", bias="bias"),
        *two_layers("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "ffn_hidden_size", "n_embed", bias="bias"),
    ),
    outer=N_EMBED_HEAD,
    layer_kind=falcon_layer_kind,
)


def opt_projected(values: Values) -> Mapping[str, bool]:
    """Whether the embedding has another width than the layers."""
    return {"projected": values.numbers["word_embed_proj_dim"] != values.numbers["hidden_size"]}


OPT = Part(
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
        *square(
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.q_proj",
            "self_attn.out_proj",
            bias="enable_bias",
        ),
        *two_layers("fc1", "fc2", "ffn_dim", bias="enable_bias"),
    ),
    outer=(Row("lm_head", "word_embed_proj_dim", "vocab_size"),),
    derived=opt_projected,
)


def bert(prefix: str, vocab: int, head: str, decoder: str) -> Part:
    """BERT with its language-modelling head. Other heads, and the pooler that comes with them, are not in the table."""
    fields: Fields = {
        "vocab_size": vocab,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "add_cross_attention": False,
    }
    parts = ("self.query", "self.key", "self.value", "output.dense")
    return Part(
        fields,
        prefix,
        rows=(
            Row("embeddings.word_embeddings", "vocab_size", "hidden_size", kind="embedding"),
            Row("embeddings.position_embeddings", "max_position_embeddings", "hidden_size", kind="embedding"),
            Row("embeddings.token_type_embeddings", "type_vocab_size", "hidden_size", kind="embedding"),
        ),
        layers="encoder.layer",
        layer_rows=(
            *square(*(f"attention.{part}" for part in parts)),
            *square(*(f"crossattention.{part}" for part in parts), when="add_cross_attention"),
            *two_layers("intermediate.dense", "output.dense"),
        ),
        outer=(*square(head), Row(decoder, "hidden_size", "vocab_size", bias=True)),
    )


FAMILIES: Mapping[str, Family] = {
    "bert": Family(
        bert("bert.", 30522, "cls.predictions.transform.dense", "cls.predictions.decoder"),
        tied=True,
        norms=("LayerNorm",),
    ),
    "bloom": Family(
        BLOOM,
        tied=True,
        hidden_size="n_embed",
        norms=("word_embeddings_layernorm", "input_layernorm", "post_attention_layernorm", "ln_f"),
    ),
    "falcon": Family(FALCON, tied=True, hidden_size="n_embed", norms=("ln_attn", "ln_mlp", "input_layernorm", "ln_f")),
    "gpt2": Family(GPT2, tied=True, hidden_size="n_embd", norms=("ln_1", "ln_2", "ln_cross_attn", "ln_f")),
    "gpt_neox": Family(GPT_NEOX, norms=("input_layernorm", "post_attention_layernorm", "final_layer_norm")),
    "gptj": Family(GPTJ, hidden_size="n_embd", norms=("ln_1", "ln_f")),
    "opt": Family(OPT, tied=True, norms=("self_attn_layer_norm", "final_layer_norm")),
    "roberta": Family(
        bert("roberta.", 50265, "lm_head.dense", "lm_head.decoder"), tied=True, norms=("LayerNorm", "layer_norm")
    ),
}
