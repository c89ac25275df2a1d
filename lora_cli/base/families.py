"""The table of families: the fields of each ``model_type``'s config with their defaults, and the modules of its layers.

Adding a family: an entry here, and two configs in ``tests/base`` that the transformers model itself then
checks.
"""

from collections.abc import Mapping
from dataclasses import replace

from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.base import templates
from lora_cli.base.table import Bare, Family, Number, Part, Row
from lora_cli.base.templates import (
    BIASED_ATTENTION,
    BIASED_DENSE,
    GATED_MLP,
    LM_HEAD,
    attention,
    decoder,
    experts,
    fused_experts,
    gated,
    grouped,
    sizes,
    square,
    two_layers,
)

NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
FOUR_NORMS = (*NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
QUERY_NORMS = (*NORMS, "q_norm", "k_norm")

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

STARCODER2 = decoder(
    {**sizes(49152, 3072, 12288, 30, 24, 2), "use_bias": True},
    (*attention(qkv_bias="use_bias", o_bias="use_bias"), *two_layers("mlp.c_fc", "mlp.c_proj", bias="use_bias")),
)

GEMMA3_TEXT = decoder({**sizes(262208, 2304, 9216, 26, 8, 4, 256), "attention_bias": False}, BIASED_DENSE)

DEEPSEEK_V2 = templates.deepseek(
    {
        **sizes(102400, 4096, 11008, 32, 32, kv_heads=None, head_dim=None),
        "n_routed_experts": experts(64, "num_experts"),
        "n_shared_experts": experts(2),
        "moe_intermediate_size": 1407,
        "first_k_dense_replace": Number(0, minimum=0, maximum=MAX_LAYERS),
        "mlp_bias": False,
    },
    mlp_bias="mlp_bias",
)
DEEPSEEK_V3 = templates.deepseek(
    {
        **sizes(129280, 7168, 18432, 61, 128, kv_heads=None, head_dim=None),
        "n_routed_experts": experts(256, "num_local_experts"),
        "n_shared_experts": experts(1),
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": Number(3, minimum=0, maximum=MAX_LAYERS),
    }
)
"""Also R1 and Kimi K2. The layers that predict further tokens are not built."""

GPT_OSS = decoder(
    {
        **sizes(201088, 2880, 2880, 36, 64, 8, 64),
        "num_local_experts": experts(128, "num_experts"),
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

LLAMA4_EXPERTS = "feed_forward.experts"
LLAMA4_TEXT = decoder(
    {
        **sizes(202048, 5120, 8192, 48, 40, 8, 128),
        "intermediate_size_mlp": 16384,
        "num_local_experts": experts(16),
        "interleave_moe_layer_step": Number(1, maximum=MAX_LAYERS),
        "moe_layers": frozenset(),
        "attention_bias": False,
    },
    (
        *BIASED_ATTENTION,
        Row("feed_forward.router", "hidden_size", "num_local_experts", when="sparse"),
        Bare(f"{LLAMA4_EXPERTS}.gate_up_proj", ("num_local_experts", "hidden_size", "2 * intermediate_size"), "sparse"),
        Bare(f"{LLAMA4_EXPERTS}.down_proj", ("num_local_experts", "intermediate_size", "hidden_size"), "sparse"),
        *gated("feed_forward.shared_expert", "intermediate_size", when="sparse"),
        *gated("feed_forward", "intermediate_size_mlp", when="dense"),
    ),
    templates.llama4_layer_kind,
)
"""Experts ``[experts, d_in, d_out]`` next to a shared one."""

MIXTRAL = decoder(
    {**sizes(32000, 4096, 14336, 32, 32, grouped(8)), "num_local_experts": experts(8, "num_experts")},
    (*attention(), *fused_experts("num_local_experts", "intermediate_size")),
)

QWEN2_MOE = decoder(
    {
        **sizes(151936, 2048, 5632, 24, 16, 16),
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": experts(60, minimum=0),
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
    templates.qwen_layer_kind,
)

QWEN3_MOE = decoder(
    {
        **sizes(151936, 2048, 6144, 24, 32, 4),
        "moe_intermediate_size": 768,
        "num_experts": experts(128, "num_local_experts", minimum=0),
        "decoder_sparse_step": 1,
        "mlp_only_layers": frozenset(),
        "attention_bias": False,
    },
    (
        *BIASED_ATTENTION,
        *fused_experts("num_experts", "moe_intermediate_size", when="sparse"),
        *gated("mlp", "intermediate_size", when="dense"),
    ),
    templates.qwen_layer_kind,
)

GPT2 = Part(
    {
        "vocab_size": 50257,
        "n_positions": Number(1024, aliases=("max_position_embeddings",)),
        "n_embd": Number(768, aliases=("hidden_size",)),
        "n_layer": Number(12, aliases=("num_hidden_layers",)),
        "n_inner": "4 * n_embd",
        "add_cross_attention": False,
    },
    "transformer.",
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
    {
        "vocab_size": 50400,
        "n_embd": Number(4096, aliases=("hidden_size",)),
        "n_layer": Number(28, aliases=("num_hidden_layers",)),
        "n_inner": "4 * n_embd",
    },
    "transformer.",
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
    {
        "vocab_size": 50432,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 44,
        "attention_bias": True,
    },
    "gpt_neox.",
    rows=(Row("embed_in", "vocab_size", "hidden_size", kind="embedding"),),
    layer_rows=(
        Row("attention.query_key_value", "hidden_size", "3 * hidden_size", bias="attention_bias"),
        *square("attention.dense", bias="attention_bias"),
        *two_layers("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
    outer=LM_HEAD,
)
"""Also Pythia."""

BLOOM = templates.word_embeddings(
    {
        "vocab_size": 250880,
        "n_embed": Number(64, aliases=("hidden_size",)),
        "n_layer": Number(2, aliases=("num_hidden_layers",)),
    },
    (
        Row("self_attention.query_key_value", "n_embed", "3 * n_embed", bias=True),
        *square("self_attention.dense", width="n_embed"),
        *two_layers("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "4 * n_embed", "n_embed"),
    ),
    layer_count="n_layer",
)

QKV = "self_attention.query_key_value"
FALCON = templates.word_embeddings(
    {
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
    (
        Row(QKV, "n_embed", "2 * num_kv_heads * head_dim + n_embed", bias="bias", when="grouped"),
        Row(QKV, "n_embed", "n_embed + 2 * head_dim", bias="bias", when="single"),
        Row(QKV, "n_embed", "3 * n_embed", bias="bias", when="each"),
        *square("self_attention.dense", width="n_embed", bias="bias"),
        *two_layers("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "ffn_hidden_size", "n_embed", bias="bias"),
    ),
    layer_kind=templates.falcon_layer_kind,
)

OPT = Part(
    {
        "vocab_size": 50272,
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": "hidden_size",
        "enable_bias": True,
    },
    "model.decoder.",
    rows=(
        Row("embed_tokens", "vocab_size", "word_embed_proj_dim", kind="embedding"),
        Row("embed_positions", "max_position_embeddings + 2", "hidden_size", kind="embedding"),
        Row("project_out", "hidden_size", "word_embed_proj_dim", when="projected"),
        Row("project_in", "word_embed_proj_dim", "hidden_size", when="projected"),
    ),
    layer_rows=(
        *square(*(f"self_attn.{name}_proj" for name in ("k", "v", "q", "out")), bias="enable_bias"),
        *two_layers("fc1", "fc2", "ffn_dim", bias="enable_bias"),
    ),
    outer=(Row("lm_head", "word_embed_proj_dim", "vocab_size"),),
    derived=templates.opt_projected,
)

SIGLIP = Part(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 16,
        "patches_per_side": "image_size // patch_size",
        "vision_use_head": True,
    },
    "model.vision_tower.",
    section="vision_config",
    model_type="siglip_vision_model",
    rows=(
        Bare("embeddings.patch_embedding.weight", ("hidden_size", "num_channels", "patch_size", "patch_size")),
        Row("embeddings.position_embedding", "patches_per_side * patches_per_side", "hidden_size", kind="embedding"),
        Bare("head.probe", ("1", "1", "hidden_size"), when="vision_use_head"),
        Bare("head.attention.in_proj_weight", ("3 * hidden_size", "hidden_size"), when="vision_use_head"),
        *square("head.attention.out_proj", when="vision_use_head"),
        *two_layers("head.mlp.fc1", "head.mlp.fc2", when="vision_use_head"),
    ),
    layers="encoder.layers",
    layer_rows=(
        *square("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"),
        *two_layers("mlp.fc1", "mlp.fc2"),
    ),
)

LLAMA4_VISION = Part(
    {
        "hidden_size": 768,
        "intermediate_size": 5632,
        "num_hidden_layers": 34,
        "num_channels": 3,
        "image_size": 448,
        "patch_size": 14,
        "patches_per_side": "image_size // patch_size",
        "vision_output_dim": 7680,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
    },
    "vision_model.",
    section="vision_config",
    model_type="llama4_vision_model",
    rows=(
        Bare("positional_embedding_vlm", ("patches_per_side * patches_per_side + 1", "hidden_size")),
        Row("patch_embedding.linear", "num_channels * patch_size * patch_size", "hidden_size"),
        Row("vision_adapter.mlp.fc1", "intermediate_size", "projector_input_dim"),
        Row("vision_adapter.mlp.fc2", "projector_output_dim", "projector_output_dim"),
    ),
    layers="model.layers",
    layer_rows=(
        *square("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *two_layers("mlp.fc1", "mlp.fc2"),
    ),
)

FAMILIES: Mapping[str, Family] = {
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
    "gemma3_text": Family(GEMMA3_TEXT, tied=True, norms=(*FOUR_NORMS, "q_norm", "k_norm")),
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
    "starcoder2": Family(STARCODER2, tied=True),
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
    "gpt_oss": Family(GPT_OSS),
    "llama4_text": Family(LLAMA4_TEXT),
    "mixtral": Family(MIXTRAL),
    "qwen2_moe": Family(QWEN2_MOE),
    "qwen3_moe": Family(QWEN3_MOE, norms=QUERY_NORMS),
    "bert": Family(
        templates.bert("bert.", 30522, "cls.predictions.transform.dense", "cls.predictions.decoder"),
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
        templates.bert("roberta.", 50265, "lm_head.dense", "lm_head.decoder"),
        tied=True,
        norms=("LayerNorm", "layer_norm"),
    ),
    "gemma3": Family(
        replace(GEMMA3_TEXT, section="text_config", model_type="gemma3_text", prefix="model.language_model."),
        SIGLIP,
        joint=(
            Bare(
                "model.multi_modal_projector.mm_input_projection_weight",
                ("vision_config.hidden_size", "text_config.hidden_size"),
            ),
        ),
        tied=True,
        norms=(
            *FOUR_NORMS,
            *("q_norm", "k_norm", "mm_soft_emb_norm", "layer_norm1", "layer_norm2", "layernorm", "post_layernorm"),
        ),
    ),
    "llama4": Family(
        replace(
            LLAMA4_TEXT,
            section="text_config",
            model_type="llama4_text",
            prefix="language_model.model.",
            outer=(Row("language_model.lm_head", "hidden_size", "vocab_size"),),
        ),
        LLAMA4_VISION,
        joint=(Row("multi_modal_projector.linear_1", "vision_config.vision_output_dim", "text_config.hidden_size"),),
        tied_in=("text_config",),
        norms=(*NORMS, "layernorm_pre", "layernorm_post"),
    ),
    "qwen2_5_vl": templates.qwen_vl(
        "qwen2_5_vl",
        {"hidden_size": 3584, "out_hidden_size": 3584, "intermediate_size": 3420},
        ("hidden_size", "out_hidden_size"),
        gated("mlp", "intermediate_size", bias=True),
    ),
    "qwen2_vl": templates.qwen_vl(
        "qwen2_vl",
        {"embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4},
        ("embed_dim", "hidden_size"),
        two_layers("mlp.fc1", "mlp.fc2", "embed_dim * mlp_ratio", "embed_dim"),
    ),
}
"""Every ``model_type`` that has a table."""
