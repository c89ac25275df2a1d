"""A tiny base of every family of ``lora_cli.base.families``, of sizes that vLLM's kernels for the CPU take."""

from typing import Any

from tests.base.configs import IMAGES, QWEN25_EYE, QWEN_EYE, TOKENS
from tests.corpus.bases import Base
from tests.real_engines.bases import HIDDEN, SIZES, TIED, UNTIED, VOCABULARY

PICTURE = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
EYE = {**PICTURE, "model_type": "siglip_vision_model", "intermediate_size": 96, "patch_size": 14}
LLAMA4_EYE = {
    **{**PICTURE, "intermediate_size": 4 * HIDDEN, "patch_size": 7, "vision_output_dim": HIDDEN},
    **{"projector_input_dim": HIDDEN, "projector_output_dim": HIDDEN},
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": 2, "n_head": 2, "n_positions": 64}
NEOX = {
    **{"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2},
    **{
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": 2, "n_head": 2, "pad_token_id": 0}
MOE = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
MLA = {
    **{key: value for key, value in UNTIED.items() if key != "head_dim"},
    **{**MOE, "num_key_value_heads": 2, "kv_lora_rank": 512, "q_lora_rank": 32, "qk_nope_head_dim": 128},
    **{"qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 4, "n_shared_experts": 1},
    **{"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}}
LLAMA4 = {**UNTIED, "intermediate_size_mlp": 128, "num_local_experts": 4, "interleave_moe_layer_step": 2}

FIELDS: dict[str, dict[str, Any]] = {
    "bert": NEOX,
    "bloom": BLOOM,
    "cohere": {**TIED, "logit_scale": 1.0, "bos_token_id": 1, "eos_token_id": 2},
    "deepseek_v2": {**MLA, "topk_method": "greedy", "scoring_func": "softmax"},
    "deepseek_v3": {**MLA, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
    "falcon": {**NEOX, "multi_query": True, "alibi": False},
    "gemma": TIED,
    "gemma2": TIED,
    "gemma3": {**IMAGES, "text_config": TIED, "vision_config": EYE},
    "gemma3_text": TIED,
    "gpt2": GPT2,
    "gpt_neox": NEOX,
    "gpt_oss": {**UNTIED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gptj": {**GPT2, "rotary_dim": 16},
    "granite": TIED,
    "llama": UNTIED,
    "llama4": {"text_config": LLAMA4, "vision_config": LLAMA4_EYE, "image_token_index": 90},
    "llama4_text": LLAMA4,
    "mistral": UNTIED,
    "mixtral": {**UNTIED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": UNTIED,
    "opt": {**NEOX, "ffn_dim": 96, "word_embed_proj_dim": HIDDEN},
    "phi": UNTIED,
    "phi3": UNTIED,
    "qwen2": UNTIED,
    "qwen2_5_vl": {
        **UNTIED,
        **MROPE,
        **TOKENS,
        "vision_config": {**QWEN25_EYE, "hidden_size": HIDDEN, "out_hidden_size": HIDDEN},
    },
    "qwen2_moe": {**UNTIED, **MOE, "num_experts": 4, "shared_expert_intermediate_size": HIDDEN},
    "qwen2_vl": {
        **UNTIED,
        **MROPE,
        **TOKENS,
        "vision_config": {**QWEN_EYE, "embed_dim": HIDDEN, "hidden_size": HIDDEN},
    },
    "qwen3": UNTIED,
    "qwen3_moe": {**UNTIED, **MOE, "num_experts": 4, "mlp_only_layers": [0]},
    "roberta": NEOX,
    "stablelm": {**SIZES, "tie_word_embeddings": False},
    "starcoder2": UNTIED,
}

NO_EXPERTS = {
    "llama4_text, no experts": {**LLAMA4, "moe_layers": [], "interleave_moe_layer_step": 3},
    "qwen2_moe, no experts": {**FIELDS["qwen2_moe"], "mlp_only_layers": [0, 1]},
}
"""The same classes with dense layers alone, which vLLM on the CPU has all kernels for."""

BASES = {name: Base(name.partition(",")[0], fields) for name, fields in {**FIELDS, **NO_EXPERTS}.items()}

TEXT_ALONE = {"limit_mm_per_prompt": {"image": 0, "video": 0}}
"""For a wrapper: no prompt has an image, and none is made up when it starts."""

STARTED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gemma3", "llama4", "qwen2_5_vl", "qwen2_vl"), TEXT_ALONE),
    # Their attention has no kernel for float32 on a CPU.
    "deepseek_v2": {"dtype": "bfloat16"},
    "deepseek_v3": {"dtype": "bfloat16"},
    # As they are published, and not with the class for text that transformers makes of them.
    "bert": {"hf_overrides": {"architectures": ["BertForMaskedLM"]}},
    "roberta": {"hf_overrides": {"architectures": ["RobertaForMaskedLM"]}},
}
"""What vLLM is started with beside the flags of every family."""

NOT_COMPARED = frozenset({("roberta", "head")})
"""vLLM serves RoBERTa's embeddings with a class that has no head over words; ``validate`` judges the one that has."""

NO_ANSWER = frozenset(
    {
        *("deepseek_v2", "deepseek_v3", "gpt_oss", "llama4", "llama4_text", "mixtral", "qwen2_moe", "qwen3_moe"),
        "roberta",
    }
)
"""Families that do not answer here, though vLLM has LoRA for them: it gives experts a kernel of Triton, which its build
for the CPU does not have, and RoBERTa has embeddings and no words to compare."""
