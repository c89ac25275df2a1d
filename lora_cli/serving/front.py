"""What every request goes through first: who may ask, how many at once, and its whole body, within bounds."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_cli.serving.answers import Json, error_body
from lora_cli.serving.connection import MOST_BODIES, SMALL_BODY, Connection, Room
from lora_cli.serving.guard import Guard

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
                    with _body_of(room) as body:
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

    def forget(self) -> None:
        """It counts no more."""
        self._room.bodies -= self._counted


@contextmanager
def _body_of(room: Room) -> Iterator[Body]:
    body = Body(room)
    try:
        yield body
    finally:
        body.forget()


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
