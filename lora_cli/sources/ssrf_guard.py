"""Checks of addresses: redirects lead between public ones, and never into a private network.

A server may send us where we can reach and it cannot: to this machine, its network, or the place where clouds keep
credentials. What counts is the address that is connected to, not the name, which can be given another one at any time.
"""

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
    """The reach of an address. Redirects lead from a nearer to a farther one; nothing leads to link-local ones."""

    PUBLIC, PRIVATE, LOOPBACK, LINK_LOCAL = range(4)


def reach_of(address: str) -> Reach:
    """The reach of ``address``, also of an IPv4 address wrapped in IPv6; a name, which a proxy resolves, is public."""
    try:
        ip = ip_address(address)
    except ValueError:
        return Reach.LOOPBACK if is_loopback(address) else Reach.PUBLIC
    if isinstance(ip, IPv6Address):
        ip = IPv4Address(ip.packed[-4:]) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour or ip
    if ip.is_link_local or ip in METADATA:
        return Reach.LINK_LOCAL
    if ip.is_loopback or ip.is_unspecified:
        return Reach.LOOPBACK
    is_site_local = isinstance(ip, IPv6Address) and ip.is_site_local
    return Reach.PUBLIC if ip.is_global and not ip.is_reserved and not is_site_local else Reach.PRIVATE


def allows_private(settings: Settings) -> bool:
    """Whether redirects may lead into private networks: a policy overrides the settings, and one that forbids wins."""
    decisions = {policy.allow_private_redirects for policy in settings.policies}
    return False not in decisions and (True in decisions or settings.allow_private_redirects)


def guard(private: bool, sender: str, prefix: str) -> Guard:
    """A guard that checks each address of a redirect before anything is sent there; it raises ``Refused``.

    ``sender`` is the address that sent the redirect ("": unknown: public), ``prefix`` begins the message of an error.
    ``private`` lets redirects into private networks, but to no link-local address.
    """

    def judge(address: str) -> None:
        reach = reach_of(address)
        if reach < Reach.LINK_LOCAL and (private or reach <= reach_of(sender)):
            return
        where = "" if address in prefix else f" at {address}"
        hint = "allow_private_redirects permits it: in a policy, the settings, or LORA_CLI_ALLOW_PRIVATE_REDIRECTS=1"
        if reach is Reach.LINK_LOCAL:
            hint = "it cannot be allowed: no adapter files are served there; tell the owner of that server"
        kind = reach.name.lower().replace("_", "-")
        raise Refused(f"{prefix}{where}, a {kind} address (allow_private_redirects)", hint=hint)

    return judge
