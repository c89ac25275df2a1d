"""One request to a running server: bounded in time and bytes, with its errors in words."""

import socket
from collections.abc import Mapping
from typing import Any

from lora_cli.core import parse
from lora_cli.core.frozen import dataclass, field
from lora_cli.endpoint.address import Address
from lora_cli.errors import EndpointError, FormatError

LARGEST_ANSWER = 64 << 20
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running server; ``token`` goes to it and nowhere else."""

    address: Address
    token: str = field(default="", repr=False)
    timeout_s: float = TIMEOUT_S

    def get(self, path: str) -> Any:
        """The JSON value at ``path``. Raises ``EndpointError``."""
        return self._json(self._request("GET", path), path)

    def post(self, path: str, value: Mapping[str, Any] | None = None) -> str:
        """What the server answers to ``value``. Raises ``EndpointError``: it refused, or is not there."""
        return self._request("POST", path, value or {}).decode("utf-8", "replace")

    def listens(self) -> bool:
        """Whether anybody is there."""
        try:
            self._check_listens()
        except EndpointError:
            return False
        return True

    def _request(self, method: str, path: str, value: Mapping[str, Any] | None = None) -> bytes:
        import httpx2

        self._check_listens()
        uds = None if self.address.uds is None else str(self.address.uds)
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with (
                httpx2.Client(
                    transport=httpx2.HTTPTransport(uds=uds), timeout=self.timeout_s, trust_env=False
                ) as client,
                client.stream(method, self.address.url + path, json=value, headers=headers) as response,
            ):
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise EndpointError(f"{self.address} answers with more than {LARGEST_ANSWER} bytes")
                if response.status_code >= 400:
                    raise self._refused(response.status_code, bytes(body))
                return bytes(body)
        except httpx2.TimeoutException as error:
            raise EndpointError(f"{self.address} does not answer within {self.timeout_s:g} s") from error
        except httpx2.HTTPError as error:
            raise EndpointError(f"{self.address}: {str(error) or type(error).__name__}") from error

    def _check_listens(self) -> None:
        """Raises ``EndpointError`` when nobody is there: found out before a client is made, which takes longer."""
        try:
            if self.address.uds is not None:
                with socket.socket(socket.AF_UNIX) as ours:
                    ours.settimeout(self.timeout_s)
                    ours.connect(str(self.address.uds))
            else:
                with socket.create_connection((self.address.host, self.address.port), self.timeout_s):
                    pass
        except OSError as error:
            raise EndpointError(
                f"nobody answers at {self.address}: {error.strerror or error}",
                hint="is it running? --host, --port or --uds name another address",
            ) from error

    def _refused(self, status: int, body: bytes) -> EndpointError:
        hint = "set LORA_CLI_API_KEY to the server's token" if status == 401 else ""
        return EndpointError(f"{self.address} answers {status}: {_words(body)}", hint=hint)

    def _json(self, body: bytes, path: str) -> Any:
        try:
            return parse.json_value(body, f"{self.address}{path}")
        except FormatError as error:
            raise EndpointError(error.message, hint="is this the right server?") from error


def _words(body: bytes) -> str:
    """The message of an error object, else the beginning of what was said."""
    try:
        value = parse.json_value(body, "")
    except FormatError:
        value = None
    said = value.get("error", value) if isinstance(value, dict) else None
    message = said.get("message") if isinstance(said, dict) else said
    text = message if isinstance(message, str) else body[:500].decode("utf-8", "replace")
    return " ".join(text.split())[:1000] or "nothing more"
