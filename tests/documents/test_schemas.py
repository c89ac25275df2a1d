"""The published schemas say what the parsers do: documents drawn from good and bad values pass both, or neither."""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.documents.lockfile import load_lock
from lora_cli.documents.manifest import load_manifest
from lora_cli.documents.policy import load_policy
from lora_cli.errors import UsageError
from lora_cli.refs.snapshot import Blob, snapshot_digest
from lora_cli.settings import SETTINGS as SETTINGS_TABLE
from lora_cli.settings import Settings, load_settings

PUBLISHED = (
    "adapter-set",
    "adapter-set-lock",
    "baseline",
    "cache",
    "cache-removed",
    "cache-verify",
    "endpoints",
    "engines",
    "fetch",
    "fetch-check",
    "fetch-plan",
    "inspect",
    "policy",
    "rules",
    "serve-bench",
    "settings",
    "status",
    "validate",
    "warm",
)
SCHEMAS = Path(__file__).parents[2] / "manifests" / "schemas"
Draw = st.DataObject

SHA256S = ["ab" * 32, "AB" * 32, "ab" * 31, "", 7, None]
NAMES = ["a", "a.b-c_d", "0", "x" * 128, "x" * 129, "", ".", "..", "a/b", "-a", "é", "a\nb", 1, True, None]
SOURCES = ["org/a", "hf://org/a@main", "./a", "/a", "", 3, None, ["org/a"], "org\n/a"]
SIZES = [0, 5, 2**62, "2GiB", "1.5 MB", "7", -1, "x", "", 1.5, True, None, "1e9"]
FLAGS = [True, False, 0, "true", None]
COUNTS = [1, 8, 100_000, 100_001, 0, -1, "8", True, None, 1.5]
GLOBS: list[Any] = [[], ["hf://acme/*"], ["acme/*", "./x"], "hf://acme/*", [""], [1], None]
VERSIONS = ["0.33", 0.33, 1, "1.0.0rc1+cu", "v1", "", True, None, -1]
URLS = ["https://minio.acme.internal", "http://h:9000/x", "ftp://h", "https://u:p@h", "https://h?x", "", 1]
SUPPRESSION = {"digest": "ab" * 32, "rule": "LC504", "reason": "meant so"}
SUPPRESSIONS: list[Any] = [
    [],
    [SUPPRESSION],
    [{**SUPPRESSION, "rule": "huge-update", "until": "2027-03-31", "reason": "in\ntwo lines"}],
    [{**SUPPRESSION, "rule": "LC5"}],
    [{**SUPPRESSION, "reason": "  "}],
    [{**SUPPRESSION, "reason": 1}],
    [{**SUPPRESSION, "digest": "ab"}],
    [{**SUPPRESSION, "until": "2027-13-01"}],
    [{**SUPPRESSION, "until": "tomorrow"}],
    [{**SUPPRESSION, "why": "x"}],
    [{"digest": "ab" * 32, "rule": "LC504"}],
    SUPPRESSION,
    None,
]
POLICY: dict[str, list[Any]] = {
    "allow_sources": GLOBS,
    "deny_sources": GLOBS,
    "allow_formats": [[], ["safetensors", "pickle", "gguf"], ["zip"], "pickle"],
    "max_bytes": SIZES,
    "require_pinned": FLAGS,
    "require_sha256": FLAGS,
    "allow_private_redirects": FLAGS,
    "suppressions": SUPPRESSIONS,
    "max_byte": [1],
}
ENGINE: dict[str, list[Any]] = {
    "name": ["vllm", "sglang", "vLLM", "", 1],
    "version": VERSIONS,
    "max_lora_rank": COUNTS,
    "max_loras": COUNTS,
    "maxLoras": [1],
}
RULE: dict[str, list[Any]] = {
    "match": ["s3://a/*", "", 1],
    "endpoint_url": URLS,
    "profile": ["adapters", "a b", "", "/x", 1],
    "token_env": ["ACME_TOKEN", "hf_token", "", 1],
    "region": ["eu-west-1", "EU", "", 1],
    "anonymous": FLAGS,
    "requester_pays": FLAGS,
    "token": ["x"],
}
ADAPTER: dict[str, list[Any]] = {
    "name": NAMES,
    "source": SOURCES,
    "sha256": SHA256S,
    "pinned": [*FLAGS, 1],
    "nam": ["a"],
}
HEAD: dict[str, list[Any]] = {"apiVersion": ["lora-cli/v1", "lora-cli/v2", 1]}
FILE: dict[str, list[Any]] = {
    "path": ["a.json", "x/a.json", "...", "/a", "../a", "a/..", "a//b", "a\\b", "", ".", "a/./b", 1, "a\tb"],
    "size": [0, 5, 10**15, 10**15 + 1, -1, "5", 1.5, None],
    "sha256": SHA256S,
    "mode": [1],
}
SETTINGS: dict[str, list[Any]] = {
    "cache_dir": ["x", "~/x", "/x", "", 1],
    "jobs": [1, 256, 257, 0, "8", True, 1.5],
    "retries": [0, 100, 101, -1, "8", False],
    "timeout": [1, 0.5, 0, -1, "30s", "1h30m", "soon", "", True, 1_000_001, 1e300],
    "lease": [1, "500ms", "1x", []],
    "offline": FLAGS[:-1],
    "quiet": [True, 1],
    "no_progress": FLAGS[:-1],
    "allow_private_redirects": FLAGS[:-1],
    "hub_endpoint": URLS,
    "max_bytes": SIZES[:-2],
    "max_header_bytes": SIZES[:-2],
    "jobz": [1],
}


@cache
def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return loaded


