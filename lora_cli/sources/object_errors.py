"""What obstore's errors mean. They are text only: status and code are taken from it, and nothing else is shown."""

import re

from lora_cli.sources.object_wishes import BUSY, Busy
from lora_cli.sources.retries import Transient, from_status, printable

_STATUS = re.compile(r"Server returned (?:non-2xx status code|error response): (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n]{1,200})")
# The names of these errors are obstore's; those of Python are raised as they are.
_STATUS_OF = {
    "FileNotFoundError": 404,
    "NotFoundError": 404,
    "PreconditionError": 412,
    "PermissionDeniedError": 403,
    "UnauthenticatedError": 401,
}


class Answered(Exception):
    """An answer of the server that another try would not change.

    ``code`` and ``message`` are the server's own, made printable; ``region`` is the one that it names, if any.
    """

    def __init__(self, status: int, code: str = "", message: str = "", region: str = "") -> None:
        super().__init__(f"{status} {code}".strip())
        self.status, self.code, self.message, self.region = status, code, message, region


def meaning(error: Exception, server: str, timeout_s: float) -> Answered | Transient:
    """An error that obstore raised, in our words."""
    told, _, cause = str(error).partition("\n\nDebug source:")
    found = _STATUS.search(told)
    status = int(found[1]) if found else _STATUS_OF.get(type(error).__name__, 0)
    if "External" in told and "credential provider" in told:
        # Whoever gives out tokens, and not the store: when it is not there or says no, no other try helps.
        return Answered(401, "NoToken")
    if "redirect without LOCATION" in told:
        status = 301
    if "invalid path" in told:
        return Answered(200, "InvalidPath")
    if not status:
        return _of_the_network(told, cause, server, timeout_s)
    if status in (408, 429) or status >= 500:
        said = from_status(server, status, {})
        return Busy(said, status) if status in BUSY else said
    code, message = _CODE.search(told), _MESSAGE.search(told)
    return Answered(status, code[1] if code else "", printable(message[1]) if message else "")


def _of_the_network(told: str, cause: str, server: str, timeout_s: float) -> Transient:
    """Why there was no answer. obstore says it only in how it prints the chain of its causes."""
    meanings = (
        (r"invalid peer certificate|InvalidCertificate", f"the certificate of {server} is not trusted", _TRUST),
        (r"dns error|failed to lookup", f"no connection to {server}: its name is not known", NETWORK),
        (r"ConnectionRefused", f"no connection to {server}: it was refused", NETWORK),
        (r"TimedOut|timed out|kind: Timeout", f"{server} was silent for {timeout_s:g} s", ""),
        (r"kind: Connect", f"no connection to {server}", NETWORK),
        (r"hyper::Error\(\s*Parse\(", f"{server} sent no answer of HTTP", NETWORK),
        (r"IncompleteMessage|UnexpectedEof|ConnectionReset|BrokenPipe|kind: Decode|kind: Body|kind: Interrupted",
         f"the connection to {server} was cut", ""),
        (r"invalid XML|got invalid list|DeError|list response", f"{server} sent no listing", NETWORK),
    )  # fmt: skip
    text = f"{told}\n{cause}"
    for pattern, reason, hint in meanings:
        if re.search(pattern, text):
            return Transient(reason, hint=hint or "try again later", final=hint is _TRUST)
    return Transient(f"the exchange with {server} failed: {printable(told.splitlines()[0] if told else '')}")


NETWORK = "check the network, HTTPS_PROXY and the endpoint (AWS_ENDPOINT_URL for S3)"
_TRUST = "name the certificates to trust with SSL_CERT_FILE"
