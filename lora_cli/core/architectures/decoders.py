"""Decoders with LLaMA's names, dense and with experts: what each family's config and layers have."""

from collections.abc import Mapping
from dataclasses import replace

from lora_cli.core.architectures.table import MAX_EXPERTS, MAX_LAYERS, Bare, Family, Fields, Number, Row, Values
from lora_cli.core.architectures.templates import (
    BIASED_ATTENTION,
    GATED_MLP,
    attention,
    decoder,
    fused_experts,
    gated,
    grouped,
    sizes,
    two_layers,
)

FOUR_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "norm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
QUERY_NORMS = ("input_layernorm", "post_attention_layernorm", "norm", "q_norm", "k_norm")
BIASED_DENSE = (*BIASED_ATTENTION, *GATED_MLP)

LLAMA = Family(
    decoder(
        {**sizes(32000, 4096, 11008, 32, 32), "attention_bias": False, "mlp_bias": False},
        (*BIASED_ATTENTION, *gated("mlp", "intermediate_size", bias="mlp_bias")),
    )
)
"""And everything that is published under its name (SmolLM2, Yi, TinyLlama, DeepSeek distillations)."""

PHI = replace(
    decoder(
        sizes(51200, 2048, 8192, 24, 32),
        (
            *attention(qkv_bias=True)[:3],
            Row("self_attn.dense", "num_attention_heads * head_dim", "hidden_size", bias=True),
            *two_layers("mlp.fc1", "mlp.fc2"),
        ),
    ),
    outer=(Row("lm_head", "hidden_size", "vocab_size", bias=True),),
)

PHI3 = decoder(
    sizes(32064, 3072, 8192, 32, 32),
    (
        Row("self_attn.qkv_proj", "hidden_size", "num_attention_heads * head_dim + 2 * num_key_value_heads * head_dim"),
        Row("self_attn.o_proj", "num_attention_heads * head_dim", "hidden_size"),
        Row("mlp.gate_up_proj", "hidden_size", "2 * intermediate_size"),
        Row("mlp.down_proj", "intermediate_size", "hidden_size"),
    ),
)

DENSE: Mapping[str, Family] = {
    "cohere": Family(
        decoder({**sizes(256000, 8192, 22528, 40, 64), "attention_bias": False}, BIASED_DENSE),
        tied=True,
        norms=("input_layernorm", "norm"),
    ),
    "gemma": Family(
        decoder({**sizes(256000, 3072, 24576, 28, 16, 16, 256), "attention_bias": False}, BIASED_DENSE), tied=True
    ),
    "gemma2": Family(
        decoder({**sizes(256000, 2304, 9216, 26, 8, 4, 256), "attention_bias": False}, BIASED_DENSE),
        tied=True,
        norms=FOUR_NORMS,
    ),
    "gemma3_text": Family(
        decoder({**sizes(262208, 2304, 9216, 26, 8, 4, 256), "attention_bias": False}, BIASED_DENSE),
        tied=True,
        norms=(*FOUR_NORMS, "q_norm", "k_norm"),
    ),
    "granite": LLAMA,  # its multipliers are outside the modules
    "llama": LLAMA,
    "mistral": Family(decoder(sizes(32000, 4096, 14336, 32, 32, grouped(8)), (*attention(), *GATED_MLP))),
    "olmo2": Family(
        decoder({**sizes(50304, 4096, 11008, 32, 32), "attention_bias": False}, BIASED_DENSE),
        norms=("post_attention_layernorm", "post_feedforward_layernorm", "q_norm", "k_norm", "norm"),
    ),
    "phi": Family(PHI, norms=("input_layernorm", "final_layernorm")),
    "phi3": Family(PHI3),
    "qwen2": Family(
        decoder(sizes(151936, 4096, 22016, 32, 32, grouped(32)), (*attention(qkv_bias=True), *GATED_MLP)),
    ),
    "qwen3": Family(
        decoder({**sizes(151936, 4096, 22016, 32, 32, grouped(32), 128), "attention_bias": False}, BIASED_DENSE),
        norms=QUERY_NORMS,
    ),
    "stablelm": Family(
        decoder(
            {**sizes(50304, 2560, 6912, 32, 32, 32), "use_qkv_bias": False},
            (*attention(qkv_bias="use_qkv_bias"), *GATED_MLP),
        )
    ),
    "starcoder2": Family(
        decoder(
            {**sizes(49152, 3072, 12288, 30, 24, 2), "use_bias": True},
            (
                *attention(qkv_bias="use_bias", o_bias="use_bias"),
                *two_layers("mlp.c_fc", "mlp.c_proj", bias="use_bias"),
            ),
        ),
        tied=True,
    ),
}


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


