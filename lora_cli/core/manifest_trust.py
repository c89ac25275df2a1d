"""Secrets that an operator lets a manifest use: variables with a token, profiles, and servers for credentials."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from lora_cli.core.web_address import DEFAULT_PORTS, canonical_host, is_loopback

TOKEN_PREFIX = "LORA_CLI_TOKEN_"  # noqa: S105 - the beginning of a variable's name
VARIABLE = r"[A-Z_][A-Z0-9_]{0,63}"
PROFILE = r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}"

_ENDPOINT = re.compile(r"([a-z][a-z0-9+.-]{0,15}://)([a-z0-9*._-]{1,253}|\[[0-9a-f:.]+\])(?::([0-9]{1,5}|\*))?/?")


def is_for_manifests(variable: str) -> bool:
    """Whether any manifest may name ``variable`` for a token: it is set for that, and for nothing else."""
    return variable.startswith(TOKEN_PREFIX) and variable != TOKEN_PREFIX


def variable(text: str) -> str:
    """``text`` as the name of a variable that a manifest may be allowed to read.

    Raises:
        ValueError: it is no such name, or one of our own settings.
    """
    if not re.fullmatch(VARIABLE, text, re.ASCII):
        raise ValueError("this is not the name of a variable: write ACME_TOKEN, not its value")
    if text.startswith("LORA_CLI_") and not is_for_manifests(text):
        raise ValueError(f"{text} cannot be the token of a manifest: use {TOKEN_PREFIX}NAME, or a variable of your own")
    return text


def profile(text: str) -> str:
    """``text`` as the name of a profile; raises as ``variable``."""
    if not re.fullmatch(PROFILE, text, re.ASCII):
        raise ValueError("this is not the name of a profile: write its name in ~/.aws/config, not a key")
    return text


def endpoint_glob(text: str) -> str:
    """A glob over servers, ``https://*.acme.internal`` or ``fsspec+s3://acme-odd``, in canonical form.

    Raises:
        ValueError: it is not an address, or is not encrypted and on another machine.
    """
    found = _ENDPOINT.fullmatch(text.lower())
    if found is None:
        raise ValueError("this is not the address of a server: write https://HOST[:PORT], with * as a wildcard")
    scheme, host, port = found[1], found[2].removesuffix("."), found[3]
    if scheme == "http://" and not is_loopback(host):
        raise ValueError("credentials are never sent to another machine over http://: write https://HOST[:PORT]")
    usual = str(DEFAULT_PORTS.get(scheme.removesuffix("://"), ""))
    return f"{scheme}{host}:{port}" if port and port != usual else f"{scheme}{host}"


def is_covered(globs: Iterable[str], address: str) -> bool:
    """Whether the server at ``address`` is one that ``globs`` cover; the path of the address does not count."""
    server = server_at(address)
    return bool(server) and any(fnmatchcase(server, glob.replace("[", "[[]")) for glob in globs)


def is_same_server(one: str, other: str) -> bool:
    """Whether two addresses are of one server: scheme, host and port."""
    return bool(server_at(one)) and server_at(one) == server_at(other)


def is_encrypted(address: str) -> bool:
    """Whether what is sent to ``address`` does not go over http:// to another machine."""
    scheme, _, host = server_at(address).partition("://")
    return bool(scheme) and (scheme != "http" or is_loopback(host))


def server_at(address: str) -> str:
    """``scheme://host[:port]`` of an address in canonical form, "" where a resolver and a reader may disagree."""
    try:
        parts = urlsplit(address)
        return f"{parts.scheme}://{canonical_host(parts.netloc.rpartition('@')[2], parts.scheme)}"
    except ValueError:
        return ""
