"""How the tensors of a module make up its update ``s * B @ A``: which scale, how many experts, which shape.

Plain factors are ``a [r, d_in]`` and ``b [d_out, r]``. Others are brought to that: an embedding's have the same shapes;
a convolution's ``a [r, d_in, k, k]`` is read as ``[r, d_in * k * k]``; experts fused in one parameter have ``a [r *
experts, d_in]`` and ``b [d_out, r * experts]``, whose columns go through the experts first (PEFT 0.21,
``tuners/lora/layer.py``, ``ParamWrapper``); BD-LoRA's blocks are below each other, and QALoRA pools inputs in groups
(``tuners/lora/variants.py``, ``tuners/lora/gptq.py``); KaSA puts a diagonal between B and A.
"""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_cli.core import parse
from lora_cli.core.adapter import Adapter, LoraPair
from lora_cli.core.architectures.table import MAX_DIMENSION
from lora_cli.core.base_model import BaseModel
from lora_cli.core.grouping import by_key
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.patterns import Matcher, endings
from lora_cli.core.safetensors import TensorInfo
from lora_cli.core.target_modules import Scale, scales, targeted, wrapped_parameters
from lora_cli.core.tensor_keys import WRAPPER, leaf_of, without_wrappers
from lora_cli.errors import FormatError

MOST_ELEMENTS = 1 << 26
"""Elements of a factor that are read as numbers; that of a vocabulary of 262 144 at rank 256 has as many."""

MOST_TIMES = 4
"""The factor by which fused experts may have more, since their numbers are created one by one."""

MOST_RANK = 2048
"""The highest rank that is supported where the dimensions are higher still: the work grows with its square."""

EXPERTS = "experts"
"""The name of the module of fused experts, in every family that has one."""

FIRST = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
"""The order in which the experts of the known families hold their parameters, and PEFT wraps them."""

MOST_PARAMETERS = 16
"""Parameters of one module that are distinguished by names: experts have four."""

Divisors = Callable[[str], tuple[int, int]]
"""By what A's columns (of ``d_in``) and B's columns (of the rank) of a module are divided."""


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of one module's update.

    ``parameter`` is the path of the fused parameter that it is of, empty for a module; ``r`` the rank of one expert's
    factors, or of the only ones. ``d_out`` and ``d_in`` are those of one expert. ``a_blocks`` and ``b_blocks`` are the
    blocks of BD-LoRA (1: none), ``diagonal`` is KaSA's.
    """

    module: str
    a: TensorInfo
    b: TensorInfo
    r: int
    d_out: int
    d_in: int
    scaling: float
    experts: int = 1
    parameter: str = ""
    embedding: bool = False
    a_blocks: int = 1
    b_blocks: int = 1
    diagonal: TensorInfo | None = None

    @property
    def path(self) -> str:
        """The path that the update is for: the parameter, else the module."""
        return self.parameter or self.module


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A module that has no spectrum, and why."""

    module: str
    reason: str


def factors_of(adapter: Adapter, base: BaseModel | None = None) -> tuple[tuple[Factors, ...], tuple[Unreadable, ...]]:
    """The factors of each module of ``adapter``, and the modules that have no whole ones; pure, and total.

    ``base`` shows which parameter of experts a wrapper is for, where patterns give them different ranks.
    """
    config = adapter.config
    if config is None:
        return (), tuple(Unreadable(module, "without a config its scaling is unknown") for module in adapter.pairs)
    wrapped = wrapped_by(config, adapter.pairs, base)
    diagonals = {key.module: adapter.tensors[name] for name, key in adapter.keys.items() if key.part == "diag"}
    try:
        found = possible_scales(config, adapter.pairs, wrapped)
    except FormatError as error:
        return (), tuple(Unreadable(module, f"its scaling is unknown: {error.message}") for module in adapter.pairs)
    divided = _divisors(config)
    results = [
        _factors(pair, wrapped.get(module), found[module], diagonals, divided) for module, pair in adapter.pairs.items()
    ]
    return (
        tuple(one for one in results if isinstance(one, Factors)),
        tuple(one for one in results if isinstance(one, Unreadable)),
    )


