"""Credentials for OCI registries, found as Docker, Podman and ORAS find them."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_cli.core.addresses import DOCKER_HUB
from lora_cli.core.log import logger
from lora_cli.errors import UsageError
from lora_cli.redaction import remember
from lora_cli.settings import home_of

HELPER_S = 30.0
"""How long a credential helper may take. Some ask a cloud for a token."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry is told of who asks; all are empty for nobody.

    An ``identity_token`` is exchanged for a bearer token, ``bearer`` is one. ``found_in`` is for messages.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    found_in: str = ""

    def __post_init__(self) -> None:
        for secret in (self.password, self.identity_token, self.bearer, self.basic):
            remember(secret)

    @property
    def basic(self) -> str:
        """The credentials of RFC 7617, encoded; "" without a user."""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode() if self.username else ""


NOBODY = Credentials()


def find_credentials(server: str, repository: str, environ: Mapping[str, str]) -> Credentials:
    """The credentials for a repository of ``server`` (``HOST[:PORT]``), ``NOBODY`` if there are none.

    They are in the first file that has some: ``REGISTRY_AUTH_FILE``, ``$DOCKER_CONFIG/config.json`` (by default in
    ``~/.docker``), then Podman's ``auth.json``. A file names a credential helper, or has the credentials.

    Raises:
        UsageError: a file cannot be read, or is no such file.
    """
    home = home_of(environ)
    run, config_home = environ.get("XDG_RUNTIME_DIR"), environ.get("XDG_CONFIG_HOME") or home / ".config"
    files = [
        Path(environ.get("DOCKER_CONFIG") or home / ".docker", "config.json"),
        *([Path(run, "containers/auth.json")] if run else []),
        Path(config_home, "containers/auth.json"),
    ]
    if environ.get("REGISTRY_AUTH_FILE"):
        files.insert(0, Path(environ["REGISTRY_AUTH_FILE"]))
    for file in files:
        if not os.access(file, os.R_OK) or not file.is_file():
            continue
        try:
            config = json.loads(file.read_bytes())
            helper = config.get("credHelpers", {}).get(server) or config.get("credsStore")
            found = _ask_helper(str(helper), server) if helper else NOBODY
            found = found if found is not NOBODY else _in_file(config.get("auths") or {}, server, repository, file)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            hint = "log in again: docker login REGISTRY"
            raise UsageError(f"{file} is not a file of registry credentials", hint=hint) from error
        if found is not NOBODY:
            return found
    return NOBODY


def _in_file(auths: Mapping[str, Any], server: str, repository: str, file: Path) -> Credentials:
    """The entry for the repository, else for a folder above it (as Podman has them), else for the server."""
    entries = {re.sub(r"^https?://|/(?:v[12]/?)?$", "", key): entry for key, entry in auths.items()}
    parts = repository.split("/")
    for one in ("index.docker.io", *sorted(DOCKER_HUB)) if server in DOCKER_HUB else (server,):
        for count in range(len(parts), -1, -1):
            entry = entries.get("/".join((one, *parts[:count])), {})
            username, password = entry.get("username", ""), entry.get("password", "")
            if entry.get("auth"):
                username, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            if username or entry.get("identitytoken"):
                return Credentials(username, password.rstrip("\0"), entry.get("identitytoken", ""), found_in=str(file))
    return NOBODY


def _ask_helper(name: str, server: str) -> Credentials:
    """The answer of a credential helper; ``NOBODY`` when it has none, or fails, which the log says."""
    program = shutil.which(f"docker-credential-{name}") if re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]*", name) else None
    if program is None:
        log.warning("the credential helper docker-credential-%.64s is not installed", name)
        return NOBODY
    asked = "https://index.docker.io/v1/" if server in DOCKER_HUB else server
    try:
        done = subprocess.run(  # noqa: S603 - a helper that this user's own file names, found on the PATH
            [program, "get"], input=asked.encode(), capture_output=True, timeout=HELPER_S, check=False
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else {"Username": "", "Secret": ""}
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (OSError, ValueError, LookupError, TypeError, subprocess.TimeoutExpired) as error:
        log.warning("docker-credential-%s failed (%s)", name, type(error).__name__)
        return NOBODY
    if username == "<token>":
        return Credentials(identity_token=secret, found_in=Path(program).name)
    return Credentials(username, secret, found_in=Path(program).name) if username else NOBODY
