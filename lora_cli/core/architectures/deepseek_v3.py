"""DeepSeek-V3 and R1 (and Kimi K2): V2's modules. The layers that predict further tokens are not built."""

from lora_cli.core.architectures.decoder import EMBED_TOKENS, LM_HEAD
from lora_cli.core.architectures.deepseek_v2 import ATTENTION, MLA, derived, experts, layer_kind
from lora_cli.core.architectures.table import MAX_EXPERTS, MAX_LAYERS, Family, Number, Part

FAMILY = Family(
    parts=(
        Part(
            fields={
                "vocab_size": 129280,
                "hidden_size": 7168,
                "intermediate_size": 18432,
                "num_hidden_layers": 61,
                "num_attention_heads": 128,
                "n_routed_experts": Number(256, aliases=("num_local_experts",), maximum=MAX_EXPERTS),
                "n_shared_experts": Number(1, maximum=MAX_EXPERTS),
                "moe_intermediate_size": 2048,
                "first_k_dense_replace": Number(3, minimum=0, maximum=MAX_LAYERS),
                **MLA,
            },
            prefix="model.",
            rows=EMBED_TOKENS,
            layer_rows=(*ATTENTION, *experts()),
            outer=LM_HEAD,
            layer_kind=layer_kind,
            derived=derived,
        ),
    ),
)
