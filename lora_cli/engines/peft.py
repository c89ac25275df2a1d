"""Tables of PEFT 0.21, which owns the format: what it makes of a config of another method."""

BUILT = frozenset(
    {
        *("BEFT", "BOFT", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING"),
        *("LOHA", "LOKR", "MISS", "OSF", "PEANUT", "PSOFT", "RANDLORA", "SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA"),
    }
)
"""The values of ``peft_type`` with which PEFT 0.21 loads what it saved as LoRA; its tensors are dropped."""

IA3_FAMILIES = frozenset(
    {
        *("bart", "bert", "bloom", "deberta", "deberta-v2", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2"),
        *("gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "llama", "llama4", "mistral", "mixtral", "mt5", "opt", "phi"),
        *("qwen2", "qwen3", "roberta", "t5"),
    }
)
"""PEFT 0.21's ``TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING``."""
