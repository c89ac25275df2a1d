"""Rows and parts that several families share."""

from collections.abc import Callable

from lora_cli.core.architectures.table import Bare, Default, Fields, Number, Part, Row, Rows, Values

EMBED_TOKENS: Rows = (Row("embed_tokens", "vocab_size", "hidden_size", kind="embedding"),)
LM_HEAD: Rows = (Row("lm_head", "hidden_size", "vocab_size"),)


def sizes(
    vocab: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: Default = "num_attention_heads",
    head_dim: Default = "hidden_size // num_attention_heads",
) -> Fields:
    """The fields of a decoder of LLaMA's shape, with a family's defaults."""
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
    }


def grouped(kv_heads: int) -> Number:
    """A default count of key-value heads, where an explicit null means as many as there are heads."""
    return Number(kv_heads, null="num_attention_heads")


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
