"""``config.json`` → ``BaseModel``, by a family's table: fields bounded and typed, with the class's own defaults."""

from collections.abc import Iterator, Mapping
from typing import Any

from lora_cli import parse
from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.base.families import FAMILIES
from lora_cli.base.table import (
    MAX_DIMENSION,
    Bare,
    Family,
    Fields,
    Number,
    Part,
    Row,
    Rows,
    Values,
)
from lora_cli.did_you_mean import did_you_mean
from lora_cli.errors import FormatError
from lora_cli.text import shown

WHERE = "config.json"

Made = tuple[str, BaseModule | tuple[int, ...]]
"""A path, with the module there or the shape of the parameter."""


class UnknownArchitecture(FormatError):
    """A config whose ``model_type`` has no table here, or that has none."""


HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
"""The names of the number of attention heads in the configs of transformers' families."""


def family_of(model_type: str) -> Family:
    """The table of one ``model_type``.

    Raises:
        UnknownArchitecture: there is none.
    """
    if model_type not in FAMILIES:
        raise UnknownArchitecture(
            f"unknown architecture {shown(model_type)}",
            where=f"{WHERE}: model_type",
            hint=did_you_mean(model_type, FAMILIES),
        )
    return FAMILIES[model_type]


def base_from_config(config: Mapping[str, Any], name: str) -> BaseModel:
    """The base model that a ``config.json`` describes, with the module paths of its class for text generation.

    For a multimodal wrapper that is the ``*ForConditionalGeneration`` class; for all others ``*ForCausalLM``.
    A key that is missing means what transformers' config class of the family takes for it. ``name`` is how the user
    called the model.

    Raises:
        UnknownArchitecture: the ``model_type`` has no table, or is missing.
        FormatError: it is an adapter's config, or a field has the wrong type or is beyond what any model has.
    """
    fields = parse.mapping(config, WHERE)
    if "peft_type" in fields:
        raise FormatError("is the config of an adapter", where=WHERE, hint="use the config of its base model")
    if "model_type" not in fields:
        raise UnknownArchitecture("model_type is missing", where=WHERE)
    model_type = parse.text(fields["model_type"], f"{WHERE}: model_type")
    return _build(family_of(model_type), fields, name, source=f"config.json ({model_type}{quantised(fields)})")


def quantised(config: Mapping[str, Any]) -> str:
    """``", quantised: <method>"`` where the config says that the checkpoint is, else an empty string."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return ""
    method = quantization.get("quant_method")
    return f", quantised: {method if isinstance(method, str) else 'by an unknown method'}"


def _build(family: Family, config: Mapping[str, Any], name: str, source: str) -> BaseModel:
    read = [_read_part(part, config) for part in family.parts]
    made = [one for part, values in zip(family.parts, read, strict=True) for one in _of_part(part, values)]
    everything = {
        f"{part.section}.{key}": number
        for part, values in zip(family.parts, read, strict=True)
        for key, number in values.numbers.items()
    }
    made += _rows(family.joint, Values(everything, {}, {}), "")
    text = read[0].numbers
    return BaseModel(
        name=name,
        model_type=str(config["model_type"]),
        modules={path: one for path, one in made if isinstance(one, BaseModule)},
        num_layers=text[family.text.layer_count],
        hidden_size=text[family.hidden_size],
        vocab_size=text["vocab_size"],
        tied_embeddings=any(_tied(family, config, section) for section in family.tied_in),
        parameters={path: one for path, one in made if not isinstance(one, BaseModule)},
        source=source,
        dtype=dtype_of(config),
        heads=heads_of(config, family.text.section),
        architecture=architecture_of(config),
    )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that the config names first; empty where it names none."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first[:128] if isinstance(first, str) else ""


def heads_of(config: Mapping[str, Any], section: str) -> int | None:
    """How many attention heads a layer of the text model has, by any of the names for it; None if it says nothing."""
    fields = config.get(section) if section else config
    if not isinstance(fields, Mapping):
        return None
    found = (fields.get(name) for name in HEADS)
    return next((heads for heads in found if type(heads) is int and heads > 0), None)


def dtype_of(config: Mapping[str, Any]) -> str:
    """The dtype that the config, or the text section of a wrapper's, says that the weights have; empty if none does."""
    text = config.get("text_config")
    for fields in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(dtype := fields.get(key), str):
                return dtype.removeprefix("torch.")[:32]
    return ""


def _tied(family: Family, config: Mapping[str, Any], section: str) -> bool:
    fields = config if not section else config.get(section) or {}
    where = f"{WHERE}: {section}" if section else WHERE
    return read_flag(parse.mapping(fields, where), "tie_word_embeddings", family.tied, where)


def _read_part(part: Part, config: Mapping[str, Any]) -> Values:
    section, where = config, WHERE
    if part.section and not (part.flat and config.get(part.section) is None):
        where = f"{WHERE}: {part.section}"
        section = parse.mapping(config.get(part.section) or {}, where)
        own = section.get("model_type", part.model_type)
        if own not in (part.model_type, *part.also):
            raise FormatError(f"is a {shown(own)}, but only {part.model_type} is supported here", where=where)
    values = read_fields(part.fields, section, where)
    return values._replace(flags={**values.flags, **part.derived(values)}) if part.derived else values


