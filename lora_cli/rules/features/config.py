"""Features that the config shows."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lora_cli.adapter.config import LoraConfig, raw_value
from lora_cli.engines.name_resolution import HEADS
from lora_cli.errors import FormatError
from lora_cli.parse import LARGEST
from lora_cli.peft.targets import ALL_LINEAR, matching_keys, targeted_in
from lora_cli.rules.config import LEAST, PATTERNS, disabling_keys
from lora_cli.rules.features.feature import Detect, EngineCase, Found
from lora_cli.rules.rule import shown
from lora_cli.text import cut, names

REQUIRED = ("r", "lora_alpha", "target_modules")
CHANGES_BASE = re.compile(r"(?:pissa|olora|corda|loftq).*", re.IGNORECASE | re.DOTALL)
KNOWN = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""The initialisations that vLLM has in its list, and that leave the base as it was."""

INIT = "init_lora_weights"

IsMeant = Callable[[Any], bool]


def of_config(detect: Callable[[EngineCase, LoraConfig], Iterator[Found]]) -> Detect:
    """The detector of something in the config: nothing is found if the config cannot be read."""

    def guarded(case: EngineCase) -> Iterator[Found]:
        if case.adapter.config is not None:
            yield from detect(case, case.config)

    return guarded


def has_value(is_meant: IsMeant, *fields: str) -> Detect:
    """The detector of fields with a value that ``is_meant``."""

    @of_config
    def detect(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
        for name in fields:
            if is_meant(value := raw_value(config, name)):
                yield Found(f"{name} is {shown(value)}", case.in_config(name))

    return detect


def in_pattern(pattern: str, is_meant: IsMeant, *, used: bool = False) -> Detect:
    """The detector of keys of a pattern with a value that ``is_meant``; with ``used``, of those that a module has."""

    @of_config
    def detect(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
        by_key = raw_value(config, pattern)
        meant = [key for key, value in by_key.items() if is_meant(value)] if isinstance(by_key, Mapping) else []
        if meant and used:
            having = _having(case, config, by_key)
            meant = [key for key in meant if key in having]
        for key in meant:
            yield Found(f"{pattern} {cut(key)} is {shown(by_key[key])}", case.in_config(pattern))

    return detect


def _having(case: EngineCase, config: LoraConfig, by_key: Mapping[str, Any]) -> set[str]:
    """The keys of a pattern that are the first to match a module of the adapter; all, if they cannot be matched."""
    try:
        return {keys[0] for keys in matching_keys(by_key, case.adapter.pairs, config.file).values() if keys}
    except FormatError:
        return set(by_key)


def is_set(*fields: str) -> Detect:
    """The detector of fields that are enabled; an empty list or object does not enable one."""
    return has_value(bool, *fields)


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be divided: an integer may be too large for a float."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= LARGEST
    return isinstance(value, float)


def _changes_base(value: Any) -> bool:
    return isinstance(value, str) and CHANGES_BASE.fullmatch(value) is not None


number_mistyped = has_value(lambda value: not (_is_number(value) or isinstance(value, bool)), "r", "lora_alpha")
pattern_empty = has_value(lambda value: not isinstance(value, Mapping) and not value, *PATTERNS)
pattern_untyped = has_value(lambda value: not isinstance(value, Mapping) and bool(value), *PATTERNS)
rank_unusable = has_value(lambda value: value is not True and not (_is_number(value) and 0 < value < math.inf), "r")
rank_fraction = has_value(
    lambda value: value is True or (isinstance(value, float) and value > 0 and not value.is_integer()), "r"
)
alpha_unusable = has_value(lambda value: not (_is_number(value) or isinstance(value, bool)), "lora_alpha")


def _is_no_rank(value: Any) -> bool:
    """Whether a value of ``rank_pattern`` is not a positive integer; ``true`` counts as 1."""
    return value is not True and not (_is_number(value) and isinstance(value, int) and value > 0)


pattern_rank_unusable = in_pattern("rank_pattern", _is_no_rank)
module_rank_unusable = in_pattern("rank_pattern", lambda value: value is True or _is_no_rank(value), used=True)
module_rank_true = in_pattern("rank_pattern", lambda value: value is True, used=True)
module_alpha_null = in_pattern("alpha_pattern", lambda value: value is None, used=True)
module_alpha_unusable = in_pattern(
    "alpha_pattern", lambda value: not (value is None or _is_number(value) or isinstance(value, bool)), used=True
)


def _is_harmful(value: Any) -> bool:
    return isinstance(value, bool) or (_is_number(value) and not (value >= LEAST and math.isfinite(value)))


@of_config
def alpha_harmful(case: EngineCase, _config: LoraConfig) -> Iterator[Found]:
    """An alpha that is next to 0, negative or NaN. One of 0 for some modules alone is served as it was trained."""
    is_disabling = bool(disabling_keys(case))

    def is_harmful_there(value: Any) -> bool:
        return _is_harmful(value) and not (is_disabling and 0 <= value < LEAST)

    yield from has_value(_is_harmful, "lora_alpha")(case)
    yield from in_pattern("alpha_pattern", is_harmful_there, used=True)(case)


bias = has_value(lambda value: isinstance(value, str) and value != "none", "bias")
bias_untyped = has_value(lambda value: not isinstance(value, str), "bias")
bdlora = is_set("use_bdlora")
init_changes_base = has_value(_changes_base, INIT)
init_not_known = has_value(
    lambda value: isinstance(value, str) and not _changes_base(value) and value.lower() not in KNOWN, INIT
)
init_iterated = has_value(lambda value: isinstance(value, str) and value.startswith("pissa_niter_"), INIT)


def lora_bias(case: EngineCase) -> Iterator[Found]:
    """``lora_bias``, or a tensor ``lora_B.bias``."""
    yield from is_set("lora_bias")(case)
    if case.adapter.config is None or not case.config.lora_bias:
        biases = [key.name for key in case.other_keys if key.part == "lora_bias"]
        if biases:
            yield Found(f"there is {names(biases)}", case.in_weights(biases[0]))


@of_config
def not_lora(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """A ``peft_type`` that is missing or another one."""
    if config.peft_type != "LORA":
        value = "missing" if "peft_type" not in config.given else shown(config.peft_type)
        yield Found(f"peft_type is {value}", case.in_config("peft_type"))


@of_config
def required_field_missing(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """``r``, ``lora_alpha`` or ``target_modules`` is not in the file."""
    missing = [name for name in REQUIRED if name not in config.given]
    if missing:
        yield Found(f"{names(missing)} {'is' if len(missing) == 1 else 'are'} missing", case.in_config())


@of_config
def modules_to_save(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """``modules_to_save`` that names more than a classification head, or that is no list and not empty."""
    value, at = raw_value(config, "modules_to_save"), case.in_config("modules_to_save")
    if isinstance(value, tuple | list | Mapping):
        others = [name if isinstance(name, str) else shown(name) for name in value]
        others = [name for name in others if name not in HEADS]
        if others:
            yield Found(f"modules_to_save has {names(others)}", at)
    elif value:
        yield Found(f"modules_to_save is {shown(value)}", at)


@of_config
def rslora_worded(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """``use_rslora`` that is neither a boolean nor a 1 and counts as true, such as the string ``"false"``."""
    value = raw_value(config, "use_rslora")
    if value and value != 1 and not (isinstance(value, str) and value.lower() == "true"):
        yield Found(f"use_rslora is {shown(value)}", case.in_config("use_rslora"))


@of_config
def targets_pattern(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """``target_modules`` as one string that is not ``all`` or ``all-linear``."""
    targets = config.target_modules
    if isinstance(targets, str) and targets not in {"all", ALL_LINEAR}:
        yield Found(f"target_modules is the string {shown(targets)}", case.in_config("target_modules"))


@of_config
def targets_null(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """``target_modules`` is null."""
    if "target_modules" in config.given:
        yield from has_value(lambda value: value is None, "target_modules")(case)


@of_config
def rslora(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """rsLoRA, if it changes a scale: with rank 1 it does not."""
    if config.use_rslora and config.r > 1:
        right, wrong = config.lora_alpha / config.r**0.5, config.lora_alpha / config.r
        message = f"use_rslora is true: the scale is {right:.4g}, but {wrong:.4g} without it"
        yield Found(message, case.in_config("use_rslora"))


@of_config
def module_scales(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """A module with another scale than the config's, because of ``rank_pattern`` or ``alpha_pattern``."""
    by_module = case.application.scales
    if not by_module:  # with a rank of 0 there is no scale
        return
    common = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    other = [module for module, scale in by_module.items() if abs(scale.scaling - common) > 1e-9 * abs(common)]
    if other:
        yield Found(
            f"the scale of {cut(other[0])} is {by_module[other[0]].scaling:.4g}, and {common:.4g} without the "
            f"patterns ({len(other)} of {len(by_module)} modules)",
            case.in_config("alpha_pattern" if config.alpha_pattern else "rank_pattern"),
        )


@of_config
def pattern_broken(case: EngineCase, config: LoraConfig) -> Iterator[Found]:
    """A key of ``rank_pattern`` or ``alpha_pattern`` that is not a valid regular expression."""
    error = case.application.scales_error
    if error is not None and (config.rank_pattern or config.alpha_pattern) and config.r > 0:
        yield Found(cut(error.reason), case.in_config("rank_pattern" if config.rank_pattern else "alpha_pattern"))


@of_config
def targets_nothing(case: EngineCase, _: LoraConfig) -> Iterator[Found]:
    """The config targets no module of the base, or leaves it to PEFT, which has no default for the family."""
    config, base = case.application.adapter.config, case.base
    if config is None or base is None or config.target_parameters or config.trainable_token_indices:
        return
    at = case.in_config("target_modules")
    try:
        chosen = targeted_in(config, base)
    except FormatError:
        if config.target_modules is None and "target_modules" not in config.mistyped:
            yield Found(f"there is no target_modules, and PEFT has no default for {cut(base.model_type)}", at)
        return
    if not chosen:
        yield Found(f"target_modules is {shown(config.target_modules)}", at, causes=("LC311",))
