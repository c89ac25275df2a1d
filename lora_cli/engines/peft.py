"""PEFT 0.21, which owns the format: the rules without an engine are its. Its rows say what it refuses of all that."""

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines.mend import BASE_CHANGED, NUMBER, repair
from lora_cli.engines.profile import EVERYWHERE, Engine, Grammar, Row

MODEL = "peft/tuners/lora/model.py"
LAYER = "peft/tuners/lora/layer.py"
TUNERS = "peft/tuners/tuners_utils.py"
SAVE_AND_LOAD = "peft/utils/save_and_load.py"


ROWS = (
    Row(
        "required-field-missing",
        Outcome.SERVES_WRONG,
        "it takes its default",
        "write the field",
        "peft/config.py",
        "run",
    ),
    Row("rank-unusable", Outcome.REJECTS, "it has no such factors", NUMBER, LAYER, "run"),
    Row("rank-fraction", Outcome.REJECTS, "it has no such factors", NUMBER, LAYER, "run"),
    Row("alpha-unusable", Outcome.REJECTS, "nothing can be divided that is no number", NUMBER, LAYER, "run"),
    Row(
        "pattern-empty",
        Outcome.REJECTS,
        "it asks for its keys",
        repair("peft", "writes an empty object"),
        TUNERS,
        "run",
    ),
    Row("pattern-untyped", Outcome.REJECTS, "it asks for its keys", "write an object", TUNERS, "run"),
    Row(
        "bias-untyped", Outcome.REJECTS, "it asks how it ends", repair("peft", 'writes "none" for null'), TUNERS, "run"
    ),
    Row(
        "init-iterated",
        Outcome.SERVES_WRONG,
        "it takes the base apart again when it loads, at random, and not as in training",
        BASE_CHANGED,
        LAYER,
        "run",
    ),
    Row("targets-nothing", Outcome.REJECTS, "the base has none of it", "name what was trained", MODEL, "run"),
    Row(
        "pt-alone",
        Outcome.REJECTS,
        "it looks for adapter_model.safetensors and adapter_model.bin",
        repair("peft", "writes adapter_model.safetensors"),
        SAVE_AND_LOAD,
        "run",
    ),
)

ENGINE = Engine(
    name="peft",
    title="PEFT",
    versions=("0.21",),
    rows=ROWS,
    grammars={"0.21": Grammar(prefix="required")},
    generic={**EVERYWHERE, "LC202": Outcome.OK},
)
