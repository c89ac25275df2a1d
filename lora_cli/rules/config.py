"""LC2xx: what ``adapter_config.json`` says."""

import math
from collections.abc import Callable, Iterator

from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.core.keys import last_name
from lora_cli.core.lora_config import LoraConfig, type_error
from lora_cli.core.text import counted, cut, names
from lora_cli.rules.case import Case
from lora_cli.rules.rule import rule
from lora_cli.rules.wording import grouped, shown

OLD_FIELDS = frozenset({"enable_lora", "merge_weights"})
"""Fields of PEFT 0.2, which say nothing where they are null or false."""

RANK_AND_ALPHA = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
TARGETS = ("target_modules", "target_parameters")


def _at(config: LoraConfig, field: str) -> Location:
    return Location(config.file, field)


@rule("LC201", "not-lora", Severity.ERROR)
def not_lora(case: Case) -> Iterator[Problem]:
    """The config is not that of a LoRA adapter: ``peft_type`` is missing or names another method.

    *Why is this bad?* PEFT refuses a config without ``peft_type`` and builds another method's layers for another
    type; vLLM does not read the field and loads whatever tensors happen to have LoRA's names.

    *Fix*: set ``"peft_type": "LORA"`` if it is one; adapters of other methods cannot be served as LoRA.
    """
    config, foreign = case.adapter.config, case.adapter.foreign
    if config is None or "peft_type" in config.mistyped or config.peft_type == "LORA":
        return
    if foreign is not None:
        if foreign.file == config.file:
            message = f"peft_type is {shown(config.peft_type)}: this is {foreign.format.title}, not of LoRA"
            if config.peft_type is None:
                message = f"peft_type is missing: this is {foreign.format.title}, not a config of PEFT"
            yield Problem(message, _at(config, "peft_type"), foreign.format.advice)
        return
    if config.peft_type is None:
        yield Problem(
            "peft_type is missing: PEFT refuses it, so it is not known to be a LoRA adapter",
            _at(config, "peft_type"),
            'add "peft_type": "LORA" if it is one',
        )
        return
    close = config.peft_type.strip().upper() == "LORA"
    yield Problem(
        f'peft_type is {shown(config.peft_type)}, not "LORA"',
        _at(config, "peft_type"),
        'write it in capitals: "LORA"' if close else "this is another PEFT method; only LoRA adapters can be served",
    )


@rule("LC202", "rank-invalid", Severity.ERROR, needs=("config",))
def rank_invalid(case: Case) -> Iterator[Problem]:
    """``r``, or a rank in ``rank_pattern``, is not a positive integer, or ``r`` is missing.

    *Why is this bad?* The scaling is ``lora_alpha / r``: with ``"8"`` or 0 loading fails. Without ``r`` PEFT silently
    takes 8 and vLLM refuses the adapter.

    *Fix*: write the rank that the tensors have.
    """
    hint = "write the rank that the tensors have, as a number"
    yield from _numbers(case.config, ("r", "rank_pattern", "a rank"), hint, lambda whose, _: f"; {whose} is at least 1")


@rule("LC203", "alpha-invalid", Severity.ERROR, needs=("config",))
def alpha_invalid(case: Case) -> Iterator[Problem]:
    """``lora_alpha``, or one in ``alpha_pattern``, is not a positive number, or ``lora_alpha`` is missing.

    *Why is this bad?* It scales everything the adapter does: 0 switches it off, NaN poisons every answer, a negative
    one undoes what was learned. Without it PEFT silently takes 8 and vLLM refuses the adapter.

    *Fix*: write the ``lora_alpha`` that the adapter was trained with.
    """
    hint = "write the lora_alpha that the adapter was trained with, as a number"
    yield from _numbers(case.config, ("lora_alpha", "alpha_pattern", "an alpha"), hint, _effect)


def _effect(_: str, alpha: float) -> str:
    return ": the adapter does nothing" if alpha == 0 else ": the adapter is turned around"


def _numbers(
    config: LoraConfig, fields: tuple[str, str, str], hint: str, effect: Callable[[str, float], str]
) -> Iterator[Problem]:
    """A number that is of another type, missing or not above 0, and those of its pattern.

    ``fields`` are the field, that of the pattern, and what one is called; ``effect`` is told that too, and the number.
    """
    name, pattern, noun = fields
    for field in (name, pattern):
        if field in config.mistyped:
            yield Problem(f"{field} {_typed(field, config)}", _at(config, field), hint)
    value = getattr(config, name)
    if name not in config.given:
        yield Problem(f"{name} is missing: PEFT silently takes 8, vLLM refuses the adapter", _at(config, name), hint)
    elif value <= 0:
        yield Problem(f"{name} is {value}{effect(noun, value)}", _at(config, name), hint)
    low = ((key, one) for key, one in getattr(config, pattern).items() if one <= 0)
    said = ((f"{noun} in {pattern} is {one}{effect('it', one)}", key) for key, one in low)
    yield from grouped(said, config.file, "key", hint)


