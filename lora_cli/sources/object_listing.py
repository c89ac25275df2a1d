"""What lies below a prefix of a bucket: of one folder, and of many at once that lie beside each other.

A server that never ends its listing is left behind: it is asked in a thread.
"""

import logging
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lora_cli.errors import Refused
from lora_cli.sources.connection import Transient
from lora_cli.sources.listed import MOST_ENTRIES
from lora_cli.sources.object_errors import Answered, meaning

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

    Page = list[ObjectMeta]

PAGE = 1000
SPARED = 4
"""So many folders a page must list whole, else each is asked for by itself: a bucket may have any number of others."""

FRESH_S = 60.0
"""So long a folder is as it was listed; what changed since costs another question."""

log = logging.getLogger(__name__)


def listed(store: "ObjectStore", server: str, prefix: str, what: str, timeout_s: float) -> "Page":
    """All objects below ``prefix``.

    Raises:
        Transient, Answered: what the server says.
        Refused: there are over 10 000.
    """
    stream = _pages(store, prefix)
    found = _page(stream, server, timeout_s)
    while found and len(found) % PAGE == 0:
        if len(found) > MOST_ENTRIES or not (more := _page(stream, server, timeout_s)):
            break
        found += more
    if len(found) > MOST_ENTRIES:
        hint = "name the folder of one adapter"
        raise Refused(f"{what}: over {MOST_ENTRIES} objects are listed there", hint=hint)
    return found


class Neighbours:
    """Folders of one bucket that are asked for in one run: a page of their listing stands for many questions.

    ``folders`` are their prefixes, each with a slash at its end. Each is given once: who asks again wants to know what
    is there now. Threads share it.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._left = sorted({folder for folder in folders if folder})
        self._above, self._last = _common(self._left), ""
        self._stream: Iterator[Sequence[ObjectMeta]] | None = None
        self._found: dict[str, tuple[float, Page]] = {}
        self._lock = threading.Lock()

    def take(self, store: "ObjectStore", server: str, folder: str, timeout_s: float) -> "Page | None":
        """The objects below ``folder`` as of a moment ago; None when it must be asked for by itself."""
        with self._lock:
            while folder not in self._found and self._is_left(folder):
                if len(self._left) < SPARED:
                    self._left = []
                    break
                try:
                    self._turn_page(store, server, timeout_s)
                except (Transient, Answered) as failure:
                    # Whoever may list a folder need not be allowed to list those beside it.
                    log.debug("%s: folders are listed one by one (%s)", server, failure)
                    self._left = []
            asked_at, found = self._found.pop(folder, (0.0, None))
        return found if found is not None and time.monotonic() - asked_at < FRESH_S else None

    def _is_left(self, folder: str) -> bool:
        at = bisect_left(self._left, folder)
        return at < len(self._left) and self._left[at] == folder

    def _turn_page(self, store: "ObjectStore", server: str, timeout_s: float) -> None:
        """One page more of what lies above all of them. A folder that it does not hold whole is left out."""
        self._stream = self._stream or _pages(store, self._above)
        asked_at, page = time.monotonic(), _page(self._stream, server, timeout_s)
        if len(page) < PAGE:
            page, passed, left = sorted(page, key=lambda entry: entry["path"]), self._left, []
        else:
            last = page[-1]["path"]
            at = bisect_left(self._left, last)
            passed, left = [folder for folder in self._left[:at] if not last.startswith(folder)], self._left[at:]
        keys = [entry["path"] for entry in page]
        in_order = all(one <= other for one, other in pairwise([self._last, *keys]))
        self._last = keys[-1] if keys else ""
        self._left = left if in_order and len(passed) >= SPARED else []
        for folder in passed if in_order else ():
            start, stop = bisect_left(keys, folder), bisect_left(keys, f"{folder}\U0010ffff")
            self._found[folder] = asked_at, page[start:stop]


def _common(folders: "list[str]") -> str:
    """The longest folder that all of them are in, "" for the bucket."""
    if not folders:
        return ""
    first, last = folders[0], folders[-1]
    same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind("/", 0, same) + 1]


def _pages(store: "ObjectStore", prefix: str) -> "Iterator[Sequence[ObjectMeta]]":
    import obstore

    yield from obstore.list(store, prefix or None, chunk_size=PAGE)


def _page(stream: "Iterator[Sequence[ObjectMeta]]", server: str, timeout_s: float) -> "Page":
    """The next objects of a listing, ``PAGE`` of them unless it ends. Asked for in a thread, which may hang."""
    pages: queue.SimpleQueue[Page | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            pages.put(list(next(stream, ())))
        except BaseException as error:  # noqa: BLE001 - a panic of the library is none of Python's usual errors
            pages.put(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))

    threading.Thread(target=ask, name="listing", daemon=True).start()
    try:
        # The request itself has a limit of the same length: it is told first, if it is the reason.
        page = pages.get(timeout=timeout_s + 1)
    except queue.Empty:
        raise Transient(f"{server} listed nothing for {timeout_s:g} s") from None
    if isinstance(page, Exception):
        raise meaning(page, server, timeout_s) from page
    return page
