"""Bills of materials, held to the official schema of CycloneDX by its own library."""

import json
from functools import cache
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

Object = dict[str, Any]


def check_bom(text: str) -> Object:
    """The document, which both versions of the schema take, strictly; its references and purls are as they should."""
    for version in (SchemaVersion.V1_6, SchemaVersion.V1_7):
        error = _validator(version).validate_str(
            text.replace('"specVersion": "1.6"', f'"specVersion": "{version.to_version()}"')
        )
        assert error is None, str(error)[:2000]
    document: Object = json.loads(text)
    refs = [one["bom-ref"] for one in document["components"]]
    assert len(refs) == len(set(refs))
    for edge in document["dependencies"]:
        assert {edge["ref"], *edge["dependsOn"]} <= set(refs)
    for one in document["components"]:
        if "purl" in one:
            assert PackageURL.from_string(one["purl"]).to_string() == one["purl"]
    return document


@cache
def _validator(version: SchemaVersion) -> JsonStrictValidator:
    return JsonStrictValidator(version)


def properties(component: Object) -> dict[str, list[str]]:
    """The properties of a component by name, without the namespace."""
    found: dict[str, list[str]] = {}
    for one in component.get("properties", ()):
        assert one["name"].startswith("lora-cli:")
        found.setdefault(one["name"].removeprefix("lora-cli:"), []).append(one["value"])
    return found
