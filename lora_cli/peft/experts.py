"""Adapters of transformers 4's time on the models of transformers 5, as far as PEFT brings them there itself.

``experts.0.w1``, ``experts.0.w3`` … are modules to an adapter of that time, and parts of ``experts.gate_up_proj`` to
the model of today: PEFT rewrites the config before it matches anything, and stacks the factors before it loads them.
The base's family says which names those are; over other families an adapter with old names does nothing.

Sources: PEFT 0.21 ``utils/transformers_weight_conversion.py``, transformers 5 ``conversion_mapping.py``.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from lora_cli.adapter.adapter import PAIR_PARTS, PEFT_PREFIX, Adapter, Key, LoraPair, last_name, pair_up
from lora_cli.adapter.config import LoraConfig
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import FormatError
from lora_cli.peft.targets import targeted
from lora_cli.text import by_key

EXPERT = re.compile(r"(.+\.experts)\.([0-9]{1,6})\.([^.]+)", re.DOTALL)

GEMMA3 = {"language_model.model.": "model.language_model.", "vision_tower.vision_model.": "model.vision_tower."}
"""How the modules of Gemma 3 were called, and are."""
CHILDREN = ("language_model.", "vision_tower.", "multi_modal_projector.")
"""The parts of it that PEFT finds without ``model.`` in names without PEFT's prefix."""

GATED = {"gate": "gate.weight", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
NUMBERED = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
"""The last name of each projection of an expert, and of the router, in transformers 4, where each was a module, to the
parameter that it is, or is a part of, in transformers 5, in the order of the parts.

Experts that all tokens share are modules still, with the same last names. ``NUMBERED`` ones were in a module
``block_sparse_moe``, which is ``mlp`` now.
"""
FAMILIES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), NUMBERED),
    **dict.fromkeys((
        "afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe",
        "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe",
        "longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text",
        "qwen3_omni_moe_thinker", "sarvam_mla", "solar_open", "Dots3NoteTextModel", "UnlimitedOcrTextModel",
    ), GATED),
}  # fmt: skip
"""The experts that PEFT renames, by ``model_type``."""


def as_loaded(adapter: Adapter, base: BaseModel) -> tuple[Adapter, FormatError | None]:
    """``adapter`` as PEFT has it on ``base``, and why PEFT does not take its config.

    It is itself, but for families whose experts were fused or modules renamed: there the config is rewritten, and pairs
    of experts are as one for each fused parameter, named after the first of their tensors. A stacked ``a`` is [experts
    · ranks, d_in], and ``b`` [widths, experts · ranks], by the parameter's parts in order.
    """
    if base.model_type == "gemma3":
        keys = {name: _renamed(key) for name, key in adapter.keys.items()}
        return replace(adapter, keys=keys, pairs=pair_up(adapter.tensors, keys)), None
    experts = FAMILIES.get(base.model_type)
    if experts is None or adapter.config is None:
        return adapter, None
    try:
        config = rewrite_config(adapter.config, base)
    except FormatError as error:
        return adapter, error
    pairs = dict[str, LoraPair]()
    groups: dict[tuple[str, str], dict[tuple[str, int], LoraPair]] = {}
    for module, pair in adapter.pairs.items():
        path = module.replace(".block_sparse_moe.", ".mlp.") if experts is NUMBERED else module
        found, is_odd = EXPERT.fullmatch(path), any(adapter.keys[one.name].infixes for one in pair.factors)
        if found and found[3] in experts and not is_odd:
            groups.setdefault((found[1], experts[found[3]]), {})[found[3], int(found[2])] = pair
        else:
            pairs[path] = replace(pair, module=path)
    for (container, parameter), members in groups.items():
        parts = [old for old, new in experts.items() if new == parameter]
        most = 1 + max(number for _, number in members)
        count = base.parameters.get(f"{container}.{parameter}", (most,))[0]
        shapes = {(part, pair.a and pair.a.shape, pair.b and pair.b.shape) for (part, _), pair in members.items()}
        firsts = [members.get((part, 0)) for part in parts]
        a_and_b = [(first.a, first.b) for first in firsts if first and first.a and first.b]
        if not (len(members) == count * len(parts) == most * len(parts) and len(shapes) == len(a_and_b) == len(parts)):
            pairs |= {pair.module: pair for pair in members.values()}
            continue
        # PEFT takes gate_up_proj for the inner one of two wrappers, whether or not there is an outer one.
        inner = parameter != "down_proj"
        module, (a, b) = f"{container}.base_layer" if inner else container, a_and_b[0]
        rank, width = count * sum(a.shape[0] for a, _ in a_and_b), sum(b.shape[0] for _, b in a_and_b)
        pairs[module] = LoraPair(module, replace(a, shape=(rank, a.shape[1])), replace(b, shape=(width, rank)))
    # With these families PEFT puts a missing prefix back.
    keys = {name: key if key.prefix else replace(key, prefix=PEFT_PREFIX) for name, key in adapter.keys.items()}
    return replace(adapter, config=config, keys=keys, pairs=pairs), None


