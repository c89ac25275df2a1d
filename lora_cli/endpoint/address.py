"""Where a server listens: a port, or a Unix socket."""

from ipaddress import ip_address
from pathlib import Path

from lora_cli.core.frozen import dataclass

HOST, PORT = "127.0.0.1", 8321


@dataclass(frozen=True, slots=True)
class Address:
    """``uds`` where there is one, else ``host`` and ``port``."""

    host: str = HOST
    port: int = PORT
    uds: Path | None = None

    def __str__(self) -> str:
        return f"unix:{self.uds}" if self.uds is not None else self.url

    @property
    def url(self) -> str:
        """What requests go to; over a Unix socket the host says nothing."""
        if self.uds is not None:
            return "http://localhost"
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.uds is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str]:
        """What a Host header may say of an address on this machine: nothing that a name server made up."""
        names = {"localhost", "127.0.0.1", "[::1]", f"[{self.host}]" if ":" in self.host else self.host}
        return frozenset(names | {f"{name}:{self.port}" for name in names})
