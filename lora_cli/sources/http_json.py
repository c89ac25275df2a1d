"""JSON over HTTP: bounded in bytes, time and memory, with retries. A small document can be large in memory."""

import codecs
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from lora_cli.errors import Refused
from lora_cli.sources.http import Headers, Http, bounded_body, open_response
from lora_cli.sources.retries import Transient

MOST_NESTED = 100_000
"""The most objects and lists of one answer; those of a listing of 10 000 files are fewer."""

MOST_VALUES = 200_000
"""The most values of one answer."""

LONGEST_ELEMENT = 64 * 1024
"""The longest element of a list that is read one by one; an entry of a listing has some hundred bytes."""

_turn = threading.Lock()
_BLANKS = re.compile(r"[ \t\n\r]*")
T = TypeVar("T")


class TooLarge(ValueError):
    """The response has more values than any that is meant to be read."""


class NoList(Exception):
    """The response is JSON, but not a list of objects."""


def parse_json(body: Iterable[bytes], pick: Callable[[Any], T]) -> T:
    """The result of ``pick`` for the JSON in ``body``; one document at a time is built, over all threads.

    Raises:
        TooLarge: it holds too many values.
        ValueError: it is not JSON.
    """
    data = bytearray()
    for chunk in body:
        data += chunk
    if data.count(b"{") + data.count(b"[") > MOST_NESTED or data.count(b",") > MOST_VALUES:
        raise TooLarge(f"more than {MOST_NESTED} objects or {MOST_VALUES} values")
    with _turn:
        try:
            return pick(json.loads(data))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def iter_array(body: Iterable[bytes]) -> Iterator[Any]:
    """The objects of the JSON array that ``body`` is, each as soon as it has come, and none kept.

    Raises:
        NoList: it is JSON, and no array of objects.
        TooLarge: an element is longer than ``LONGEST_ELEMENT``.
        ValueError: it is not JSON.
    """
    text = _Text(body)
    first = text.next()
    if first != "[":
        raise (NoList if first and first in '{"-0123456789tfn' else ValueError)("no array")
    text.at += 1
    if text.next() == "]":
        text.at += 1
    else:
        yield from _members(text)
    if text.next():
        raise ValueError("more than one value")


def _members(text: "_Text") -> Iterator[Any]:
    while True:
        if text.next() != "{":
            raise NoList("no object") if text.next() else ValueError("it ends early")
        yield text.value()
        mark = text.next()
        text.at += 1
        if mark == "]":
            return
        if mark != ",":
            raise ValueError("neither , nor ]")


class _Text:
    """The received and unread part of a text; ``at`` is the position of the next character."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body, self._decoder = iter(body), codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._text, self.at, self._ended = "", 0, False

    def next(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            self.at = _BLANKS.match(self._text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The object that begins here."""
        wanted = 0
        while True:
            window = self._text[self.at : self.at + LONGEST_ELEMENT]
            if len(window) >= wanted or self._ended:
                try:
                    value, length = self._json.raw_decode(window)
                except RecursionError as error:
                    raise ValueError("nested too deeply") from error
                except json.JSONDecodeError:
                    if len(window) == LONGEST_ELEMENT:
                        raise TooLarge(f"an entry of more than {LONGEST_ELEMENT} characters") from None
                    if self._ended:
                        raise
                    # Not at each byte that comes: all the tries together are as long as twice the element.
                    wanted = min(2 * len(window), LONGEST_ELEMENT)
                else:
                    self.at += length
                    return value
            self._more()

    def _more(self) -> bool:
        """Takes what comes next; False at the end."""
        chunk = next(self._body, None)
        if self._ended:
            return False
        self._ended = chunk is None
        fresh = self._decoder.decode(chunk or b"", final=self._ended)
        self._text, self.at = self._text[self.at :] + fresh, 0
        return not self._ended or bool(fresh)


JSON_CAP = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A value read from a JSON response, the URL that sent it after all redirects, and its headers."""

    value: T
    url: str
    headers: Headers


def get_json(http: Http, url: str, what: str, pick: Callable[[Any], Any] = lambda value: value) -> Answer[Any]:
    """The result of ``pick`` for the JSON at ``url``, of at most 2 MiB; else as ``get_body``."""
    return get_body(http, url, what, lambda body, _: parse_json(body, pick), JSON_CAP)


def get_body(http: Http, url: str, what: str, read: Callable[[Iterator[bytes], str], T], most: int) -> Answer[T]:
    """The result of ``read`` for the body at ``url``, streamed, and the URL that sent it.

    The body has at most ``most`` bytes, and comes within ``timeout_s``. ``read`` is called again for each try, and
    raises ``ValueError`` for what is no JSON; ``what`` begins the message of an error.

    Raises:
        StatusError: an answer that another try would not change.
        Unreachable: network, server, or something that is not JSON, after the retries.
        Refused: the answer is too large, or a redirect gives up encryption.
    """

    def ask() -> Answer[T]:
        with closing(open_response(http, url, {}, what)) as response:
            body = bounded_body(response, http.timeout_s, what, most)
            return Answer(_made(partial(read, body, response.url), what), response.url, response.headers)

    return http.retries.call(what, ask)


def _made(read: Callable[[], T], what: str) -> T:
    try:
        return read()
    except TooLarge as error:
        raise Refused(f"{what}: the response has {error}", hint="use a subfolder of it") from error
    except ValueError as error:
        raise Transient(
            "the response is not JSON", hint="check the address, and whether a proxy or a login page responds instead"
        ) from error
