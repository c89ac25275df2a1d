"""JSON over HTTP: bounded in bytes, time and memory, and tried again."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lora_cli.errors import Refused
from lora_cli.sources.bounded_json import TooLarge, picked
from lora_cli.sources.http import Headers, Http, open_answer
from lora_cli.sources.retries import Transient
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.sources.http_transport import Response

JSON_CAP = 2 * 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was read of a JSON answer, the URL that gave it after all redirects, and its headers."""

    value: T
    url: str
    headers: Headers


def get_json(http: Http, url: str, what: str, pick: Callable[[Any], Any] = lambda value: value) -> Answer[Any]:
    """What ``pick`` takes of the JSON at ``url``, of at most 2 MiB; else as ``get_body``."""
    return get_body(http, url, what, lambda body, _: picked(body, pick), JSON_CAP)


def get_body(http: Http, url: str, what: str, read: Callable[[Iterator[bytes], str], T], most: int) -> Answer[T]:
    """What ``read`` makes of the body at ``url``, and of the URL that gave it, as it comes.

    The body has at most ``most`` bytes, and comes within ``timeout_s``. ``read`` is called anew for each try, and
    raises ``ValueError`` for what is no JSON; ``what`` begins the message of an error.

    Raises:
        StatusError: an answer that another try would not change.
        Unreachable: network, server, or something that is not JSON, after the retries.
        Refused: the answer is too large, or a redirect gives up encryption.
    """

    def ask() -> Answer[T]:
        with closing(open_answer(http, url, {}, what)) as response:
            body = _bounded(http, response, what, most)
            return Answer(_made(partial(read, body, response.url), what), response.url, response.headers)

    return http.retries.call(what, ask)


def _bounded(http: Http, response: "Response", what: str, most: int) -> Iterator[bytes]:
    """The body, of which at most so many bytes are read, and for so long."""
    deadline, left = time.monotonic() + http.timeout_s, most
    for chunk in response.chunks():
        left -= len(chunk)
        if left < 0:
            raise Refused(f"{what}: the answer is larger than {most} bytes", hint="name a subfolder of it")
        if time.monotonic() > deadline:
            raise Transient(f"{host(response.url)} did not finish its answer in {http.timeout_s:g} s")
        yield chunk


def _made(read: Callable[[], T], what: str) -> T:
    try:
        return read()
    except TooLarge as error:
        raise Refused(f"{what}: the answer has {error}", hint="name a subfolder of it") from error
    except ValueError as error:
        raise Transient(
            "the answer is not JSON", hint="check the address, and whether a proxy or a login page answers instead"
        ) from error
