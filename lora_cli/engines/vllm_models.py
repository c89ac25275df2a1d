"""vLLM's model classes, by the ``model_type`` of the base: which take LoRA where. Read in its classes of 0.33.

What the slots of each class are made of was compared with the buffers that 0.32 makes for tiny models of all families
with a table here.
"""

from lora_cli.engines.profile import PACKED
from lora_cli.engines.slots import Flags, SlotLayout

BOTH = frozenset({"embed_tokens", "lm_head"})

EMBEDDINGS = {
    **dict.fromkeys(
        (
            *("llama", "phi3", "internlm3", "qwen3", "qwen3_moe", "qwen3_5", "mixtral", "granite", "granitemoe"),
            *("exaone", "exaone4", "nemotron", "deci", "minicpm", "solar", "apertus", "falcon_h1", "jamba", "lfm2"),
            *("phimoe", "hyperclovax", "llama4", "llama4_text"),
        ),
        BOTH,
    ),
    # The last three are served through transformers' own classes, which vLLM wraps.
    **dict.fromkeys(("cohere", "olmo2", "phi", "starcoder2"), frozenset({"embed_tokens"})),
}
"""Families whose class has ``embedding_modules``; the others take no LoRA on the embedding or the head."""

NO_LORA = frozenset({"bert", "bloom", "falcon", "gpt2", "gptj", "roberta", "stablelm"})
"""Families whose class has no LoRA: with it the engine does not start. 0.32 was run with tiny models: bloom, falcon,
gpt2, gptj and stablelm end with "does not support LoRA yet", and gpt_neox answers as PEFT does."""

FUSED_EXPERTS = frozenset({"gpt_oss", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_vl_moe"})
"""Families whose class holds its experts in one tensor (``is_3d_moe_weight``)."""

TEXT_NAMES = frozenset({"qwen2_vl", "qwen2_5_vl"})
"""Multimodal wrappers that take the names of the text model alone, until 0.33, since when all do."""

SLOTS = SlotLayout(
    flags=Flags(
        launch="vllm serve {base}",
        enable="--enable-lora",
        rank="--max-lora-rank",
        slots="--max-loras",
        memory="--max-cpu-loras",
        targets="--lora-target-modules",
        adapters="--lora-modules",
        keys=("name", "path"),
        tp="--tensor-parallel-size",
        revision="--revision",
    ),
    packed={**PACKED, "fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa")},
    experts={"gate_up_proj": "experts", "down_proj": "experts"},
    routers=True,
    compared=frozenset(
        {
            *("cohere", "deepseek_v2", "deepseek_v3", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt_oss", "granite"),
            *("llama", "llama4", "llama4_text", "mistral", "mixtral", "olmo2", "opt", "phi", "phi3", "qwen2"),
            *("qwen2_5_vl", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe", "starcoder2"),
        }
    ),
    evidence="vllm/lora/layers",
)
"""Without ``--lora-target-modules`` every linear layer has buffers, and the embedding and the head of some classes."""
