"""vLLM's model classes, by the ``model_type`` of the base: which take LoRA where. Read in its classes of 0.33."""

BOTH = frozenset({"embed_tokens", "lm_head"})

EMBEDDINGS = {
    **dict.fromkeys(
        (
            *("llama", "phi3", "internlm3", "qwen3", "qwen3_moe", "qwen3_5", "mixtral", "granite", "granitemoe"),
            *("exaone", "exaone4", "nemotron", "deci", "minicpm", "solar", "apertus", "falcon_h1", "jamba", "lfm2"),
            *("phimoe", "hyperclovax"),
        ),
        BOTH,
    ),
    "cohere": frozenset({"embed_tokens"}),
}
"""Families whose class has ``embedding_modules``; the others take no LoRA on the embedding or the head."""

NO_LORA = frozenset({"bert", "bloom", "falcon", "gpt2", "gpt_neox", "gptj", "roberta", "stablelm"})
"""Families whose class has no LoRA (``docs/models/supported_models.md``): with it the engine does not start."""

FUSED_EXPERTS = frozenset({"gpt_oss", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_vl_moe"})
"""Families whose class holds its experts in one tensor (``is_3d_moe_weight``)."""

TEXT_NAMES = frozenset({"qwen2_vl", "qwen2_5_vl"})
"""Multimodal wrappers that take the names of the text model alone, until 0.33, since when all do."""
