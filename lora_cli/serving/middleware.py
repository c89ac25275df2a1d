"""Checks on every request before its handler: authentication, the limit of concurrent requests, and the body's size."""

import asyncio
import hmac
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lora_cli.errors import LoraCliError, UsageError
from lora_cli.serving.connection import SMALL_BODY, Connection
from lora_cli.serving.responses import Json, error_body, error_response

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Paths that need no token: probes have none, and the responses are only yes or no."""

JSON_ONLY = "send the request as JSON, with the header content-type: application/json"

PARSERS = ThreadPoolExecutor(2, "parser")

T = TypeVar("T")


async def parse_body(request: Request, parse: Callable[[bytes], T]) -> T:
    """The parsed body; a large one is parsed in another thread. Raises as ``parse`` does."""
    body: bytes = request.state.body
    if len(body) <= SMALL_BODY:
        return parse(body)
    return await asyncio.wrap_future(PARSERS.submit(_parsed, parse, body))


def _parsed(parse: Callable[[bytes], T], body: bytes) -> T:
    try:
        return parse(body)
    except UsageError as error:
        message, hint = error.message, error.hint
    # A new exception: the frames of the old one keep the parsed value alive, many times as large as the body.
    raise UsageError(message, hint=hint)


async def failed(_request: Request, error: Exception) -> Response:
    """The response to an error, in the format of vLLM and OpenAI."""
    assert isinstance(error, LoraCliError)
    status, body = error_response(error)
    return Json(body, status, {"retry-after": "1"} if status == 503 else {})


async def http_error(_request: Request, error: Exception) -> Response:
    """The response to an error of the framework, in the same format."""
    assert isinstance(error, HTTPException)
    return Json(error_body(error.detail, error.status_code, "BadRequestError"), error.status_code)


LARGEST_BODY = 1 << 20

PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Paths that are answered also when there are too many requests."""


class RequestGuard:
    """An ASGI application around ``app``, for the connections of ``connection.protocol``.

    ``app`` is called once the whole body was received; it is ``body`` of the request's state. Until then a request only
    counts as a connection. ``token`` is "" if none is required. ``hosts`` are the accepted values of the Host header
    (None: all): a web page can reach a server on this machine under a name of its own (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] | None) -> None:
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection: Connection = scope["state"]["connection"]
        limits = connection.limits
        with connection.answering():
            refusal = self._refusal(scope)
            if refusal is None and limits.answering > limits.requests and scope["path"] not in PROBES:
                refusal = _busy("too many requests at once")
            if refusal is None and scope["method"] not in {"GET", "HEAD"}:
                with connection.waiting_for_body():
                    refusal = await _read(connection, scope, receive)
            await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """The error response to a request that is refused by its head, or None."""
        path, headers = scope["path"], Headers(scope=scope)
        if self._hosts is not None and headers.get("host", "").lower() not in self._hosts:
            return Json(error_body("the Host header names another server", 421, "MisdirectedRequestError"), 421)
        if self._token and path not in OPEN_PATHS:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            # Bytes: compare_digest takes no text beyond ASCII.
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token.encode()):
                body = error_body("this server requires a bearer token", 401, "UnauthorizedError")
                return Json(body, 401, {"www-authenticate": "Bearer"})
        if scope["method"] != "POST":
            return None
        if path == "/v1/stop":
            # It has no body, so a web page could send it; a browser then adds the page's origin.
            if "origin" in headers:
                return Json(error_body("browsers cannot stop this server", 403, "ForbiddenError"), 403)
        else:
            # A web page can send no JSON to another origin without a preflight request.
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return Json(error_body(JSON_ONLY, 415, "UnsupportedMediaTypeError"), 415)
        return None


async def _read(connection: Connection, scope: Scope, receive: Receive) -> Response | None:
    """Read the whole body into the request's state; the error response if it is too large."""
    data, counted, more = bytearray(), 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return Response(status_code=400)  # the client disconnected
        data += message.get("body", b"")
        more = message.get("more_body", False)
        if len(data) > LARGEST_BODY:
            error = error_body(f"the request has more than {LARGEST_BODY} bytes", 413, "BadRequestError")
            return Json(error, 413, {"connection": "close"})
        if len(data) > SMALL_BODY:
            if not connection.reserve_body(len(data) - counted):
                return _busy("too many large requests at once")
            counted = len(data)
    scope["state"]["body"] = bytes(data)
    return None


def _busy(reason: str) -> Json:
    body = error_body(reason, 503, "ServiceUnavailableError", "try again later")
    return Json(body, 503, {"retry-after": "1", "connection": "close"})
