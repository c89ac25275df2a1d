"""``adapter_config.json``: the fields and defaults of PEFT 0.21's ``LoraConfig``, and what does not fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_origin

from lora_cli.errors import FormatError
from lora_cli.parse import KINDS, LARGEST, json_object, kind_of
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.text import shown

CONFIG_CAP = 8 << 20
"""Bytes that a config may have: PEFT writes a list of every targeted module, which is far below this."""

MAX_LAYERS = 4096
"""No model is deeper. Rows of a family times layers bounds the memory that a hostile config can ask for."""


@dataclass(frozen=True)
class LoraConfig:
    """The fields of the file. A field that is absent, or has the wrong JSON type, holds PEFT's default.

    Nothing is coerced: ``mistyped`` keeps the raw values of fields with the wrong type, and ``errors`` says what is
    wrong. ``given`` are PEFT's fields that the file has, ``unknown`` keeps what PEFT has no field for. ``duplicates``
    are keys that appear twice in one object (the last one counts, as for PEFT). A list is a tuple here.
    """

    task_type: str | None = None
    peft_type: str | None = None
    auto_mapping: dict[str, Any] | None = None
    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False
    r: int = 8
    target_modules: tuple[str, ...] | str | None = None
    exclude_modules: tuple[str, ...] | str | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    bias: str = "none"
    use_rslora: bool = False
    modules_to_save: tuple[str, ...] | None = None
    init_lora_weights: bool | str = True
    layers_to_transform: tuple[int, ...] | int | None = None
    layers_pattern: tuple[str, ...] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    megatron_config: dict[str, Any] | None = None
    megatron_core: str | None = "megatron.core"
    trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] | None = None
    loftq_config: dict[str, Any] | None = field(default_factory=dict)
    eva_config: dict[str, Any] | None = None
    corda_config: dict[str, Any] | None = None
    lora_ga_config: dict[str, Any] | None = None
    use_dora: bool = False
    velora_config: dict[str, Any] | None = None
    alora_invocation_tokens: tuple[int, ...] | None = None
    use_qalora: bool = False
    qalora_group_size: int | None = 16
    monteclora_config: dict[str, Any] | None = None
    layer_replication: tuple[tuple[int, int], ...] | None = None
    runtime_config: dict[str, Any] | None = None
    lora_bias: bool = False
    target_parameters: tuple[str, ...] | None = None
    use_bdlora: dict[str, Any] | None = None
    arrow_config: dict[str, Any] | None = None
    kasa_config: dict[str, Any] | None = None
    ensure_weight_tying: bool = False
    given: frozenset[str] = frozenset()
    unknown: dict[str, Any] = field(default_factory=dict)
    mistyped: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, FormatError] = field(default_factory=dict)
    duplicates: tuple[str, ...] = ()

    file: ClassVar[str] = CONFIG

    @property
    def base_class(self) -> str:
        """The class of the base model that ``auto_mapping`` names, such as ``BertModel``; empty if it names none."""
        named = (self.auto_mapping or {}).get("base_model_class")
        return named if isinstance(named, str) else ""


PEFT_FIELDS = {one.name: one.type for one in fields(LoraConfig)[:-5]}  # the last five are ours
"""PEFT's fields in their order, with their types."""


def _fit(value: Any, wanted: Any, where: str) -> Any:
    """``value`` as the type ``wanted``; raises ``FormatError``, of a union that of the innermost value that misfits."""
    kinds, errors = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,), list[FormatError]()
    if value is None and (NoneType in kinds or bool in kinds):
        return None if NoneType in kinds else False  # PEFT asks whether a flag is set
    for kind in kinds:
        outer, inner, why = get_origin(kind) or kind, get_args(kind), ""
        try:
            if isinstance(value, list) and outer is tuple:
                found = tuple(_fit(one, inner[0], where + "[]") for one in value)
                if inner[-1] is ... or (len(found) == 2 and found[0] >= 0):
                    return found
                why = "a pair of which the first is at least 0, not"
            elif isinstance(value, dict) and outer is dict:
                return {
                    key: one if inner[1] is Any else _fit(one, inner[1], where + "[]") for key, one in value.items()
                }
            elif type(value) is outer or (type(value) is int and outer is float):
                if outer not in {int, float} or -LARGEST <= value <= LARGEST:
                    return value
                why = f"{'finite' if type(value) is float else 'what a float can hold'}, not"
        except FormatError as error:
            errors.append(error)
        else:
            why = why or f"{KINDS[list if outer is tuple else outer]}, not {kind_of(value)}:"
            errors.append(FormatError(f"must be {why} {shown(value)}", where=where))
    raise max(errors, key=lambda one: len(one.where))


def parse_config(data: bytes | Mapping[str, Any]) -> LoraConfig:
    """Read an ``adapter_config.json`` of any PEFT version.

    Only what cannot be read at all is an error. Whether it is a LoRA (``peft_type``) is for the caller to check.

    Raises:
        FormatError: more than ``CONFIG_CAP`` bytes, not UTF-8, not JSON, or not an object.
    """
    duplicates: list[str] = []
    if isinstance(data, bytes) and len(data) > CONFIG_CAP:
        raise FormatError(f"{len(data)} bytes are over the limit for a config ({CONFIG_CAP})", where=CONFIG)
    raw = json_object(data, CONFIG, duplicates=duplicates) if isinstance(data, bytes) else data
    fitting, errors = dict[str, Any](), dict[str, FormatError]()
    for name in (name for name in PEFT_FIELDS if name in raw):
        try:
            fitting[name] = _fit(raw[name], PEFT_FIELDS[name], "")
        except FormatError as error:
            errors[name] = FormatError(error.reason, where=f"{CONFIG}: {name}")
    return LoraConfig(
        **fitting,
        given=frozenset({*fitting, *errors}),
        unknown={name: value for name, value in raw.items() if name not in PEFT_FIELDS},
        mistyped={name: raw[name] for name in errors},
        errors=errors,
        duplicates=tuple(dict.fromkeys(duplicates)),
    )


def raw_value(config: LoraConfig, name: str) -> Any:
    """The value of a field as the file has it, whatever its type; PEFT's default where it has none."""
    return config.mistyped.get(name, getattr(config, name))
