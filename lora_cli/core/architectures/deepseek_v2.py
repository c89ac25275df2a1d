"""DeepSeek-V2: low-rank attention (MLA), and experts beside shared ones after the first dense layers."""

from collections.abc import Mapping

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD, fused_experts, gated
from lora_cli.core.architectures.table import MAX_EXPERTS, MAX_LAYERS, Default, Family, Number, Part, Row, Rows, Values

Q_WIDTH = "num_attention_heads * qk_nope_head_dim + num_attention_heads * qk_rope_head_dim"
KV_WIDTH = "num_attention_heads * qk_nope_head_dim + num_attention_heads * v_head_dim"
SHARED = "moe_intermediate_size * n_shared_experts"

MLA: Mapping[str, Default] = {
    "kv_lora_rank": 512,
    "q_lora_rank": Number(1536, null="0", minimum=0),
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "attention_bias": False,
}

ATTENTION: Rows = (
    Row("self_attn.q_proj", "hidden_size", Q_WIDTH, when="full_q"),
    Row("self_attn.q_a_proj", "hidden_size", "q_lora_rank", bias="attention_bias", when="low_rank_q"),
    Row("self_attn.q_b_proj", "q_lora_rank", Q_WIDTH, when="low_rank_q"),
    Row("self_attn.kv_a_proj_with_mqa", "hidden_size", "kv_lora_rank + qk_rope_head_dim", bias="attention_bias"),
    Row("self_attn.kv_b_proj", "kv_lora_rank", KV_WIDTH),
    Row("self_attn.o_proj", "num_attention_heads * v_head_dim", "hidden_size", bias="attention_bias"),
)


def derived(values: Values) -> Mapping[str, bool]:
    """Whether the queries go through a low rank, as those of all but the Lite models do."""
    low_rank = values.numbers["q_lora_rank"] > 0
    return {"low_rank_q": low_rank, "full_q": not low_rank}


def layer_kind(values: Values, i: int) -> str:
    """Whether layer ``i`` has experts (``sparse``) or one gated MLP (``dense``)."""
    return "sparse" if i >= values.numbers["first_k_dense_replace"] else "dense"


def experts(bias: bool | str = False) -> Rows:
    """The MLP of either kind of layer."""
    return (
        *fused_experts("n_routed_experts", "moe_intermediate_size", when="sparse"),
        *gated("mlp.shared_experts", SHARED, when="sparse", bias=bias),
        *gated("mlp", "intermediate_size", when="dense", bias=bias),
    )


FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 102400,
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "n_routed_experts": Number(64, aliases=("num_experts",), maximum=MAX_EXPERTS),
                "n_shared_experts": Number(2, maximum=MAX_EXPERTS),
                "moe_intermediate_size": 1407,
                "first_k_dense_replace": Number(0, minimum=0, maximum=MAX_LAYERS),
                "mlp_bias": False,
                **MLA,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(*ATTENTION, *experts("mlp_bias")),
            outer=LM_HEAD,
            layer_kind=layer_kind,
            derived=derived,
        ),
    ),
)
