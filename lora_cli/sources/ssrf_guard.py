"""Checks of addresses: redirects lead between public ones, and never into a private network.

A server may send us where we can reach and it cannot: to this machine, its network, or the place where clouds keep
credentials. What counts is the address that is connected to, not the name, which can be given another one at any time.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from lora_cli.errors import Refused
from lora_cli.refs.web_address import is_loopback

NAT64 = IPv6Network("64:ff9b::/96")
METADATA = {*map(ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))}
"""Where Alibaba, Azure, Oracle, AWS and Google answer their own machines, beside 169.254.169.254 (link-local)."""

Guard = Callable[[str], None]


def _ip(address: str) -> IPv4Address | IPv6Address | None:
    """The address, out of IPv6 if it is an IPv4 address wrapped in that; None for a name, which a proxy resolves."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):
        return IPv4Address(ip.packed[-4:]) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour or ip
    return ip


def is_public(address: str) -> bool:
    """Whether ``address`` is neither of a private network nor this machine's own."""
    ip = _ip(address)
    return not is_loopback(address) if ip is None else ip.is_global and not ip.is_reserved


def guard(private: bool, sender: str, prefix: str) -> Guard:
    """A guard that checks each address of a redirect before anything is sent there; it raises ``Refused``.

    ``sender`` is the address that sent the redirect ("": unknown: public), ``prefix`` begins the message of an error.
    ``private`` lets redirects into private networks, but to no link-local address.
    """

    def judge(address: str) -> None:
        ip, where = _ip(address), "" if address in prefix else f" at {address}"
        if ip is not None and (ip.is_link_local or ip in METADATA):
            reason = f"{prefix}{where}, a link-local address, or that of a cloud's credentials"
            raise Refused(reason, hint="no adapter files are served there; tell the owner of that server")
        if not (private or is_public(address)) and is_public(sender):
            hint = "a policy, the settings or LORA_CLI_ALLOW_PRIVATE_REDIRECTS=1 can allow it"
            raise Refused(f"{prefix}{where}, a private address (allow_private_redirects)", hint=hint)

    return judge
