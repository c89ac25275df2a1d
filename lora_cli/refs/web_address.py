"""The one address of a folder on a web server (RFC 3986, section 6): no policy is passed by writing it oddly."""

import functools
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote, unquote_to_bytes, urlsplit

DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
PLAIN = "/~!$&'()*+,=:@"
"""What is not percent-encoded in a canonical path, besides letters, digits and ``_.-``."""

_LOCAL = ("localhost", "localhost.localdomain")
_LABEL = "[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = rf"(?=[^:]{{1,254}}(?::|$)){_LABEL}(?:\.{_LABEL})*"


def canonical_host(authority: str, scheme: str) -> str:
    """``host[:port]``: in lower case, without a dot at the end, without the port that ``scheme`` has anyway.

    Raises:
        ValueError: it has a user in it, or is no host.
    """
    found = re.fullmatch(rf"(?:\[([\da-f:.]+)\]|({_NAME})\.?)(?::(\d{{1,5}}))?", authority.lower(), re.ASCII)
    usual = DEFAULT_PORTS[scheme]
    port = int(found[3] or usual) if found is not None else 0
    if found is None or not 0 < port < 65536:
        raise ValueError("this is not the address of a host")
    host = found[2]
    if not host:
        host = str(IPv6Address(found[1]).ipv4_mapped or f"[{IPv6Address(found[1]).compressed}]")
    elif re.fullmatch(r"(?:.*\.)?(?:\d+|0x[\da-f]*)", host, re.ASCII):
        # 0x7f.1 and 2130706433 are 127.0.0.1 to a resolver, and something else to whoever reads a policy.
        host = str(IPv4Address(host))
    return host if port == usual else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine itself."""
    name = re.sub(r":\d+$", "", host.lower())
    try:
        return name.endswith(".localhost") or name in _LOCAL or ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_encrypted(address: str) -> bool:
    """Whether what is sent to a web ``address`` does not go over http:// to another machine."""
    parts = urlsplit(address)
    return parts.scheme == "https" or is_loopback(parts.netloc)


@functools.lru_cache(1024)
def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: a token is only for one origin."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or DEFAULT_PORTS.get(parts.scheme, 0)


@functools.lru_cache(1024)
def host(url: str) -> str:
    """The host, with its port if there is one, for messages. The rest of a URL may be a signature."""
    parts = urlsplit(url)
    return f"{parts.hostname or '?'}:{parts.port}" if parts.port else parts.hostname or "?"


def canonical_path(path: str) -> str:
    r"""``path`` without empty parts and slashes at its ends; only what must be is percent-encoded, in capitals.

    Raises:
        ValueError: servers read it in several ways: it has ``.`` or ``..`` as a segment, ``;``, ``\``, an encoded slash
            or ``%``; or it holds control characters.
    """
    parts = [unquote_to_bytes(part) for part in path.split("/") if part]
    for part in parts:
        if odd := re.search(rb"^\.\.?$|[/;\\%\x00-\x1f\x7f]", part):
            raise ValueError(f"an address must not contain {odd[0].decode()!a}, which servers read in several ways")
    return "/".join(quote(part, safe=PLAIN) for part in parts)
