"""``adapter_config.json`` as a model: the fields and defaults of PEFT 0.21's ``LoraConfig``, and what does not fit."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WrapValidator, field_validator
from pydantic import ValidationInfo as Info
from pydantic import ValidatorFunctionWrapHandler as Check

from lora_cli.errors import FormatError
from lora_cli.parse import LARGEST, json_object, kind_of
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.text import shown

CONFIG_CAP = 8 << 20
"""Bytes that a config may have: PEFT writes a list of every targeted module, which is far below this."""

MAX_LAYERS = 4096
"""No model is deeper. Rows of a family times layers bounds the memory that a hostile config can ask for."""

WANTED = {
    **{"string_type": "a string", "int_type": "an integer", "bool_type": "a boolean"},
    **{"float_type": "a number", "finite_number": "finite", "tuple_type": "a list", "dict_type": "an object"},
    **{"missing": "a pair", "too_long": "a pair", "greater_than_equal": "at least 0"},
}
"""What pydantic wants, by the type of its error."""


def _at_once(value: Any, check: Check) -> Any:
    """Ends the validation of an object at its first wrong member, where pydantic would make an error for each.

    The error is that of the innermost value of the wrong type; of a union that has none, its first member is meant.
    """
    try:
        return check(value)
    except ValidationError as error:
        found = max(error.errors(include_url=False, include_context=False), key=lambda one: len(one["loc"]))
    wrong = found["input"]
    fits = not isinstance(wrong, int) or abs(wrong) <= LARGEST
    wanted = f"be {WANTED.get(found['type'], 'valid')}, not {kind_of(wrong)}:" if fits else "fit in a float, not"
    raise FormatError(f"must {wanted} {shown(wrong)}")


LIST, FIRST = Field(fail_fast=True, strict=False), WrapValidator(_at_once)
Flag = Annotated[bool, BeforeValidator(lambda value: value is not None and value)]  # PEFT asks whether it is set
Integer = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Number = Annotated[float, Field(allow_inf_nan=False), WrapValidator(lambda value, check: (check(value), value)[1])]
Names = Annotated[tuple[str, ...], LIST]
Integers = Annotated[tuple[Integer, ...], LIST]
Range = Annotated[tuple[Annotated[int, Field(ge=0)], int], LIST]
Sub = dict[str, Any]


class LoraConfig(BaseModel, frozen=True, strict=True, defer_build=True):
    """The fields of the file. A field that is absent, or has the wrong JSON type, holds PEFT's default.

    Nothing is coerced: ``mistyped`` keeps the raw values of fields with the wrong type, and ``errors`` says what is
    wrong. ``unknown`` keeps what PEFT has no field for. ``duplicates`` are keys that appear twice in one object (the
    last one counts, as for PEFT). A list is a tuple here.
    """

    task_type: str | None = None
    peft_type: str | None = None
    auto_mapping: Sub | None = None
    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: Flag = False
    r: Integer = 8
    target_modules: Names | str | None = None
    exclude_modules: Names | str | None = None
    lora_alpha: Number = 8
    lora_dropout: Number = 0.0
    fan_in_fan_out: Flag = False
    bias: str = "none"
    use_rslora: Flag = False
    modules_to_save: Names | None = None
    init_lora_weights: Flag | str = True
    layers_to_transform: Integers | Integer | None = None
    layers_pattern: Names | str | None = None
    rank_pattern: dict[str, Annotated[Integer, FIRST]] = {}
    alpha_pattern: dict[str, Annotated[Number, FIRST]] = {}
    megatron_config: Sub | None = None
    megatron_core: str | None = "megatron.core"
    trainable_token_indices: Integers | dict[str, Annotated[Integers, FIRST]] | None = None
    loftq_config: Sub | None = {}
    eva_config: Sub | None = None
    corda_config: Sub | None = None
    lora_ga_config: Sub | None = None
    use_dora: Flag = False
    velora_config: Sub | None = None
    alora_invocation_tokens: Integers | None = None
    use_qalora: Flag = False
    qalora_group_size: Integer | None = 16
    monteclora_config: Sub | None = None
    layer_replication: Annotated[tuple[Range, ...], LIST] | None = None
    runtime_config: Sub | None = None
    lora_bias: Flag = False
    target_parameters: Names | None = None
    use_bdlora: Sub | None = None
    arrow_config: Sub | None = None
    kasa_config: Sub | None = None
    ensure_weight_tying: Flag = False
    unknown: Sub = {}
    mistyped: Sub = {}
    errors: dict[str, Any] = {}
    duplicates: tuple[str, ...] = ()

    file: ClassVar[str] = CONFIG

    @field_validator("*", mode="wrap")
    @classmethod
    def _recorded(cls, value: Any, check: Check, info: Info) -> Any:
        """PEFT's default for a value of the wrong type, whose error is put into the context."""
        try:
            return _at_once(value, check)
        except FormatError as error:
            name, context = str(info.field_name), cast(dict[str, FormatError], info.context)
            context[name] = error.within(f"{CONFIG}: {name}")
            return cls.model_fields[name].get_default()

    @property
    def given(self) -> set[str]:
        """PEFT's fields that the file has."""
        return self.model_fields_set.intersection(PEFT_FIELDS)

    @property
    def base_class(self) -> str:
        """The class of the base model that ``auto_mapping`` names, such as ``BertModel``; empty if it names none."""
        named = (self.auto_mapping or {}).get("base_model_class")
        return named if isinstance(named, str) else ""


PEFT_FIELDS = dict.fromkeys(tuple(LoraConfig.model_fields)[:-4])  # the last four are ours
"""PEFT's fields in their order."""


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
    errors: dict[str, FormatError] = {}
    known = LoraConfig.model_validate({name: raw[name] for name in PEFT_FIELDS if name in raw}, context=errors)
    ours = {
        "unknown": {name: value for name, value in raw.items() if name not in PEFT_FIELDS},
        "mistyped": {name: raw[name] for name in errors},
        "errors": errors,
        "duplicates": tuple(dict.fromkeys(duplicates)),
    }
    return known.model_copy(update=ours)


def raw_value(config: LoraConfig, name: str) -> Any:
    """The value of a field as the file has it, whatever its type; PEFT's default where it has none."""
    return config.mistyped.get(name, getattr(config, name))
