"""vLLM: what it makes of an adapter, from 0.31 to 0.33.

Read in ``vllm/lora`` of 0.28 to 0.33, and run on what PEFT wrote; of 0.32 the whole server (make test-engines).
At 0.32 it began to honour the patterns of ranks and alphas, and to refuse what it had served wrongly before.
"""

from dataclasses import replace

from lora_cli.core.engine_outcome import Outcome
from lora_cli.core.tensor_keys import PAIR_PARTS
from lora_cli.engines.fixes import BASE_CHANGED, NAMES, NUMBER, OTHER_BASE, OTHER_SERVER, SAVE_AGAIN, repair
from lora_cli.engines.profile import GENERIC_OUTCOMES, OWN_NAME_RULES, Engine, Grammar, rejects, serves_wrong
from lora_cli.engines.vllm_models import (
    BLOCK_NAMES,
    EMBEDDINGS,
    EMBEDDINGS_0_31,
    FUSED_EXPERTS,
    HEADS_SINCE,
    LORA_SINCE,
    NO_LORA,
    OWN_0_31,
    PREFIXES,
    REORDERED,
    SLOTS,
    SPLIT,
    TEXT_NAMES,
    UNKNOWN_EMBEDDINGS,
    WITH_LORA,
    WRAPPED,
)

PEFT_HELPER = "vllm/lora/peft_helper.py"
LORA_MODEL = "vllm/lora/lora_model.py"
MANAGER = "vllm/lora/model_manager.py"
UTILS = "vllm/lora/utils.py"
LAYERS = "vllm/lora/layers/base_linear.py"
MODELS = "docs/models/supported_models.md"

NEWER = "serve it with vLLM 0.32 or newer"

