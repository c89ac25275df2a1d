"""Credentials for registries, in the files and helpers of Docker and Podman."""

import base64
import json
from pathlib import Path

import pytest

from lora_cli.errors import UsageError
from lora_cli.sources.oci import Credentials, find_credentials

ALICE, BOB = (base64.b64encode(login).decode() for login in (b"alice:wonder:land", b"bob:builder-pass"))


def written(file: Path, config: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config if isinstance(config, str) else json.dumps(config))


def found(home: Path, server: str = "ghcr.io", **environ: str) -> Credentials:
    return find_credentials(server, "acme/sql", {"HOME": str(home), **environ})


ENTRIES = (
    ("ghcr.io", {"ghcr.io": ALICE, "ghcr.io.evil": BOB, "ghcr.io:443": BOB, "ghcr.io/ac": BOB}),
    ("ghcr.io", {"ghcr.io/acme/sql": ALICE, "ghcr.io/acme": BOB, "ghcr.io/acme/sql-2": BOB}),
    ("registry-1.docker.io", {"https://index.docker.io/v1/": ALICE, "ghcr.io": BOB}),
    ("ghcr.io", {"https://ghcr.io": ALICE}),
    ("quay.io", {"ghcr.io": BOB}),
)


@pytest.mark.parametrize(("server", "entries"), ENTRIES)
def test_the_longest_entry_for_a_repository_counts(tmp_path: Path, server: str, entries: dict[str, str]) -> None:
    written(tmp_path / ".docker/config.json", {"auths": {key: {"auth": auth} for key, auth in entries.items()}})
    assert found(tmp_path, server) == Credentials(ALICE if ALICE in entries.values() else "")
    assert ALICE not in repr(found(tmp_path, server))


def test_files_are_looked_at_in_their_order(tmp_path: Path) -> None:
    run, docker, named = str(tmp_path / "run"), str(tmp_path / "docker"), str(tmp_path / "auth.json")
    order: tuple[tuple[str, dict[str, str]], ...] = (
        (".config/containers/auth.json", {}),
        ("run/containers/auth.json", {"XDG_RUNTIME_DIR": run}),
        ("docker/config.json", {"DOCKER_CONFIG": docker, "XDG_RUNTIME_DIR": run}),
        ("auth.json", {"REGISTRY_AUTH_FILE": named, "DOCKER_CONFIG": docker}),
    )
    written(tmp_path / ".docker/config.json", {"auths": {"quay.io": {"auth": BOB}}})
    for file, environ in order:
        written(tmp_path / file, {"auths": {"ghcr.io": {"auth": file}}})
        assert found(tmp_path, **environ).basic == file


@pytest.mark.parametrize("config", ["{", {"auths": {"ghcr.io": 1}}])
def test_a_file_that_is_none_is_named(tmp_path: Path, config: object) -> None:
    written(tmp_path / ".docker/config.json", config)
    with pytest.raises(UsageError, match=r"config\.json"):
        found(tmp_path)


HUB, ANSWER = "https://index.docker.io/v1/", '{"Username": "SERVER", "Secret": "secret"}'
HELPERS: tuple[tuple[str, dict[str, object], str, str | Credentials], ...] = (
    ("ghcr.io", {"credsStore": "absent", "credHelpers": {"ghcr.io": "test"}}, ANSWER, "get-ghcr.io:secret"),
    ("registry-1.docker.io", {"credsStore": "test"}, ANSWER, f"get-{HUB}:secret"),
    ("ghcr.io", {"credsStore": "test"}, ANSWER.replace("SERVER", "<token>"), Credentials(identity_token="secret")),
    ("ghcr.io", {"credsStore": "absent"}, ANSWER, Credentials(ALICE)),
    ("ghcr.io", {"credsStore": "test"}, "", Credentials(ALICE)),
)


@pytest.mark.parametrize(("server", "config", "answer", "expected"), HELPERS)
def test_a_helper_is_asked_for_the_server_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    server: str, config: dict[str, object], answer: str, expected: str | Credentials,
) -> None:  # fmt: skip
    program = tmp_path / "bin/docker-credential-test"
    written(program, f'#!/bin/sh\nread server\nsed "s|SERVER|$1-$server|" {tmp_path}/answer | grep . || exit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    written(tmp_path / "answer", answer)
    written(tmp_path / ".docker/config.json", {**config, "auths": {"ghcr.io": {"auth": ALICE}}})
    one = found(tmp_path, server)
    assert expected in (one, base64.b64decode(one.basic).decode())
