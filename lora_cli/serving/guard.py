"""Who may ask, with what; and errors as clients know them."""

import asyncio
import hmac
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from lora_cli.errors import LoraCliError, UsageError
from lora_cli.serving.answers import STATUS, Json, error_body
from lora_cli.serving.connection import SMALL_BODY

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
