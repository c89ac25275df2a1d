"""The JSON Schemas of what people write, and of what ``fetch`` and ``validate`` print, generated from the models.

``make docs`` writes them; a test compares what it would write with what is there.
"""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from pydantic import ConfigDict, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema, JsonRef, JsonSchemaValue
from pydantic_core import core_schema

from lora_cli.documents.document import Model
from lora_cli.documents.manifest import LockFile, ManifestFile
from lora_cli.documents.policy import PolicyFile
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import LoraCliError
from lora_cli.judging.report import Report
from lora_cli.reports.fetch import FetchReport
from lora_cli.settings import SETTINGS

SCHEMAS = Path(__file__).parents[1] / "manifests" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOCUMENTS: dict[str, tuple[str, type[Model]]] = {
    "adapter-set": ("lora-cli AdapterSet", ManifestFile),
    "adapter-set-lock": ("lora-cli AdapterSetLock", LockFile),
    "policy": ("lora-cli Policy", PolicyFile),
}
"""Title and model of each document that people write."""

REPORTS = {"fetch": FetchReport, "validate": Report}
"""The report model of each JSON document whose fields are promised."""

CONFIG = ConfigDict(
    use_attribute_docstrings=True, arbitrary_types_allowed=True, alias_generator=lambda name: name.removesuffix("_")
)


class Plain(GenerateJsonSchema):
    """Schemas without pydantic's titles, with keys in the order of the models."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No field has a title: it would only repeat the key."""
        return False

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        """Keys stay in the order of the models."""
        return value


class OfDocument(Plain):
    """Schemas of documents."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """A key that may be left out is never null."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A default that is no value of the key, or an empty one, is not told."""
        made = super().default_schema(schema)
        return {key: value for key, value in made.items() if key != "default" or value not in (None, (), [], "")}


class OfReport(Plain):
    """Schemas of report models by the rules of ``lora_cli.json_schema``."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A key that may be left out is never null."""
        inner = schema["schema"]
        left_out = inner["type"] == "nullable" and "default" in schema
        return self.generate_inner(inner["schema"] if left_out else inner)

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> JsonSchemaValue:
        """An error is written as an object; no other class of ours is in a report."""
        assert schema["cls"] is LoraCliError
        properties = {"message": {"type": "string"}, "hint": {"type": "string"}, "exit_code": {"type": "integer"}}
        return {"type": "object", "required": list(properties), "properties": properties}

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        """A member is written as its text."""
        return {"type": "string", "enum": [str(one) for one in schema["members"]]}

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        """The keys of a field that is inlined stand among those of the object; of a union one part must hold.

        Only a key whose default is None may be left out.
        """
        own = [field for field in fields(schema["cls"]) if not field.metadata.get("excluded")]
        kept = {field.name.removesuffix("_"): field for field in own}
        arguments = cast("core_schema.DataclassArgsSchema", schema["schema"])
        written = [one for one in arguments["fields"] if one["name"].removesuffix("_") in kept]
        made = super().dataclass_schema({**schema, "schema": {**arguments, "fields": written}})
        required = {key for key, field in kept.items() if field.default is not None}
        inlined = {key for key, field in kept.items() if field.metadata.get("inline")}
        properties: dict[str, Any] = {}
        for key, entry in made.pop("properties").items():
            if key not in inlined:
                properties[key] = entry
                continue
            required.discard(key)
            if "$ref" in entry:
                part = self.get_schema_from_definitions(JsonRef(entry["$ref"])) or {}
                properties |= part["properties"]
                required |= set(part["required"]) if kept[key].default is not None else set()
            elif "anyOf" in entry:
                made["oneOf"] = entry["anyOf"]
        about = {"description": made["description"]} if "description" in made else {}
        names = [key for key in properties if key in required]
        more = {"oneOf": made["oneOf"]} if "oneOf" in made else {}
        return {**about, "type": "object", "required": names, "properties": properties, **more}


def schemas() -> dict[str, str]:
    """The text of each schema by the name of its file."""
    made = {
        **{name: _of_document(*document) for name, document in DOCUMENTS.items()},
        **{name: _of_report(name, model) for name, model in REPORTS.items()},
        "settings": _of_settings(),
    }
    return {
        f"{name}.schema.json": _text({"$schema": DIALECT, "$id": f"urn:lora-cli:v1:{name}", **schema})
        for name, schema in made.items()
    }


def _text(schema: JsonSchemaValue) -> str:
    return json.dumps(_unwrapped(schema), indent=2, ensure_ascii=False) + "\n"


def _of_document(title: str, model: type[Model]) -> JsonSchemaValue:
    schema = model.model_json_schema(schema_generator=OfDocument)
    for entry in schema.get("$defs", {}).values():
        del entry["title"]
    del schema["title"]
    return _last({"title": title, **schema})


def _of_report(name: str, model: type[Any]) -> JsonSchemaValue:
    adapter = TypeAdapter(with_config(CONFIG)(model))
    schema = adapter.json_schema(mode="serialization", schema_generator=OfReport, union_format="primitive_type_array")
    for entry in schema.get("$defs", {}).values():
        entry.pop("title", None)
    return _last({"title": f"lora-cli {name} --format json", **schema})


def _of_settings() -> JsonSchemaValue:
    rule = SourceRule.model_json_schema(schema_generator=OfDocument)
    del rule["title"]
    return {
        "title": "lora-cli config.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **{key: setting.schema for key, setting in SETTINGS.items()},
            "sources": {
                "description": "How sources are reached: names of secrets, never values.",
                "type": "array",
                "items": {"$ref": "#/$defs/SourceRule"},
            },
        },
        "$defs": {"SourceRule": rule},
    }


def _last(schema: JsonSchemaValue) -> JsonSchemaValue:
    """``schema`` with its parts behind what it is made of."""
    parts = {key: schema.pop(key) for key in ("$defs",) if key in schema}
    return {**schema, **parts}


def _unwrapped(node: Any) -> Any:
    """``node`` with each description on one line, without the markup of docstrings."""
    if isinstance(node, list):
        return [_unwrapped(one) for one in node]
    if isinstance(node, dict):
        return {
            key: re.sub(r"\s*\n\s*", " ", one).replace("``", "`")
            if key == "description" and isinstance(one, str)
            else _unwrapped(one)
            for key, one in node.items()
        }
    return node


def write() -> None:
    """Write every schema."""
    for file, text in schemas().items():
        (SCHEMAS / file).write_text(text, encoding="utf-8")
