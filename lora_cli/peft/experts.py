"""Adapters of transformers 4's time on the models of transformers 5, as far as PEFT brings them there itself.

``experts.0.w1``, ``experts.0.w3`` … are modules to an adapter of that time, and parts of ``experts.gate_up_proj`` to
the model of today. PEFT rewrites the config before it matches anything, and stacks the factors before it loads them.

PEFT rewrites the names of factors (and of nothing else) by transformers' conversions of checkpoints, for the families
that have any; over all others an adapter with old names does nothing.

Sources: PEFT 0.21 ``utils/transformers_weight_conversion.py``, transformers 5 ``conversion_mapping.py``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lora_cli.adapter.adapter import Adapter, LoraPair
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import PAIR_PARTS, PEFT_PREFIX, Key, last_name
from lora_cli.adapter.safetensors import LONGEST_NAME, TensorInfo
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import FormatError
from lora_cli.peft.targets import ALL_LINEAR, named_targets, targeted

Names = Mapping[str, str]
"""The old names of a family's projections → the parameter that each is, or is a part of; in PEFT's order."""

MIXTRAL: Names = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
QWEN2_MOE: Names = {
    "gate": "gate.weight",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "down_proj": "down_proj",
}

OLD_NAMES: Mapping[str, Names] = {
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), MIXTRAL),
    **dict.fromkeys(
        (
            *("afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe"),
            *("exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe"),
            *("longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text"),
            *("qwen3_omni_moe_thinker", "sarvam_mla", "solar_open", "Dots3NoteTextModel", "UnlimitedOcrTextModel"),
        ),
        QWEN2_MOE,
    ),
}
"""The model types whose adapters PEFT rewrites."""

EXPERT = re.compile(r"(.+\.experts)\.([0-9]{1,6})\.([^.]+)", re.DOTALL)

Renames = tuple[tuple[re.Pattern[str], str], ...]

_TOWER: Renames = (
    (re.compile(r"language_model\.model\.(?:model\.)?(?=.)"), "model.language_model."),
    (re.compile(r"model\.language_model\.model\.(?=.)"), "model.language_model."),
    (re.compile(r"(?:model\.)?vision_tower\.vision_model\.(?=.)"), "model.vision_tower."),
)
_WITHOUT_PREFIX: Renames = (
    *_TOWER,
    (re.compile(r"(?=(?:language_model\.(?!lm_head(?:\.|$))|vision_tower\.|multi_modal_projector\.).)"), "model."),
)

RENAMED = frozenset({"gemma3"})
"""The model types with such conversions, of those that are known here."""

_FACTORS = PAIR_PARTS | {"lora_bias", "magnitude", "diag"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter as PEFT has it on a base.

    In ``adapter`` the config is rewritten, and the pairs of experts are as one for each fused parameter, named after
    the first of their tensors. ``refused`` is why PEFT does not take the config. ``unfit`` are modules whose experts
    PEFT fails to stack or drops: (why, module). Both are empty for nearly every adapter and base.
    """

    adapter: Adapter
    refused: FormatError | None = None
    unfit: tuple[tuple[str, str], ...] = ()


def as_loaded(adapter: Adapter, base: BaseModel) -> Loaded:
    """``adapter`` as PEFT has it on ``base``: itself, but for families whose experts were fused or modules renamed."""
    if base.model_type in RENAMED:
        return Loaded(rename_modules(adapter))
    names = OLD_NAMES.get(base.model_type)
    if names is None or adapter.config is None:
        return Loaded(adapter)
    try:
        config = rewrite_config(adapter.config, base)
    except FormatError as error:
        return Loaded(adapter, refused=error)
    # With these families PEFT puts a missing prefix back.
    keys = {name: key if key.prefix else replace(key, prefix=PEFT_PREFIX) for name, key in adapter.keys.items()}
    unfit: list[tuple[str, str]] = []
    pairs = dict(_stacked(adapter, names, config, base, unfit))
    return Loaded(replace(adapter, config=config, keys=keys, pairs=pairs), unfit=tuple(unfit))


