"""Configs of every family, as a ``config.json`` has them: small, and each odd in its own way."""

from typing import Any

SMALL = {"vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
GROUPED = {**SMALL, "num_attention_heads": 6, "num_key_value_heads": 2}
NULLS = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": None}
NEOX = {**SMALL, "num_attention_heads": 4}
GPT2 = {"vocab_size": 96, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 40}
EYE = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 30,
    "patch_size": 14,
}
IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 90, "vision_config": EYE}

EXPERTS = {"moe_intermediate_size": 20, "num_hidden_layers": 4}
MLA = {
    **SMALL,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "moe_intermediate_size": 20,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
}
DOTS = {**GROUPED, "intermediate_size_mlp": 100, "head_dim": 10, "num_local_experts": 3, "pad_token_id": 0}
LLAMA4_EYE = {
    "hidden_size": 24,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "vision_output_dim": 40,
    "projector_input_dim": 40,
    "projector_output_dim": 40,
}
QWEN_EYE = {"depth": 3, "embed_dim": 24, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 3, "patch_size": 7}
QWEN25_EYE = {"depth": 3, "hidden_size": 24, "out_hidden_size": 48, "num_heads": 2, "intermediate_size": 36}
TOKENS = {"vision_start_token_id": 80, "vision_end_token_id": 81, "image_token_id": 82, "video_token_id": 83}
BERT = {**NEOX, "max_position_embeddings": 40}

