"""Checks of redirects: they may lead between public addresses, and never into a private network.

A server may send us where we can reach and it cannot: to this machine, its network, or the place where clouds keep
credentials. What counts is the address that is connected to, not the name, which can be given another one at any time.
"""

import socket
from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from lora_cli.core.web_address import is_loopback
from lora_cli.errors import Refused
from lora_cli.settings import Settings

NAT64 = IPv6Network("64:ff9b::/96")
CLOUDS = ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
METADATA = frozenset(map(ip_address, CLOUDS))
"""Where Alibaba, Azure, Oracle, AWS and Google answer their own machines, beside 169.254.169.254 (link-local)."""

Guard = Callable[[str], None]


class Reach(IntEnum):
    """The reach of an address. Redirects may lead from a nearer to a farther one; link-local is separate."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    LINK_LOCAL = 3


_WORDS = {
    Reach.PRIVATE: "an address of a private network",
    Reach.LOOPBACK: "this machine itself",
    Reach.LINK_LOCAL: "a link-local address, or that of a cloud's credentials",
}


def reach_of(address: str) -> Reach:
    """The reach of ``address``, also of an IPv4 address wrapped in IPv6 or oddly written; a name counts as public."""
    try:
        name = address if address.isascii() else address.encode("idna").decode()
        ip = _ip(name.partition("%")[0].rstrip("."))
    except ValueError:
        return Reach.PUBLIC
    if ip is None:
        return Reach.LOOPBACK if is_loopback(name.lower().rstrip(".")) else Reach.PUBLIC
    if isinstance(ip, IPv6Address):
        inner = IPv4Address(ip.packed[-4:]) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour
        ip = inner or (ip.teredo[1] if ip.teredo else ip)
    if ip.is_loopback:
        return Reach.LOOPBACK
    first_byte_is_zero = ip.version == 4 and ip.packed[0] == 0
    odd = ip.is_link_local or ip.is_multicast or ip.is_unspecified or first_byte_is_zero or ip in METADATA
    if odd or (ip.version == 4 and ip.is_reserved):
        return Reach.LINK_LOCAL
    site_local = isinstance(ip, IPv6Address) and ip.is_site_local
    return Reach.PUBLIC if ip.is_global and not ip.is_reserved and not site_local else Reach.PRIVATE


def _ip(name: str) -> IPv4Address | IPv6Address | None:
    """The address that a resolver takes ``name`` for, which may be a number (``0x7f.1``); None: it is a name."""
    try:
        return ip_address(name)
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(name))
        except OSError:
            return None


def allows_private(settings: Settings) -> bool:
    """Whether redirects may lead into private networks: a policy overrides the settings, and one that forbids wins."""
    decisions = {policy.allow_private_redirects for policy in settings.policies}
    return False not in decisions and (True in decisions or settings.allow_private_redirects)


def guard(private: bool, sender: str, prefix: str) -> Guard:
    """A guard that checks each address of a redirect before anything is sent there.

    ``sender`` is the address that sent the redirect ("": unknown: public), ``prefix`` begins the message of an error.
    ``private`` lets redirects into private networks, but to no link-local address.
    """
    nearness = reach_of(sender)

    def judge(address: str) -> None:
        nearer = reach_of(address)
        if address == sender or nearer <= nearness < Reach.LINK_LOCAL or (private and nearer < Reach.LINK_LOCAL):
            return
        where = "" if address in prefix else f" at {address}"
        hint = "allow_private_redirects permits it: in a policy, the settings, or LORA_CLI_ALLOW_PRIVATE_REDIRECTS=1"
        if nearer is Reach.LINK_LOCAL:
            hint = "it cannot be allowed: no adapter files are served there; tell the owner of that server"
        raise Refused(f"{prefix}{where}, {_WORDS[nearer]} (allow_private_redirects)", hint=hint)

    return judge
