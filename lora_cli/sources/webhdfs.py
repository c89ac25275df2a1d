"""WebHDFS requests over our own transport: redirects are checked, and answers are bounded."""

import functools
import io
import ssl
from contextlib import closing
from pathlib import Path
from typing import Any

import requests
from requests.adapters import BaseAdapter

from lora_cli.errors import Refused
from lora_cli.settings import Settings
from lora_cli.sources.http import Http, bounded_body, error_body, host, origin, redirect_guard, redirect_target
from lora_cli.sources.http_json import parse_json
from lora_cli.sources.http_transport import send
from lora_cli.sources.listed_paths import MOST_ENTRIES
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import bounds_of

MOST_BYTES = 2 << 20
"""How many bytes has one answer: a listing of some 7000 files, or a mebibyte that was asked for."""


def bound(fs: Any, settings: Settings) -> None:
    """Makes fsspec's ``WebHDFS`` send its requests over our transport, and read no more of a file than is asked for."""
    adapter = _Adapter(fs.url, settings)
    for scheme in ("http://", "https://"):
        fs.session.mount(scheme, adapter)
    fs.session.headers.clear()
    fs.session.trust_env = False  # ~/.netrc is not read; proxies and certificates are the transport's
    fs.blocksize = 1


class _Answer(requests.Response):
    """An answer whose JSON is bounded: a listing has an object for each entry."""

    def json(self, **_: Any) -> Any:
        if self.content.count(b"{") > MOST_ENTRIES + 2:
            raise Refused(f"{host(self.url)} lists over {MOST_ENTRIES} entries", hint="use the folder of one adapter")
        return parse_json([self.content], lambda value: value)


class _Adapter(BaseAdapter):
    """Sends a session's requests. Another server than ``home`` is checked first, gets no credentials, leads nowhere."""

    def __init__(self, home: str, settings: Settings) -> None:
        super().__init__()
        self._http = Http(home, settings.timeout_s, Retries(0), bounds=bounds_of(settings))
        self._sender = ""

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        """The whole answer, which has at most ``MOST_BYTES``.

        Raises:
            Refused: the policy or the redirect rules do not let us ask that server, or the answer is too large.
            Transient: network or server.
        """
        http, url, allowed = self._http, request.url or "", None
        headers = {name: str(value) for name, value in request.headers.items()}
        what, at_home = f"webhdfs://{host(http.endpoint)}", origin(url) == origin(http.endpoint)
        if not at_home:
            redirect_target(http.endpoint, url, what)
            allowed = redirect_guard(http, self._sender, http.endpoint, url, what)
            headers.pop("Authorization", None)
        tls = _context(options.get("verify", True), options.get("cert"))
        with closing(send(url, headers, http.timeout_s, allowed, tls_context=tls)) as answered:
            response = _Answer()
            response.status_code, response.url, response.request = answered.status, url, request
            response.headers.update(answered.headers)
            if at_home:
                self._sender = answered.peer
            elif response.is_redirect:
                raise Refused(f"{host(url)} redirects again", hint="use the server that has the files")
            body = bounded_body(answered, http.timeout_s, what, MOST_BYTES) if response.ok else [error_body(answered)]
            response.raw = io.BytesIO(b"".join(body))
        if not at_home:
            response.raise_for_status()  # fsspec would take a refusal for the file
        return response

    def close(self) -> None:
        """Does nothing: connections are the transport's."""


@functools.cache
def _context(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext | None:
    """The TLS settings that the options ``session_verify`` and ``session_cert`` demand, None for the usual ones."""
    if verify is True and cert is None:
        return None
    context = ssl.create_default_context()
    if isinstance(verify, str):
        context.load_verify_locations(**{"capath" if Path(verify).is_dir() else "cafile": verify})
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(*([cert] if isinstance(cert, str) else cert))
    return context
