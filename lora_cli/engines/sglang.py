"""SGLang 0.5.23: what it makes of an adapter.

Read in ``sglang/srt/lora``, and run on adapters that PEFT wrote. Much that it takes at load fails in the first batch
that needs it, and nothing between there and the scheduler's process catches that: the server goes down.
"""

from lora_cli.base.base_model import OTHER_BASE
from lora_cli.engines.profile import (
    ALONE,
    GENERIC_OUTCOMES,
    NUMBER_WRITTEN,
    OTHER_SERVER,
    OWN_NAME_RULES,
    PACKED,
    SAVE_AGAIN,
    Engine,
    Flags,
    Grammar,
    SlotLayout,
    crashes,
    rejects,
    repair,
    serves_wrong,
)
from lora_cli.finding import Outcome

CONFIG = "sglang/srt/lora/lora_config.py"
LORA = "sglang/srt/lora/lora.py"
MANAGER = "sglang/srt/lora/lora_manager.py"
POOL = "sglang/srt/lora/mem_pool.py"
UTILS = "sglang/srt/lora/utils.py"
MODELS = "sglang/srt/models/registry.py"
LOADER = "sglang/srt/model_loader/loader.py"

ROWS = (
    rejects("required-field-missing", "the field is required", CONFIG, mend="write the field"),
    rejects("not-lora", "peft_type must be LORA", LORA, mend='write "peft_type": "LORA" if it is LoRA'),
    rejects("number-mistyped", "the division fails", CONFIG, "reasoned", repair("sglang", NUMBER_WRITTEN)),
    rejects("dora", "DoRA is not supported", LORA),
    serves_wrong(
        "rslora",
        "SGLang divides lora_alpha by r, but rsLoRA divides it by the square root of r",
        CONFIG,
        "run",
        repair("sglang", "folds rsLoRA into lora_alpha"),
    ),
    serves_wrong(
        "module-scales",
        "rank_pattern and alpha_pattern are not read, and all modules have the same scale",
        CONFIG,
        "run",
        repair("sglang", "folds the scales into lora_B"),
    ),
    rejects(
        "packed-ranks",
        "SGLang packs them into one module with one rank",
        LORA,
        "run",
        repair("sglang", "pads them to the same rank"),
    ),
    crashes("rank-not-r", "shapes must match r exactly", POOL, "run", repair("sglang", "pads all to the same rank")),
    rejects("rank-above-max", "", MANAGER, mend="{mend}"),
    serves_wrong("init-changes-base", "init_lora_weights is not read", CONFIG, "run"),
    serves_wrong("alora", "the field is not read: the adapter is always active", CONFIG, "run"),
    serves_wrong("layer-replication", "the field is not read", CONFIG),
    crashes("bdlora", "its blocks do not have the shapes of factors", POOL, "run"),
    crashes("qalora", "its groups do not have the shapes of factors", POOL, "reasoned"),
    crashes("kasa", "lora_diag is unknown to SGLang", POOL, "run"),
    serves_wrong("arrow", "Arrow's routing is not read", CONFIG, "reasoned"),
    serves_wrong("bias", "biases are not read, or fail at first use", POOL),
    serves_wrong("lora-bias", "a bias on lora_B is not read", CONFIG, "run"),
    serves_wrong("saved-vocabulary", "a saved embedding or head is dropped", LORA, "run"),
    serves_wrong("saved-head", "a saved head is dropped silently", LORA, "run"),
    crashes("saved-other", "a saved module in a layer is unknown to SGLang", POOL, "run"),
    serves_wrong("trained-tokens", "trained tokens are not read", CONFIG, "run"),
    rejects("added-tokens", "the vocabulary cannot grow", MANAGER, mend="train without new tokens"),
    rejects("targets-pattern", "it must be a list, all or all-linear", UTILS, mend=repair("sglang", "writes the list")),
    rejects("targets-null", "it must be a list, all or all-linear", UTILS, mend=repair("sglang", "writes the list")),
    rejects("q-without-v", "SGLang packs q, k, v and looks for v", LORA, "run", repair("sglang", "adds zeros for v")),
    crashes(
        "kv-without-q", "SGLang packs q, k, v and starts from q", POOL, "run", repair("sglang", "adds zeros for q")
    ),
    crashes(
        "up-without-gate",
        "SGLang packs gate and up, and starts from gate",
        POOL,
        "run",
        repair("sglang", "adds zeros for gate"),
    ),
    serves_wrong("named-twice", "only one of them is used", LORA, "reasoned", SAVE_AGAIN),
    crashes("unexpected-modules", "SGLang has no buffer for them", POOL, "run"),
    serves_wrong("nothing-lands", "it loads, but the base is served", LORA, mend=OTHER_BASE),
    serves_wrong("partly-lands", "modules without a layer number are dropped", LORA, mend=OTHER_BASE),
    serves_wrong("two-into-one", "the last of them overwrites the other", LORA, "run"),
    crashes("experts-fused", "SGLang has no buffer for fused experts", POOL, "run"),
    serves_wrong("stray-weights", "every *.safetensors of the folder is read as the adapter's", LOADER, mend=ALONE),
    rejects(
        "pinned-beyond-slots",
        "one slot is reserved for the base",
        MANAGER,
        mend="start SGLang with `--max-loras-per-batch {slots}`, or pin fewer",
    ),
    rejects("other-model", "SGLang has no class for such a model", MODELS, "reasoned", OTHER_SERVER),
    rejects(
        "filtered",
        "the engine is configured for LoRA on other modules",
        MANAGER,
        mend="start SGLang with `--lora-target-modules {wanted}`",
    ),
)

SLOTS = SlotLayout(
    flags=Flags(
        launch="python -m sglang.launch_server --model-path {base}",
        enable="--enable-lora",
        rank="--max-lora-rank",
        slots="--max-loras-per-batch",
        memory="--max-loaded-loras",
        targets="--lora-target-modules",
        adapters="--lora-paths",
        keys=("lora_name", "lora_path"),
        revision="--revision",
        pins=True,
        strict="--lora-strict-loading",
    ),
    choices=frozenset(
        {
            *("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj"),
            *("wq_b", "wk", "weights_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"),
            *("embed_tokens", "lm_head", "qkvr", "wo_ud"),
        }
    ),
    base_slots=1,
)
"""A request for the base alone takes a slot, too."""

ENGINE = Engine(
    name="sglang",
    title="SGLang",
    versions=("0.5.23",),
    rows=ROWS,
    grammars={
        "0.5.23": Grammar(
            prefix="ignored", adapter_name=True, infixes=True, packed=PACKED, stacks=frozenset({"layers"})
        )
    },
    generic={
        **GENERIC_OUTCOMES,
        **OWN_NAME_RULES,
        "LC205": Outcome.REJECTS,
        "LC209": Outcome.OK,
        **dict.fromkeys(("LC301", "LC302", "LC306", "LC307", "LC314"), Outcome.CRASHES),
        **dict.fromkeys(("LC208", "LC316", "LC321", "LC322"), Outcome.SERVES_WRONG),
        "LC313": Outcome.REJECTS,
    },
    slots=SLOTS,
    unknown=frozenset(
        {"experts-alone", "experts-incomplete", "rows-reordered", "base-without-lora", "tower", "sharded"}
    ),
)