CONFIGS: dict[str, list[dict[str, Any]]] = {
    "llama": [
        {**GROUPED, "tie_word_embeddings": True},
        {**NULLS, "head_dim": None},
        {**SMALL, "num_attention_heads": 4},
        {**GROUPED, "head_dim": 10, "attention_bias": True},
        {**GROUPED, "mlp_bias": True, "num_hidden_layers": 3},
    ],
    "mistral": [
        {**GROUPED, "head_dim": 20},
        {**GROUPED, "head_dim": None, "tie_word_embeddings": True},
        {**SMALL, "num_attention_heads": 16, "hidden_size": 64},
    ],
    "qwen2": [
        {**GROUPED, "tie_word_embeddings": True},
        {**NULLS, "hidden_size": 50},
        {**GROUPED, "head_dim": 10, "use_sliding_window": True, "max_window_layers": 1},
    ],
    "qwen3": [
        {**GROUPED, "head_dim": 10, "tie_word_embeddings": True},
        {**NULLS, "attention_bias": True},
        GROUPED,
    ],
    "gemma2": [
        {**GROUPED, "head_dim": 10},
        {**GROUPED, "attention_bias": True, "tie_word_embeddings": False},
    ],
    "gemma3_text": [
        {**GROUPED, "head_dim": 10},
        {**GROUPED, "attention_bias": True, "tie_word_embeddings": False, "sliding_window_pattern": 2},
    ],
    "gemma3": [
        {**IMAGES, "text_config": {**GROUPED, "head_dim": 10}},
        {
            **IMAGES,
            "text_config": {**GROUPED, "model_type": "gemma3_text", "tie_word_embeddings": True},
            "vision_config": {**EYE, "vision_use_head": False, "num_channels": 1, "patch_size": 7},
            "tie_word_embeddings": False,
        },
        {**IMAGES, "text_config": {**GROUPED, "tie_word_embeddings": False}},
    ],
    "phi3": [
        {**GROUPED, "pad_token_id": 0},
        {**NULLS, "pad_token_id": 0, "tie_word_embeddings": True},
        {**GROUPED, "pad_token_id": 0, "head_dim": 10},
    ],
    "gpt2": [
        GPT2,
        {**GPT2, "n_inner": 100, "tie_word_embeddings": False},
        {"vocab_size": 96, "hidden_size": 40, "num_hidden_layers": 3, "n_head": 4, "max_position_embeddings": 20},
    ],
    "gpt_neox": [
        NEOX,
        {**NEOX, "attention_bias": False, "tie_word_embeddings": True, "use_parallel_residual": False},
    ],
    "mixtral": [
        {**GROUPED, "num_local_experts": 3},
        {**GROUPED, "num_experts": 5, "head_dim": 10, "tie_word_embeddings": True},
        {**SMALL, "num_attention_heads": 8, "hidden_size": 64, "head_dim": None},
    ],
    "qwen3_moe": [
        {**GROUPED, "num_experts": 4, "moe_intermediate_size": 20, "num_hidden_layers": 6, "decoder_sparse_step": 2},
        {**GROUPED, "num_local_experts": 3, "mlp_only_layers": [0, 2], "num_hidden_layers": 4, "head_dim": 10},
        {**GROUPED, "num_experts": 0, "attention_bias": True, "tie_word_embeddings": True},
        {**GROUPED, "num_experts": 4, "decoder_sparse_step": 3, "mlp_only_layers": [2], "num_hidden_layers": 7},
    ],
    "qwen2_moe": [
        {**GROUPED, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 28, "decoder_sparse_step": 2},
        {**GROUPED, **EXPERTS, "num_experts": 3, "mlp_only_layers": [0, 2], "qkv_bias": False, "head_dim": 10},
        {**NEOX, "num_key_value_heads": 4, "num_experts": 0, "tie_word_embeddings": True},
    ],
    "gemma": [
        {**GROUPED, "head_dim": 10},
        {**GROUPED, "attention_bias": True, "tie_word_embeddings": False},
    ],
    "granite": [
        {**GROUPED, "tie_word_embeddings": True, "head_dim": 10},
        {**NULLS, "attention_bias": True, "mlp_bias": True},
    ],
    "olmo2": [{**GROUPED, "attention_bias": True}, {**NULLS, "tie_word_embeddings": True}],
    "cohere": [{**GROUPED, "attention_bias": True, "head_dim": 10}, {**NULLS, "tie_word_embeddings": False}],
    "stablelm": [{**GROUPED, "use_qkv_bias": True}, {**NEOX, "num_key_value_heads": 4, "tie_word_embeddings": True}],
    "starcoder2": [GROUPED, {**GROUPED, "use_bias": False, "tie_word_embeddings": False, "head_dim": 10}],
    "phi": [GROUPED, {**NULLS, "tie_word_embeddings": True}, {**GROUPED, "head_dim": 10}],
    "gptj": [
        {"vocab_size": 96, "n_embd": 48, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
        {"vocab_size": 96, "hidden_size": 40, "num_hidden_layers": 3, "n_head": 4, "n_inner": 100, "rotary_dim": 4},
    ],
    "opt": [
        {**BERT, "ffn_dim": 80},
        {**BERT, "ffn_dim": 60, "word_embed_proj_dim": 32, "enable_bias": False, "tie_word_embeddings": False},
        {**BERT, "word_embed_proj_dim": None, "do_layer_norm_before": False},
    ],
    "falcon": [
        {**NEOX, "multi_query": True},
        {**NEOX, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        {**NEOX, "multi_query": False, "ffn_hidden_size": 60, "tie_word_embeddings": False, "alibi": True},
        {"vocab_size": 96, "n_embed": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": None},
    ],
    "bloom": [
        {"vocab_size": 96, "n_embed": 48, "n_layer": 2, "n_head": 4},
        {"vocab_size": 96, "hidden_size": 40, "num_hidden_layers": 3, "n_head": 4, "tie_word_embeddings": False},
    ],
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
        {**GROUPED, "num_experts": 5, "attention_bias": False, "tie_word_embeddings": True},
    ],
    "llama4_text": [
        {**DOTS, "interleave_moe_layer_step": 2, "num_hidden_layers": 4},
        {**DOTS, "moe_layers": [], "attention_bias": True, "tie_word_embeddings": True},
        {**DOTS, "moe_layers": [1], "interleave_moe_layer_step": 1, "num_hidden_layers": 3},
    ],
    "llama4": [
        {"text_config": DOTS, "vision_config": LLAMA4_EYE, "image_token_index": 90},
        {
            "text_config": {**DOTS, "model_type": "llama4_text", "interleave_moe_layer_step": 2},
            "vision_config": {**LLAMA4_EYE, "model_type": "llama4_vision_model", "num_channels": 1, "patch_size": 14},
        },
        {"text_config": {**DOTS, "tie_word_embeddings": True}, "vision_config": LLAMA4_EYE},
    ],
    "qwen2_vl": [
        {**GROUPED, **TOKENS, "vision_config": QWEN_EYE},
        {**TOKENS, "text_config": {**GROUPED, "model_type": "qwen2_vl_text"}, "vision_config": QWEN_EYE},
        {**GROUPED, **TOKENS, "vision_config": {**QWEN_EYE, "model_type": "qwen2_vl"}, "tie_word_embeddings": True},
        {**TOKENS, "text_config": {**GROUPED, "tie_word_embeddings": True}, "vision_config": QWEN_EYE},
    ],
    "qwen2_5_vl": [
        {**GROUPED, **TOKENS, "vision_config": QWEN25_EYE, "tie_word_embeddings": True},
        {**TOKENS, "text_config": GROUPED, "vision_config": {**QWEN25_EYE, "in_channels": 1, "patch_size": 7}},
    ],
    "bert": [
        BERT,
        {**BERT, "is_decoder": True, "type_vocab_size": 3, "tie_word_embeddings": False},
    ],
    "roberta": [BERT, {**BERT, "is_decoder": True, "tie_word_embeddings": False}],
}
"""Model type to configs; ``model_type`` itself is left out."""


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every config with its family."""
    return [(family, {"model_type": family, **config}) for family, configs in CONFIGS.items() for config in configs]
