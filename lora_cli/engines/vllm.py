"""vLLM: what it makes of an adapter, from 0.31 to 0.33.

Read in ``vllm/lora`` of 0.28 to 0.33, and run on what PEFT wrote; of 0.32 the whole server (make test-engines).
At 0.32 it began to honour the patterns of ranks and alphas, and to refuse what it had served wrongly before.
"""

from lora_cli.core.engine_outcome import Outcome
from lora_cli.core.keys import PAIR_PARTS
from lora_cli.engines.mend import BASE_CHANGED, MERGE, NAMES, NUMBER, OTHER_BASE, SAVE_AGAIN, repair
from lora_cli.engines.profile import BY_OWN_NAMES, EVERYWHERE, Engine, Grammar, Row
from lora_cli.engines.vllm_models import EMBEDDINGS, FUSED_EXPERTS, NO_LORA, SLOTS, TEXT_NAMES

PEFT_HELPER = "vllm/lora/peft_helper.py"
LORA_MODEL = "vllm/lora/lora_model.py"
MANAGER = "vllm/lora/model_manager.py"
UTILS = "vllm/lora/utils.py"
LAYERS = "vllm/lora/layers/base_linear.py"
MODELS = "docs/models/supported_models.md"

NEWER = "serve it with vLLM 0.32 or newer"

