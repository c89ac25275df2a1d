"""``adapter_config.json``: the fields and defaults of PEFT 0.21's ``LoraConfig``, and what does not fit it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin

from lora_cli import parse
from lora_cli.errors import FormatError
from lora_cli.refs.adapter_files import CONFIG

CONFIG_CAP = 8 << 20
"""Bytes that a config may have: PEFT writes a list of every targeted module, which is far below this."""

MAX_LAYERS = 4096
"""No model is deeper. Rows of a family times layers bounds the memory that a hostile config can ask for."""

Names = tuple[str, ...]
Sub = Mapping[str, Any]
Ranges = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The fields of the file. A field that is absent, or has the wrong JSON type, holds PEFT's default.

    Nothing is coerced: ``mistyped`` keeps the raw values of fields with the wrong type, and ``errors`` says what is
    wrong. ``unknown`` keeps what PEFT has no field for, ``given`` names PEFT's fields that the file has. ``duplicates``
    are keys that appear twice in one object (the last one counts, as for PEFT). A list is a tuple here.
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
    qalora_group_size: int | None = 16
    monteclora_config: Sub | None = None
    layer_replication: Ranges | None = None
    runtime_config: Sub | None = None
    lora_bias: bool = False
    target_parameters: Names | None = None
    use_bdlora: Sub | None = None
    arrow_config: Sub | None = None
    kasa_config: Sub | None = None
    ensure_weight_tying: bool = False
    unknown: Mapping[str, Any] = field(default_factory=dict)
    mistyped: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, FormatError] = field(default_factory=dict, compare=False)
    given: frozenset[str] = frozenset()
    duplicates: Names = ()
    file: str = CONFIG

    @property
    def base_class(self) -> str:
        """The class of the base model that ``auto_mapping`` names, such as ``BertModel``; empty if it names none."""
        named = (self.auto_mapping or {}).get("base_model_class")
        return named if isinstance(named, str) else ""


def _ranges(value: Any, where: str) -> Ranges:
    ranges = parse.list_of(parse.list_of(parse.integer))(value, where)
    if any(len(one) != 2 or one[0] < 0 for one in ranges) or sum(max(0, b - a) for a, b in ranges) > MAX_LAYERS:
        raise FormatError(f"must be pairs [start, end) of layers, at most {MAX_LAYERS} in all", where=where)
    return ranges


_SIMPLE: Mapping[Any, Callable[[Any, str], Any]] = {
    type(None): lambda _value, _where: None,
    str: parse.text,
    bool: lambda value, where: value is not None and parse.boolean(value, where),  # PEFT asks whether it is set
    int: lambda value, where: parse.number(parse.integer(value, where), where),
    float: parse.number,
    Sub: parse.mapping,
    Ranges: _ranges,
}


def _getter(kind: Any) -> Callable[[Any, str], Any]:
    """The getter of an annotation; of a union, the first member is meant where the value is of no other's type."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    origin, (first, *others) = get_origin(kind), get_args(kind)
    if origin is tuple:
        return parse.list_of(_getter(first))
    if origin is Mapping:
        return parse.map_of(_getter(others[0]))
    otherwise, getters = _getter(first), [(get_origin(one) or one, _getter(one)) for one in others]
    return lambda value, where: next((get for one, get in getters if isinstance(value, one)), otherwise)(value, where)


PEFT_FIELDS = {one.name: _getter(one.type) for one in fields(LoraConfig)[:-6]}  # the last six are ours
"""PEFT's fields in their order, and what gives a value of each back with its type or raises ``FormatError``."""


def parse_config(data: bytes | Mapping[str, Any], file: str = CONFIG) -> LoraConfig:
    """Read an ``adapter_config.json`` of any PEFT version.

    Only what cannot be read at all is an error. Whether it is a LoRA (``peft_type``) is for the caller to check.

    Raises:
        FormatError: more than ``CONFIG_CAP`` bytes, not UTF-8, not JSON, or not an object.
    """
    duplicates: list[str] = []
    if isinstance(data, bytes) and len(data) > CONFIG_CAP:
        raise FormatError(f"{len(data)} bytes are over the limit for a config ({CONFIG_CAP})", where=file)
    raw = parse.json_object(data, file, duplicates=duplicates) if isinstance(data, bytes) else data
    known: dict[str, Any] = {}
    errors: dict[str, FormatError] = {}
    for name in filter(raw.__contains__, PEFT_FIELDS):
        try:
            known[name] = PEFT_FIELDS[name](raw[name], f"{file}: {name}")
        except FormatError as error:
            errors[name] = error
    return LoraConfig(
        **known,
        unknown={name: value for name, value in raw.items() if name not in PEFT_FIELDS},
        mistyped={name: raw[name] for name in errors},
        errors=errors,
        given=frozenset(raw) & PEFT_FIELDS.keys(),
        duplicates=tuple(dict.fromkeys(duplicates)),
        file=file,
    )


def raw_value(config: LoraConfig, name: str) -> Any:
    """The value of a field as the file has it, whatever its type; PEFT's default where it has none."""
    return config.mistyped.get(name, getattr(config, name))
