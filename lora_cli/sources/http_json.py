"""JSON over HTTP: bounded in bytes, time and memory, and tried again."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from lora_cli.errors import Refused
from lora_cli.sources.bounded_json import TooLarge, picked
from lora_cli.sources.http import Headers, Http, bounded, open_answer
from lora_cli.sources.retries import Transient

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
            body = bounded(response, http.timeout_s, what, most)
            return Answer(_made(partial(read, body, response.url), what), response.url, response.headers)

    return http.retries.call(what, ask)


def _made(read: Callable[[], T], what: str) -> T:
    try:
        return read()
    except TooLarge as error:
        raise Refused(f"{what}: the answer has {error}", hint="name a subfolder of it") from error
    except ValueError as error:
        raise Transient(
            "the answer is not JSON", hint="check the address, and whether a proxy or a login page answers instead"
        ) from error
