"""Qwen1.5 and Qwen2 with experts: Qwen3's layout, and a gated expert that every token shares."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD, attention, fused_experts, gated
from lora_cli.core.architectures.qwen3_moe import layer_kind
from lora_cli.core.architectures.table import MAX_EXPERTS, Family, Number, Part, Row

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 151936,
                "hidden_size": 2048,
                "intermediate_size": 5632,
                "moe_intermediate_size": 1408,
                "shared_expert_intermediate_size": 5632,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "num_key_value_heads": Number(16),
                "head_dim": "hidden_size // num_attention_heads",
                "num_experts": Number(60, minimum=0, maximum=MAX_EXPERTS),
                "decoder_sparse_step": 1,
                "mlp_only_layers": frozenset(),
                "qkv_bias": True,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(
                *attention(qkv_bias="qkv_bias"),
                *fused_experts("num_experts", "moe_intermediate_size", when="sparse"),
                *gated("mlp.shared_expert", "shared_expert_intermediate_size", when="sparse"),
                Row("mlp.shared_expert_gate", "hidden_size", "1", when="sparse"),
                *gated("mlp", "intermediate_size", when="dense"),
            ),
            outer=LM_HEAD,
            layer_kind=layer_kind,
        ),
    ),
)
