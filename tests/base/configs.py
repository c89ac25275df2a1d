"""Configs of every family, as a ``config.json`` has them: small, and each odd in its own way."""

from typing import Any

SMALL = {"vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
HEADS = {**SMALL, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_attention_heads": 6, "num_key_value_heads": 2, "pad_token_id": 0}
NULLS = {**HEADS, "num_key_value_heads": None, "pad_token_id": 0}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
BIASES = {"attention_bias": True, "mlp_bias": True, "use_qkv_bias": True, "use_bias": False}

EYE = {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 2}
SIGLIP = {**EYE, "model_type": "siglip_vision_model", "image_size": 30, "patch_size": 14}
IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 90, "vision_config": SIGLIP}
LLAMA4_EYE = {**EYE, "intermediate_size": 96, "image_size": 28, "patch_size": 7, "vision_output_dim": 40}
LLAMA4_EYE |= {"projector_input_dim": 40, "projector_output_dim": 40}
QWEN_EYE = {"depth": 3, "embed_dim": 24, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 3, "patch_size": 7}
QWEN25_EYE = {"depth": 3, "hidden_size": 24, "out_hidden_size": 48, "num_heads": 2, "intermediate_size": 36}
TOKENS = {"vision_start_token_id": 80, "vision_end_token_id": 81, "image_token_id": 82, "video_token_id": 83}

EXPERTS = {**GROUPED, "moe_intermediate_size": 20, "num_hidden_layers": 4}
MLA = {**HEADS, "num_key_value_heads": 4, "kv_lora_rank": 12, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6}
MLA |= {"v_head_dim": 14, "moe_intermediate_size": 20, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
LLAMA4 = {**GROUPED, "intermediate_size_mlp": 100, "head_dim": 10, "num_local_experts": 3}
GPT2 = {"vocab_size": 96, "n_embd": 48, "n_layer": 2, "n_head": 4}
NAMED = {"vocab_size": 96, "hidden_size": 40, "num_hidden_layers": 3, "n_head": 4}
BERT = {**HEADS, "max_position_embeddings": 40}

LIKE_LLAMA = [{**GROUPED, "head_dim": 10}, {**GROUPED, **BIASES, **TIED}, {**GROUPED, **UNTIED, "num_hidden_layers": 3}]

CONFIGS: dict[str, list[dict[str, Any]]] = {
    "llama": [GROUPED, *LIKE_LLAMA, {**NULLS, "head_dim": None}, HEADS],
    "mistral": [{**GROUPED, "head_dim": 20}, *LIKE_LLAMA, {**SMALL, "num_attention_heads": 16, "hidden_size": 64}],
    "qwen2": [GROUPED, *LIKE_LLAMA, {**NULLS, "hidden_size": 50, "use_sliding_window": True, "max_window_layers": 1}],
    "qwen3": [*LIKE_LLAMA, {**NULLS, **BIASES}],
    **dict.fromkeys(("gemma", "gemma2"), LIKE_LLAMA),
    "granite": [*LIKE_LLAMA, NULLS],
    "olmo2": [{**GROUPED, "attention_bias": True}, *LIKE_LLAMA, NULLS],
    "cohere": [{**GROUPED, "attention_bias": True, "head_dim": 10}, *LIKE_LLAMA],
    **{family: [GROUPED, *LIKE_LLAMA, NULLS] for family in ("phi", "phi3")},
    "starcoder2": [GROUPED, *LIKE_LLAMA],
    "stablelm": [{**GROUPED, "use_qkv_bias": True}, *LIKE_LLAMA[1:], {**HEADS, **TIED, "num_key_value_heads": 4}],
    "gemma3_text": [*LIKE_LLAMA, {**GROUPED, "sliding_window_pattern": 2}],
    "gemma3": [
        {**IMAGES, "text_config": {**GROUPED, "head_dim": 10}},
        {
            **{**IMAGES, **UNTIED, "text_config": {**GROUPED, **TIED, "model_type": "gemma3_text"}},
            "vision_config": {**SIGLIP, "vision_use_head": False, "num_channels": 1, "patch_size": 7},
        },
    ],
    "gpt2": [GPT2 | {"n_positions": 40}, {**GPT2, **UNTIED, "n_inner": 100}, {**NAMED, "max_position_embeddings": 20}],
    "gptj": [{**GPT2, "rotary_dim": 4}, {**NAMED, "n_inner": 100, "rotary_dim": 4}],
    "gpt_neox": [HEADS, {**HEADS, **TIED, "attention_bias": False, "use_parallel_residual": False}],
    "mixtral": [{**GROUPED, "num_local_experts": 3}, {**GROUPED, **TIED, "num_experts": 5, "head_dim": 10}],
    "qwen3_moe": [
        {**EXPERTS, "num_experts": 4, "num_hidden_layers": 6, "decoder_sparse_step": 2},
        {**EXPERTS, "num_local_experts": 3, "mlp_only_layers": [0, 2], "head_dim": 10},
        {**GROUPED, **TIED, "num_experts": 0, "attention_bias": True},
    ],
    "qwen2_moe": [
        {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 28, "decoder_sparse_step": 2},
        {**EXPERTS, "num_experts": 3, "mlp_only_layers": [0, 2], "qkv_bias": False, "head_dim": 10},
    ],
    "opt": [{**BERT, "ffn_dim": 80}, {**BERT, **UNTIED, "word_embed_proj_dim": 32, "enable_bias": False}],
    "falcon": [
        {**HEADS, "multi_query": True},
        {**HEADS, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        {**HEADS, **UNTIED, "multi_query": False, "ffn_hidden_size": 60, "alibi": True},
    ],
    "bloom": [{"vocab_size": 96, "n_embed": 48, "n_layer": 2, "n_head": 4}, {**NAMED, **UNTIED}],
    "deepseek_v2": [
        {**MLA, "n_routed_experts": 4, "n_shared_experts": 1, "q_lora_rank": None, "first_k_dense_replace": 1},
        {**MLA, "num_experts": 3, "q_lora_rank": 16, "attention_bias": True, "mlp_bias": True},
    ],
    "deepseek_v3": [
        {**MLA, "n_routed_experts": 4, "q_lora_rank": 16, "first_k_dense_replace": 1, "attention_bias": True},
        {**MLA, "num_local_experts": 4, "n_shared_experts": 2, "q_lora_rank": None, "num_hidden_layers": 4},
    ],
    "gpt_oss": [
        {**GROUPED, "head_dim": 10, "num_local_experts": 3},
        {**GROUPED, **TIED, "num_experts": 5, "attention_bias": False},
    ],
    "llama4_text": [
        {**LLAMA4, "interleave_moe_layer_step": 2, "num_hidden_layers": 4},
        {**LLAMA4, **TIED, "moe_layers": [], "attention_bias": True},
    ],
    "llama4": [
        {"text_config": LLAMA4, "vision_config": LLAMA4_EYE, "image_token_index": 90},
        {
            "text_config": {**LLAMA4, "model_type": "llama4_text", "interleave_moe_layer_step": 2},
            "vision_config": {**LLAMA4_EYE, "model_type": "llama4_vision_model", "num_channels": 1, "patch_size": 14},
        },
    ],
    "qwen2_vl": [
        {**GROUPED, **TOKENS, "vision_config": QWEN_EYE},
        {**TOKENS, "text_config": {**GROUPED, **TIED, "model_type": "qwen2_vl_text"}, "vision_config": QWEN_EYE},
    ],
    "qwen2_5_vl": [
        {**GROUPED, **TOKENS, **TIED, "vision_config": QWEN25_EYE},
        {**TOKENS, "text_config": GROUPED, "vision_config": {**QWEN25_EYE, "in_channels": 1, "patch_size": 7}},
    ],
    "bert": [BERT, {**BERT, **UNTIED, "is_decoder": True, "type_vocab_size": 3}],
    "roberta": [BERT, {**BERT, **UNTIED, "is_decoder": True}],
}
"""Model type to configs; ``model_type`` itself is left out. Corpus and golden files are of the first of each."""
