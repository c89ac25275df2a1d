"""The published schemas say what the parsers do."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lora_cli.documents.baseline import Baseline
from lora_cli.documents.document import Model, parse_yaml
from lora_cli.documents.manifest import ManifestFile
from lora_cli.documents.policy import PolicyFile
from lora_cli.settings import SETTINGS, Settings

SCHEMAS = Path(__file__).parents[2] / "manifests" / "schemas"
Pools = Mapping[str, list[Any]]

SHA256S = ["ab" * 32, "AB" * 32, "ab" * 31, "", 7, None]
NAMES = ["a", "a.b-c_d", "0", "x" * 128, "x" * 129, "", ".", "..", "a/b", "-a", "é", "a\nb", 1, True, None]
SOURCES = ["org/a", "hf://org/a@main", "./a", "/a", "", 3, None, ["org/a"], "org\n/a"]
SIZES = [0, 5, 2**62, "2GiB", "1.5 MB", "7", -1, "x", "", 1.5, True, None, "1e9"]
FLAGS = [True, False, 0, "true", None]
COUNTS = [1, 8, 100_000, 100_001, 0, -1, "8", True, None, 1.5]
GLOBS: list[Any] = [[], ["hf://acme/*"], ["acme/*", "./x"], "hf://acme/*", [""], [1], None]

HEAD: Pools = {"apiVersion": ["lora-cli/v1", "lora-cli/v2", 1]}
POLICY: Pools = {
    "allow_sources": GLOBS,
    "deny_sources": GLOBS,
    "allow_formats": [[], ["safetensors", "pickle", "gguf"], ["zip"], "pickle", None],
    "max_bytes": SIZES,
    "require_pinned": FLAGS,
    "require_sha256": FLAGS,
    "require_signature": [[], [{"keys": ["a.pub"]}], [{"keys": [1]}], [{"signers": ["a.pub"]}], None],
    "allow_private_redirects": FLAGS,
    "max_byte": [1],
}
ENGINE: Pools = {
    "name": ["vllm", "sglang", "vLLM", "", 1, None],
    "version": ["0.33", 0.33, 1, "1.0.0rc1+cu", "v1", "", True, None, -1],
    "max_lora_rank": COUNTS,
    "max_loras": COUNTS,
    "maxLoras": [1],
}
ADAPTER: Pools = {"name": NAMES, "source": SOURCES, "sha256": SHA256S, "pinned": [*FLAGS, 1], "nam": ["a"]}
FINDING: Pools = {
    "fingerprint": ["0f" * 16, "0F" * 16, "", 1],
    "code": ["LC504", "LC5", "huge-update", 504],
    "reason": ["meant so", "in\ntwo lines", "  ", 1, None],
    "until": ["2027-03-31", "2027-13-01", "tomorrow", None],
    "count": [1],
}


def each(pools: Pools, **good: Any) -> Iterator[dict[str, Any]]:
    """A good mapping with each of the values in its place, and without each of its keys."""
    yield from ({**good, key: value} for key, pool in pools.items() for value in pool)
    yield from ({one: good[one] for one in good if one != key} for key in good)


def manifest(**keys: Any) -> dict[str, Any]:
    return {"apiVersion": "lora-cli/v1", "kind": "AdapterSet", "adapters": [{"name": "a", "source": "org/a"}], **keys}


MODELS: dict[str, type[Model]] = {"adapter-set": ManifestFile, "policy": PolicyFile, "baseline": Baseline}
NO_LISTS: list[Any] = [None, [], "x", {}]
FINDINGS = {"schema": "lora_cli/baseline/2"}
DOCUMENTS = [
    *(("adapter-set", manifest(adapters=[one])) for one in each(ADAPTER, name="a", source="org/a")),
    *(("adapter-set", manifest(adapters=value)) for value in NO_LISTS),
    *(("adapter-set", one) for one in each({**HEAD, "base": SOURCES, "other": [1]}, **manifest())),
    *(("adapter-set", manifest(engine=one)) for one in each(ENGINE, name="vllm")),
    *(("adapter-set", manifest(policy=one)) for one in each(POLICY)),
    *(("policy", one) for one in each({**HEAD, **POLICY}, apiVersion="lora-cli/v1", kind="Policy")),
    *(
        ("baseline", {**FINDINGS, "findings": [one]})
        for one in each(FINDING, fingerprint="0f" * 16, code="LC504", reason="x")
    ),
]


@pytest.mark.parametrize(("name", "document"), DOCUMENTS, ids=json.dumps)
def test_what_an_editor_accepts_by_the_schema_is_read(name: str, document: dict[str, Any]) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    if not [*jsonschema.Draft202012Validator(schema).iter_errors(document)]:
        parse_yaml(json.dumps(document), "f").read(MODELS[name])


@pytest.mark.parametrize("file", [*SCHEMAS.iterdir()], ids=lambda file: file.name)
def test_each_schema_is_one(file: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(file.read_text()))


def test_the_settings_schema_has_every_setting_with_its_default() -> None:
    usual, properties = Settings(Path("/")), json.loads((SCHEMAS / "settings.schema.json").read_text())["properties"]
    assert set(properties) == {*SETTINGS, "sources"}
    for key, setting in SETTINGS.items():
        said, is_ = properties[key].get("default"), getattr(usual, setting.field)
        assert (None if said is None else setting.kind.parse(said)) == (None if key == "cache_dir" else is_), key
