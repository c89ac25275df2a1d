"""Credentials for registries, in the files and helpers of Docker and Podman."""

import base64
import json
import logging
from pathlib import Path

import pytest

from lora_cli.errors import UsageError
from lora_cli.sources.docker_config import NOBODY, Credentials, find_credentials

ALICE = base64.b64encode(b"alice:wonder:land").decode()
BOB = base64.b64encode(b"bob:builder-pass").decode()


def written(file: Path, config: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config if isinstance(config, str) else json.dumps(config))


def found(home: Path, server: str = "ghcr.io", repository: str = "acme/sql", **environ: str) -> Credentials:
    return find_credentials(server, repository, {"HOME": str(home), **environ})


@pytest.mark.parametrize(
    "key", ["ghcr.io", "https://ghcr.io", "https://ghcr.io/v1/", "ghcr.io/acme", "ghcr.io/acme/sql"]
)
def test_an_entry_is_found_by_each_form_of_its_key(tmp_path: Path, key: str) -> None:
    other = {"auth": BOB}
    auths = {"ghcr.io.evil": other, "ghcr.io:443": other, "ghcr.io/acme/sql-2": other, "ghcr.io/ac": other}
    written(tmp_path / ".docker/config.json", {"auths": {**auths, key: {"auth": ALICE}}})
    assert (found(tmp_path).username, found(tmp_path).password) == ("alice", "wonder:land")
    assert found(tmp_path).found_in == str(tmp_path / ".docker/config.json")
    assert found(tmp_path, "quay.io") is NOBODY


def test_the_longest_place_of_a_repository_counts(tmp_path: Path) -> None:
    written(tmp_path / ".docker/config.json", {"auths": {"ghcr.io": {"auth": BOB}, "ghcr.io/acme": {"auth": ALICE}}})
    assert found(tmp_path).username == "alice"
    assert found(tmp_path, repository="other/sql").username == "bob"


def test_docker_hub_has_its_old_key(tmp_path: Path) -> None:
    written(tmp_path / ".docker/config.json", {"auths": {"https://index.docker.io/v1/": {"auth": ALICE}}})
    assert found(tmp_path, "registry-1.docker.io").username == "alice"


def test_files_are_looked_at_in_their_order(tmp_path: Path) -> None:
    def entry(name: str) -> object:
        return {"auths": {"ghcr.io": {"username": name, "password": "a-password"}}}

    written(tmp_path / ".config/containers/auth.json", entry("podman"))
    assert found(tmp_path).username == "podman"
    written(tmp_path / "run/containers/auth.json", entry("runtime"))
    assert found(tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run")).username == "runtime"
    written(tmp_path / ".docker/config.json", {"auths": {"quay.io": {"auth": BOB}}})
    assert found(tmp_path).username == "podman"
    written(tmp_path / "docker/config.json", entry("docker"))
    assert found(tmp_path, DOCKER_CONFIG=str(tmp_path / "docker")).username == "docker"
    written(tmp_path / "auth.json", entry("named"))
    named = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"), "DOCKER_CONFIG": str(tmp_path / "docker")}
    assert found(tmp_path, **named).username == "named"


@pytest.mark.parametrize("config", ["{", "[]", {"auths": {"ghcr.io": {"auth": "%"}}}, "[" * 100_000, " " * 2_000_000])
def test_a_file_that_is_none_is_named(tmp_path: Path, config: object) -> None:
    written(tmp_path / ".docker/config.json", config)
    with pytest.raises(UsageError, match=r"config\.json"):
        found(tmp_path)


@pytest.mark.parametrize("auths", [None, 1, {"ghcr.io": 1}, {"ghcr.io": {}}, {"ghcr.io": {"auth": 1}}])
def test_odd_entries_are_nobodys(tmp_path: Path, auths: object) -> None:
    written(tmp_path / ".docker/config.json", {"auths": auths})
    assert found(tmp_path) is NOBODY


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    entry = {"auth": ALICE, "identitytoken": "an-identity-token", "registrytoken": "a-registry-token"}
    written(tmp_path / ".docker/config.json", {"auths": {"ghcr.io": entry}})
    shown = repr(found(tmp_path))
    assert "alice" in shown
    assert not any(secret in shown for secret in (ALICE, "wonder", "identity-token", "registry-token"))
    entry["registrytoken"] = "a token\nX-Evil: 1"
    written(tmp_path / ".docker/config.json", {"auths": {"ghcr.io": entry}})
    with pytest.raises(UsageError, match="not a valid token"):
        found(tmp_path)


def helper(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_is_asked_for_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    helper(tmp_path / "bin", """read server; echo '{"Username": "'$1-$server'", "Secret": "from-a-helper"}'""")
    config = {"credsStore": "test"} if key == "credsStore" else {"credHelpers": {"ghcr.io": "test"}}
    written(tmp_path / ".docker/config.json", config)
    one = found(tmp_path)
    assert (one.username, one.password, one.found_in) == ("get-ghcr.io", "from-a-helper", "docker-credential-test")
    other = found(tmp_path, "registry-1.docker.io")
    assert other.username == ("get-https://index.docker.io/v1/" if key == "credsStore" else "")


def test_a_helper_may_have_an_identity_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    helper(tmp_path / "bin", """echo '{"Username": "<token>", "Secret": "from-a-helper"}'""")
    written(tmp_path / ".docker/config.json", {"credsStore": "test"})
    assert (found(tmp_path).username, found(tmp_path).identity_token) == ("", "from-a-helper")


@pytest.mark.parametrize(
    ("name", "script", "said"),
    [
        ("test", "echo credentials not found in native keychain; exit 1", ""),
        ("test", "echo no JSON", "docker-credential-test failed (JSONDecodeError)"),
        ("test", """echo '{"Username": 1, "Secret": 2}'""", ""),
        ("desktop", "", "not installed"),
        ("../../bin/evil", "", "not installed"),
        ("x; touch evil", "", "not installed"),
    ],
)
def test_without_an_answer_of_a_helper_the_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, script: str, said: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    helper(tmp_path / "bin", script)
    written(tmp_path / ".docker/config.json", {"credsStore": name, "auths": {"ghcr.io": {"auth": ALICE}}})
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path).username == "alice"
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)