def _of_part(part: Part, values: Values) -> Iterator[Made]:
    """The modules and parameters that one section adds to the model."""
    for path, made in _rows(part.rows, values, ""):
        yield part.prefix + path, made
    count = values.numbers[part.layer_count]
    if count > MAX_LAYERS:
        where = ": ".join(filter(None, (WHERE, part.section, part.layer_count)))
        raise FormatError(f"{count} layers exceed the limit of {MAX_LAYERS}", where=where)
    made_by_kind: dict[str, list[Made]] = {}
    for i in range(count):
        kind = part.layer_kind(values, i) if part.layer_kind else ""
        if kind not in made_by_kind:
            made_by_kind[kind] = _rows(part.layer_rows, values, kind)
        yield from ((f"{part.prefix}{part.layers}.{i}.{path}", made) for path, made in made_by_kind[kind])
    yield from _rows(part.outer, values, "")


def _rows(rows: Rows, values: Values, kind: str) -> list[Made]:
    """The rows that apply to a layer of ``kind``, each made once: layers of a kind share the same values."""
    return [
        (row.path, _make(row, values))
        for row in rows
        if not row.when or row.when == kind or values.flags.get(row.when, False)
    ]


def _make(row: Row | Bare, values: Values) -> BaseModule | tuple[int, ...]:
    if isinstance(row, Bare):
        return tuple(_dimension(part, row.path, values) for part in row.shape)
    bias = row.bias if isinstance(row.bias, bool) else values.flags[row.bias]
    d_in, d_out = _dimension(row.d_in, row.path, values), _dimension(row.d_out, row.path, values)
    return BaseModule(d_in, d_out, row.kind, bias)


def _dimension(expression: str, path: str, values: Values) -> int:
    value = evaluate(expression, values.numbers)
    if value > MAX_DIMENSION:
        raise FormatError(f"{path} would be {value} wide ({expression}), over the limit", where=WHERE)
    return value


def read_fields(fields: Fields, section: Mapping[str, Any], where: str) -> Values:
    """Every field of ``fields`` out of ``section``; ``where`` is what the errors call the section.

    Raises:
        FormatError: a value is of the wrong type or beyond what any model has.
    """
    numbers: dict[str, int] = {}
    flags: dict[str, bool] = {}
    layers: dict[str, frozenset[int]] = {}
    for key, default in fields.items():
        if isinstance(default, bool):
            flags[key] = read_flag(section, key, default, where)
        elif isinstance(default, frozenset):
            if section.get(key) is not None:
                layers[key] = _layer_numbers(section[key], f"{where}: {key}")
        else:
            null = default if isinstance(default, str) else ""
            field = default if isinstance(default, Number) else Number(default, null=null)
            numbers[key] = _number(section, key, field, numbers, where)
    return Values(numbers, flags, layers)


def read_flag(section: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    """A true-or-false field; an explicit null is false, as it is in the modelling code."""
    return parse.boolean(section.get(key, default) or False, f"{where}: {key}")


def _number(section: Mapping[str, Any], key: str, field: Number, above: Mapping[str, int], where: str) -> int:
    used = next((name for name in (key, *field.aliases) if name in section), None)
    at = f"{where}: {used or key}"
    given = field.default if used is None else section[used]
    default = field.null if given is None else field.default if used is None else ""
    if isinstance(default, str) and default:
        return _default(default, above, field, at)
    return parse.integer(given, at, minimum=field.minimum, maximum=field.maximum)


def _default(expression: str, above: Mapping[str, int], field: Number, at: str) -> int:
    value = evaluate(expression, above)
    if not field.minimum <= value <= field.maximum:
        raise FormatError(f"is not set, and {expression} gives {value}", where=at)
    return value


def _layer_numbers(value: Any, where: str) -> frozenset[int]:
    numbers = parse.sequence(value, where)
    if len(numbers) > MAX_LAYERS:
        raise FormatError(f"lists {len(numbers)} layers, over the limit", where=where)
    return frozenset(parse.integer(number, f"{where}[{i}]") for i, number in enumerate(numbers))


def evaluate(expression: str, numbers: Mapping[str, int]) -> int:
    """The value of an expression of ``table``'s grammar.

    Raises:
        ValueError: the expression is not of the grammar, which is a fault of a table, not of a config.
        KeyError: it names a field that the table does not list.
        ZeroDivisionError: a divisor is 0.
    """
    tokens = expression.split()
    if len(tokens) % 2 == 0 or not all(map(_is_operand, tokens[::2])):
        raise ValueError(f"not a dimension: {expression!r}")
    total, term = 0, _operand(tokens[0], numbers)
    for operator, operand in zip(tokens[1::2], tokens[2::2], strict=True):
        value = _operand(operand, numbers)
        if operator == "*":
            term *= value
        elif operator == "//":
            term //= value
        elif operator == "+":
            total, term = total + term, value
        else:
            raise ValueError(f"not a dimension: {expression!r}")
    return total + term


def _is_operand(token: str) -> bool:
    return token.isdecimal() or token.replace(".", "_").isidentifier()


def _operand(token: str, numbers: Mapping[str, int]) -> int:
    return int(token) if token.isdecimal() else numbers[token]