def rewrite_config(config: LoraConfig, base: BaseModel) -> LoraConfig:
    """``config`` with the experts' old names as the parameters of ``base`` that they became.

    A regular expression or ``all-linear`` becomes the last names of what it matches, wherever they are, so also those
    of shared experts, which are modules still. Where two projections became one parameter, its rank and alpha are
    twice those of the config.

    Raises:
        FormatError: it targets one of two projections that are one parameter now.
    """
    experts, targets = FAMILIES.get(base.model_type), config.target_modules
    if experts is None:
        return config
    if isinstance(targets, str):
        olds = [
            p.removesuffix(new) + old for old, new in experts.items() for p in base.parameters if p.endswith(f".{new}")
        ]
        linear = [path for path, module in base.modules.items() if module.kind != "embedding"]
        try:
            found = targeted(config, [*base.modules, *olds], linear=[*linear, *olds])
        except FormatError:  # the pattern is at fault, which whoever matches the config itself will say
            return config
        targets = tuple(sorted({last_name(path) for path in found}))
    if not targets or "target_modules" in config.mistyped:
        return config
    named = {last_name(target) for target in targets}
    fused = by_key((new, old) for old, new in experts.items() if old in named)
    for new, olds in fused.items():
        if missing := [old for old, whole in experts.items() if whole == new and old not in named]:
            message = f"{' and '.join(missing)} is not targeted, but one parameter with {', '.join(olds)}"
            raise FormatError(message, where=f"{config.file}: target_modules")
    twice = {f".*\\.{new}": len(olds) for new, olds in fused.items() if len(olds) > 1}
    fields = {
        "target_modules": tuple(target for target in targets if last_name(target) not in experts),
        "target_parameters": tuple(dict.fromkeys((*(config.target_parameters or ()), *fused))),
        "rank_pattern": {**config.rank_pattern, **{one: config.r * times for one, times in twice.items()}},
        "alpha_pattern": {**config.alpha_pattern, **{one: config.lora_alpha * times for one, times in twice.items()}},
    }
    return config.model_copy(update=fields)


def _renamed(key: Key) -> Key:
    """The name by which PEFT loads a factor of Gemma 3."""
    factor = key.part in PAIR_PARTS | {"lora_bias", "magnitude", "diag"}
    if not factor or key.infixes or key.prefix not in {"", PEFT_PREFIX}:
        return key
    old = next((old for old in GEMMA3 if key.module.startswith(old)), "")
    new = GEMMA3.get(old, "") + key.module.removeprefix(old)
    if not key.prefix and new.startswith(CHILDREN) and not new.startswith("language_model.lm_head"):
        new = f"model.{new}"
    # With PEFT's name for it in memory, PEFT writes that name twice and then finds nothing.
    return key if key.adapter_name and new != key.module else replace(key, module=new, prefix=PEFT_PREFIX)
