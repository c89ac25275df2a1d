"""Where A or B has fewer columns than LoRA's: block-diagonal factors (BD-LoRA), and inputs pooled in groups (QALoRA).

Sources: PEFT 0.21 ``tuners/lora/variants.py`` (``BdLoraLinearVariant``, ``QALoraLinearVariant``) and
``tuners/lora/gptq.py``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lora_cli.core import parse
from lora_cli.core.architectures.table import MAX_DIMENSION
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.patterns import Matcher
from lora_cli.errors import FormatError

Divisors = Callable[[str], tuple[int, int]]
"""By what A's columns (of ``d_in``) and B's columns (of the rank) of a module are divided."""


def divisors(config: LoraConfig, *, gptq: bool = False) -> Divisors:
    """By what the columns of each module's factors are divided; 1 and 1 for LoRA's own shapes.

    QALoRA divides on a base of GPTQ's layers only. What is returned raises ``FormatError`` where PEFT refuses the
    module, or where names take too long to compare.

    Raises:
        FormatError: the fields of ``use_bdlora`` are of wrong types.
    """
    if config.use_bdlora is not None:
        return _in_blocks(config.use_bdlora, f"{config.file}: use_bdlora")
    columns = max(1, config.qalora_group_size) if config.use_qalora and gptq else 1
    return lambda _: (columns, 1)


def _in_blocks(fields: Mapping[str, Any], where: str) -> Divisors:
    names = parse.optional(parse.list_of(parse.text))
    of_a = names(fields.get("target_modules_bd_a"), f"{where}: target_modules_bd_a") or ()
    of_b = names(fields.get("target_modules_bd_b"), f"{where}: target_modules_bd_b") or ()
    blocks = parse.integer(fields.get("nblocks", 1), f"{where}: nblocks", minimum=1, maximum=MAX_DIMENSION)
    strict = parse.boolean(fields.get("match_strict", True), f"{where}: match_strict")
    matcher = Matcher(where)

    def of_module(module: str) -> tuple[int, int]:
        # Anywhere in the path, and no pattern: so PEFT looks for them.
        in_a, in_b = matcher.within(of_a, module), matcher.within(of_b, module)
        if in_a and in_b:
            raise FormatError("names a module for blocks in A and in B: PEFT refuses it", where=where)
        if strict and not (in_a or in_b):
            raise FormatError("names a targeted module neither for A nor for B: PEFT refuses it", where=where)
        return (blocks if in_a else 1), (blocks if in_b else 1)

    return of_module
