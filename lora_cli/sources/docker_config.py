"""Credentials for OCI registries, found as Docker, Podman and ORAS find them."""

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_cli.errors import UsageError
from lora_cli.redaction import logger
from lora_cli.settings import home_of

log = logger(__name__)


@dataclass(frozen=True)
class Credentials:
    """What a registry is told of who asks; nothing of nobody.

    ``basic`` is a user with a password, encoded (RFC 7617). An ``identity_token`` is exchanged for a bearer token.
    """

    basic: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find_credentials(server: str, repository: str, environ: Mapping[str, str]) -> Credentials:
    """The credentials for a repository of ``server`` (``HOST[:PORT]``), empty ones if there are none.

    They are in the first file that has some: ``REGISTRY_AUTH_FILE``, ``$DOCKER_CONFIG/config.json`` (by default in
    ``~/.docker``), then Podman's ``auth.json``. A file names a credential helper, or has the credentials.

    Raises:
        UsageError: a file cannot be read, or is no such file.
    """
    home = home_of(environ)
    names = (server, f"https://{server}")
    if server == "registry-1.docker.io":
        names = ("https://index.docker.io/v1/", "docker.io")  # as Docker calls it, and Podman
    folders = repository.split("/")
    keys = ["/".join((name, *folders[:count])) for name in names for count in range(len(folders), -1, -1)]
    for place, file in (
        (environ.get("REGISTRY_AUTH_FILE"), ""),
        (environ.get("DOCKER_CONFIG") or home / ".docker", "config.json"),
        (environ.get("XDG_RUNTIME_DIR"), "containers/auth.json"),
        (environ.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json"),
    ):
        if not place or not os.access(path := Path(place, file), os.R_OK):
            continue
        try:
            config = json.loads(path.read_bytes())
            helper = config.get("credHelpers", {}).get(names[0]) or config.get("credsStore")
            found = [_ask_helper(helper, names[0])] if helper else []
            entries = [config["auths"][key] for key in keys if key in (config.get("auths") or ())]
            found += [Credentials(entry.get("auth", ""), entry.get("identitytoken", "")) for entry in entries]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is not a file of registry credentials", hint="docker login renews it") from error
        if known := [one for one in found if one != Credentials()]:
            return known[0]
    return Credentials()


def _ask_helper(name: str, server: str) -> Credentials:
    """The answer of a credential helper; empty when it has none, or fails, which the log says."""
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(  # noqa: S603 - a helper that this user's own file names
            [program, "get"], input=server.encode(), capture_output=True, timeout=30, check=True
        )
        answer = json.loads(done.stdout)
        user, secret = answer["Username"], answer["Secret"]
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        log.info("%s has no credentials for %s (%s)", program, server, type(error).__name__)
        return Credentials()
    if user == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(base64.b64encode(f"{user}:{secret}".encode()).decode())