def _divisors(config: LoraConfig) -> Divisors:
    try:
        return divisors(config)
    except FormatError as error:
        wrong = error

    def refused(_: str) -> tuple[int, int]:
        raise wrong

    return refused


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


def wrapped_by(
    config: LoraConfig, modules: Mapping[str, LoraPair], base: BaseModel | None = None
) -> dict[str, tuple[str, ...]]:
    """The parameters that each wrapper of ``target_parameters`` may be for: one, or those that names leave open."""
    if not config.target_parameters:
        return {}
    known: dict[str, str] = {}
    if base is not None:
        known = wrapped_parameters(config, [*(f"{path}.weight" for path in base.modules), *base.parameters])
    plain = _targeted(config, tuple(modules))
    parts = [name.rpartition(".") for name in config.target_parameters]
    named = by_key((parent, (place, leaf)) for place, (parent, _, leaf) in enumerate(parts))
    guessed = {module: _candidates(named, module, modules, plain) for module in modules if module not in known}
    return {
        **{module: (known[module],) for module in modules if module in known},
        **{module: paths for module, paths in guessed.items() if paths},
    }


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


def _factors(
    pair: LoraPair,
    parameters: tuple[str, ...] | None,
    found: tuple[Scale, ...],
    diagonals: Mapping[str, TensorInfo],
    divided: Divisors,
) -> Factors | Unreadable:
    a, b = pair.a, pair.b
    if a is None or b is None:
        return Unreadable(pair.module, f"{'lora_A' if a is None else 'lora_B'} is missing")
    if len(found) > 1:
        reason = "its expert parameter, and so its rank, is only known with a base (--base)"
        return Unreadable(pair.module, reason)
    r, scaling = found[0].r, found[0].scaling
    try:
        blocks = divided(pair.module) if parameters is None else (1, 1)
    except FormatError as error:
        return Unreadable(pair.module, error.message)
    experts = max(1, a.shape[0] // r) if parameters and a.shape else 1
    if reason := _misfit(a, b, blocks) or _beyond(a, b, blocks, experts, scaling):
        return Unreadable(pair.module, reason)
    if a.shape[0] % experts or (parameters and a.shape[0] < r):
        return Unreadable(pair.module, f"lora_A has {a.shape[0]} rows: not a multiple of the rank of its experts, {r}")
    return Factors(
        pair.module,
        a,
        b,
        a.shape[0] // experts,
        b.shape[0],
        math.prod(a.shape[1:]) * blocks[0],
        scaling,
        experts=experts,
        parameter=parameters[0] if parameters and len(parameters) == 1 else "",
        embedding=pair.embedding,
        a_blocks=blocks[0],
        b_blocks=blocks[1],
        diagonal=diagonals.get(pair.module),
    )


def _misfit(a: TensorInfo, b: TensorInfo, blocks: tuple[int, int]) -> str:
    """Why two tensors are no factors of one update; empty when they are."""
    if len(a.shape) < 2 or len(b.shape) < 2 or math.prod(b.shape[2:]) != 1:
        return f"its factors are not matrices: {list(a.shape)} and {list(b.shape)}"
    if a.shape[0] != b.shape[1] * blocks[1] or a.shape[0] % blocks[0] or b.shape[0] % blocks[1]:
        return f"its factors do not fit: lora_A {list(a.shape)} and lora_B {list(b.shape)}"
    if not math.prod(a.shape) or not math.prod(b.shape):
        return f"its factors are empty: {list(a.shape)} and {list(b.shape)}"
    return ""


def _beyond(a: TensorInfo, b: TensorInfo, blocks: tuple[int, int], experts: int, scaling: float) -> str:
    """Why factors that fit are not used; empty when they are."""
    elements = max(math.prod(a.shape) * blocks[0], math.prod(b.shape) * blocks[1])
    if elements > MOST_ELEMENTS * min(experts, MOST_TIMES):
        return f"a factor of it has {elements:,} elements, over the limit"
    r, dimension = a.shape[0] // experts, max(math.prod(a.shape[1:]) * blocks[0], b.shape[0])
    if MOST_RANK < r < dimension:
        return f"its rank is {r}: over the limit of {MOST_RANK}"
    return "" if math.isfinite(scaling) else f"its scaling is {scaling}"


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
