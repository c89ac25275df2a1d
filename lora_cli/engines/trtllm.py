"""TensorRT-LLM, newer than 1.0: what the LoRA of its PyTorch flow makes of an adapter. Read only, in stored copies."""

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines.mend import MERGE, NAMES, NUMBER_WRITTEN, OTHER_BASE, SAVE_AGAIN, repair
from lora_cli.engines.profile import BY_OWN_NAMES, EVERYWHERE, FACTORS, PACKED, Engine, Grammar, Row

LORA = "tensorrt_llm/lora_manager.py"
HELPER = "tensorrt_llm/lora_helper.py"

ROWS = (
    Row("required-field-missing", Outcome.REJECTS, "the field is required", "write the field", LORA),
    Row("number-mistyped", Outcome.REJECTS, "it cannot be divided", repair("trtllm", NUMBER_WRITTEN), LORA, "reasoned"),
    Row(
        "module-alphas",
        Outcome.SERVES_WRONG,
        "alpha_pattern is not read",
        repair("trtllm", "folds the scales into lora_B"),
        LORA,
    ),
    Row("init-changes-base", Outcome.SERVES_WRONG, "the base's weights are not those that it was trained on", MERGE,
        LORA),
    Row("alora", Outcome.SERVES_WRONG, "it is not read: the adapter is always active", MERGE, LORA),
    Row("layer-replication", Outcome.SERVES_WRONG, "it is not read", MERGE, LORA, "reasoned"),
    Row("bdlora", Outcome.SERVES_WRONG, "its blocks are taken for factors", MERGE, LORA, "reasoned"),
    Row("qalora", Outcome.SERVES_WRONG, "its groups are taken for inputs", MERGE, LORA, "reasoned"),
    Row("arrow", Outcome.SERVES_WRONG, "Arrow's routing is not read", MERGE, LORA, "reasoned"),
    Row("lora-bias", Outcome.REJECTS, "a bias on lora_B is no name that it knows", MERGE, LORA),
    Row("bias", Outcome.REJECTS, "a bias is no name that it knows", MERGE, LORA),
    Row("kasa", Outcome.REJECTS, "lora_diag is no name that it knows", MERGE, LORA),
    Row("saved-vocabulary", Outcome.SERVES_WRONG, "a saved embedding or head is skipped", MERGE, LORA),
    Row("saved-head", Outcome.REJECTS, "a saved head is no name that it knows", MERGE, LORA),
    Row("saved-other", Outcome.REJECTS, "a saved module is no name that it knows", MERGE, LORA),
    Row("trained-tokens", Outcome.SERVES_WRONG, "trained tokens are skipped", MERGE, LORA),
    Row("embedding", Outcome.SERVES_WRONG, "LoRA on an embedding or the head is skipped", MERGE, LORA),
    Row("rank-above-max", Outcome.REJECTS, "", "{mend}", HELPER),
    Row("missing-b", Outcome.REJECTS, "a module without lora_B fails", SAVE_AGAIN, LORA),
    Row("missing-a", Outcome.REJECTS, "a module without lora_A fails", SAVE_AGAIN, LORA),
    Row("missing-a-packed", Outcome.REJECTS, "a module without lora_A fails", SAVE_AGAIN, LORA),
    Row(
        "names-outside-grammar",
        Outcome.REJECTS,
        "a tensor with a name that it does not know refuses the whole adapter",
        repair("trtllm", NAMES),
        LORA,
    ),
    Row("unexpected-modules", Outcome.REJECTS, "it knows no such module", MERGE, LORA),
    Row("nothing-lands", Outcome.SERVES_WRONG, "it loads, and the base is served", OTHER_BASE, LORA, "reasoned"),
    Row("partly-lands", Outcome.SERVES_WRONG, "the others have no layer to go to", OTHER_BASE, LORA, "reasoned"),
    Row("experts-fused", Outcome.REJECTS, "it knows experts one by one only", MERGE, LORA),
    Row(
        "filtered",
        Outcome.SERVES_WRONG,
        "the engine was told to put LoRA on other modules, and skips these with a warning",
        "name {wanted} in lora_target_modules",
        LORA,
    ),
)  # fmt: skip

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
        **EVERYWHERE,
        **BY_OWN_NAMES,
        # It takes the rank of the tensors, and reads neither peft_type nor target_modules.
        **dict.fromkeys(("LC201", "LC205", "LC208", "LC209", "LC305", "LC301", "LC302"), Outcome.OK),
        **dict.fromkeys(("LC306", "LC314", "LC316", "LC321", "LC322"), Outcome.SERVES_WRONG),
    },
    default_rank=64,
    rank_flag="max_lora_rank",
    unread=frozenset(
        {"dora", "experts-alone", "experts-incomplete", "base-without-lora", "tower", "named-like-base", "two-into-one"}
    ),
)