ROWS = (
    rejects("required-field-missing", "the field is required", PEFT_HELPER, "run", "write the field"),
    rejects("rank-unusable", "division by the rank fails", PEFT_HELPER, "run", NUMBER),
    serves_wrong("rank-fraction", "lora_alpha is divided by r", PEFT_HELPER, "run", NUMBER),
    rejects("pattern-rank-unusable", "every value is checked", PEFT_HELPER, "run", NUMBER, since="0.32"),
    serves_wrong("module-rank-true", "it counts as 1", PEFT_HELPER, "run", NUMBER, since="0.32"),
    rejects("alpha-unusable", "the division fails unless alpha fits a float", PEFT_HELPER, "run", NUMBER),
    rejects(
        "module-alpha-unusable",
        "the division fails unless alpha fits a float",
        PEFT_HELPER,
        "run",
        NUMBER,
        since="0.32",
    ),
    serves_wrong("alpha-harmful", "alpha scales the whole adapter", PEFT_HELPER, "run", NUMBER),
    serves_wrong("rslora-worded", "any text counts as true", PEFT_HELPER, "run", "write true or false without quotes"),
    rejects("dora", "DoRA is not supported", PEFT_HELPER, "run"),
    rejects("bias", "biases of an adapter are not supported", PEFT_HELPER, "run"),
    rejects("bias-untyped", 'only "none" is supported', PEFT_HELPER, "run", repair("vllm", 'writes "none" for null')),
    rejects(
        "modules-to-save",
        "vLLM only supports the saved modules score and classifier, the heads of classification models",
        PEFT_HELPER,
        "run",
    ),
    rejects("trained-tokens", "rows of an embedding are not factors", UTILS, "run"),
    rejects(
        "saved-head",
        "only models whose architectures name a class for sequence classification take a head",
        UTILS,
        "run",
        until="0.32",
        ran="0.32",
    ),
    rejects(
        "saved-head", "only models whose architectures name a class for classification take a head", UTILS, since="0.33"
    ),
    rejects("rank-above-max", "", PEFT_HELPER, "run", "{mend}"),
    rejects("lora-bias", "a bias on lora_B is not supported", PEFT_HELPER, "run", since="0.32"),
    serves_wrong(
        "lora-bias", "the bias is overwritten by the weight that follows it, silently", UTILS, "run", until="0.31"
    ),
    serves_wrong(
        "module-scales",
        "rank_pattern and alpha_pattern are not read, and all modules have the same scale",
        PEFT_HELPER,
        "run",
        f"{NEWER}, or " + repair("vllm", "folds the scales into lora_B"),
        until="0.31",
    ),
    rejects("pattern-broken", "the pattern is matched when it loads", PEFT_HELPER, "run", "", since="0.32"),
    rejects("pattern-untyped", "reading the keys fails", PEFT_HELPER, "run", "write an object", since="0.32"),
    rejects(
        "init-changes-base",
        "the method may have changed the base's weights in training",
        PEFT_HELPER,
        "run",
        BASE_CHANGED,
        since="0.32",
    ),
    serves_wrong(
        "init-changes-base",
        "the base's weights are not the ones that it was trained on",
        PEFT_HELPER,
        "run",
        BASE_CHANGED,
        until="0.31",
    ),
    rejects(
        "init-not-known",
        "vLLM only supports the names gaussian, eva, orthogonal, mica and lora_ga",
        PEFT_HELPER,
        "run",
        "set init_lora_weights to true, if it left the base unchanged",
        since="0.32",
    ),
    rejects("alora", "activated LoRA is not supported", PEFT_HELPER, "run", since="0.32"),
    serves_wrong("alora", "the adapter is always active", PEFT_HELPER, "run", NEWER, until="0.31"),
    rejects("layer-replication", "replicated layers are not supported", PEFT_HELPER, "run", since="0.32"),
    serves_wrong("layer-replication", "the base keeps its own layers", PEFT_HELPER, "run", until="0.31"),
    rejects("bdlora", "BD-LoRA is not supported", PEFT_HELPER, "run", since="0.32"),
    serves_wrong("bdlora", "its blocks are treated as factors", PEFT_HELPER, "run", until="0.31"),
    rejects("qalora", "QALoRA is not supported", PEFT_HELPER, "run", since="0.32"),
    serves_wrong("qalora", "its groups are treated as inputs", PEFT_HELPER, "run", until="0.31"),
    serves_wrong("arrow", "Arrow's routing is not read", PEFT_HELPER, "reasoned"),
    rejects(
        "names-outside-grammar",
        "vLLM refuses an adapter with a tensor name that it cannot parse",
        UTILS,
        "run",
        repair("vllm", NAMES),
    ),
    serves_wrong("named-twice", "the one that comes last is used", LORA_MODEL, "run", SAVE_AGAIN, ran="0.32"),
    rejects(
        "unexpected-modules",
        "vLLM's model has no module with that last name",
        LORA_MODEL,
        "run",
        "train without these modules, or merge the adapter",
    ),
    serves_wrong(
        "nothing-lands",
        "it loads, but the base is served",
        MANAGER,
        "run",
        repair("vllm", "corrects the names", by_base=True),
    ),
    serves_wrong("partly-lands", "the others are ignored", MANAGER, "run", OTHER_BASE),
    serves_wrong(
        "tower",
        "LoRA on the towers is ignored",
        MANAGER,
        mend="start vLLM with `--enable-tower-connector-lora`, if its model supports that",
    ),
    rejects(
        "embedding-rows", "it must be the base's vocabulary", LORA_MODEL, "run", "serve a base with the same vocabulary"
    ),
    rejects("missing-b", "a module without lora_B fails", MANAGER, "run", SAVE_AGAIN),
    rejects("missing-a", "a module without lora_A fails", MANAGER, "run", SAVE_AGAIN),
    serves_wrong(
        "missing-a-packed", "that part of the packed module is silently left at zero", MANAGER, "run", SAVE_AGAIN
    ),
    rejects("factor-flat", "it has no second dimension", LAYERS, "run", SAVE_AGAIN),
    rejects("shape-larger", "the factor does not fit into the slot's buffer", LAYERS, "run", OTHER_BASE),
    serves_wrong(
        "shape-smaller",
        "the factor is copied into the corner of the slot's buffer; the rest is zeros",
        LAYERS,
        "run",
        OTHER_BASE,
    ),
    serves_wrong(
        "rows-reordered",
        "vLLM reorders the rows of the base's weight for its rotary embedding, but not those of lora_B",
        "vllm/model_executor/models/llama4.py",
        "run",
        ran="0.32",
    ),
    rejects(
        "experts-fused",
        "vLLM's model keeps experts separate",
        MANAGER,
        "run",
        mend="start vLLM with `--enable-mixed-moe-lora-format` and load the adapter with `is_3d_lora_weight`",
        since="0.32",
        ran="0.32",
    ),
    serves_wrong(
        "experts-fused",
        "vLLM's model keeps experts separate, and ignores the fused factors",
        MANAGER,
        "reasoned",
        NEWER,
        until="0.31",
    ),
    rejects(
        "experts-alone",
        "vLLM's model needs the factors of gate_up_proj and of down_proj",
        MANAGER,
        mend="target both parameters of the experts",
    ),
    rejects(
        "experts-incomplete",
        "every expert needs gate, up and down, each with one rank",
        MANAGER,
        mend="target all projections of all experts",
    ),
    serves_wrong(
        "filtered",
        "the engine is configured for LoRA on other modules, and does not check the adapter",
        MANAGER,
        mend="start vLLM with `--lora-target-modules {wanted}`, or without it",
    ),
    rejects(
        "base-without-lora",
        "vLLM has no class with LoRA for this base: the engine exits at start when `--enable-lora` is set",
        MODELS,
        "run",
        ran="0.32",
        mend="merge the adapter into the base and serve that as a model",
    ),
    rejects(
        "other-model",
        "vLLM has no class with LoRA for such a model, and refuses the modules on another base",
        MODELS,
        "run",
        OTHER_SERVER,
        ran="0.32",
    ),
    rejects(
        "named-like-base",
        "an adapter cannot have the name of the base that is served",
        "vllm/entrypoints/openai/models/serving.py",
        mend="give the adapter another name",
    ),
)