ROWS = (
    Row("required-field-missing", Outcome.REJECTS, "the field is required", "write the field", PEFT_HELPER, "run"),
    Row("rank-unusable", Outcome.REJECTS, "nothing can be divided by it", NUMBER, PEFT_HELPER, "run"),
    Row("rank-fraction", Outcome.SERVES_WRONG, "lora_alpha is divided by it", NUMBER, PEFT_HELPER, "run"),
    Row("alpha-unusable", Outcome.REJECTS, "nothing can be divided that is no number", NUMBER, PEFT_HELPER, "run"),
    Row("alpha-harmful", Outcome.SERVES_WRONG, "it scales all that the adapter does", NUMBER, PEFT_HELPER, "run"),
    Row("dora", Outcome.REJECTS, "DoRA is not supported", MERGE, PEFT_HELPER, "run"),
    Row("bias", Outcome.REJECTS, "biases of an adapter are not supported", MERGE, PEFT_HELPER, "run"),
    Row(
        "bias-untyped",
        Outcome.REJECTS,
        'it is not "none"',
        repair("vllm", 'writes "none" for null'),
        PEFT_HELPER,
        "run",
    ),
    Row(
        "modules-to-save",
        Outcome.REJECTS,
        "it takes no saved module but score and classifier, the heads of models that classify",
        MERGE,
        PEFT_HELPER,
        "run",
    ),
    Row("trained-tokens", Outcome.REJECTS, "rows of an embedding are no factors", MERGE, UTILS, "run"),
    Row(
        "saved-head",
        Outcome.REJECTS,
        "only a model that classifies has a place for a head; one that generates has none",
        MERGE,
        UTILS,
        "run",
    ),
    Row("rank-above-max", Outcome.REJECTS, "", "{mend}", PEFT_HELPER, "run"),
    Row("lora-bias", Outcome.REJECTS, "a bias on lora_B is not supported", MERGE, PEFT_HELPER, "run", since="0.32"),
    Row(
        "lora-bias",
        Outcome.SERVES_WRONG,
        "the bias is overwritten by the weight that follows it, silently",
        MERGE,
        UTILS,
        "run",
        until="0.31",
    ),
    Row(
        "module-scales",
        Outcome.SERVES_WRONG,
        "rank_pattern and alpha_pattern are not read, and every module is scaled alike",
        f"{NEWER}, or " + repair("vllm", "folds the scales into lora_B"),
        PEFT_HELPER,
        "run",
        until="0.31",
    ),
    Row(
        "pattern-broken", Outcome.REJECTS, "the pattern is matched when it loads", "", PEFT_HELPER, "run", since="0.32"
    ),
    Row(
        "pattern-untyped", Outcome.REJECTS, "it asks for its keys", "write an object", PEFT_HELPER, "run", since="0.32"
    ),
    Row(
        "init-changes-base",
        Outcome.REJECTS,
        "it may have changed the base's weights in training",
        BASE_CHANGED,
        PEFT_HELPER,
        "run",
        since="0.32",
    ),
    Row(
        "init-changes-base",
        Outcome.SERVES_WRONG,
        "the base's weights are not the ones that it was trained on",
        BASE_CHANGED,
        PEFT_HELPER,
        "run",
        until="0.31",
    ),
    Row(
        "init-not-known",
        Outcome.REJECTS,
        "of those with a name it takes gaussian, eva, orthogonal, mica and lora_ga",
        "set init_lora_weights to true, if it left the base as it was",
        PEFT_HELPER,
        "run",
        since="0.32",
    ),
    Row("alora", Outcome.REJECTS, "activated LoRA is not supported", MERGE, PEFT_HELPER, "run", since="0.32"),
    Row("alora", Outcome.SERVES_WRONG, "it is always active", NEWER, PEFT_HELPER, "run", until="0.31"),
    Row(
        "layer-replication",
        Outcome.REJECTS,
        "replicated layers are not supported",
        MERGE,
        PEFT_HELPER,
        "run",
        since="0.32",
    ),
    Row(
        "layer-replication",
        Outcome.SERVES_WRONG,
        "the base keeps its own layers",
        MERGE,
        PEFT_HELPER,
        "run",
        until="0.31",
    ),
    Row("bdlora", Outcome.REJECTS, "BD-LoRA is not supported", MERGE, PEFT_HELPER, "run", since="0.32"),
    Row("bdlora", Outcome.SERVES_WRONG, "its blocks are taken for factors", MERGE, PEFT_HELPER, "run", until="0.31"),
    Row("qalora", Outcome.REJECTS, "QALoRA is not supported", MERGE, PEFT_HELPER, "run", since="0.32"),
    Row("qalora", Outcome.SERVES_WRONG, "its groups are taken for inputs", MERGE, PEFT_HELPER, "run", until="0.31"),
    Row("arrow", Outcome.SERVES_WRONG, "Arrow's routing is not read", MERGE, PEFT_HELPER, "reasoned"),
    Row(
        "names-outside-grammar",
        Outcome.REJECTS,
        "a tensor with a name that it does not parse refuses the whole adapter",
        repair("vllm", NAMES),
        UTILS,
        "run",
    ),
    Row(
        "unexpected-modules",
        Outcome.REJECTS,
        "its model has no module of that last name",
        "train without these modules, or merge the adapter",
        LORA_MODEL,
        "run",
    ),
    Row(
        "nothing-lands",
        Outcome.SERVES_WRONG,
        "it loads, and the base is served",
        repair("vllm", "corrects the names"),
        MANAGER,
        "run",
    ),
    Row(
        "partly-lands",
        Outcome.SERVES_WRONG,
        "the others are never looked at",
        OTHER_BASE,
        MANAGER,
        "run",
    ),
    Row(
        "tower",
        Outcome.SERVES_WRONG,
        "LoRA on the towers is left out",
        "start vLLM with `--enable-tower-connector-lora`, if its model supports that",
        MANAGER,
    ),
    Row(
        "embedding-rows",
        Outcome.REJECTS,
        "it must be the base's vocabulary",
        "serve a base with that vocabulary",
        LORA_MODEL,
        "run",
    ),
    Row("missing-b", Outcome.REJECTS, "a module without lora_B fails", SAVE_AGAIN, MANAGER, "run"),
    Row("missing-a", Outcome.REJECTS, "a module without lora_A fails", SAVE_AGAIN, MANAGER, "run"),
    Row(
        "missing-a-packed",
        Outcome.SERVES_WRONG,
        "in a packed module that slice stays dead, silently",
        SAVE_AGAIN,
        MANAGER,
        "run",
    ),
    Row("factor-flat", Outcome.REJECTS, "it has no second dimension", "save it again", LAYERS, "run"),
    Row(
        "shape-larger",
        Outcome.REJECTS,
        "it does not fit into the slot's buffer",
        OTHER_BASE,
        LAYERS,
        "run",
    ),
    Row(
        "shape-smaller",
        Outcome.SERVES_WRONG,
        "it is copied into the corner of the slot's buffer, and the rest is zeros",
        OTHER_BASE,
        LAYERS,
        "run",
    ),
    Row(
        "experts-fused",
        Outcome.REJECTS,
        "its model keeps experts apart",
        "start vLLM with `--enable-mixed-moe-lora-format` and load it with `is_3d_lora_weight`",
        MANAGER,
        since="0.32",
    ),
    Row(
        "experts-fused",
        Outcome.SERVES_WRONG,
        "its model keeps experts apart, and the fused factors are never looked at",
        NEWER,
        MANAGER,
        "reasoned",
        until="0.31",
    ),
    Row(
        "experts-alone",
        Outcome.REJECTS,
        "its model needs the factors of gate_up_proj and of down_proj",
        "target both parameters of the experts",
        MANAGER,
    ),
    Row(
        "experts-incomplete",
        Outcome.REJECTS,
        "every expert needs gate, up and down, with one rank each",
        "target all projections of all experts",
        MANAGER,
    ),
    Row(
        "filtered",
        Outcome.SERVES_WRONG,
        "the engine was told to put LoRA on other modules, and does not check the adapter",
        "start vLLM with `--lora-target-modules {wanted}`, or without it",
        MANAGER,
    ),
    Row(
        "base-without-lora",
        Outcome.REJECTS,
        "vLLM's class of that base has no LoRA, and the engine does not start with `--enable-lora`",
        "merge the adapter into the base and serve that as a model",
        MODELS,
    ),
    Row(
        "named-like-base",
        Outcome.REJECTS,
        "an adapter cannot have the name of the base that is served",
        "give the adapter another name",
        "vllm/entrypoints/openai/models/serving.py",
    ),
)

