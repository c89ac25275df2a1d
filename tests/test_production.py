"""The example of a company's set is one that is taken, and each of its rules is how an origin is reached."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from lora_cli.cli.main import main
from lora_cli.documents.manifest import read_manifest
from lora_cli.documents.policy import read_policy, violations
from lora_cli.settings import load_settings
from tests.conftest import ROOT
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config
from tests.object_servers import S3Server
from tests.web_server import Site, WebServer

FILE = ROOT / "manifests" / "production.yaml"
SETTINGS = ROOT / "manifests" / "settings.toml"
TEXT = FILE.read_text()
REPOSITORIES = {"acme/llama-31-sql-lora": "", "acme/support-loras": "de/"}
FOLDERS = {
    "acme-adapters": ("legal/2026-11", "runs/summarise-7/checkpoint-1500"),
    "acme-partner-drop": ("claims/v3",),
}


def test_the_example_is_valid_by_the_published_schema_and_shows_every_kind_of_rule() -> None:
    schema = json.loads((ROOT / "manifests" / "schemas" / "adapter-set.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(TEXT), schema)
    parsed = read_manifest(FILE)

    assert {entry.ref.scheme for entry in parsed.adapters} == {"hf", "s3", "https"}
    assert parsed.base is not None
    assert parsed.base.pinned
    assert parsed.policy is not None
    assert parsed.policy.require_pinned
    sources = load_settings({}, {"HOME": "/nowhere", "LORA_CLI_CONFIG": str(SETTINGS)}).sources
    for rule in ("token_env", "profile", "endpoint_url", "region", "requester_pays"):
        assert any(getattr(source, rule) for source in sources), rule


@pytest.mark.parametrize("page", ["manifests/production.yaml", "docs/manifest.md"])
def test_an_examples_own_policy_and_the_one_beside_it_let_its_first_fetch_lock_it(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text()
    file = tmp_path / "set.yaml"
    file.write_text(text.partition("```yaml\n")[2].partition("```")[0] if page.endswith(".md") else text)
    parsed = read_manifest(file)
    assert parsed.policy is not None
    for policy in (parsed.policy, read_policy(ROOT / "manifests" / "policy.yaml")):
        for entry in parsed.adapters:
            assert violations(policy, [entry.ref], sha256=entry.sha256) == (), entry.name


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    config = {"base_model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"}
    return write_adapter(tmp_path / "adapter", modules=llama_modules(["q_proj"]), config=config)


@pytest.fixture
def digest(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The snapshot digest of the one adapter that all origins have."""
    assert main(["--cache-dir", str(tmp_path / "other"), "fetch", str(adapter)]) == 0
    return Path(capsys.readouterr().out.strip()).name


@pytest.mark.slow
def test_its_commands_fetch_from_each_origin_with_the_credentials_that_it_names(
    adapter: Path, digest: str, tmp_path: Path, seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {file.name: file.read_bytes() for file in adapter.iterdir()}
    for bucket, folders in FOLDERS.items():
        seaweed_server.client.create_bucket(Bucket=bucket)
        for folder in folders:
            seaweed_server.put(f"{bucket}/{folder}", files)
    key, secret = seaweed_server.keys
    (tmp_path / "credentials").write_text(
        f"[adapters]\naws_access_key_id={key}\naws_secret_access_key={secret}\n[default]\naws_access_key_id=nobody\n"
        "aws_secret_access_key=nothing\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    (tmp_path / "base").mkdir()
    write_base_config(tmp_path / "base")
    site = Site({f"tone/2/{name}": data for name, data in files.items()}, token="artifacts")
    with Hub() as hub, WebServer(site) as web:
        commits = {
            id: hub.add(id, {f"{at}{n}": d for n, d in files.items()}, private=True) for id, at in REPOSITORIES.items()
        }
        base = hub.add("meta-llama/Llama-3.1-8B-Instruct", tmp_path / "base")
        hub.tokens["hub"] = frozenset(REPOSITORIES)
        text = re.sub(r"sha256: [0-9a-f]{64}", f"sha256: {digest}", TEXT)
        text = re.sub(r"(Instruct)@[0-9a-f]{40}", rf"\1@{base}", text)
        for id, commit in commits.items():
            text = re.sub(rf"({id}[\w/]*)@[0-9a-f]{{40}}", rf"\1@{commit}", text)
        set_yaml, config = tmp_path / "production.yaml", tmp_path / "settings.toml"
        for file, example in ((set_yaml, text), (config, SETTINGS.read_text())):
            written = example.replace("https://minio.acme.internal", seaweed_server.endpoint)
            file.write_text(written.replace("https://adapters.acme.internal", f"http://{web.place}"))
        monkeypatch.setenv("LORA_CLI_CONFIG", str(config))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL", seaweed_server.endpoint)  # where the partner's bucket is, instead of AWS
        fetch = ["--cache-dir", str(tmp_path / "cache"), "fetch", "-f", str(set_yaml)]

        assert main(fetch) == 3  # nobody said who we are
        monkeypatch.setenv("ACME_HUB_TOKEN", "hub")
        monkeypatch.setenv("ACME_ARTIFACTS_TOKEN", "artifacts")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        assert main(fetch) == 0
        published = tmp_path / "published"
        assert main([*fetch, "--locked", "--publish", str(published)]) == 0
        assert main(["validate", "-f", str(set_yaml), "--cache-dir", str(tmp_path / "cache")]) in {0, 1}

    names = {entry["name"] for entry in yaml.safe_load(TEXT)["adapters"]}
    assert {folder.name for folder in published.iterdir()} == names
    assert (tmp_path / "production.lock.yaml").is_file()
