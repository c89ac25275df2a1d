"""PEFT 0.21, which owns the format: the rules without an engine are its. Its rows say what it refuses of all that."""

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines.profile import EVERYWHERE, Engine, Grammar, Row

MODEL = "peft/tuners/lora/model.py"
LAYER = "peft/tuners/lora/layer.py"

ROWS = (
    Row("number-mistyped", Outcome.REJECTS, "it cannot be divided", "write it as a number", LAYER, "run"),
    Row("targets-nothing", Outcome.REJECTS, "the base has none of it", "name what was trained", MODEL, "run"),
)

ENGINE = Engine(
    name="peft",
    title="PEFT",
    versions=("0.21",),
    rows=ROWS,
    grammars={"0.21": Grammar(prefix="required")},
    generic=EVERYWHERE,
)
