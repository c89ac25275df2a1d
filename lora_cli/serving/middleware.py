"""What every request goes through first: authentication, the limit of concurrent requests, and the bounded body."""

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
"""What is answered without a token: probes have none, and learn nothing but yes or no."""

JSON_ONLY = "send it as JSON, with the header content-type: application/json"

PARSERS = ThreadPoolExecutor(2, "parser")

T = TypeVar("T")


async def parse_body(request: Request, parse: Callable[[bytes], T]) -> T:
    """What ``parse`` makes of the body; a large one is parsed by another thread. Raises what it raises."""
    body: bytes = request.state.body
    if len(body) <= SMALL_BODY:
        return parse(body)
    return await asyncio.wrap_future(PARSERS.submit(_parsed, parse, body))


def _parsed(parse: Callable[[bytes], T], body: bytes) -> T:
    try:
        return parse(body)
    except UsageError as error:
        message, hint = error.message, error.hint
    # A new one: the frames of the old one hold what was parsed, which is many times as large as the body.
    raise UsageError(message, hint=hint)


async def failed(_request: Request, error: Exception) -> Response:
    """An error, as vLLM and OpenAI answer it."""
    assert isinstance(error, LoraCliError)
    status, body = error_response(error)
    return Json(body, status, {"retry-after": "1"} if status == 503 else {})


async def http_error(_request: Request, error: Exception) -> Response:
    """What the framework refuses by itself, as the other errors."""
    assert isinstance(error, HTTPException)
    return Json(error_body(error.detail, error.status_code, "BadRequestError"), error.status_code)


LARGEST_BODY = 1 << 20

PROBES = frozenset({"/health", "/ready", "/metrics"})
"""What is answered also where too much is asked at once."""


class RequestGuard:
    """An ASGI application around ``app``, for the connections of ``connection.protocol``.

    ``app`` is called with requests whose bodies are here, as ``body`` of their state; until then a request counts for
    nothing but its connection. ``token`` is "" where none is asked for. ``hosts`` are the values of a Host header that
    are answered (None: all): a page in a browser can reach a server on this machine by a name of its own.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] | None) -> None:
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection: Connection = scope["state"]["connection"]
        room = connection.room
        with connection.answering():
            refusal = self._refusal(scope)
            if refusal is None and room.answering > room.requests and scope["path"] not in PROBES:
                refusal = _busy("too many requests at once")
            if refusal is None and scope["method"] not in {"GET", "HEAD"}:
                with connection.waiting_for_body():
                    refusal = await _read(connection, scope, receive)
            await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """Why this request is not answered, if it is not."""
        path, headers = scope["path"], Headers(scope=scope)
        if self._hosts is not None and headers.get("host", "").lower() not in self._hosts:
            return Json(error_body("this is not that host", 421, "MisdirectedRequestError"), 421)
        if self._token and path not in OPEN_PATHS:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            # Bytes: compare_digest takes no text beyond ASCII.
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token.encode()):
                body = error_body("this server requires a bearer token", 401, "UnauthorizedError")
                return Json(body, 401, {"www-authenticate": "Bearer"})
        if scope["method"] != "POST":
            return None
        if path == "/v1/stop":
            # It has no body, so a page in a browser could send it; but then it says where that page is from.
            if "origin" in headers:
                return Json(error_body("browsers cannot stop this server", 403, "ForbiddenError"), 403)
        else:
            # What a page in a browser can send elsewhere without being asked for permission has another type.
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return Json(error_body(JSON_ONLY, 415, "UnsupportedMediaTypeError"), 415)
        return None


async def _read(connection: Connection, scope: Scope, receive: Receive) -> Response | None:
    """Read all that the client sends; the answer that it gets where that is too much, or does not come."""
    data, counted, more = bytearray(), 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return Response(status_code=400)  # it went away, so nobody reads this
        data += message.get("body", b"")
        more = message.get("more_body", False)
        if len(data) > LARGEST_BODY:
            error = error_body(f"the request has more than {LARGEST_BODY} bytes", 413, "BadRequestError")
            return Json(error, 413, {"connection": "close"})
        if len(data) > SMALL_BODY:
            if not connection.keeps(len(data) - counted):
                return _busy("too many large requests at once")
            counted = len(data)
    scope["state"]["body"] = bytes(data)
    return None


def _busy(why: str) -> Json:
    body = error_body(why, 503, "ServiceUnavailableError", "try again later")
    return Json(body, 503, {"retry-after": "1", "connection": "close"})
