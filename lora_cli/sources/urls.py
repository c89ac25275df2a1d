"""What a URL says about where a request goes, and where a redirect may lead."""

import functools
import re
from urllib.parse import urljoin, urlsplit

from lora_cli.errors import Refused, Unreachable, UsageError

LONGEST_LINK = 8192
"""A signed link has some two thousand characters; many are remembered."""

_PORTS = {"http": 80, "https": 443}


@functools.lru_cache(1024)
def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: a token that belongs to one origin is not for any other."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)


@functools.lru_cache(1024)
def host(url: str) -> str:
    """The host, with its port if it says one, for messages. The rest of a URL may be a signature."""
    parts = urlsplit(url)
    name = parts.hostname or "?"
    return f"{name}:{parts.port}" if parts.port else name


def checked_endpoint(endpoint: str, variable: str) -> str:
    """An address that ``variable`` named, without a slash at its end. It is not repeated: it may hold a password.

    Raises:
        UsageError: it is none, or has a user, a query or a fragment in it.
    """
    try:
        usable = re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", endpoint) and urlsplit(endpoint).port != 0
    except ValueError:
        usable = False
    if not usable:
        hint = "write https://HOST[:PORT], without user, query or fragment"
        raise UsageError(f"{variable}: this is not the address of a server", hint=hint)
    return endpoint.rstrip("/")


def following(url: str, location: str, what: str) -> str:
    """Where a redirect from ``url`` leads; ``what`` begins the message of an error.

    Raises:
        Unreachable: to something that is no web address, or that carries a user or password.
        Refused: from https to http.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        usable = parts.scheme in _PORTS and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        usable = False
    if not usable or " " in target or not target.isprintable() or len(target) > LONGEST_LINK:
        reason = f"{what}: {host(url)} redirects to something that is no web address"
        raise Unreachable(reason, hint="check the address (HF_ENDPOINT for the Hub)")
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        raise Refused(
            f"{what}: {host(url)} redirects from https to http, at {host(target)}, which is not followed",
            hint="use the address of an endpoint that stays with https",
        )
    return target
