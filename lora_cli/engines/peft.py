"""PEFT 0.21, which owns the format: the rules without an engine are its. Its rows say what it refuses of all that."""

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines.fixes import BASE_CHANGED, NUMBER, repair
from lora_cli.engines.profile import GENERIC_OUTCOMES, Engine, Grammar, rejects, serves_wrong

MODEL = "peft/tuners/lora/model.py"
LAYER = "peft/tuners/lora/layer.py"
TUNERS = "peft/tuners/tuners_utils.py"
SAVE_AND_LOAD = "peft/utils/save_and_load.py"


ROWS = (
    serves_wrong("required-field-missing", "PEFT uses its default", "peft/config.py", "run", "write the field"),
    rejects("rank-unusable", "PEFT does not support such a rank", LAYER, "run", NUMBER),
    rejects("rank-fraction", "PEFT does not support such a rank", LAYER, "run", NUMBER),
    rejects("alpha-unusable", "the division fails unless alpha fits a float", LAYER, "run", NUMBER),
    rejects("pattern-empty", "reading the keys fails", TUNERS, "run", repair("peft", "writes an empty object")),
    rejects("pattern-untyped", "reading the keys fails", TUNERS, "run", "write an object"),
    rejects(
        "bias-untyped",
        "PEFT compares the end of the string, which fails",
        TUNERS,
        "run",
        repair("peft", 'writes "none" for null'),
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
)
