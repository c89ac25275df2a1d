"""TensorRT-LLM, newer than 1.0: what the LoRA of its PyTorch flow makes of an adapter. Read only, in stored copies."""

from lora_cli.core.base_model import OTHER_BASE
from lora_cli.core.finding import Outcome
from lora_cli.engines.profile import (
    FACTORS,
    GENERIC_OUTCOMES,
    NAMES,
    NUMBER_WRITTEN,
    OTHER_SERVER,
    OWN_NAME_RULES,
    PACKED,
    RARELY_KNOWN,
    SAVE_AGAIN,
    Engine,
    Grammar,
    rejects,
    repair,
    serves_wrong,
)

LORA = "tensorrt_llm/lora_manager.py"
HELPER = "tensorrt_llm/lora_helper.py"
MODELS = "tensorrt_llm/_torch/models/modeling_auto.py"

ROWS = (
    rejects("required-field-missing", "the field is required", LORA, mend="write the field"),
    rejects("number-mistyped", "the division fails", LORA, "reasoned", repair("trtllm", NUMBER_WRITTEN)),
    serves_wrong(
        "module-alphas", "alpha_pattern is not read", LORA, mend=repair("trtllm", "folds the scales into lora_B")
    ),
    serves_wrong("init-changes-base", "the base's weights are not the ones that it was trained on", LORA),
    serves_wrong("alora", "the field is not read: the adapter is always active", LORA),
    serves_wrong("layer-replication", "the field is not read", LORA, "reasoned"),
    serves_wrong("bdlora", "its blocks are treated as factors", LORA, "reasoned"),
    serves_wrong("qalora", "its groups are treated as inputs", LORA, "reasoned"),
    serves_wrong("arrow", "Arrow's routing is not read", LORA, "reasoned"),
    rejects("lora-bias", "a bias on lora_B is an unknown name", LORA),
    rejects("bias", "a bias is an unknown name", LORA),
    rejects("kasa", "lora_diag is an unknown name", LORA),
    serves_wrong("saved-vocabulary", "a saved embedding or head is skipped", LORA),
    rejects("saved-head", "a saved head is an unknown name", LORA),
    rejects("saved-other", "a saved module is an unknown name", LORA),
    serves_wrong("trained-tokens", "trained tokens are skipped", LORA),
    serves_wrong("embedding", "LoRA on an embedding or the head is skipped", LORA),
    rejects("rank-above-max", "", HELPER, mend="{mend}"),
    rejects("missing-b", "a module without lora_B fails", LORA, mend=SAVE_AGAIN),
    rejects("missing-a", "a module without lora_A fails", LORA, mend=SAVE_AGAIN),
    rejects("missing-a-packed", "a module without lora_A fails", LORA, mend=SAVE_AGAIN),
    rejects(
        "names-outside-grammar",
        "TensorRT-LLM refuses an adapter with an unknown tensor name",
        LORA,
        mend=repair("trtllm", NAMES),
    ),
    serves_wrong("named-twice", "only one of them is used", LORA, "reasoned", SAVE_AGAIN),
    rejects("other-model", "TensorRT-LLM has no class for such a model", MODELS, "reasoned", OTHER_SERVER),
    rejects("unexpected-modules", "TensorRT-LLM does not support such a module", LORA),
    serves_wrong("nothing-lands", "it loads, but the base is served", LORA, "reasoned", OTHER_BASE),
    serves_wrong("partly-lands", "the others do not belong to a layer", LORA, "reasoned", OTHER_BASE),
    rejects("experts-fused", "TensorRT-LLM only supports separate experts", LORA),
    serves_wrong(
        "filtered",
        "the engine is configured for LoRA on other modules, and skips these with a warning",
        LORA,
        mend="add {wanted} to lora_target_modules",
    ),
)

ENGINE = Engine(
    name="trtllm",
    title="TensorRT-LLM",
    versions=("1.0",),
    rows=ROWS,
    grammars={
        "1.0": Grammar(
            prefix="ignored",
            infixes=True,
            parts=FACTORS | {"magnitude"},
            strict=True,
            skips_vocabulary=True,
            experts_apart=True,
            packed=PACKED,
        )
    },
    generic={
        **GENERIC_OUTCOMES,
        **OWN_NAME_RULES,
        # It takes the rank of the tensors, and reads neither peft_type nor target_modules.
        **dict.fromkeys(("LC201", "LC205", "LC208", "LC209", "LC305", "LC301", "LC302"), Outcome.OK),
        **dict.fromkeys(("LC306", "LC314", "LC316", "LC321", "LC322"), Outcome.SERVES_WRONG),
    },
    default_rank=64,
    rank_flag="max_lora_rank",
    unknown=RARELY_KNOWN | {"dora", "two-into-one"},
)
