"""Credentials for OCI registries, found as Docker, Podman and ORAS find them."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_cli.core.addresses import DOCKER_HUB
from lora_cli.core.log import logger
from lora_cli.errors import UsageError
from lora_cli.redaction import remember
from lora_cli.settings import home_of

CONFIG_CAP = 1 << 20
HELPER_S = 30.0
"""How long a credential helper may take. Some ask a cloud for a token."""

_HUB_KEY = "https://index.docker.io/v1/"
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
BEARER = re.compile(r"[!-~]{1,16000}")

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry is told of who asks. All are empty for nobody.

    ``identity_token`` is exchanged for a bearer token, ``registry_token`` is one. ``found_in`` is for messages.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    found_in: str = ""

    @property
    def basic(self) -> str:
        """The credentials of RFC 7617, encoded; "" without a user."""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode() if self.username else ""


NOBODY = Credentials()


def credentials_of(
    username: str = "", password: str = "", identity_token: str = "", registry_token: str = "", found_in: str = ""
) -> Credentials:
    """Credentials whose secrets no message repeats."""
    found = Credentials(username, password, identity_token, registry_token, found_in)
    for secret in (password, identity_token, registry_token, found.basic):
        remember(secret)
    return found


def find_credentials(server: str, repository: str, environ: Mapping[str, str]) -> Credentials:
    """The credentials for a repository of ``server`` (``HOST[:PORT]``), ``NOBODY`` if there are none.

    They are in the first file that has some: ``REGISTRY_AUTH_FILE``, ``$DOCKER_CONFIG/config.json`` (by default in
    ``~/.docker``), then Podman's ``auth.json``. A file names a credential helper, or has the credentials.

    Raises:
        UsageError: a file cannot be read, or is no such file.
    """
    for file in _config_files(environ):
        config = _read_config(file)
        helpers = config.get("credHelpers")
        named = helpers.get(server) if isinstance(helpers, dict) else None
        if helper := named or config.get("credsStore"):
            found = _ask_helper(str(helper), _HUB_KEY if server in DOCKER_HUB else server, file)
            if found is not NOBODY:
                return found
        found = _in_file(config.get("auths"), server, repository, file)
        if found is not NOBODY:
            return found
    return NOBODY


def _config_files(environ: Mapping[str, str]) -> Iterator[Path]:
    home = home_of(environ)
    candidates = [
        Path(environ.get("DOCKER_CONFIG") or home / ".docker", "config.json"),
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json"),
    ]
    if environ.get("XDG_RUNTIME_DIR"):
        candidates.insert(1, Path(environ["XDG_RUNTIME_DIR"], "containers/auth.json"))
    if environ.get("REGISTRY_AUTH_FILE"):
        candidates.insert(0, Path(environ["REGISTRY_AUTH_FILE"]))
    return (file for file in candidates if os.access(file, os.R_OK) and file.is_file())


def _read_config(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(CONFIG_CAP + 1)
        config = json.loads(data) if len(data) <= CONFIG_CAP else None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON", hint="log in again: docker login REGISTRY") from error
    if not isinstance(config, dict):
        raise UsageError(f"{file} is not a file of registry credentials", hint="log in again: docker login REGISTRY")
    return config


def _in_file(auths: object, server: str, repository: str, file: Path) -> Credentials:
    """The entry for the repository, else for a folder above it (as Podman has them), else for the server."""
    if not isinstance(auths, dict):
        return NOBODY
    entries = {_place(key): entry for key, entry in auths.items() if isinstance(entry, dict)}
    parts = repository.split("/")
    servers = ("index.docker.io", *sorted(DOCKER_HUB)) if server in DOCKER_HUB else (server,)
    places = [f"{one}/{'/'.join(parts[:count])}" for one in servers for count in range(len(parts), 0, -1)]
    for place in (*places, *servers):
        found = _entry(entries.get(place, {}), file)
        if found is not NOBODY:
            return found
    return NOBODY


def _place(key: str) -> str:
    """The key of an entry without its scheme and the version of an API."""
    return re.sub(r"^https?://|/(?:v[12]/?)?$", "", key)


def _entry(entry: Mapping[str, Any], file: Path) -> Credentials:
    texts: dict[str, str] = {key: value for key, value in entry.items() if isinstance(value, str) and value}
    username, password = texts.get("username", ""), texts.get("password", "")
    if "auth" in texts:
        try:
            username, _, password = base64.b64decode(texts["auth"], validate=True).decode().partition(":")
        except ValueError as error:
            raise UsageError(f"{file}: an auth is not base64", hint="log in again: docker login REGISTRY") from error
    identity, registry = texts.get("identitytoken", ""), texts.get("registrytoken", "")
    if not (username or identity or registry):
        return NOBODY
    if registry and not BEARER.fullmatch(registry):
        raise UsageError(f"{file}: a registrytoken is not a valid token", hint="log in again: docker login REGISTRY")
    return credentials_of(username, password.rstrip("\0"), identity, registry, str(file))


def _ask_helper(name: str, server: str, file: Path) -> Credentials:
    """The answer of a credential helper; ``NOBODY`` when it has none, or fails, which the log says."""
    program = shutil.which(f"docker-credential-{name}") if _HELPER.fullmatch(name) else None
    if program is None:
        log.warning("%s names the credential helper docker-credential-%.64s, which is not installed", file, name)
        return NOBODY
    try:
        done = subprocess.run(  # noqa: S603 - a helper that this user's own file names, found on the PATH
            [program, "get"], input=server.encode(), capture_output=True, timeout=HELPER_S, check=False
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, RecursionError, subprocess.TimeoutExpired) as error:
        log.warning("docker-credential-%s failed (%s)", name, type(error).__name__)
        return NOBODY
    if not isinstance(answer, dict) or not all(isinstance(answer.get(key), str) for key in ("Username", "Secret")):
        return NOBODY
    username, secret = answer["Username"], answer["Secret"]
    if username == "<token>":
        return credentials_of(identity_token=secret, found_in=Path(program).name)
    return credentials_of(username, secret, found_in=Path(program).name)
