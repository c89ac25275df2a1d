"""Where ``validate --engine`` and the engine differ, and why that stays: cases to reasons."""

from collections.abc import Mapping

VLLM: Mapping[str, str] = {}
PEFT: Mapping[str, str] = {}

FAMILY_DIFFERS: Mapping[tuple[str, str], str] = {
    (
        "roberta",
        "head",
    ): "the class that vLLM serves embeddings with has no head over words, and `validate` judges the one that has",
}
"""Families and features of ``test_families``, where the two differ."""

NO_ANSWER: Mapping[str, str] = {
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "gpt_oss", "llama4", "llama4_text", "mixtral", "qwen2_moe", "qwen3_moe"),
        "where LoRA is enabled vLLM gives experts a kernel of Triton, which its build for the CPU does not have: it "
        "starts and loads adapters, and the first request ends it",
    ),
    "roberta": "vLLM serves it for its embeddings, which change with an adapter, and it has no words to compare",
}
"""Families that do not answer here, though vLLM has LoRA for them."""
