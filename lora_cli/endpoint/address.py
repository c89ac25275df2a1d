"""The address of a server: host and port, or a Unix socket."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from lora_cli.errors import UsageError
from lora_cli.redaction import without_secrets


@dataclass(frozen=True, slots=True)
class Address:
    """``uds`` if there is one, else ``host`` and ``port``, over TLS or not."""

    host: str = "127.0.0.1"
    port: int = 8321
    uds: Path | None = None
    tls: bool = False

    def __str__(self) -> str:
        return f"unix:{self.uds}" if self.uds is not None else self.url

    @property
    def url(self) -> str:
        """The base URL of requests; over a Unix socket its host has no meaning."""
        if self.uds is not None:
            return "http://localhost"
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

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
        """Accepted values of the Host header for an address on this machine: no DNS names."""
        names = {"localhost", "127.0.0.1", "[::1]", f"[{self.host}]" if ":" in self.host else self.host}
        return frozenset(names | {f"{name}:{self.port}" for name in names})


def parse_address(text: str) -> Address:
    """The address ``http://HOST:PORT``, ``https://HOST`` or ``unix:PATH``; ``/v1`` may follow, as in OpenAI's clients.

    Raises:
        UsageError: it is none of these, or has another path or a user in it, which would be ignored.
    """
    if text.startswith("unix:") and text.removeprefix("unix:").lstrip("/"):
        return Address(uds=Path(text.removeprefix("unix:").replace("//", "/", 1)))
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
        if host and port != 0 and not parts.username and parts.path.strip("/") in {"", "v1"}:
            return Address(host, port or {"https": 443, "http": 80}[parts.scheme], tls=parts.scheme == "https")
    except (ValueError, KeyError):
        pass
    hint = "http://HOST:PORT or unix:PATH"
    raise UsageError(f"{without_secrets(text)} is not the address of a server", hint=hint)
