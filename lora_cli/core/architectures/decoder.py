"""The rows that decoders of LLaMA's shape share."""

from lora_cli.core.architectures.table import Bare, Row, Rows

EMBED_TOKENS: Rows = (Row("embed_tokens", "vocab_size", "hidden_size", kind="embedding"),)
LM_HEAD: Rows = (Row("lm_head", "hidden_size", "vocab_size"),)


def gated(path: str, width: str, *, when: str = "", bias: bool | str = False) -> Rows:
    """A gated MLP at ``path``; ``width`` is the expression of its inner dimension."""
    return (
        Row(f"{path}.gate_proj", "hidden_size", width, bias=bias, when=when),
        Row(f"{path}.up_proj", "hidden_size", width, bias=bias, when=when),
        Row(f"{path}.down_proj", width, "hidden_size", bias=bias, when=when),
    )


GATED_MLP = gated("mlp", "intermediate_size")


def attention(*, qkv_bias: bool | str = False, o_bias: bool | str = False) -> Rows:
    """Separate q, k, v and o projections with grouped key-value heads; a bias is fixed or a flag's name."""
    return (
        Row("self_attn.q_proj", "hidden_size", "num_attention_heads * head_dim", bias=qkv_bias),
        Row("self_attn.k_proj", "hidden_size", "num_key_value_heads * head_dim", bias=qkv_bias),
        Row("self_attn.v_proj", "hidden_size", "num_key_value_heads * head_dim", bias=qkv_bias),
        Row("self_attn.o_proj", "num_attention_heads * head_dim", "hidden_size", bias=o_bias),
    )


def fused_experts(experts: str, width: str, when: str = "") -> Rows:
    """A router and experts as transformers 5 holds them: bare parameters, all experts of a layer in one tensor."""
    return (
        Bare("mlp.gate.weight", (experts, "hidden_size"), when),
        Bare("mlp.experts.gate_up_proj", (experts, f"2 * {width}", "hidden_size"), when),
        Bare("mlp.experts.down_proj", (experts, "hidden_size", width), when),
    )