UNTIL_0_31 = Grammar(
    prefix="optional",
    parts=PAIR_PARTS | {"lora_bias"},
    strict=True,
    embeddings=EMBEDDINGS,
    text_names=TEXT_NAMES,
    towers=False,
    experts_apart=True,
)
SINCE_0_32 = Grammar(
    prefix="optional",
    strict=True,
    embeddings=EMBEDDINGS,
    text_names=TEXT_NAMES,
    towers=False,
    experts_apart=True,
)
SINCE_0_33 = Grammar(
    prefix="optional", strict=True, embeddings=EMBEDDINGS, text_names=None, towers=False, experts_apart=True
)

ENGINE = Engine(
    name="vllm",
    title="vLLM",
    versions=("0.31", "0.32", "0.33"),
    rows=ROWS,
    grammars={"0.31": UNTIL_0_31, "0.32": SINCE_0_32, "0.33": SINCE_0_33},
    generic={
        **EVERYWHERE,
        **BY_OWN_NAMES,
        # Judged by its own rows: it reads neither peft_type nor target_modules, and compares shapes by itself.
        **dict.fromkeys(
            (*("LC201", "LC202", "LC203", "LC205", "LC208", "LC209", "LC302", "LC305", "LC310", "LC314"), "LC317"),
            Outcome.OK,
        ),
        "LC308": Outcome.REJECTS,  # an adapter of which nothing is left fails an assertion
        **dict.fromkeys(("LC301", "LC306", "LC316", "LC321", "LC322"), Outcome.SERVES_WRONG),
    },
    ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512),
    default_rank=16,
    rank_flag="--max-lora-rank",
    no_lora=NO_LORA,
    fused_experts=FUSED_EXPERTS,
    slots=SLOTS,
)