def _typed(field: str, config: LoraConfig) -> str:
    error = type_error(config, field)
    value = config.mistyped[field]
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which is no number"
    return cut(error.reason) if error is not None else f"is {shown(value)}"


@rule("LC204", "field-type", Severity.ERROR, needs=("config",))
def field_type(case: Case) -> Iterator[Problem]:
    """A field has a JSON type that PEFT has no meaning for, like ``"use_rslora": "false"``.

    *Why is this bad?* PEFT does not check types: the string ``"false"`` is true, and changes the scaling of every
    module. What fails at all fails far from here.

    *Fix*: write booleans and numbers without quotes, lists as lists.
    """
    config = case.config
    for field in config.mistyped:
        if field in RANK_AND_ALPHA:
            continue
        yield Problem(f"{field} {_typed(field, config)}", _at(config, field), _type_hint(config.mistyped[field]))


def _type_hint(value: object) -> str:
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return f"write {value.lower()} without quotes; PEFT takes any string that is not empty for true"
    return "write the value with the type that PEFT's LoraConfig has"


@rule("LC205", "targets-missing", Severity.ERROR, needs=("config",))
def targets_missing(case: Case) -> Iterator[Problem]:
    """The config names nothing that the adapter is put on: ``target_modules`` is missing, null or empty.

    *Why is this bad?* PEFT then guesses modules from the base's family, which need not be those that were trained;
    vLLM refuses a config without the field, SGLang one where it is null.

    *Fix*: list the modules that the tensors are for.
    """
    config = case.config
    if any(field in config.mistyped for field in TARGETS):
        return
    if config.target_modules or config.target_parameters or config.trainable_token_indices:
        return
    modules = sorted({last_name(pair.module) for pair in case.adapter.pairs.values()})
    value = "null" if config.target_modules is None else "empty"
    said = f"is {value}" if "target_modules" in config.given else "is missing"
    yield Problem(
        f"target_modules {said}: PEFT guesses the modules from the base's family, engines refuse it",
        _at(config, "target_modules"),
        f"the tensors are for {names(modules, 8)}: list these" if modules else "list the modules that were trained",
    )


@rule("LC206", "duplicate-field", Severity.ERROR, needs=("config",))
def duplicate_field(case: Case) -> Iterator[Problem]:
    """A key stands twice in the JSON.

    *Why is this bad?* Python takes the last one and other parsers the first, so two programs serve two adapters.

    *Fix*: keep the one that is meant.
    """
    config = case.config
    said = (("a key stands twice; which one counts depends on who reads it", key) for key in config.duplicates)
    yield from grouped(said, config.file, "key", "keep the one that is meant")


@rule("LC207", "unknown-field", Severity.WARNING, needs=("config",))
def unknown_field(case: Case) -> Iterator[Problem]:
    """The config has fields that PEFT does not know.

    *Why is this bad?* PEFT drops them with a log line. If a newer PEFT gave them a meaning, or one is a misspelt
    name, the adapter is not served as it was trained.

    *Fix*: correct the name, or upgrade PEFT, or remove the field.
    """
    config = case.config
    if config.unknown.get("enable_lora"):
        yield Problem(
            f"enable_lora is {shown(config.unknown['enable_lora'])}: PEFT 0.2 put LoRA on some parts of a fused "
            "layer only, and no later version does",
            _at(config, "enable_lora"),
            "load it with PEFT 0.2 and merge it into the base, or train it again",
        )
    fields = sorted(name for name, value in config.unknown.items() if name not in OLD_FIELDS or value)
    fields = [name for name in fields if name != "enable_lora"]
    if fields:
        yield Problem(
            f"PEFT does not know {counted(len(fields), 'field')} and ignores it: {names(fields, 5)}"
            if len(fields) == 1
            else f"PEFT does not know {counted(len(fields), 'field')} and ignores them: {names(fields, 5)}",
            _at(config, cut(fields[0])),
            "correct a misspelt name; if another version of PEFT wrote it, check what it changes",
        )


@rule("LC208", "pattern-invalid", Severity.ERROR, needs=("config",))
def pattern_invalid(case: Case) -> Iterator[Problem]:
    """A pattern in the config is not a regular expression, or takes too long to match.

    *Why is this bad?* PEFT hands it to Python's ``re``: it raises, or hangs whoever loads the adapter.

    *Fix*: list the modules by name, or correct the pattern.
    """
    config = case.config
    for error in dict.fromkeys(case.application.errors):
        field = error.where.removeprefix(f"{config.file}: ")
        yield Problem(cut(error.reason), _at(config, cut(field)), error.hint or "list the modules by name")
