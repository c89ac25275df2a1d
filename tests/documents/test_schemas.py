"""The published schemas."""

import json
from pathlib import Path

import jsonschema
import pytest

from lora_cli.settings import SETTINGS, Settings

SCHEMAS = Path(__file__).parents[2] / "manifests" / "schemas"


@pytest.mark.parametrize("file", [*SCHEMAS.iterdir()], ids=lambda file: file.name)
def test_each_schema_is_one(file: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(file.read_text()))


def test_the_settings_schema_has_every_setting_with_its_default() -> None:
    usual, properties = Settings(Path("/")), json.loads((SCHEMAS / "settings.schema.json").read_text())["properties"]
    assert set(properties) == {*SETTINGS, "sources"}
    for key, setting in SETTINGS.items():
        said, is_ = properties[key].get("default"), getattr(usual, setting.field)
        assert (None if said is None else setting.kind.parse(said)) == (None if key == "cache_dir" else is_), key
