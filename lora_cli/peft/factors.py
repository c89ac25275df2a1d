"""How the tensors of a module make up its update ``s * B @ A``: which scale, and which shape.

Plain factors are ``a [r, d_in]`` and ``b [d_out, r]``. Others are brought to that: an embedding's have the same shapes;
a convolution's ``a [r, d_in, k, k]`` is read as ``[r, d_in * k * k]``; experts fused in one parameter have ``a [r *
experts, d_in]`` and ``b [d_out, r * experts]``, whose columns go through the experts first (PEFT 0.21,
``tuners/lora/layer.py``, ``ParamWrapper``); BD-LoRA's blocks are below each other, and QALoRA pools inputs in groups
(``tuners/lora/variants.py``, ``tuners/lora/gptq.py``); KaSA puts a diagonal between B and A.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from lora_cli import parse
from lora_cli.adapter.adapter import LoraPair
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import WRAPPER, leaf_of, without_wrappers
from lora_cli.base.base_model import MAX_DIMENSION
from lora_cli.errors import FormatError
from lora_cli.grouping import by_key
from lora_cli.peft.patterns import Matcher, endings
from lora_cli.peft.targets import Scale, scales, targeted

EXPERTS = "experts"
"""The name of the module of fused experts, in every family that has one."""

FIRST = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
"""The order in which the experts of the known families hold their parameters, and PEFT wraps them."""

MOST_PARAMETERS = 16
"""Parameters of one module that are distinguished by names: experts have four."""

Divisors = Callable[[str], tuple[int, int]]
"""By what A's columns (of ``d_in``) and B's columns (of the rank) of a module are divided."""


def possible_scales(
    config: LoraConfig, modules: Iterable[str], wrapped: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[Scale, ...]]:
    """The scale of each module: several where names leave open which of its ``wrapped`` parameters one is for.

    Raises:
        FormatError: as ``scales``.
    """
    paths = {module: wrapped.get(module, (module,)) for module in modules}
    found = scales(config, dict.fromkeys(path for named in paths.values() for path in named))
    return {module: tuple(dict.fromkeys(found[path] for path in named)) for module, named in paths.items()}


def wrapped_by(config: LoraConfig, modules: Mapping[str, LoraPair]) -> dict[str, tuple[str, ...]]:
    """The parameters that each wrapper of ``target_parameters`` may be for: one, or those that names leave open."""
    if not config.target_parameters:
        return {}
    plain = _targeted(config, tuple(modules))
    parts = [name.rpartition(".") for name in config.target_parameters]
    named = by_key((parent, (place, leaf)) for place, (parent, _, leaf) in enumerate(parts))
    guessed = {module: _candidates(named, module, modules, plain) for module in modules}
    return {module: paths for module, paths in guessed.items() if paths}


def _targeted(config: LoraConfig, modules: tuple[str, ...]) -> frozenset[str]:
    """Modules that ``target_modules`` reaches: no wrappers of parameters that are named without their module."""
    try:
        chosen = targeted(config, modules, linear=modules)
    except FormatError:
        return frozenset()
    return frozenset(module for module in chosen if leaf_of(module) != EXPERTS)


def _candidates(
    named: Mapping[str, Sequence[tuple[int, str]]], module: str, modules: Container[str], plain: Container[str]
) -> tuple[str, ...]:
    """By names alone: of several parameters of one module the first is the innermost wrapper.

    ``named`` are the last names of parameters, each with its place, by how their module's path ends.
    """
    stem, depth = _unwrapped(module)
    ends = [end for end in endings(stem) if end] + ([""] if module not in plain else [])
    found = sorted(one for end in ends for one in named.get(end, ())[:MOST_PARAMETERS])
    leaves = list(dict.fromkeys(leaf for _, leaf in found[:MOST_PARAMETERS]))
    if len(leaves) > 1 and set(leaves) <= set(FIRST):
        nested = sum(stem + WRAPPER * level in modules for level in range(len(leaves)))
        if nested == len(leaves):
            leaves = [sorted(leaves, key=FIRST.index)[len(leaves) - 1 - depth]] if depth < len(leaves) else leaves
    return tuple(f"{stem}.{leaf}" for leaf in leaves)


def _unwrapped(module: str) -> tuple[str, int]:
    stem = without_wrappers(module)
    return stem, (len(module) - len(stem)) // len(WRAPPER)


def divisors(config: LoraConfig, *, gptq: bool = False) -> Divisors:
    """By what the columns of each module's factors are divided; 1 and 1 for LoRA's own shapes.

    QALoRA divides on a base of GPTQ's layers only. What is returned raises ``FormatError`` where PEFT refuses the
    module, or where names take too long to compare.

    Raises:
        FormatError: the fields of ``use_bdlora`` are of wrong types.
    """
    if config.use_bdlora is not None:
        return _in_blocks(config.use_bdlora, f"{config.file}: use_bdlora")
    columns = max(1, config.qalora_group_size or 1) if config.use_qalora and gptq else 1
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
        matcher.charge(len(of_a) + len(of_b))
        in_a, in_b = any(name in module for name in of_a), any(name in module for name in of_b)
        if in_a and in_b:
            raise FormatError("names a module for blocks in A and in B: PEFT refuses it", where=where)
        if strict and not (in_a or in_b):
            raise FormatError("names a targeted module neither for A nor for B: PEFT refuses it", where=where)
        return (blocks if in_a else 1), (blocks if in_b else 1)

    return of_module