DEEPSEEK_V2 = deepseek(
    {
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
    },
    mlp_bias="mlp_bias",
)
DEEPSEEK_V3 = deepseek(
    {
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "n_routed_experts": Number(256, aliases=("num_local_experts",), maximum=MAX_EXPERTS),
        "n_shared_experts": Number(1, maximum=MAX_EXPERTS),
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": Number(3, minimum=0, maximum=MAX_LAYERS),
    }
)
"""Also R1 and Kimi K2. The layers that predict further tokens are not built."""

GPT_OSS = decoder(
    {
        **sizes(201088, 2880, 2880, 36, 64, 8, 64),
        "num_local_experts": Number(128, aliases=("num_experts",), maximum=MAX_EXPERTS),
        "attention_bias": True,
    },
    (
        *BIASED_ATTENTION,
        Bare("mlp.router.weight", ("num_local_experts", "hidden_size")),
        Bare("mlp.experts.gate_up_proj", ("num_local_experts", "hidden_size", "2 * intermediate_size")),
        Bare("mlp.experts.gate_up_proj_bias", ("num_local_experts", "2 * intermediate_size")),
        Bare("mlp.experts.down_proj", ("num_local_experts", "intermediate_size", "hidden_size")),
        Bare("mlp.experts.down_proj_bias", ("num_local_experts", "hidden_size")),
    ),
)
"""Experts ``[experts, d_in, d_out]`` with biases."""

LLAMA4_TEXT = decoder(
    {
        **sizes(202048, 5120, 8192, 48, 40, 8, 128),
        "intermediate_size_mlp": 16384,
        "num_local_experts": Number(16, maximum=MAX_EXPERTS),
        "interleave_moe_layer_step": Number(1, maximum=MAX_LAYERS),
        "moe_layers": frozenset(),
        "attention_bias": False,
    },
    (
        *BIASED_ATTENTION,
        Row("feed_forward.router", "hidden_size", "num_local_experts", when="sparse"),
        Bare(
            "feed_forward.experts.gate_up_proj",
            ("num_local_experts", "hidden_size", "2 * intermediate_size"),
            when="sparse",
        ),
        Bare(
            "feed_forward.experts.down_proj",
            ("num_local_experts", "intermediate_size", "hidden_size"),
            when="sparse",
        ),
        *gated("feed_forward.shared_expert", "intermediate_size", when="sparse"),
        *gated("feed_forward", "intermediate_size_mlp", when="dense"),
    ),
    llama4_layer_kind,
)
"""Experts ``[experts, d_in, d_out]`` next to a shared one."""

MIXTRAL = decoder(
    {
        **sizes(32000, 4096, 14336, 32, 32, grouped(8)),
        "num_local_experts": Number(8, aliases=("num_experts",), maximum=MAX_EXPERTS),
    },
    (*attention(), *fused_experts("num_local_experts", "intermediate_size")),
)
QWEN2_MOE = decoder(
    {
        **sizes(151936, 2048, 5632, 24, 16, 16),
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": Number(60, minimum=0, maximum=MAX_EXPERTS),
        "decoder_sparse_step": 1,
        "mlp_only_layers": frozenset(),
        "qkv_bias": True,
    },
    (
        *attention(qkv_bias="qkv_bias"),
        *fused_experts("num_experts", "moe_intermediate_size", when="sparse"),
        *gated("mlp.shared_expert", "shared_expert_intermediate_size", when="sparse"),
        Row("mlp.shared_expert_gate", "hidden_size", "1", when="sparse"),
        *gated("mlp", "intermediate_size", when="dense"),
    ),
    qwen_layer_kind,
)
QWEN3_MOE = decoder(
    {
        **sizes(151936, 2048, 6144, 24, 32, 4),
        "moe_intermediate_size": 768,
        "num_experts": Number(128, aliases=("num_local_experts",), minimum=0, maximum=MAX_EXPERTS),
        "decoder_sparse_step": 1,
        "mlp_only_layers": frozenset(),
        "attention_bias": False,
    },
    (
        *BIASED_ATTENTION,
        *fused_experts("num_experts", "moe_intermediate_size", when="sparse"),
        *gated("mlp", "intermediate_size", when="dense"),
    ),
    qwen_layer_kind,
)

WITH_EXPERTS: Mapping[str, Family] = {
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
    "gpt_oss": Family(GPT_OSS),
    "llama4_text": Family(LLAMA4_TEXT),
    "mixtral": Family(MIXTRAL),
    "qwen2_moe": Family(QWEN2_MOE),
    "qwen3_moe": Family(QWEN3_MOE, norms=QUERY_NORMS),
}
