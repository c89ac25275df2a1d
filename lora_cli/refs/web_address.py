"""The address of a folder on a web server in one canonical form, so that a policy cannot be passed by writing it oddly.

RFC 3986, section 6, says which forms mean the same: the case of a host, the default port, encoded letters. A dot behind
the host, an empty part and a number instead of an address are more ways to write one and the same thing.
"""

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote, urlsplit

DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
LOOPBACK_NAMES = ("localhost", "localhost.localdomain")

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]@:]*)(?::(\d{1,5}))?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.ASCII)
_ENCODED = re.compile("%(?:([0-9A-Fa-f]{2}))?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def canonical_host(authority: str, scheme: str) -> str:
    """``host[:port]``: in lower case, without a dot at the end, without the port that ``scheme`` has anyway.

    Raises:
        ValueError: it has a user in it, or is no host.
    """
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise ValueError("this is not the address of a host")
    host, port = _host(found[1].lower()), int(found[2] or DEFAULT_PORTS.get(scheme, 0))
    if not 0 <= port < 65536 or (found[2] and not port):
        raise ValueError(f"{port} is not a port")
    return host if port == DEFAULT_PORTS.get(scheme, 0) else f"{host}:{port}"


def _host(name: str) -> str:
    import ipaddress

    if name.startswith("["):
        address = ipaddress.IPv6Address(name[1:-1])
        return str(address.ipv4_mapped) if address.ipv4_mapped is not None else f"[{address.compressed}]"
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("this is not the address of a host")
    if _NUMBER.fullmatch(labels[-1]):
        # 0x7f.1 and 2130706433 are 127.0.0.1 to a resolver, and something else to whoever reads a policy.
        return str(ipaddress.IPv4Address(name))
    return name


def is_loopback(host: str) -> bool:
    """Whether a canonical ``host[:port]`` is this machine itself."""
    name = re.sub(r":\d+$", "", host) if not host.endswith("]") else host
    if name in LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_encrypted(address: str) -> bool:
    """Whether what is sent to a web ``address`` does not go over http:// to another machine."""
    parts = urlsplit(address)
    return parts.scheme == "https" or is_loopback(parts.netloc.lower())


def canonical_path(path: str) -> str:
    r"""``path`` without empty parts and slashes at its ends; only what must be is percent-encoded, in capitals.

    Raises:
        ValueError: servers read it in several ways: it has ``.`` or ``..`` as a segment, ``;``, ``\`` or an encoded
            slash; or it holds control characters.
    """
    plain = unescaped("/".join(part for part in path.split("/") if part))
    if {".", ".."} & set(plain.split("/")):
        raise ValueError("an address must not contain . or .. as a segment")
    if found := re.search(r";|\\|%(?:2F|5C|25|3B)", plain):
        raise ValueError(f"an address must not contain {found[0]}, which servers read in several ways")
    if any(ord(character) < 32 or ord(character) == 127 for character in unquote(plain)):
        raise ValueError("an address must not contain control characters")
    return quoted(plain, keep="%")


def unescaped(path: str) -> str:
    """``path`` with no more percent-encoded than must be, and that in capitals."""
    return _ENCODED.sub(_normal, path)


def _normal(found: re.Match[str]) -> str:
    if not found[1]:
        return "%25"
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else f"%{found[1].upper()}"


def quoted(path: str, keep: str = "") -> str:
    """``path`` as it is in an address, with every character that has a meaning there encoded, but ``keep``."""
    return quote(path, safe="/~!$&'()*+,;=:@" + keep)
