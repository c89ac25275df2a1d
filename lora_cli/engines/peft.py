"""PEFT 0.21, which owns the format: the rules without an engine are its, so it has no rows of its own."""

from lora_cli.engines.profile import EVERYWHERE, Engine, Grammar

ENGINE = Engine(
    name="peft",
    title="PEFT",
    versions=("0.21",),
    rows=(),
    grammars={"0.21": Grammar(prefix="required")},
    generic=EVERYWHERE,
)
