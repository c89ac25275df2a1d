"""A family's table and a config → the ``BaseModel``."""

from collections.abc import Mapping
from typing import Any

from lora_cli.core import parse
from lora_cli.core.architectures.expression import evaluate
from lora_cli.core.architectures.fields import read_fields, read_flag
from lora_cli.core.architectures.table import MAX_DIMENSION, MAX_LAYERS, Bare, Family, Part, Row, Rows, Values
from lora_cli.core.base_model import BaseModel, BaseModule
from lora_cli.core.text import shown
from lora_cli.errors import FormatError

WHERE = "config.json"


class _Tree:
    """The modules and parameters that rows have named so far."""

    def __init__(self) -> None:
        self.modules: dict[str, BaseModule] = {}
        self.parameters: dict[str, tuple[int, ...]] = {}

    def put(self, path: str, made: BaseModule | tuple[int, ...]) -> None:
        if isinstance(made, BaseModule):
            self.modules[path] = made
        else:
            self.parameters[path] = made


def build(family: Family, config: Mapping[str, Any], name: str, source: str) -> BaseModel:
    """The base model that ``config`` describes by the rows of ``family``.

    Raises:
        FormatError: a field that the rows need has the wrong type or is beyond what any model has.
    """
    tree = _Tree()
    read = [_read_part(part, config) for part in family.parts]
    for part, values in zip(family.parts, read, strict=True):
        _grow(tree, part, values)
    everything = {
        f"{part.section}.{key}": number
        for part, values in zip(family.parts, read, strict=True)
        for key, number in values.numbers.items()
    }
    for bare in family.joint:
        tree.put(bare.path, _make(bare, Values(everything, {}, {})))
    text = read[0].numbers
    return BaseModel(
        name=name,
        model_type=str(config["model_type"]),
        modules=tree.modules,
        num_layers=text[family.parts[0].layer_count],
        hidden_size=text[family.hidden_size],
        vocab_size=text["vocab_size"],
        tied_embeddings=any(_tied(family, config, section) for section in family.tied_in),
        parameters=tree.parameters,
        source=source,
        dtype=dtype_of(config),
        kv_heads=text.get("num_key_value_heads"),
    )


def dtype_of(config: Mapping[str, Any]) -> str:
    """The dtype that the config, or the text section of a wrapper's, says that the weights have; empty if none does."""
    text = config.get("text_config")
    for fields in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(said := fields.get(key), str):
                return said.removeprefix("torch.")[:32]
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
            raise FormatError(f"is a {shown(own)}, and only {part.model_type} is known here", where=where)
    values = read_fields(part.fields, section, where)
    return values._replace(flags={**values.flags, **part.derived(values)}) if part.derived else values


def _grow(tree: _Tree, part: Part, values: Values) -> None:
    for path, made in _rows(part.rows, values, ""):
        tree.put(part.prefix + path, made)
    count = values.numbers[part.layer_count]
    if count > MAX_LAYERS:
        raise FormatError(f"{count} layers are more than the {MAX_LAYERS} that any model has", where=_at(part))
    made_by_kind: dict[str, list[tuple[str, BaseModule | tuple[int, ...]]]] = {}
    for i in range(count):
        kind = part.layer_kind(values, i) if part.layer_kind else ""
        if kind not in made_by_kind:
            made_by_kind[kind] = _rows(part.layer_rows, values, kind)
        for path, made in made_by_kind[kind]:
            tree.put(f"{part.prefix}{part.layers}.{i}.{path}", made)
    for path, made in _rows(part.outer, values, ""):
        tree.put(path, made)


def _at(part: Part) -> str:
    return ": ".join(filter(None, (WHERE, part.section, part.layer_count)))


def _rows(rows: Rows, values: Values, kind: str) -> list[tuple[str, BaseModule | tuple[int, ...]]]:
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
        raise FormatError(f"{path} would be {value} wide ({expression}), more than any model is", where=WHERE)
    return value
