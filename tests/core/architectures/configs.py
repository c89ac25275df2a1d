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
        {**GPT2, "add_cross_attention": True, "n_inner": None},
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
}
"""Model type to configs; ``model_type`` itself is left out."""


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every config with its family."""
    return [(family, {"model_type": family, **config}) for family, configs in CONFIGS.items() for config in configs]
