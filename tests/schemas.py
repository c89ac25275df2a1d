"""The published JSON Schemas of what commands write; a key that one of them does not name is a mistake here."""

import json
from functools import cache
from typing import Any

import jsonschema

from tests.conftest import ROOT

PUBLISHED = {"fetch", "validate"}
"""The documents of commands whose fields are promised."""


def check_schema(document: Any) -> None:
    """Compare a document with the schema that it names (``lora_cli/fetch/1``)."""
    if isinstance(document, dict) and (name := document.get("schema", "//").split("/")[1]) in PUBLISHED:
        _validator(name).validate(document)


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    text = (ROOT / "manifests" / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    # The parts of oneOf stand in one object with other keys: they cannot be closed.
    return jsonschema.Draft202012Validator(json.loads(text, object_hook=None if '"oneOf"' in text else _closed))


def _closed(node: dict[str, Any]) -> dict[str, Any]:
    return {**node, "additionalProperties": False} if "properties" in node else node
