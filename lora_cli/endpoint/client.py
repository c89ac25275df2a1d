"""Requests to one running server: bounded in time and bytes, with its errors in its own words."""

import socket
import ssl
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lora_cli.core import parse
from lora_cli.endpoint.address import Address
from lora_cli.errors import EndpointError, FormatError
from lora_cli.redaction import remember

if TYPE_CHECKING:
    import httpx2

LARGEST_ANSWER = 64 << 20
LONGEST_WORDS = 1000
TIMEOUT_S = 30.0


class Refusal(EndpointError):
    """A running server answers and says no: its HTTP status, and its own words."""

    def __init__(self, status: int, message: str, words: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status, self.words = status, words


class Endpoint:
    """A running server at ``address``; ``token`` goes to it and nowhere else. A context manager; threads share it.

    One answer may take ``timeout_s``; connections are kept for the next request.
    """

    def __init__(self, address: Address, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        remember(token)
        self.address, self.token, self.timeout_s = address, token, timeout_s
        self._client: httpx2.Client | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of its connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def get(self, path: str) -> Any:
        """The JSON value at ``path``. Raises ``EndpointError``."""
        return self._json(self.request("GET", path), path)

    def ask(self, path: str, value: Mapping[str, Any]) -> Any:
        """The JSON value that the server answers to ``value``. Raises ``EndpointError``."""
        return self._json(self.request("POST", path, value), path)

    def request(self, method: str, path: str, value: Mapping[str, Any] | None = None) -> bytes:
        """The body of an answer below 400.

        Raises:
            Refusal: the server says no.
            EndpointError: it is not there, or takes too long.
        """
        import httpx2

        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with self._opened().stream(method, self.address.url + path, json=value, headers=headers) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise EndpointError(f"{self.address} answers with more than {LARGEST_ANSWER} bytes")
                if response.status_code >= 400:
                    raise self._refusal(response.status_code, bytes(body))
                return bytes(body)
        except httpx2.TimeoutException as error:
            raise EndpointError(f"{self.address} does not answer within {self.timeout_s:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise EndpointError(f"{self.address}: {str(error) or type(error).__name__}") from error

    def listens(self) -> bool:
        """Whether anybody is there."""
        try:
            self._check_listens()
        except EndpointError:
            return False
        return True

    def _opened(self) -> "httpx2.Client":
        import httpx2

        with self._lock:
            if self._client is None:
                self._check_listens()
                uds = None if self.address.uds is None else str(self.address.uds)
                # The system's own certificates, or SSL_CERT_FILE's: as openssl finds them.
                trust = ssl.create_default_context() if self.address.tls else False
                transport = httpx2.HTTPTransport(verify=trust, uds=uds)
                self._client = httpx2.Client(transport=transport, timeout=self.timeout_s, trust_env=False)
            return self._client

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
                hint="is it running, and is this its address?",
            ) from error

    def _refusal(self, status: int, body: bytes) -> Refusal:
        words = words_of_body(body)
        hint = "set LORA_CLI_API_KEY to the server's token" if status in {401, 403} else ""
        return Refusal(status, f"{self.address} answers {status}: {words}", words, hint=hint)

    def _json(self, body: bytes, path: str) -> Any:
        try:
            return parse.json_value(body, f"{self.address}{path}")
        except FormatError as error:
            raise EndpointError(error.message, hint="is this the right server?") from error


def words_of_body(body: bytes) -> str:
    """The message of an error object, else the beginning of what was said."""
    try:
        said = words_of(parse.json_value(body, ""))
    except FormatError:
        said = ""
    return said or " ".join(body[:500].decode("utf-8", "replace").split()) or "nothing more"


def words_of(value: Any) -> str:
    """The message of an error object, however deep vLLM, SGLang, OpenAI and FastAPI put it; "" where it has none."""
    if isinstance(value, str):
        return " ".join(value.split())[:LONGEST_WORDS]
    if not isinstance(value, dict):
        return ""
    keys = ("error", "message", "error_message", "detail")
    return next((said for key in keys if (said := words_of(value.get(key)))), "")
