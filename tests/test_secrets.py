"""Secrets are planted wherever a user has them, everything goes wrong, and nothing that is left behind holds one.

What is looked through after each run: standard output, standard error with ``--verbose``, the whole cache (names and
contents), what was handed out, the lock; and what each server was sent that it should not have been.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config
from tests.planted import ALWAYS, PASSWORD, SECRET, SESSION, SIGNATURE, TOKEN, Machine
from tests.web_server import Site, WebServer


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    write_adapter(tmp_path / "sql", modules=llama_modules())
    write_base_config(tmp_path / "base")
    return Machine(tmp_path)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


def no_token_left_the_hub(hub: Hub) -> bool:
    return not any(request.authorized for request in hub.requests if request.origin == "cdn")


def test_the_hubs_token_and_its_signed_links_stay_where_they_belong(machine: Machine, hub: Hub) -> None:
    commit = hub.add("acme/secret", machine.root / "sql", private=True)
    hub.token(TOKEN, "acme/secret")
    signatures = {hub.signature(sha256) for sha256 in hub.blobs}
    here = {"HF_ENDPOINT": hub.endpoint}
    Path(machine.root, "set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n  - {name: sql, source: hf://acme/secret}\n"
    )
    assert machine.run("fetch", "-f", "set.yaml", "--to", "out", "--format", "json", **here) == 0
    assert machine.run("fetch", f"acme/secret@{commit}", **here) == 0
    assert machine.run("inspect", "acme/secret", "--format", "json", **here) == 0
    assert machine.run("cache", "show", "acme/secret", **here) in {0, 2, 3}
    hub.fault("resolve", status=500, times=-1)
    assert machine.run("validate", "acme/secret", "--base", "base", "--cache-dir", "empty", **here) == 4
    hub.faults.clear()
    hub.fault("cdn", status=403, times=-1)
    assert machine.run("fetch", "acme/secret", "--cache-dir", "empty", **here) == 4
    assert hub.count("cdn") > 0
    assert no_token_left_the_hub(hub)
    assert machine.leaks(*signatures) == []


def test_a_token_that_is_none_is_not_repeated(machine: Machine, hub: Hub) -> None:
    for token in (f"{SECRET} {SECRET}", f"{SECRET}\u00e9", f"{SECRET}\tx"):
        assert machine.run("fetch", "acme/sql", HF_ENDPOINT=hub.endpoint, HF_TOKEN=token) == 2
    (machine.root / "home").mkdir()
    (machine.root / "home" / "token").write_text(f"{SECRET} {SECRET}")
    path = str(machine.root / "home" / "token")
    assert machine.run("fetch", "acme/sql", HF_ENDPOINT=hub.endpoint, HF_TOKEN="", HF_TOKEN_PATH=path) == 2
    assert not hub.requests
    assert machine.leaks() == []


@pytest.mark.parametrize(
    "text",
    [
        f"https://huggingface.co/org/name/blob/main/x?token={SIGNATURE}",
        f"https://alice:{PASSWORD}@127.0.0.1:9999999/x",
        f"alice:{PASSWORD}@host/x",
        TOKEN,
        f"{TOKEN}/name",
        f"org/name@{TOKEN}",
        f"fsspec+sftp://{TOKEN}@host/x",
        f"https://huggingface.co/{TOKEN}/x",
    ],
)
def test_a_secret_in_a_reference_is_not_repeated(
    machine: Machine, text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(machine.root)
    for name, value in {**machine.environ, "LORA_CLI_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    (machine.root / "set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n  - {{name: a, source: '{text}'}}\n"
    )
    (machine.root / "policy.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: Policy\ndeny_sources: ['{text}']\n")
    (machine.root / "policy.yaml").rename(machine.root / "token")
    for words, codes in (
        (["fetch", text, "./sql", "--format", "json"], {2, 3}),
        (["validate", text, "--base", "base", "--format", "json"], {2, 3}),
        (["inspect", text], {2, 3}),
        (["fetch", "-f", "set.yaml"], {2, 3}),
        (["fetch", "./sql", "--policy", "token"], {0, 2}),
        (["validate", "./sql", "--base", text], {2, 3}),
    ):
        assert main([*words, *ALWAYS]) in codes
    machine.said += capfd.readouterr()
    assert machine.leaks() == []


@pytest.mark.parametrize("option", ["--include", "--shard"])
def test_a_token_as_the_value_of_an_option_is_not_repeated(
    machine: Machine, option: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**machine.environ, "LORA_CLI_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    for words in (["fetch", "org/name", option, TOKEN], ["cache", "ls", TOKEN], ["validate", f"--{TOKEN}"], [TOKEN]):
        assert main([*words, *ALWAYS]) in {2, 3}
    machine.said += capfd.readouterr()
    assert machine.leaks() == []


@pytest.mark.parametrize(
    "more",
    [{}, {"type": "authorized_user", "client_id": "a", "client_secret": SECRET, "refresh_token": SESSION}],
    ids=["service account", "user"],
)
def test_a_google_key_that_is_wrong_is_not_repeated(machine: Machine, more: dict[str, str]) -> None:
    key = {
        "type": "service_account",
        "client_email": "alice@acme.iam",
        "private_key_id": SESSION,
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
        "token_uri": "http://127.0.0.1:9/token",
        **more,
    }
    (machine.root / "token").write_text(json.dumps(key))
    google = {"GOOGLE_APPLICATION_CREDENTIALS": str(machine.root / "token"), "STORAGE_EMULATOR_HOST": "127.0.0.1:9"}
    for here in (google, {**google, "STORAGE_EMULATOR_HOST": "", "HTTPS_PROXY": "http://127.0.0.1:9"}):
        assert machine.run("fetch", "gs://bucket/sql", LORA_CLI_RETRIES="0", **here) in {2, 3, 4}
    assert machine.leaks() == []


def test_the_token_of_a_rule_goes_to_its_host_and_to_no_other(machine: Machine) -> None:
    files = {f"sql/{path.name}": path.read_bytes() for path in (machine.root / "sql").iterdir()}
    with WebServer(Site(dict(files), token=SECRET)) as server, WebServer(Site(dict(files))) as other:
        (machine.root / "set.yaml").write_text(
            "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
            f"adapters:\n  - {{name: a, source: 'http://{server.place}/sql'}}\n"
            f"  - {{name: b, source: 'http://{other.place}/sql'}}\n"
        )
        rule = f'[[sources]]\nmatch = "http://{server.place}/*"\ntoken_env = "ACME_TOKEN"\n'
        (machine.root / "lora-cli.toml").write_text(rule)
        machine.environ["LORA_CLI_CONFIG"] = str(machine.root / "lora-cli.toml")
        assert machine.run("fetch", "-f", "set.yaml", "--format", "json", ACME_TOKEN=SECRET) == 0
        assert machine.run("validate", "-f", "set.yaml", ACME_TOKEN=SECRET) == 0
        server.site.redirect = lambda target: f"http://{other.place}{target}?X-Amz-Signature={SIGNATURE}"
        assert machine.run("fetch", "-f", "set.yaml", "--upgrade", "a", ACME_TOKEN=SECRET) in {0, 1, 3}
        assert machine.run("fetch", "-f", "set.yaml", "--cache-dir", "c2", ACME_TOKEN=f"{SECRET} x") == 2
        server.site.redirect = lambda _: None
        assert machine.run("fetch", "-f", "set.yaml", "--cache-dir", "c3", ACME_TOKEN=f"{SECRET}x") == 3
        assert any(asked.headers.get("Authorization") == f"Bearer {SECRET}" for asked in server.asked)
        assert not any("Authorization" in asked.headers for asked in other.asked)
        assert not any(TOKEN in str(asked.headers) for asked in (*server.asked, *other.asked))
    assert machine.leaks() == []


BUG = """
import sys
import lora_cli.sources.transport as transport

def send(url, headers, *more, **options):
    raise RuntimeError(f"no one foresaw {url} with {headers} and {sys.argv}")

transport.send = send
from lora_cli.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_traceback_of_a_bug_can_be_posted(machine: Machine) -> None:
    endpoint = {"HF_ENDPOINT": "http://127.0.0.1:9/hub"}
    assert machine.run("fetch", "acme/sql", program=BUG, **endpoint) == 70
    assert "no one foresaw" in machine.said[-1]
    assert "please report" in machine.said[-1].lower()
    assert "***" in machine.said[-1]
    (machine.root / "set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
        "adapters:\n  - {name: a, source: 'https://127.0.0.1:9/sql'}\n"
    )
    (machine.root / "lora-cli.toml").write_text('[[sources]]\nmatch = "https://*"\ntoken_env = "ACME_TOKEN"\n')
    config = str(machine.root / "lora-cli.toml")
    assert machine.run("fetch", "-f", "set.yaml", program=BUG, ACME_TOKEN=SECRET, LORA_CLI_CONFIG=config) == 70
    assert machine.leaks() == []
