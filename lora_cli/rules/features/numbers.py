"""Features of the config's numbers and words, where they are none that an engine can reckon with."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lora_cli.core.finding import Location
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.text import cut
from lora_cli.rules.features.feature import Found, Served
from lora_cli.rules.wording import shown

ITERATED = "pissa_niter_"


def _written(config: LoraConfig, name: str) -> Any:
    return config.mistyped.get(name, getattr(config, name))


def _numbers(config: LoraConfig, common: str, pattern: str) -> Iterator[tuple[str, str, Any]]:
    """Field, what it is called in a message, and value: of the common one and of each that a pattern has."""
    if common in config.given:
        yield common, common, _written(config, common)
    by_pattern = _written(config, pattern)
    if isinstance(by_pattern, Mapping):
        yield from ((pattern, f"{pattern} {cut(key)}", value) for key, value in by_pattern.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def rank_unusable(served: Served) -> Iterator[Found]:
    """``r`` that is no number above 0, or a rank of ``rank_pattern`` that is no whole one."""
    if (config := served.config) is None:
        return
    for field, called, value in _numbers(config, "r", "rank_pattern"):
        whole = field == "r" or isinstance(value, int)
        if not (_is_number(value) and whole and value > 0):
            yield Found(f"{called} is {shown(value)}", Location(config.file, field))


def rank_fraction(served: Served) -> Iterator[Found]:
    """``r`` that is a fraction."""
    config = served.config
    value = config.mistyped.get("r") if config is not None else None
    if config is not None and isinstance(value, float) and value > 0 and not value.is_integer():
        yield Found(f"r is {shown(value)}", Location(config.file, "r"))


def alpha_unusable(served: Served) -> Iterator[Found]:
    """``lora_alpha``, or an alpha of ``alpha_pattern``, that is no number."""
    if (config := served.config) is not None:
        for field, called, value in _numbers(config, "lora_alpha", "alpha_pattern"):
            if not _is_number(value):
                yield Found(f"{called} is {shown(value)}", Location(config.file, field))


def alpha_harmful(served: Served) -> Iterator[Found]:
    """``lora_alpha``, or an alpha of ``alpha_pattern``, that is 0, negative or not finite."""
    if (config := served.config) is not None:
        for field, called, value in _numbers(config, "lora_alpha", "alpha_pattern"):
            if _is_number(value) and not (value > 0 and math.isfinite(value)):
                yield Found(f"{called} is {shown(value)}", Location(config.file, field))


def pattern_empty(served: Served) -> Iterator[Found]:
    """``rank_pattern`` or ``alpha_pattern`` that is no object, and empty: null, 0, an empty list."""
    return _patterns_of_another_type(served, is_empty=True)


def pattern_untyped(served: Served) -> Iterator[Found]:
    """``rank_pattern`` or ``alpha_pattern`` that is a list, a word or a number."""
    return _patterns_of_another_type(served, is_empty=False)


def _patterns_of_another_type(served: Served, *, is_empty: bool) -> Iterator[Found]:
    if (config := served.config) is not None:
        for field in ("rank_pattern", "alpha_pattern"):
            value = _written(config, field)
            if not isinstance(value, Mapping) and is_empty != bool(value):
                yield Found(f"{field} is {shown(value)}", Location(config.file, field))


def bias_untyped(served: Served) -> Iterator[Found]:
    """``bias`` that is no string, null among them."""
    config = served.config
    if config is not None and "bias" in config.mistyped:
        yield Found(f"bias is {shown(config.mistyped['bias'])}", Location(config.file, "bias"))


def init_iterated(served: Served) -> Iterator[Found]:
    """PiSSA by a randomised decomposition."""
    config = served.config
    how = config.init_lora_weights if config is not None else None
    if config is not None and isinstance(how, str) and how.startswith(ITERATED):
        yield Found(f"init_lora_weights is {shown(how)}", Location(config.file, "init_lora_weights"))
