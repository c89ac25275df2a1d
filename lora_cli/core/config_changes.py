"""How two configs differ: field by field, what changes the scale or the meaning of the factors first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lora_cli.core.lora_config import LoraConfig, peft_fields

Effect = Literal["scaling", "meaning", "base", "modules", "unknown", "training"]


EFFECTS: Mapping[str, Effect] = {
    **dict.fromkeys(("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"), "scaling"),
    **dict.fromkeys(
        (
            *("peft_type", "task_type", "use_dora", "lora_bias", "bias", "fan_in_fan_out", "use_qalora"),
            *("qalora_group_size", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
            *("alora_invocation_tokens", "trainable_token_indices", "ensure_weight_tying"),
        ),
        "meaning",
    ),
    **dict.fromkeys(("base_model_name_or_path", "revision"), "base"),
    **dict.fromkeys(
        (
            *("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern"),
            *("layer_replication", "modules_to_save"),
        ),
        "modules",
    ),
}
"""What a field of PEFT's has an effect on, in the order in which differences are told; of all others on training."""

ORDER: tuple[Effect, ...] = ("scaling", "meaning", "base", "modules", "unknown", "training")

ALTERING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` with which PEFT changes the base's weights when it loads the adapter."""

ABSENT = object()


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field of the configs that differs: ``a`` and ``b`` are its values, null where a config has no such field."""

    field: str
    effect: Effect
    """What it changes: scaling, meaning (what is computed), base, modules (which are reached), training (nothing that
    is served), or unknown (PEFT has no such field)."""
    a: Any
    b: Any
    only_a: tuple[str, ...] = ()
    """Of lists of names, those that are only in A's."""
    only_b: tuple[str, ...] = ()


def config_changes(a: LoraConfig | None, b: LoraConfig | None) -> tuple[FieldChange, ...]:
    """The fields whose values differ; one that is left out has PEFT's default. Nothing where a config is missing."""
    if a is None or b is None:
        return ()
    changes = [
        _change(name, _effect(name, a, b), _value(a, name), _value(b, name))
        for name in peft_fields()
        if _plain(_value(a, name)) != _plain(_value(b, name))
    ]
    for name in dict.fromkeys((*a.unknown, *b.unknown)):
        one, other = a.unknown.get(name, ABSENT), b.unknown.get(name, ABSENT)
        if one is ABSENT or other is ABSENT or _typed(one) != _typed(other):
            changes.append(_change(name, "unknown", None if one is ABSENT else one, None if other is ABSENT else other))
    place = {name: number for number, name in enumerate(EFFECTS)}
    return tuple(
        sorted(changes, key=lambda one: (ORDER.index(one.effect), place.get(one.field, len(place)), one.field))
    )


def _value(config: LoraConfig, name: str) -> Any:
    return config.mistyped.get(name, getattr(config, name))


def _effect(name: str, a: LoraConfig, b: LoraConfig) -> Effect:
    if name == "init_lora_weights":
        starts = [str(_value(config, name)).lower() for config in (a, b)]
        return "meaning" if any(start.startswith(ALTERING) for start in starts) else "training"
    return EFFECTS.get(name, "training")


def _plain(value: Any) -> Any:
    """``value`` so that what means the same is equal: names in any order."""
    if isinstance(value, tuple | list) and all(isinstance(one, str) for one in value):
        return frozenset(value)
    return _typed(value)


def _typed(value: Any) -> Any:
    """``value`` with true told from 1 and a list from a tuple not."""
    if isinstance(value, Mapping):
        return {key: _typed(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_typed(one) for one in value]
    return (bool, value) if isinstance(value, bool) else value


def _change(name: str, effect: Effect, a: Any, b: Any) -> FieldChange:
    if isinstance(_plain(a), frozenset) and isinstance(_plain(b), frozenset):
        return FieldChange(name, effect, a, b, tuple(sorted({*a} - {*b})), tuple(sorted({*b} - {*a})))
    return FieldChange(name, effect, a, b)
