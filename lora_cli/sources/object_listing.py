"""What lies below a prefix of a bucket: of one folder, and of many at once that lie beside each other."""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise

from lora_cli.core.log import logger
from lora_cli.sources.buckets import Bucket, Entry, Page
from lora_cli.sources.listed import Room
from lora_cli.sources.object_errors import Answered
from lora_cli.sources.retries import Transient

SPARED = 4
"""So many folders a page must list whole, else each is asked for by itself: a bucket may have any number of others."""

END = Page([], last=True)

FRESH_S = 60.0
"""So long a folder is as it was listed; what changed since costs another question."""

log = logger(__name__)


def listed(bucket: Bucket, prefix: str, what: str) -> list[Entry]:
    """All objects below ``prefix``.

    Raises:
        Transient, Answered: what the server says.
        Refused: there are over 10 000, or their names take over 2 MiB.
    """
    found, room = list[Entry](), Room(what, "name the folder of one adapter")
    for page in bucket.pages(prefix):
        for entry in page.entries:
            room.take(entry.key, entry.version)
        found += page.entries
    return found


class Neighbours:
    """Folders of one bucket that are asked for in one run: a page of their listing stands for many questions.

    ``folders`` are their prefixes, each with a slash at its end. Each is given once: who asks again wants to know what
    is there now. Threads share it.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._left = sorted({folder for folder in folders if folder})
        self._above, self._last = _common(self._left), ""
        self._pages: Iterator[Page] | None = None
        self._found: dict[str, tuple[float, list[Entry]]] = {}
        self._lock = threading.Lock()

    def take(self, bucket: Bucket, folder: str) -> list[Entry] | None:
        """The objects below ``folder`` as of a moment ago; None when it must be asked for by itself."""
        with self._lock:
            while folder not in self._found and self._is_left(folder):
                if len(self._left) < SPARED:
                    self._left = []
                    break
                try:
                    self._turn_page(bucket)
                except (Transient, Answered) as failure:
                    # Whoever may list a folder need not be allowed to list those beside it.
                    log.debug("%s: folders are listed one by one (%s)", bucket.server, failure)
                    self._left = []
            asked_at, found = self._found.pop(folder, (0.0, None))
        return found if found is not None and time.monotonic() - asked_at < FRESH_S else None

    def _is_left(self, folder: str) -> bool:
        at = bisect_left(self._left, folder)
        return at < len(self._left) and self._left[at] == folder

    def _turn_page(self, bucket: Bucket) -> None:
        """One page more of what lies above all of them. A folder that it does not hold whole is left out."""
        self._pages = self._pages or bucket.pages(self._above)
        asked_at, page = time.monotonic(), next(self._pages, END)
        entries = page.entries
        if page.last:
            entries, passed, left = sorted(entries), self._left, []
        else:
            last = entries[-1].key
            at = bisect_left(self._left, last)
            passed, left = [folder for folder in self._left[:at] if not last.startswith(folder)], self._left[at:]
        keys = [entry.key for entry in entries]
        in_order = all(one <= other for one, other in pairwise([self._last, *keys]))
        self._last = keys[-1] if keys else ""
        self._left = left if in_order and len(passed) >= SPARED else []
        for folder in passed if in_order else ():
            start, stop = bisect_left(keys, folder), bisect_left(keys, f"{folder}\U0010ffff")
            self._found[folder] = asked_at, entries[start:stop]


def _common(folders: "list[str]") -> str:
    """The longest folder that all of them are in, "" for the bucket."""
    if not folders:
        return ""
    first, last = folders[0], folders[-1]
    same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind("/", 0, same) + 1]