def drawn(data: Draw, pools: dict[str, list[Any]], always: tuple[str, ...] = ()) -> dict[str, Any]:
    """Some of the keys, most of them with the first, good value."""
    keys = data.draw(st.lists(st.sampled_from(list(pools)), max_size=3, unique=True))
    if data.draw(st.integers(0, 9)):
        keys = [*always, *(key for key in keys if key not in always)]
    return {key: data.draw(st.just(pools[key][0]) | st.sampled_from(pools[key])) for key in keys}


def accepted(parse: Callable[[], object]) -> bool:
    try:
        parse()
    except UsageError:
        return False
    return True


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(name))


def agree(name: str, document: dict[str, Any], parse: Callable[[], object]) -> None:
    found = [error.message for error in validator(name).iter_errors(document)]
    assert accepted(parse) == (not found), (document, found)


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_nothing_else_is_published_as_a_schema() -> None:
    assert {file.name for file in SCHEMAS.iterdir()} == {f"{name}.schema.json" for name in PUBLISHED}


def test_a_policy_means_the_same_in_a_manifest_and_alone() -> None:
    alone = schema("policy")["properties"]
    within = schema("adapter-set")["$defs"]["ManifestPolicy"]["properties"]
    assert within.keys() == alone.keys() - {"apiVersion", "kind"}
    assert {key for key, value in within.items() if value != alone[key]} == {"allow_private_redirects"}


def test_the_settings_schema_has_every_setting() -> None:
    assert set(schema("settings")["properties"]) == {*SETTINGS_TABLE, "sources"}


def test_the_settings_schema_tells_the_defaults() -> None:
    usual = Settings(Path("/"))
    for key, setting in SETTINGS_TABLE.items():
        said, is_ = schema("settings")["properties"][key].get("default"), getattr(usual, setting.field)
        assert (None if said is None else setting.kind.parse(said)) == (None if key == "cache_dir" else is_), key


@pytest.mark.slow
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_manifest_schema_and_the_parser_agree(data: Draw) -> None:
    document = drawn(data, {**HEAD, "kind": ["AdapterSet", "Policy"]}, ("apiVersion", "kind"))
    document["adapters"] = data.draw(
        st.sampled_from([None, [], "x"]) | st.just([drawn(data, ADAPTER, ("name", "source"))])
    )
    document |= drawn(data, {"base": SOURCES, "other": [1]})
    for key, made in (("engine", drawn(data, ENGINE, ("name",))), ("policy", drawn(data, POLICY))):
        if data.draw(st.booleans()):
            document[key] = made
    text = json.dumps(document)
    agree("adapter-set", document, lambda: load_manifest(text, "/f", is_path=lambda _: False))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_the_policy_schema_and_the_parser_agree(data: Draw) -> None:
    document = drawn(data, {**HEAD, "kind": ["Policy", "AdapterSet"]}, ("apiVersion", "kind"))
    document |= drawn(data, POLICY)
    agree("policy", document, lambda: load_policy(json.dumps(document), "/f"))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_the_lock_schema_and_the_parser_agree(data: Draw) -> None:
    file = drawn(data, FILE, ("path", "size", "sha256"))
    try:
        digest = snapshot_digest([(file["path"], Blob(file["sha256"], file["size"]))])
    except KeyError:
        digest = "0" * 64
    pools: dict[str, list[Any]] = {
        "name": NAMES,
        "source": ["org/a", "", 1, "a\tb"],
        "endpoint": ["", "https://hub.example", "a\tb", 1],
        "revision": ["", "abc", "a\tb", 1],
        "other": [1],
    }
    adapter = drawn(data, pools, ("name", "source", "endpoint", "revision")) | {"digest": digest, "files": [file]}
    document = {"apiVersion": "lora-cli/v1", "kind": "AdapterSetLock", "adapters": [adapter]}
    agree("adapter-set-lock", document, lambda: load_lock(json.dumps(document), "/f"))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_the_settings_schema_and_the_parser_agree(data: Draw) -> None:
    document = {key: value for key, value in drawn(data, SETTINGS).items() if value is not None}
    rules = [{key: value for key, value in drawn(data, RULE, ("match",)).items() if value is not None}]
    document["sources"] = rules[: data.draw(st.integers(0, 1))]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.toml"
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in document.items() if key != "sources"]
        for rule in document["sources"]:
            lines += ["[[sources]]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in rule.items())]
        file.write_text("".join(lines))
        agree("settings", document, lambda: load_settings({"config": file}, {"HOME": directory}))


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, pool in ADAPTER.items() for value in pool])
def test_every_value_of_an_adapter_is_judged_alike(key: str, value: object) -> None:
    adapter = {"name": "a", "source": "org/a", key: value}
    document = {"apiVersion": "lora-cli/v1", "kind": "AdapterSet", "adapters": [adapter]}
    agree("adapter-set", document, lambda: load_manifest(json.dumps(document), "/f", is_path=lambda _: False))


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, pool in POLICY.items() for value in pool])
def test_every_value_of_a_policy_is_judged_alike(key: str, value: object) -> None:
    document = {"apiVersion": "lora-cli/v1", "kind": "Policy", key: value}
    agree("policy", document, lambda: load_policy(json.dumps(document), "/f"))


@pytest.mark.parametrize(("key", "value"), [("allow_private_redirects", True)])
def test_what_only_the_operator_says_a_manifest_cannot(key: str, value: object) -> None:
    adapter = {"name": "a", "source": "org/a"}
    document = {"apiVersion": "lora-cli/v1", "kind": "AdapterSet", "adapters": [adapter], "policy": {key: value}}
    assert not accepted(lambda: load_manifest(json.dumps(document), "/f", is_path=lambda _: False))
    agree("adapter-set", document, lambda: load_manifest(json.dumps(document), "/f", is_path=lambda _: False))
