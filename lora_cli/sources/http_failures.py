"""Failures of urllib3 and http.client in our own words: theirs may hold headers, a password or a signed link."""

import ssl
from http.client import HTTPException, IncompleteRead

from urllib3.exceptions import HTTPError, InvalidHeader, ProtocolError, ReadTimeoutError, SSLError

from lora_cli.sources.http import host
from lora_cli.sources.retries import CONNECT_TIMEOUT_S, Transient, is_unknown_host, printable

ADDRESS = "the address (HF_ENDPOINT for the Hub, AWS_ENDPOINT_URL for S3)"


class NoConnection(Exception):
    """There is no connection to the server; the cause is why. ``by_proxy``: a proxy did not forward the request."""

    def __init__(self, *, by_proxy: bool = False) -> None:
        super().__init__()
        self.by_proxy = by_proxy


def translate_no_connection(error: NoConnection, url: str, timeout_s: float) -> Transient:
    """Why there was no connection."""
    cause = error.__cause__
    if isinstance(cause, HTTPError) and cause.__cause__ is not None:
        cause = cause.__cause__
    server, detail = host(url), printable(str(cause))
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = "set SSL_CERT_FILE to the certificates to trust"
        return Transient(f"the certificate of {server} is not trusted: {detail}", hint=hint, final=True)
    if isinstance(cause, TimeoutError):
        return Transient(f"{server} did not accept a connection in {min(timeout_s, CONNECT_TIMEOUT_S):g} s")
    if error.by_proxy:
        hint = "check HTTPS_PROXY and NO_PROXY"
        return Transient(f"the proxy did not forward the request to {server}", hint=hint)
    hint = f"check {ADDRESS}, the network and HTTPS_PROXY"
    return Transient(f"no connection to {server}: {detail}", hint=hint, final=is_unknown_host(cause))


def translate_broken(error: Exception, url: str, timeout_s: float) -> Transient:
    """Why an exchange with a server failed."""
    server = host(url)
    cause = error.args[-1] if isinstance(error, ProtocolError | SSLError) and error.args else error
    if isinstance(cause, TimeoutError | ReadTimeoutError):
        return Transient(f"{server} sent no data for {timeout_s:g} s")
    if isinstance(cause, OSError | SSLError):
        return Transient(f"the connection to {server} was cut")
    if isinstance(cause, HTTPException | InvalidHeader):
        detail = str(cause) if type(cause) is HTTPException else "the response is not HTTP/1.1"
        if isinstance(cause, IncompleteRead):
            detail = f"the body ended {cause.expected} bytes early" if cause.expected else "the body ended early"
        hint = f"try again later; if it persists, check {ADDRESS}, and whether a proxy is in between"
        return Transient(f"the connection to {server} was cut: {detail}", hint=hint)
    reason = f"communication with {server} failed ({type(cause).__name__})"
    return Transient(reason, hint=f"check {ADDRESS}", final=True)
