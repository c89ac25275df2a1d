"""``adapter_config.json``: PEFT's ``LoraConfig`` under its own field names, what does not fit it, and how two differ.

Fields and defaults are those of PEFT 0.21 (``tuners/lora/config.py``, ``config.py``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from lora_cli import parse
from lora_cli.errors import FormatError
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.text import shown

CONFIG_CAP = 8 << 20
"""Bytes that a config may have: PEFT writes a list of every targeted module, which is far below this."""

MAX_LAYERS = 4096
"""No model is deeper. Rows of a family times layers bounds the memory that a hostile config can ask for."""

GROUP_SIZE = 16
"""PEFT's ``qalora_group_size``."""

Names = tuple[str, ...]
Sub = Mapping[str, Any]

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
"""The effect of each of PEFT's fields, in the order in which differences are listed; all others affect training."""

ORDER: tuple[Effect, ...] = ("scaling", "meaning", "base", "modules", "unknown", "training")

ALTERING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` with which PEFT changes the base's weights when it loads the adapter."""

ABSENT = object()


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The fields of the file. A field that is absent, or has the wrong JSON type, holds PEFT's default.

    ``mistyped`` keeps the raw values of fields with the wrong type, by name: nothing is coerced, so ``"r": "8"`` leaves
    ``r`` at its default and is here. ``unknown`` keeps what PEFT has no field for. ``given`` names every field that the
    file has. ``duplicates`` are keys that appear twice in one object (the last one counts, as for PEFT). A list is a
    tuple here. The nested configs of LoRA's variants (``kasa_config``…) are plain mappings.
    """

    task_type: str | None = None
    peft_type: str | None = None
    auto_mapping: Sub | None = None
    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False
    r: int = 8
    target_modules: Names | str | None = None
    exclude_modules: Names | str | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    bias: str = "none"
    use_rslora: bool = False
    modules_to_save: Names | None = None
    init_lora_weights: bool | str = True
    layers_to_transform: tuple[int, ...] | int | None = None
    layers_pattern: Names | str | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    megatron_config: Sub | None = None
    megatron_core: str | None = "megatron.core"
    trainable_token_indices: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None
    loftq_config: Sub | None = field(default_factory=dict)
    eva_config: Sub | None = None
    corda_config: Sub | None = None
    lora_ga_config: Sub | None = None
    use_dora: bool = False
    velora_config: Sub | None = None
    alora_invocation_tokens: tuple[int, ...] | None = None
    use_qalora: bool = False
    qalora_group_size: int = GROUP_SIZE
    monteclora_config: Sub | None = None
    layer_replication: tuple[tuple[int, ...], ...] | None = None
    runtime_config: Sub | None = None
    lora_bias: bool = False
    target_parameters: Names | None = None
    use_bdlora: Sub | None = None
    arrow_config: Sub | None = None
    kasa_config: Sub | None = None
    ensure_weight_tying: bool = False
    unknown: Mapping[str, Any] = field(default_factory=dict)
    mistyped: Mapping[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    duplicates: Names = ()
    file: str = CONFIG

    @property
    def base_class(self) -> str:
        """The class of the base model that ``auto_mapping`` names, such as ``BertModel``; empty if it names none."""
        named = (self.auto_mapping or {}).get("base_model_class")
        return named if isinstance(named, str) else ""


Getter = Callable[[Any, str], Any]
"""Gives a value back with its type; raises ``FormatError`` (``parse``)."""


def _either(kind: type, of_kind: Getter, otherwise: Getter) -> Getter:
    """``of_kind`` for a value of ``kind``, else ``otherwise``."""
    return lambda value, where: (of_kind if isinstance(value, kind) else otherwise)(value, where)


def _null_is(default: Any, getter: Getter) -> Getter:
    return lambda value, where: default if value is None else getter(value, where)


def _ranges(value: Any, where: str) -> tuple[tuple[int, ...], ...]:
    ranges = parse.list_of(parse.list_of(parse.integer))(value, where)
    for i, one in enumerate(ranges):
        if len(one) != 2:
            raise FormatError(f"must be a pair [start, end), not {len(one)} numbers", where=f"{where}[{i}]")
        if one[0] < 0:
            raise FormatError(f"must start at layer 0 or above, not at {shown(one[0])}", where=f"{where}[{i}]")
    if sum(max(0, end - start) for start, end in ranges) > MAX_LAYERS:
        raise FormatError(f"covers more than {MAX_LAYERS} layers, over the limit", where=where)
    return ranges


def _rank(value: Any, where: str) -> int:
    """A rank. However large it is, engines read it and compare it; only one beyond a float cannot be divided by."""
    rank = parse.integer(value, where)
    parse.number(rank, where)
    return rank


_TEXTS = parse.list_of(parse.text)
_INTEGERS = parse.list_of(parse.integer)
# As for PEFT, which asks whether it is set.
_SWITCH = _null_is(False, parse.boolean)

_BY_TYPE: Mapping[Any, Getter] = {
    bool: _SWITCH,
    str: parse.text,
    float: parse.number,
    str | None: parse.optional(parse.text),
    Sub | None: parse.optional(parse.mapping),
    Names | None: parse.optional(_TEXTS),
    Names | str | None: parse.optional(_either(str, parse.text, _TEXTS)),
    tuple[int, ...] | None: parse.optional(_INTEGERS),
    tuple[int, ...] | int | None: parse.optional(_either(int, parse.integer, _INTEGERS)),
}

OURS = frozenset({"unknown", "mistyped", "given", "duplicates", "file"})
"""The fields of ``LoraConfig`` that are not PEFT's."""

GETTERS: Mapping[str, Getter] = {
    **{one.name: _BY_TYPE[one.type] for one in fields(LoraConfig) if one.type in _BY_TYPE and one.name not in OURS},
    "r": _rank,
    "init_lora_weights": _either(str, parse.text, _SWITCH),
    "rank_pattern": parse.map_of(_rank),
    "alpha_pattern": parse.map_of(parse.number),
    "trainable_token_indices": parse.optional(_either(Mapping, parse.map_of(_INTEGERS), _INTEGERS)),
    # PEFT looks at it with QALoRA only.
    "qalora_group_size": _null_is(GROUP_SIZE, parse.integer),
    "layer_replication": parse.optional(_ranges),
}
"""The getter of each of PEFT's fields, by its type where nothing else is said."""


def parse_config(data: bytes | Mapping[str, Any], file: str = CONFIG) -> LoraConfig:
    """Read an ``adapter_config.json`` of any PEFT version.

    Only what cannot be read at all is an error; a field of the wrong type is kept in ``mistyped``, and whether it is a
    LoRA at all (``peft_type``) is for the caller to check.

    Raises:
        FormatError: more than ``CONFIG_CAP`` bytes, not UTF-8, not JSON, or not an object.
    """
    duplicates: list[str] = []
    if isinstance(data, bytes):
        if len(data) > CONFIG_CAP:
            raise FormatError(f"{len(data)} bytes are over the limit for a config ({CONFIG_CAP})", where=file)
        raw = parse.json_object(data, file, duplicates=duplicates)
    else:
        raw = dict(data)
    known: dict[str, Any] = {}
    mistyped: dict[str, Any] = {}
    for name in peft_fields():
        if name in raw:
            try:
                known[name] = GETTERS[name](raw[name], f"{file}: {name}")
            except FormatError:
                mistyped[name] = raw[name]
    return LoraConfig(
        **known,
        unknown={name: value for name, value in raw.items() if name not in GETTERS},
        mistyped=mistyped,
        given=frozenset(raw) & GETTERS.keys(),
        duplicates=tuple(dict.fromkeys(duplicates)),
        file=file,
    )


def type_error(config: LoraConfig, name: str) -> FormatError | None:
    """The type error of a field ("must be an integer, not a string"), with its place; None if there is none."""
    if name not in config.mistyped:
        return None
    try:
        GETTERS[name](config.mistyped[name], f"{config.file}: {name}")
    except FormatError as error:
        return error
    return None


def peft_fields() -> tuple[str, ...]:
    """The names of PEFT's fields, in order."""
    return tuple(one.name for one in fields(LoraConfig) if one.name not in OURS)


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field of the configs that differs: ``a`` and ``b`` are its values, null if a config has no such field."""

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
    """The fields whose values differ; one that is left out has PEFT's default. Nothing if a config is missing."""
    if a is None or b is None:
        return ()
    changes = [
        _change(name, _effect(name, a, b), raw_value(a, name), raw_value(b, name))
        for name in peft_fields()
        if _plain(raw_value(a, name)) != _plain(raw_value(b, name))
    ]
    for name in dict.fromkeys((*a.unknown, *b.unknown)):
        one, other = a.unknown.get(name, ABSENT), b.unknown.get(name, ABSENT)
        if one is ABSENT or other is ABSENT or _typed(one) != _typed(other):
            changes.append(_change(name, "unknown", None if one is ABSENT else one, None if other is ABSENT else other))
    place = {name: number for number, name in enumerate(EFFECTS)}
    return tuple(
        sorted(changes, key=lambda one: (ORDER.index(one.effect), place.get(one.field, len(place)), one.field))
    )


def raw_value(config: LoraConfig, name: str) -> Any:
    """The value of a field as the file has it, whatever its type; PEFT's default where it has none."""
    return config.mistyped.get(name, getattr(config, name))


def _effect(name: str, a: LoraConfig, b: LoraConfig) -> Effect:
    if name == "init_lora_weights":
        starts = [str(raw_value(config, name)).lower() for config in (a, b)]
        return "meaning" if any(start.startswith(ALTERING) for start in starts) else "training"
    return EFFECTS.get(name, "training")


def _plain(value: Any) -> Any:
    """``value`` so that what means the same is equal: names in any order."""
    if isinstance(value, tuple | list) and all(isinstance(one, str) for one in value):
        return frozenset(value)
    return _typed(value)


def _typed(value: Any) -> Any:
    """``value`` that distinguishes true from 1, but not a list from a tuple."""
    if isinstance(value, Mapping):
        return {key: _typed(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_typed(one) for one in value]
    return (bool, value) if isinstance(value, bool) else value


def _change(name: str, effect: Effect, a: Any, b: Any) -> FieldChange:
    if isinstance(_plain(a), frozenset) and isinstance(_plain(b), frozenset):
        return FieldChange(name, effect, a, b, tuple(sorted({*a} - {*b})), tuple(sorted({*b} - {*a})))
    return FieldChange(name, effect, a, b)
