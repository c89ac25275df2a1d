"""PEFT 0.21, which owns the format: the rules without an engine are its. Its rows say what it refuses of all that."""

from lora_cli.engines.profile import (
    BASE_CHANGED,
    GENERIC_OUTCOMES,
    NUMBER,
    Engine,
    Grammar,
    rejects,
    repair,
    serves_wrong,
)
from lora_cli.finding import Outcome

MODEL = "peft/tuners/lora/model.py"
LAYER = "peft/tuners/lora/layer.py"
TUNERS = "peft/tuners/tuners_utils.py"
SAVE_AND_LOAD = "peft/utils/save_and_load.py"

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

ROWS = (
    rejects("rank-unusable", "PEFT does not support such a rank", LAYER, "run", NUMBER),
    rejects("rank-fraction", "PEFT does not support such a rank", LAYER, "run", NUMBER),
    rejects("module-rank-unusable", "PEFT does not support such a rank", LAYER, "run", NUMBER),
    rejects("alpha-unusable", "the division fails unless alpha fits a float", LAYER, "run", NUMBER),
    rejects("module-alpha-unusable", "the division fails unless alpha fits a float", LAYER, "run", NUMBER),
    rejects("module-alpha-null", "null cannot be divided", LAYER, "run", NUMBER),
    rejects("pattern-empty", "reading the keys fails", TUNERS, "run", "write an empty object"),
    rejects("pattern-untyped", "reading the keys fails", TUNERS, "run", "write an object"),
    rejects(
        "bias-untyped",
        "PEFT compares the end of the string, which fails",
        TUNERS,
        "run",
        'write "none" in its place',
    ),
    serves_wrong(
        "init-iterated",
        "PEFT decomposes the base again on loading, randomly and differently from training",
        LAYER,
        "run",
        BASE_CHANGED,
    ),
    rejects("targets-nothing", "the base does not have them", MODEL, "run", "list the trained modules"),
    rejects(
        "pt-alone",
        "PEFT looks for adapter_model.safetensors and adapter_model.bin",
        SAVE_AND_LOAD,
        "run",
        repair("peft", "writes adapter_model.safetensors"),
    ),
)

ENGINE = Engine(
    name="peft",
    title="PEFT",
    versions=("0.21",),
    rows=ROWS,
    grammars={"0.21": Grammar(prefix="required")},
    generic={**GENERIC_OUTCOMES, "LC202": Outcome.OK},
    reads_others=False,
)


def method_outcome(peft_type: str | None, model_type: str) -> Outcome | None:
    """The outcome for tensors of LoRA whose config has another ``peft_type``; None if it depends on more than that.

    ``model_type`` is that of the base, empty if that is not known.
    """
    if peft_type not in BUILT:
        return None
    has_defaults = peft_type != "IA3" or not model_type or model_type in IA3_FAMILIES
    return Outcome.SERVES_WRONG if has_defaults else Outcome.REJECTS
