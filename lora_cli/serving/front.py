"""What every request goes through first: who may ask, how many at once, and its whole body, within bounds."""

import asyncio
import hmac
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_cli.errors import LoraCliError, UsageError
from lora_cli.serving.answers import STATUS, Json, error_body
from lora_cli.serving.connection import MOST_BODIES, SMALL_BODY, Connection, Room

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What is answered without a token: probes have none, and learn nothing but yes or no."""

JSON_ONLY = "send it as JSON, with the header content-type: application/json"

PARSERS = ThreadPoolExecutor(2, "parser")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Guard:
    """``token`` is "" where none is asked for. ``hosts`` are the values of a Host header that are answered (None: all).

    A page in a browser can reach a server on this machine by a name of its own.
    """

    token: str
    hosts: Collection[str] | None

    def refusal(self, scope: Scope) -> Response | None:
        """Why this request is not answered, if it is not."""
        path, headers = scope["path"], Headers(scope=scope)
        if self.hosts is not None and headers.get("host", "").lower() not in self.hosts:
            return Json(error_body("this is not that host", 421, "MisdirectedRequestError"), 421)
        if self.token and path not in OPEN_PATHS:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            # Bytes: compare_digest takes no text beyond ASCII.
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.token.encode()):
                body = error_body("this server asks for a bearer token", 401, "UnauthorizedError")
                return Json(body, 401, {"www-authenticate": "Bearer"})
        if scope["method"] != "POST":
            return None
        if path == "/v1/stop":
            # It has no body, so a page in a browser could send it; but then it says where that page is from.
            if "origin" in headers:
                return Json(error_body("no page in a browser ends this server", 403, "ForbiddenError"), 403)
        else:
            # What a page in a browser can send elsewhere without being asked for permission has another type.
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return Json(error_body(JSON_ONLY, 415, "UnsupportedMediaTypeError"), 415)
        return None


async def parsed(request: Request, parse: Callable[[bytes], T]) -> T:
    """What ``parse`` makes of the body; a large one is parsed by another thread. Raises what it raises."""
    body = await request.body()
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
    """An error of ours, as vLLM and OpenAI answer it."""
    assert isinstance(error, LoraCliError)
    status, kind = STATUS.get(error.exit_code, (500, "InternalServerError"))
    headers = {"retry-after": "1"} if status == 503 else {}
    return Json(error_body(error.message, status, kind, error.hint), status, headers)


async def http_error(_request: Request, error: Exception) -> Response:
    """What the framework refuses by itself, as the other errors."""
    assert isinstance(error, HTTPException)
    return Json(error_body(error.detail, error.status_code, "BadRequestError"), error.status_code)


LARGEST_BODY = 1 << 20

PROBES = frozenset({"/health", "/ready", "/metrics"})
"""What is answered also where too much is asked at once."""


class TooMuch(Exception):
    """A body that is not read to its end, and the answer that it gets."""

    def __init__(self, answer: Json) -> None:
        super().__init__()
        self.answer = answer


class Front:
    """An ASGI application around ``app``, for the connections of ``connection.protocol``.

    ``app`` is called with requests whose bodies are here; until then a request counts for nothing but its connection.
    """

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection: Connection = scope["state"]["connection"]
        room = connection.room
        with connection.answering():
            refusal = self._guard.refusal(scope)
            if refusal is None and room.answering > room.requests and scope["path"] not in PROBES:
                refusal = _busy("too many requests at once")
            if refusal is not None:
                await refusal(scope, receive, send)
            elif scope["method"] in {"GET", "HEAD"}:
                await self._app(scope, receive, send)
            else:
                try:
                    with closing(Body(room)) as body:
                        if await _read(connection, body, receive):
                            await self._app(scope, _whole(bytes(body.data), receive), send)
                except TooMuch as error:
                    await error.answer(scope, receive, send)


class Body:
    """The bytes of a body so far; what is more than a small one has is counted in ``room``."""

    def __init__(self, room: Room) -> None:
        self.data, self._room, self._counted = bytearray(), room, 0

    def add(self, piece: bytes) -> None:
        """Raises ``TooMuch``: it is too large, or all of them together are."""
        self.data += piece
        if len(self.data) > LARGEST_BODY:
            error = error_body(f"the request has more than {LARGEST_BODY} bytes", 413, "BadRequestError")
            raise TooMuch(Json(error, 413, {"connection": "close"}))
        if len(self.data) > SMALL_BODY:
            self._room.bodies += len(self.data) - self._counted
            self._counted = len(self.data)
            if self._room.bodies > MOST_BODIES:
                raise TooMuch(_busy("too many large requests at once"))

    def close(self) -> None:
        """It counts no more."""
        self._room.bodies -= self._counted


async def _read(connection: Connection, body: Body, receive: Receive) -> bool:
    """Read all that the client sends; whether it came to its end."""
    with connection.waiting_for_body():
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return False
            body.add(message.get("body", b""))
            if not message.get("more_body", False):
                return True


def _whole(body: bytes, receive: Receive) -> Receive:
    """``receive`` for an application whose request has come: its body in one piece, then what comes after it."""
    told = False

    async def received() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


def _busy(why: str) -> Json:
    body = error_body(why, 503, "ServiceUnavailableError", "ask again later")
    return Json(body, 503, {"retry-after": "1", "connection": "close"})
