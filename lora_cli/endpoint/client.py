"""HTTP requests to one running server, with limits of time and bytes; errors carry the server's message."""

import ssl
from collections.abc import Mapping
from typing import Any

from lora_cli import parse
from lora_cli.endpoint.address import Address
from lora_cli.errors import EndpointError, FormatError
from lora_cli.redaction import remember

LARGEST_ANSWER = 16 << 20
LONGEST_MESSAGE = 1000
TIMEOUT_S = 30.0
HTML_PAGE = "a web page"
NOT_AN_ENGINE_HINT = "check the address: is this an engine?"
"""The hint if something other than an engine responds."""


def ssl_context(address: Address) -> ssl.SSLContext | bool:
    """The TLS context: the system's certificates, or those of SSL_CERT_FILE, as openssl finds them."""
    return ssl.create_default_context() if address.tls else False


class Refusal(EndpointError):
    """An HTTP error response of a running server: its status and message."""

    def __init__(self, status: int, message: str, server_message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status, self.server_message = status, server_message


class Endpoint:
    """A running server at ``address``; ``token`` goes to it and nowhere else. Threads share it.

    A connection, and each wait for more of a response, may take ``timeout_s``, of a GET at most half a minute.
    """

    def __init__(self, address: Address, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        remember(token)
        self.address, self.token, self.timeout_s = address, token, timeout_s
        self._tls = ssl_context(address)

    def get(self, path: str) -> Any:
        """The JSON value at ``path``. Raises ``EndpointError``."""
        return self._json(self.request("GET", path), path)

    def post(self, path: str, value: Mapping[str, Any]) -> Any:
        """POST ``value``; the JSON value of the response. Raises ``EndpointError``."""
        return self._json(self.request("POST", path, value), path)

    def request(self, method: str, path: str, value: Mapping[str, Any] | None = None) -> bytes:
        """The body of a response with a status below 400, over a connection of its own.

        Raises:
            Refusal: the response has an error status.
            EndpointError: the server cannot be reached, or takes too long.
        """
        import httpx2

        limit_s = self.timeout_s if method == "POST" else min(self.timeout_s, TIMEOUT_S)
        transport = httpx2.HTTPTransport(verify=self._tls, uds=str(self.address.uds or "") or None)
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with (
                httpx2.Client(transport=transport, timeout=limit_s, trust_env=False) as client,
                client.stream(method, self.address.url + path, json=value, headers=headers) as response,
            ):
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise EndpointError(f"{self.address} returned more than {LARGEST_ANSWER} bytes")
        except httpx2.TimeoutException as error:
            raise EndpointError(f"{self.address} did not respond within {limit_s:g} s") from error
        except httpx2.ConnectError as error:
            hint = "check that the server is running at this address"
            raise EndpointError(f"cannot connect to {self.address}: {error}", hint=hint) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise EndpointError(f"{self.address}: {str(error) or type(error).__name__}") from error
        if response.status_code >= 400:
            raise self._refusal(response.status_code, bytes(body))
        return bytes(body)

    def _refusal(self, status: int, body: bytes) -> Refusal:
        server_message = body_message(body)
        hint = "set LORA_CLI_API_KEY to the server's token" if status in {401, 403} else ""
        if hint and self.token:
            hint = "the server rejects the token: check LORA_CLI_API_KEY"
        hint = hint or (NOT_AN_ENGINE_HINT if server_message == HTML_PAGE else "")
        said = f"{self.address} responded with {status}{f': {server_message}' if server_message else ''}"
        return Refusal(status, said, server_message, hint=hint)

    def _json(self, body: bytes, path: str) -> Any:
        try:
            return parse.json_value(body, f"{self.address}{path}")
        except FormatError as error:
            raise EndpointError(error.message, hint="check that this is the right server") from error


def body_message(body: bytes) -> str:
    """The message of an error object, else the beginning of the body; ``HTML_PAGE`` for markup."""
    if body.lstrip().startswith(b"<"):
        return HTML_PAGE
    try:
        said = error_message(parse.json_value(body, ""))
    except FormatError:
        said = ""
    return said or " ".join(body[:500].decode("utf-8", "replace").split())


def error_message(value: Any) -> str:
    """The message of an error object, nested as vLLM, SGLang, OpenAI and FastAPI do; "" without one."""
    if isinstance(value, str):
        return " ".join(value.split())[:LONGEST_MESSAGE]
    if not isinstance(value, dict):
        return ""
    keys = ("error", "message", "error_message", "detail")
    return next((said for key in keys if (said := error_message(value.get(key)))), "")
