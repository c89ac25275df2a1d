"""gpt-oss: biased attention, and experts whose fused matrices are ``[experts, d_in, d_out]`` and have biases."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD, attention
from lora_cli.core.architectures.table import MAX_EXPERTS, Bare, Family, Number, Part

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 201088,
                "hidden_size": 2880,
                "intermediate_size": 2880,
                "num_hidden_layers": 36,
                "num_attention_heads": 64,
                "num_key_value_heads": 8,
                "head_dim": 64,
                "num_local_experts": Number(128, aliases=("num_experts",), maximum=MAX_EXPERTS),
                "attention_bias": True,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(
                *attention(qkv_bias="attention_bias", o_bias="attention_bias"),
                Bare("mlp.router.weight", ("num_local_experts", "hidden_size")),
                Bare("mlp.experts.gate_up_proj", ("num_local_experts", "hidden_size", "2 * intermediate_size")),
                Bare("mlp.experts.gate_up_proj_bias", ("num_local_experts", "2 * intermediate_size")),
                Bare("mlp.experts.down_proj", ("num_local_experts", "intermediate_size", "hidden_size")),
                Bare("mlp.experts.down_proj_bias", ("num_local_experts", "hidden_size")),
            ),
            outer=LM_HEAD,
        ),
    ),
)