SINCE_0_32 = Grammar(
    prefix="optional",
    strict=True,
    embeddings=EMBEDDINGS,
    text_names=TEXT_NAMES,
    wrapped=WRAPPED,
    towers=False,
    experts_apart=True,
)
UNTIL_0_31 = replace(
    SINCE_0_32, parts=PAIR_PARTS | {"lora_bias"}, embeddings=EMBEDDINGS_0_31, wrapped=WRAPPED - OWN_0_31
)
SINCE_0_33 = replace(SINCE_0_32, text_names=None)

ENGINE = Engine(
    name="vllm",
    title="vLLM",
    versions=("0.31", "0.32", "0.33"),
    rows=ROWS,
    grammars={"0.31": UNTIL_0_31, "0.32": SINCE_0_32, "0.33": SINCE_0_33},
    generic={
        **GENERIC_OUTCOMES,
        **OWN_NAME_RULES,
        # Judged by its own rows: it reads neither peft_type nor target_modules, and compares shapes by itself. Of
        # fields of another type it asks whether they are empty, zero or false.
        **dict.fromkeys(
            (
                *("LC201", "LC202", "LC203", "LC204", "LC205", "LC208", "LC209", "LC302", "LC305", "LC310", "LC314"),
                "LC317",
            ),
            Outcome.OK,
        ),
        "LC308": Outcome.REJECTS,  # an adapter of which nothing is left fails an assertion
        **dict.fromkeys(("LC301", "LC306", "LC316", "LC321", "LC322"), Outcome.SERVES_WRONG),
    },
    ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512),
    default_rank=16,
    rank_flag="--max-lora-rank",
    no_lora=NO_LORA,
    lora_since=LORA_SINCE,
    heads_since=HEADS_SINCE,
    with_lora=WITH_LORA,
    fused_experts=FUSED_EXPERTS,
    block_names=BLOCK_NAMES,
    reordered=REORDERED,
    split=SPLIT,
    prefixes=PREFIXES,
    unknown_embeddings=UNKNOWN_EMBEDDINGS,
    reads_others=False,
    slots=SLOTS,
)
