"""SGLang 0.5.23: what it makes of an adapter.

Read in ``sglang/srt/lora``, and run on adapters that PEFT wrote. Much that it takes at load fails in the first batch
that needs it, and nothing between there and the scheduler's process catches that: the server goes down.
"""

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines.mend import ALONE, MERGE, NUMBER_WRITTEN, OTHER_BASE, repair
from lora_cli.engines.profile import BY_OWN_NAMES, EVERYWHERE, PACKED, Engine, Grammar, Row
from lora_cli.engines.slots import Flags, SlotLayout

CONFIG = "sglang/srt/lora/lora_config.py"
LORA = "sglang/srt/lora/lora.py"
MANAGER = "sglang/srt/lora/lora_manager.py"
POOL = "sglang/srt/lora/mem_pool.py"
UTILS = "sglang/srt/lora/utils.py"
LOADER = "sglang/srt/model_loader/loader.py"

ROWS = (
    Row("required-field-missing", Outcome.REJECTS, "the field is required", "write the field", CONFIG),
    Row("not-lora", Outcome.REJECTS, "it must be LORA", 'write "peft_type": "LORA" if it is one', LORA),
    Row(
        "number-mistyped", Outcome.REJECTS, "it cannot be divided", repair("sglang", NUMBER_WRITTEN), CONFIG, "reasoned"
    ),
    Row("dora", Outcome.REJECTS, "DoRA is not supported", MERGE, LORA),
    Row(
        "rslora",
        Outcome.SERVES_WRONG,
        "it divides lora_alpha by r, where rsLoRA divides by its root",
        repair("sglang", "folds rsLoRA into lora_alpha"),
        CONFIG,
        "run",
    ),
    Row(
        "module-scales",
        Outcome.SERVES_WRONG,
        "rank_pattern and alpha_pattern are not read, and every module is scaled alike",
        repair("sglang", "folds the scales into lora_B"),
        CONFIG,
        "run",
    ),
    Row(
        "packed-ranks",
        Outcome.REJECTS,
        "it packs them into one module, which has one rank",
        repair("sglang", "pads them to one rank"),
        LORA,
        "run",
    ),
    Row(
        "rank-not-r",
        Outcome.CRASHES,
        "a shape must be exactly that of r",
        repair("sglang", "pads all to one rank"),
        POOL,
        "run",
    ),
    Row("rank-above-max", Outcome.REJECTS, "", "{mend}", MANAGER),
    Row("init-changes-base", Outcome.SERVES_WRONG, "it is not read", MERGE, CONFIG, "run"),
    Row("alora", Outcome.SERVES_WRONG, "it is not read: the adapter is always active", MERGE, CONFIG, "run"),
    Row("layer-replication", Outcome.SERVES_WRONG, "it is not read", MERGE, CONFIG),
    Row("bdlora", Outcome.CRASHES, "its blocks do not have the shapes of factors", MERGE, POOL, "run"),
    Row("qalora", Outcome.CRASHES, "its groups do not have the shapes of factors", MERGE, POOL, "reasoned"),
    Row("kasa", Outcome.CRASHES, "lora_diag is no tensor that it knows", MERGE, POOL, "run"),
    Row("arrow", Outcome.SERVES_WRONG, "Arrow's routing is not read", MERGE, CONFIG, "reasoned"),
    Row("bias", Outcome.SERVES_WRONG, "biases are not read, or fail at first use", MERGE, POOL),
    Row("lora-bias", Outcome.SERVES_WRONG, "a bias on lora_B is not read", MERGE, CONFIG, "run"),
    Row("saved-vocabulary", Outcome.SERVES_WRONG, "a saved embedding or head is dropped", MERGE, LORA, "run"),
    Row("saved-head", Outcome.SERVES_WRONG, "a saved head is dropped silently", MERGE, LORA, "run"),
    Row("saved-other", Outcome.CRASHES, "a saved module in a layer is none that it knows", MERGE, POOL, "run"),
    Row("trained-tokens", Outcome.SERVES_WRONG, "trained tokens are not read", MERGE, CONFIG, "run"),
    Row("added-tokens", Outcome.REJECTS, "the vocabulary cannot grow", "train without new tokens", MANAGER),
    Row(
        "targets-pattern",
        Outcome.REJECTS,
        "it must be a list, all or all-linear",
        repair("sglang", "writes the list"),
        UTILS,
    ),
    Row(
        "targets-null",
        Outcome.REJECTS,
        "it must be a list, all or all-linear",
        repair("sglang", "writes the list"),
        UTILS,
    ),
    Row(
        "q-without-v",
        Outcome.REJECTS,
        "it packs q, k and v, and looks for v",
        repair("sglang", "adds zeros for v"),
        LORA,
        "run",
    ),
    Row(
        "kv-without-q",
        Outcome.CRASHES,
        "it packs q, k and v, and starts from q",
        repair("sglang", "adds zeros for q"),
        POOL,
        "run",
    ),
    Row(
        "up-without-gate",
        Outcome.CRASHES,
        "it packs gate and up, and starts from gate",
        repair("sglang", "adds zeros for gate"),
        POOL,
        "run",
    ),
    Row("unexpected-modules", Outcome.CRASHES, "it has no buffer for them", MERGE, POOL, "run"),
    Row("nothing-lands", Outcome.SERVES_WRONG, "it loads, and the base is served", OTHER_BASE, LORA),
    Row("partly-lands", Outcome.SERVES_WRONG, "what has no layer's number is dropped", OTHER_BASE, LORA),
    Row("two-into-one", Outcome.SERVES_WRONG, "the last of them overwrites the other", MERGE, LORA, "run"),
    Row("experts-fused", Outcome.CRASHES, "it has no buffer for fused experts", MERGE, POOL, "run"),
    Row(
        "stray-weights",
        Outcome.SERVES_WRONG,
        "every *.safetensors of the folder is read as the adapter's",
        ALONE,
        LOADER,
    ),
    Row(
        "pinned-beyond-slots",
        Outcome.REJECTS,
        "one slot stays for the base",
        "start SGLang with `--max-loras-per-batch {slots}`, or pin fewer",
        MANAGER,
    ),
    Row(
        "filtered",
        Outcome.REJECTS,
        "the engine was told to put LoRA on other modules",
        "start SGLang with `--lora-target-modules {wanted}`",
        MANAGER,
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
        tp="--tp-size",
        revision="--revision",
        pins=True,
    ),
    packed={**PACKED, "fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa")},
    stacked={"qkv_proj": 3, "gate_up_proj": 2, "fused_qkv_a_proj_with_mqa": 2},
    experts={"gate_up_proj": "gate_up_proj", "down_proj": "down_proj"},
    everywhere=True,
    head_sharded=True,
    twice=frozenset({"embed_tokens", "lm_head"}),
    needs_targets=True,
    choices=frozenset(
        {
            *("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj"),
            *("wq_b", "wk", "weights_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"),
            *("embed_tokens", "lm_head", "qkvr", "wo_ud"),
        }
    ),
    base_slots=1,
    compared=frozenset(
        {
            *("cohere", "deepseek_v2", "deepseek_v3", "gemma", "gemma2", "gemma3_text", "gpt_oss", "granite", "llama"),
            *("mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3", "qwen3_moe"),
        }
    ),
    evidence=POOL,
)
"""A request for the base alone takes a slot, too. Of embedding and head together the pool makes both buffers twice."""

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
        **EVERYWHERE,
        **BY_OWN_NAMES,
        "LC205": Outcome.REJECTS,
        "LC209": Outcome.OK,
        **dict.fromkeys(("LC301", "LC302", "LC306", "LC307", "LC314"), Outcome.CRASHES),
        **dict.fromkeys(("LC208", "LC316", "LC321", "LC322"), Outcome.SERVES_WRONG),
        "LC313": Outcome.REJECTS,
    },
    rank_flag="--max-lora-rank",
    slots=SLOTS,
    unread=frozenset(
        {"sharded", "experts-alone", "experts-incomplete", "base-without-lora", "tower", "named-like-base"}
    ),
)
