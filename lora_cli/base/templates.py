"""Fields, rows and parts that several families share, and the functions by which their layers differ."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from lora_cli.base.table import (
    MAX_EXPERTS,
    Bare,
    Default,
    Family,
    Fields,
    Number,
    Part,
    Row,
    Rows,
    Values,
)

EMBED_TOKENS: Rows = (Row("embed_tokens", "vocab_size", "hidden_size", kind="embedding"),)
LM_HEAD: Rows = (Row("lm_head", "hidden_size", "vocab_size"),)


def sizes(
    vocab: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: Default | None = "num_attention_heads",
    head_dim: Default | None = "hidden_size // num_attention_heads",
) -> Fields:
    """The fields of a decoder of LLaMA's shape, with a family's defaults; None leaves a field out."""
    fields = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
    }
    return {name: default for name, default in fields.items() if default is not None}


def grouped(kv_heads: int) -> Number:
    """A default count of key-value heads, where an explicit null means as many as there are heads."""
    return Number(kv_heads, null="num_attention_heads")


def experts(default: int, *aliases: str, minimum: int = 1) -> Number:
    """A count of experts, and the other names that its field has."""
    return Number(default, aliases=aliases, minimum=minimum, maximum=MAX_EXPERTS)


def decoder(fields: Fields, layer_rows: Rows, layer_kind: Callable[[Values, int], str] | None = None) -> Part:
    """A decoder with LLaMA's names around its layers."""
    return Part(fields, "model.", EMBED_TOKENS, layer_rows, outer=LM_HEAD, layer_kind=layer_kind)


def attention(*, qkv_bias: bool | str = False, o_bias: bool | str = False) -> Rows:
    """Separate q, k, v and o projections with grouped key-value heads; a bias is fixed or a flag's name."""
    return (
        Row("self_attn.q_proj", "hidden_size", "num_attention_heads * head_dim", bias=qkv_bias),
        Row("self_attn.k_proj", "hidden_size", "num_key_value_heads * head_dim", bias=qkv_bias),
        Row("self_attn.v_proj", "hidden_size", "num_key_value_heads * head_dim", bias=qkv_bias),
        Row("self_attn.o_proj", "num_attention_heads * head_dim", "hidden_size", bias=o_bias),
    )


BIASED_ATTENTION = attention(qkv_bias="attention_bias", o_bias="attention_bias")


def gated(path: str, width: str, *, when: str = "", bias: bool | str = False) -> Rows:
    """A gated MLP at ``path``; ``width`` is the expression of its inner dimension."""
    return (
        Row(f"{path}.gate_proj", "hidden_size", width, bias=bias, when=when),
        Row(f"{path}.up_proj", "hidden_size", width, bias=bias, when=when),
        Row(f"{path}.down_proj", width, "hidden_size", bias=bias, when=when),
    )


GATED_MLP = gated("mlp", "intermediate_size")
BIASED_DENSE = (*BIASED_ATTENTION, *GATED_MLP)


def two_layers(
    first: str,
    second: str,
    inner: str = "intermediate_size",
    width: str = "hidden_size",
    *,
    bias: bool | str = True,
    when: str = "",
) -> Rows:
    """An MLP of two linear layers, ``inner`` wide between them."""
    return Row(first, width, inner, bias=bias, when=when), Row(second, inner, width, bias=bias, when=when)


def square(*paths: str, width: str = "hidden_size", bias: bool | str = True, when: str = "") -> Rows:
    """Linear layers whose two dimensions are the same."""
    return tuple(Row(path, width, width, bias=bias, when=when) for path in paths)


def fused_experts(experts: str, width: str, when: str = "") -> Rows:
    """A router and experts as transformers 5 holds them: bare parameters, all experts of a layer in one tensor."""
    return (
        Bare("mlp.gate.weight", (experts, "hidden_size"), when),
        Bare("mlp.experts.gate_up_proj", (experts, f"2 * {width}", "hidden_size"), when),
        Bare("mlp.experts.down_proj", (experts, "hidden_size", width), when),
    )


def qwen_layer_kind(values: Values, i: int) -> str:
    """Whether layer ``i`` has experts (``sparse``) or one gated MLP (``dense``)."""
    experts, step = values.numbers["num_experts"], values.numbers["decoder_sparse_step"]
    sparse = i not in values.layers.get("mlp_only_layers", ()) and experts > 0 and (i + 1) % step == 0
    return "sparse" if sparse else "dense"


def llama4_layer_kind(values: Values, i: int) -> str:
    """As ``qwen_layer_kind``: in every n-th layer, or where listed."""
    listed = values.layers.get("moe_layers")
    step = values.numbers["interleave_moe_layer_step"]
    return "sparse" if (i in listed if listed is not None else (i + 1) % step == 0) else "dense"


def deepseek_layer_kind(values: Values, i: int) -> str:
    """As ``qwen_layer_kind``: after the first dense layers."""
    return "sparse" if i >= values.numbers["first_k_dense_replace"] else "dense"