def rewrite_config(config: LoraConfig, base: BaseModel) -> LoraConfig:
    """``config`` with the experts' old names as the parameters of ``base`` that they became.

    A regular expression or ``all-linear`` becomes the last names of what it matches, wherever they are. Where two
    projections became one parameter, its rank and alpha are twice those of the config.

    Raises:
        FormatError: it targets one of two projections that are one parameter now.
    """
    names = OLD_NAMES.get(base.model_type)
    if names is None or "target_modules" in config.mistyped:
        return config
    targets = _last_names(config, base, names) if isinstance(config.target_modules, str) else config.target_modules
    if targets is None and isinstance(config.target_modules, str):
        return config
    kept: list[str] = []
    chosen: dict[str, set[str]] = {}
    for target in targets or ():
        old = next((old for old in names if target == old or target.endswith(f".{old}")), None)
        if old is None:
            kept.append(target)
        else:
            chosen.setdefault(names[old], set()).add(old)
    fused = [new for new in chosen if len(_sources(names, new)) > 1]
    for new in fused:
        _require_all(config, names, new, chosen[new])
    return replace(
        config,
        target_modules=tuple(kept),
        target_parameters=tuple(dict.fromkeys((*(config.target_parameters or ()), *chosen))),
        rank_pattern={**config.rank_pattern, **{_pattern(new): config.r * len(chosen[new]) for new in fused}},
        alpha_pattern={
            **config.alpha_pattern,
            **{_pattern(new): config.lora_alpha * len(chosen[new]) for new in fused},
        },
    )


def _pattern(parameter: str) -> str:
    return rf".*\.{re.escape(parameter)}"


def _sources(names: Names, parameter: str) -> list[str]:
    return [old for old, new in names.items() if new == parameter]


def _require_all(config: LoraConfig, names: Names, parameter: str, chosen: set[str]) -> None:
    missing = [old for old in _sources(names, parameter) if old not in chosen]
    if missing:
        raise FormatError(
            f"{' and '.join(sorted(chosen))} is targeted and {' and '.join(missing)} is not, but transformers 5 keeps "
            f"both in one parameter ({parameter}): PEFT refuses the adapter",
            where=f"{config.file}: target_modules",
        )


def _last_names(config: LoraConfig, base: BaseModel, names: Names) -> tuple[str, ...] | None:
    """The last names of what a string targets, the experts' old ones among them; None when it targets nothing."""
    linear = [path for path, module in base.modules.items() if module.kind != "embedding"]
    try:
        if str(config.target_modules).lower() == ALL_LINEAR:
            found = named_targets(config, linear, base.model_type)
            return tuple(dict.fromkeys((*sorted(last_name(path) for path in found), *names)))
        weights = [f"{path}.weight" for path in base.modules]
        paths = dict.fromkeys((*base.modules, *weights, *base.parameters))
        short = [path for path in paths if len(path) <= LONGEST_NAME]
        within = {path[:at] for path in short for at, character in enumerate(path) if character == "."}
        matched = {last_name(path) for path in targeted(config, paths.keys() | within)}
        for old, new in names.items():
            beside = [f"{path.rpartition('.')[0]}.{old}" for path in base.parameters if last_name(path) == new]
            if old not in matched and targeted(config, beside):
                matched.add(old)
    except FormatError:  # the pattern is at fault, which whoever matches the config itself will say
        return None
    return tuple(sorted(matched)) or None


