"""Tables of vLLM: which families of base models it serves with LoRA, and what they call their modules.

Read in its classes of 0.32 and 0.33, and compared with what those of 0.32 say of themselves (``test_registry.py``).
"""

NEVER = "999"
"""A version that is newer than any."""

INPUT = frozenset({"embed_tokens"})
"""What has LoRA in a family that vLLM has no class for, too: it wraps transformers' own."""

BOTH = INPUT | {"lm_head"}

WRAPPED = frozenset(
    {
        *("arcee", "cwm", "flex_olmo", "glm", "gpt_bigcode", "gpt_neox", "hunyuan_v1_dense", "hunyuan_v1_moe"),
        *("jais2", "kolibri1", "mellum", "olmo", "olmo2", "olmo3", "phi", "seed_oss", "smollm3", "starcoder2"),
        "vaultgemma",
    }
)
"""Families that are served through transformers' own classes for text, which vLLM wraps."""

EMBEDDINGS = {
    **dict.fromkeys(
        (
            *("llama", "phi3", "internlm3", "qwen3", "qwen3_moe", "qwen3_5", "mixtral", "granite", "granitemoe"),
            *("exaone", "exaone4", "nemotron", "deci", "minicpm", "solar", "apertus", "falcon_h1", "jamba", "lfm2"),
            *("phimoe", "hyperclovax", "llama4", "llama4_text", "ernie4_5", "exaone_moe", "granite_swa"),
            *("granitemoe_swa", "granitemoehybrid", "granitemoeshared", "iquestcoder", "lfm2_moe", "minicpm3"),
            *("nemotron_h", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text"),
        ),
        BOTH,
    ),
    **dict.fromkeys(("cohere", "cohere2", "emu3", "hunyuan_vl", "vibevoice_asr"), INPUT),
    **dict.fromkeys(WRAPPED - {"vaultgemma"}, INPUT),
}
"""Families whose class has ``embedding_modules``; others do not support LoRA on the embedding or the head. VaultGemma's
loads it too, and serves another scale."""

SPLIT = {"glm4": frozenset({"gate_up_proj"})}
"""Modules that a class packs by itself, though transformers' model has them in one: it refuses that name."""

NO_LORA = frozenset(
    {
        *("bert", "bloom", "falcon", "gpt2", "gptj", "stablelm"),
        *("bart", "distilbert", "segformer", "t5", "vit", "wav2vec2"),
    }
)
"""Families with which the engine does not start if LoRA is enabled. 0.32 was run: it has a class without LoRA for those
in the first line (of BERT that for masked words), and none for the others."""

LORA_SINCE = {
    **dict.fromkeys(("BertModel", "RobertaModel", "RobertaForMaskedLM", "XLMRobertaModel"), "0"),
    **dict.fromkeys(("XLMRobertaForSequenceClassification", "MiniCPMV4_7ForConditionalGeneration"), "0"),
    **dict.fromkeys(("BertForSequenceClassification", "BertForTokenClassification"), "0.33"),
    **dict.fromkeys(("Kolibri1ForCausalLM", "MiniCPMOcrForConditionalGeneration"), "0.33"),
    **dict.fromkeys(("BertForMaskedLM", "RobertaForTokenClassification", "XLMRobertaForTokenClassification"), NEVER),
}
"""Classes to the first version in which they take LoRA, whatever their family. Read in the classes of 0.32 and 0.33;
those of BERT and RoBERTa were run in 0.32 (``test_classes.py``)."""

HEADS_SINCE = {"ForSequenceClassification": "0", "ForTokenClassification": "0.33"}
"""Ends of class names whose head, saved as ``score`` or ``classifier``, is loaded from an adapter. 0.32 was run: it
answers as PEFT does with the one for sequences, and refuses the one for tokens."""

FUSED_EXPERTS = frozenset({"gpt_oss", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_vl_moe"})
"""Families whose class holds its experts in one tensor (``is_3d_moe_weight``)."""

BLOCK_NAMES = {"mixtral": (".block_sparse_moe.", ".mlp.")}
"""The name of the block with the router and the experts in a class, and in transformers. 0.32 was run: factors that
PEFT saves under the second name (transformers 5) are loaded and ignored."""

REORDERED = dict.fromkeys(("llama4", "llama4_text"), frozenset({"q_proj", "k_proj"}))
"""Modules whose weights a class reorders when it loads them (``permute_qk_weight_for_rotary``)."""

LISTED = frozenset(
    {
        *("afmoe", "axk1", "deepseek_v32", "ernie4_5_moe", "gemma4_text", "glm4", "glm4_moe", "glm4_moe_lite"),
        *("glm_moe_dsa", "hy_v3", "laguna", "longcat_flash", "minimax_m2", "ministral3", "olmo_hybrid", "olmoe"),
        *("qwen3_next", "sarvam_mla", "sarvam_moe", "vaultgemma"),
        # Wrappers for images, video and audio.
        *("audioflamingo3", "blip-2", "cohere_compass", "ernie4_5_vl_moe", "exaone4_5", "gemma4", "gemma4_unified"),
        *("glm4v", "glm4v_moe", "glm_ocr", "glmasr", "granite4_vision", "granite_speech", "granite_speech_plus"),
        *("idefics3", "internvl", "lfm2_vl", "lighton_ocr", "llava", "llava_next", "llava_next_video", "minicpmv4_6"),
        *("mistral3", "molmo2", "muse_glimmer", "paligemma", "qianfan_ocr", "qwen2_5_omni", "qwen2_5_omni_thinker"),
        *("qwen3_asr", "qwen3_omni_moe_thinker", "qwen3_vl", "smolvlm", "voxtral"),
        # Families of which transformers has no class.
        *("bailing_moe", "chatglm", "deepseek", "internlm2", "internvl_chat", "mimo", "minicpmo", "minicpmv"),
        *("molmo", "phi4mm", "ultravox"),
    }
)
"""Families without a table here that support LoRA by vLLM's list of models (``docs/models/supported_models.md``), or by
their classes."""

WITH_LORA = LISTED | EMBEDDINGS.keys() | FUSED_EXPERTS | {"whisper"}
"""Families without a table here that take LoRA. Whisper's class does, although the list does not say so. What the list
has without LoRA is not known: of GPT-NeoX it says so, and 0.32 serves it."""

TEXT_NAMES = frozenset(
    {"qwen2_vl", "qwen2_5_vl", "exaone4_5", "gemma4", "gemma4_unified", "mistral3", "qwen3_omni_moe_thinker"}
)
"""Multimodal wrappers that accept the names of the text model alone; since 0.33 all do. The first two were run."""

PREFIXES = {
    "opt": ("decoder.", "model.decoder."),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text"), ("model.language_model.", "model.")),
}
"""Beginnings of names that a class rewrites (``hf_to_vllm_mapper``), and what they become. That of OPT was run."""