def low_rank_queries(values: Values) -> Mapping[str, bool]:
    """Whether DeepSeek's queries go through a low rank, as those of all but the Lite models do."""
    low_rank = values.numbers["q_lora_rank"] > 0
    return {"low_rank_q": low_rank, "full_q": not low_rank}


Q_WIDTH = "num_attention_heads * qk_nope_head_dim + num_attention_heads * qk_rope_head_dim"
KV_WIDTH = "num_attention_heads * qk_nope_head_dim + num_attention_heads * v_head_dim"


def deepseek(fields: Fields, mlp_bias: bool | str = False) -> Family:
    """DeepSeek's low-rank attention (MLA), and experts beside shared ones; ``fields`` are those beside MLA's."""
    mla: Fields = {
        "kv_lora_rank": 512,
        "q_lora_rank": Number(1536, null="0", minimum=0),
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "attention_bias": False,
    }
    rows = (
        Row("self_attn.q_proj", "hidden_size", Q_WIDTH, when="full_q"),
        Row("self_attn.q_a_proj", "hidden_size", "q_lora_rank", bias="attention_bias", when="low_rank_q"),
        Row("self_attn.q_b_proj", "q_lora_rank", Q_WIDTH, when="low_rank_q"),
        Row("self_attn.kv_a_proj_with_mqa", "hidden_size", "kv_lora_rank + qk_rope_head_dim", bias="attention_bias"),
        Row("self_attn.kv_b_proj", "kv_lora_rank", KV_WIDTH),
        Row("self_attn.o_proj", "num_attention_heads * v_head_dim", "hidden_size", bias="attention_bias"),
        *fused_experts("n_routed_experts", "moe_intermediate_size", when="sparse"),
        *gated("mlp.shared_experts", "moe_intermediate_size * n_shared_experts", when="sparse", bias=mlp_bias),
        *gated("mlp", "intermediate_size", when="dense", bias=mlp_bias),
    )
    part = replace(decoder({**fields, **mla}, rows, deepseek_layer_kind), derived=low_rank_queries)
    return Family(
        part, norms=("input_layernorm", "post_attention_layernorm", "norm", "q_a_layernorm", "kv_a_layernorm")
    )


def falcon_layer_kind(values: Values, _: int) -> str:
    """How key-value heads are grouped: ``grouped`` (40B and later), ``single`` (7B) or ``each``."""
    if values.flags["new_decoder_architecture"]:
        return "grouped"
    return "single" if values.flags["multi_query"] else "each"


def opt_projected(values: Values) -> Mapping[str, bool]:
    """Whether the embedding has another width than the layers."""
    return {"projected": values.numbers["word_embed_proj_dim"] != values.numbers["hidden_size"]}


def word_embeddings(
    fields: Fields,
    layer_rows: Rows,
    layer_count: str = "num_hidden_layers",
    layer_kind: Callable[[Values, int], str] | None = None,
) -> Part:
    """A decoder with BLOOM's names around its layers."""
    return Part(
        fields,
        "transformer.",
        rows=(Row("word_embeddings", "vocab_size", "n_embed", kind="embedding"),),
        layers="h",
        layer_count=layer_count,
        layer_rows=layer_rows,
        outer=(Row("lm_head", "n_embed", "vocab_size"),),
        layer_kind=layer_kind,
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


def qwen_vl(name: str, fields: Mapping[str, int], widths: tuple[str, str], mlp: Rows) -> Family:
    """Qwen2's text model next to a vision transformer; ``name`` is the ``model_type``.

    ``fields``, ``widths`` (of the patches going in, and merged coming out) and ``mlp`` are the vision transformer's,
    which has q, k and v in one.
    """
    text = decoder(sizes(152064, 8192, 29568, 80, 64, grouped(8)), (*attention(qkv_bias=True), *GATED_MLP))
    width, out = widths
    merged = f"{width} * spatial_merge_size * spatial_merge_size"
    vision = Part(
        {
            "depth": Number(32, aliases=("num_hidden_layers",)),
            **fields,
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "model.visual.",
        section="vision_config",
        model_type=f"{name}_vision",
        also=(name,),
        rows=(
            Bare("patch_embed.proj.weight", (width, "in_channels", "temporal_patch_size", "patch_size", "patch_size")),
            *square("merger.mlp.0", width=merged),
            Row("merger.mlp.2", merged, out, bias=True),
        ),
        layers="blocks",
        layer_count="depth",
        layer_rows=(Row("attn.qkv", width, f"3 * {width}", bias=True), *square("attn.proj", width=width), *mlp),
    )
    return Family(
        replace(
            text,
            section="text_config",
            model_type=f"{name}_text",
            also=(name,),
            flat=True,
            prefix="model.language_model.",
        ),
        vision,
        tied_in=("", "text_config"),
        norms=("input_layernorm", "post_attention_layernorm", "norm", "norm1", "norm2", "ln_q"),
    )