def _stacked(
    adapter: Adapter, names: Names, config: LoraConfig, base: BaseModel, unfit: list[tuple[str, str]]
) -> Iterator[tuple[str, LoraPair]]:
    """The adapter's pairs by module path, experts as one pair a parameter; what does not stack stays as it is."""
    groups: dict[tuple[str, str], dict[str, dict[int, LoraPair]]] = {}
    for module, pair in adapter.pairs.items():
        path = module.replace(".block_sparse_moe.", ".mlp.") if names is MIXTRAL else module
        found = EXPERT.fullmatch(path)
        is_wrapped = any(adapter.keys[factor.name].infixes for factor in pair.factors)
        if found is None or found[3] not in names or is_wrapped:
            yield path, pair if path == module else replace(pair, module=path)
        else:
            members = groups.setdefault((found[1], names[found[3]]), {}).setdefault(found[3], {})
            members[int(found[2])] = pair
    outer = any(last_name(target) == "down_proj" for target in config.target_parameters or ())
    for (container, parameter), roles in groups.items():
        count = base.parameters.get(f"{container}.{parameter}", (0,))[0]
        sources = _sources(names, parameter)
        if reason := _obstacle(sources, roles, count):
            unfit.append((reason, container))
            yield from ((pair.module, pair) for one in roles.values() for pair in one.values())
            continue
        # PEFT takes gate_up_proj for the inner one of two wrappers, whether or not there is an outer one.
        inner = parameter != "down_proj"
        if inner and not outer:
            reason = f"PEFT looks for {parameter} below down_proj, which is not targeted, and drops its factors"
            unfit.append((reason, container))
        module = f"{container}.base_layer" if inner else container
        yield module, _one_pair(module, [roles[old] for old in sources])


def _obstacle(sources: list[str], members: Mapping[str, Mapping[int, LoraPair]], count: int) -> str:
    """Why PEFT cannot stack the experts of one parameter; empty when it can. ``count`` is 0 if no base is known."""
    if missing := [old for old in sources if old not in members]:
        return (
            f"there are factors of {' and '.join(members)} but not of {' and '.join(missing)}, which are one parameter"
        )
    for old, experts in members.items():
        wanted = count or max(max(one) for one in members.values()) + 1
        if len(experts) != wanted or max(experts) >= wanted:
            return f"there are factors of {old} for {len(experts)} of {wanted} experts, and PEFT stacks all of them"
        shapes = {(_shape(pair.a), _shape(pair.b)) for pair in experts.values()}
        if len(shapes) > 1 or any(len(one) != 2 for pair in shapes for one in pair):
            return f"the factors of {old} do not have the same shape for all experts, and PEFT stacks them"
    return ""


def _shape(factor: TensorInfo | None) -> tuple[int, ...]:
    return () if factor is None else factor.shape


def _one_pair(module: str, parts: list[Mapping[int, LoraPair]]) -> LoraPair:
    """``a`` is [experts · ranks, d_in] and ``b`` [widths, experts · ranks]; ``parts`` are in the parameter's order."""
    firsts = [experts[0] for experts in parts]
    a, b = firsts[0].a, firsts[0].b
    assert a is not None
    assert b is not None
    rank = sum(_shape(first.a)[0] for first in firsts) * len(parts[0])
    width = sum(_shape(first.b)[0] for first in firsts)
    return LoraPair(module, replace(a, shape=(rank, a.shape[1])), replace(b, shape=(width, rank)))


def rename_modules(adapter: Adapter) -> Adapter:
    """``adapter`` with the modules of its factors under the names that PEFT loads them by."""
    keys = {name: _renamed_key(key) for name, key in adapter.keys.items()}
    if keys == adapter.keys:
        return adapter
    return replace(adapter, keys=keys, pairs=_renamed_pairs(adapter, keys))


def _renamed_key(key: Key) -> Key:
    if key.part not in _FACTORS or key.infixes or key.prefix not in {"", PEFT_PREFIX}:
        return key
    for pattern, replacement in _TOWER if key.prefix else _WITHOUT_PREFIX:
        if pattern.match(key.module):
            # With PEFT's name for it in memory, PEFT writes that name twice and then finds nothing.
            new = pattern.sub(replacement, key.module, count=1)
            return key if key.adapter_name else replace(key, module=new, prefix=PEFT_PREFIX)
    return key if key.prefix else replace(key, prefix=PEFT_PREFIX)


def _renamed_pairs(adapter: Adapter, keys: Mapping[str, Key]) -> dict[str, LoraPair]:
    pairs: dict[str, LoraPair] = {}
    for pair in adapter.pairs.values():
        factor = pair.a or pair.b
        module = keys[factor.name].module if factor is not None else pair.module
        pairs.setdefault(module, replace(pair, module=module))
    return pairs
