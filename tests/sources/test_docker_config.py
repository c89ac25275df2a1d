"""Credentials for registries, in the files and helpers of Docker and Podman."""

import base64
import json
import logging
from pathlib import Path

import pytest

from lora_cli.errors import UsageError
from lora_cli.sources.docker_config import NOBODY, Credentials, find_credentials

ALICE = {"auth": base64.b64encode(b"alice:wonder:land").decode()}
BOB = {"auth": base64.b64encode(b"bob:builder-pass").decode()}


def written(file: Path, config: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config if isinstance(config, str) else json.dumps(config))


def found(home: Path, server: str = "ghcr.io", repository: str = "acme/sql", **environ: str) -> Credentials:
    return find_credentials(server, repository, {"HOME": str(home), **environ})


KEYS = ("ghcr.io", "https://ghcr.io", "https://ghcr.io/v1/", "ghcr.io/acme", "ghcr.io/acme/sql")


@pytest.mark.parametrize("key", KEYS)
def test_an_entry_is_found_by_each_form_of_its_key(tmp_path: Path, key: str) -> None:
    others = dict.fromkeys(("ghcr.io.evil", "ghcr.io:443", "ghcr.io/acme/sql-2", "ghcr.io/ac"), BOB)
    hub = {"https://index.docker.io/v1/": ALICE}
    written(tmp_path / ".docker/config.json", {"auths": {**others, key: ALICE, **hub}})
    one = found(tmp_path)
    assert (one.username, one.password) == ("alice", "wonder:land")
    assert one.found_in == str(tmp_path / ".docker/config.json")
    assert found(tmp_path, "registry-1.docker.io").username == "alice"
    assert found(tmp_path, "quay.io") is NOBODY
    assert "wonder" not in repr(one)


def test_the_longest_place_of_a_repository_counts(tmp_path: Path) -> None:
    written(tmp_path / ".docker/config.json", {"auths": {"ghcr.io": BOB, "ghcr.io/acme": ALICE}})
    assert found(tmp_path).username == "alice"
    assert found(tmp_path, repository="other/sql").username == "bob"


def test_files_are_looked_at_in_their_order(tmp_path: Path) -> None:
    run, docker, named = str(tmp_path / "run"), str(tmp_path / "docker"), str(tmp_path / "auth.json")
    order: tuple[tuple[str, dict[str, str]], ...] = (
        (".config/containers/auth.json", {}),
        ("run/containers/auth.json", {"XDG_RUNTIME_DIR": run}),
        ("docker/config.json", {"DOCKER_CONFIG": docker, "XDG_RUNTIME_DIR": run}),
        ("auth.json", {"REGISTRY_AUTH_FILE": named, "DOCKER_CONFIG": docker}),
    )
    written(tmp_path / ".docker/config.json", {"auths": {"quay.io": BOB}})
    for file, environ in order:
        entry = {"username": file, "password": "a-password"}
        written(tmp_path / file, {"auths": {"ghcr.io": entry}})
        assert found(tmp_path, **environ).username == file


MALFORMED = ("{", "[]", {"auths": {"ghcr.io": {"auth": "%"}}}, {"auths": {"ghcr.io": 1}}, "[" * 100_000)


@pytest.mark.parametrize("config", MALFORMED)
def test_a_file_that_is_none_is_named(tmp_path: Path, config: object) -> None:
    written(tmp_path / ".docker/config.json", config)
    with pytest.raises(UsageError, match=r"config\.json"):
        found(tmp_path)


@pytest.fixture
def helped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose PATH has a helper that answers with what ``answer`` has."""
    program = tmp_path / "bin/docker-credential-test"
    written(program, f'#!/bin/sh\nread server\nsed "s|SERVER|$1-$server|" {tmp_path}/answer || exit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return tmp_path


def test_a_helper_is_asked_for_the_server(helped: Path) -> None:
    written(helped / "answer", {"Username": "SERVER", "Secret": "from-a-helper"})
    for config, hub in (
        ({"credsStore": "test"}, "get-https://index.docker.io/v1/"),
        ({"credHelpers": {"ghcr.io": "test"}}, ""),
    ):
        written(helped / ".docker/config.json", config)
        one = found(helped)
        assert (one.username, one.password, one.found_in) == ("get-ghcr.io", "from-a-helper", "docker-credential-test")
        assert found(helped, "registry-1.docker.io").username == hub
    written(helped / "answer", {"Username": "<token>", "Secret": "from-a-helper"})
    assert (found(helped).username, found(helped).identity_token) == ("", "from-a-helper")


ANSWERS = (
    ("test", None, ""),
    ("test", "no JSON", "docker-credential-test failed (JSONDecodeError)"),
    ("desktop", None, "not installed"),
    ("../../bin/evil", None, "not installed"),
)


@pytest.mark.parametrize(("name", "answer", "said"), ANSWERS)
def test_without_an_answer_of_a_helper_the_file_counts(
    helped: Path, caplog: pytest.LogCaptureFixture, name: str, answer: str | None, said: str
) -> None:
    if answer is not None:
        written(helped / "answer", answer)
    written(helped / ".docker/config.json", {"credsStore": name, "auths": {"ghcr.io": ALICE}})
    with caplog.at_level(logging.WARNING):
        assert found(helped).username == "alice"
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)
