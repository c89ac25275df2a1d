"""What each family calls its layer norms: modules that LoRA is not put on, and that ``modules_to_save`` may name."""

from collections.abc import Mapping

_TWO = ("input_layernorm", "post_attention_layernorm", "norm")
_FOUR = (*_TWO, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_MLA = (*_TWO, "q_a_layernorm", "kv_a_layernorm")
_QUERY = (*_TWO, "q_norm", "k_norm")
_QWEN_TOWER = (*_TWO, "norm1", "norm2", "ln_q")

NORMS: Mapping[str, tuple[str, ...]] = {
    "bert": ("LayerNorm",),
    "bloom": ("word_embeddings_layernorm", "input_layernorm", "post_attention_layernorm", "ln_f"),
    "cohere": ("input_layernorm", "norm"),
    "deepseek_v2": _MLA,
    "deepseek_v3": _MLA,
    "falcon": ("ln_attn", "ln_mlp", "input_layernorm", "ln_f"),
    "gemma": _TWO,
    "gemma2": _FOUR,
    "gemma3": (
        *_FOUR,
        *("q_norm", "k_norm", "mm_soft_emb_norm", "layer_norm1", "layer_norm2", "layernorm", "post_layernorm"),
    ),
    "gemma3_text": (*_FOUR, "q_norm", "k_norm"),
    "gpt2": ("ln_1", "ln_2", "ln_cross_attn", "ln_f"),
    "gpt_neox": ("input_layernorm", "post_attention_layernorm", "final_layer_norm"),
    "gpt_oss": _TWO,
    "gptj": ("ln_1", "ln_f"),
    "granite": _TWO,
    "llama": _TWO,
    "llama4": (*_TWO, "layernorm_pre", "layernorm_post"),
    "llama4_text": _TWO,
    "mistral": _TWO,
    "mixtral": _TWO,
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm", "q_norm", "k_norm", "norm"),
    "opt": ("self_attn_layer_norm", "final_layer_norm"),
    "phi": ("input_layernorm", "final_layernorm"),
    "phi3": _TWO,
    "qwen2": _TWO,
    "qwen2_5_vl": _QWEN_TOWER,
    "qwen2_moe": _TWO,
    "qwen2_vl": _QWEN_TOWER,
    "qwen3": _QUERY,
    "qwen3_moe": _QUERY,
    "roberta": ("LayerNorm", "layer_norm"),
    "stablelm": _TWO,
    "starcoder2": _TWO,
}
"""By ``model_type``, the last component of their paths."""
