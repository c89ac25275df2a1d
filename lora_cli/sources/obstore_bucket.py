"""A bucket that obstore speaks to: its listings, and one answer of it as it comes.

A server that never ends its listing is left behind: it is asked in a thread.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from lora_cli import __version__
from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Changed, Corrupt, LoraCliError
from lora_cli.settings import Settings
from lora_cli.sources import NoRanges
from lora_cli.sources.buckets import PAGE, Bucket, Entry, Page, version_of
from lora_cli.sources.connection import CONNECT_TIMEOUT_S, Transient, steady
from lora_cli.sources.http import AGAIN, FAR
from lora_cli.sources.object_errors import meaning
from lora_cli.sources.object_refusals import Asker
from lora_cli.sources.object_wishes import Wishes

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore

CHUNK = 1 << 20


class ObstoreBucket(Bucket):
    """A bucket of obstore's. A forked process must not use it: obstore's threads do not follow into the child."""

    def __init__(self, store: "ObjectStore", asker: Asker, wishes: Wishes, timeout_s: float) -> None:
        """``wishes`` are what its server asks for when it is busy; it may be silent for ``timeout_s``."""
        self.asker = asker
        self._store, self._wishes, self._timeout_s = store, wishes, timeout_s

    def pages(self, prefix: str) -> Iterator[Page]:
        """As every bucket."""
        import obstore

        stream = iter(obstore.list(self._store, prefix or None, chunk_size=PAGE))
        last = False
        while not last:
            found = self._next(stream)
            last = len(found) < PAGE
            yield Page([Entry(one["path"], one["size"], _version(one)) for one in found], last)

    def has(self, key: str) -> bool:
        """As every bucket."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            return bool(obstore.head(self._store, key)["e_tag"])
        except (BaseError, OSError):  # whatever it is, there is none to be had
            return False

    def wished(self, failure: Transient) -> Transient:
        """As every bucket: obstore does not tell how long a server asks to wait, so that is asked."""
        return self._wishes.of(failure)

    def stream(
        self, key: str, file: RemoteFile, start: int, end: int, what: str, note: Callable[[str], None], *, rest: bool
    ) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` of an object, checked to be of the version and range that were asked for.

        ``note`` is told what the object's metadata says of its sha256, "" for nothing. With ``rest`` they are the rest
        of the file, for which a server that knows no ranges may send all of it.

        Raises:
            Transient: network or server; also that the bytes break off, are silent, or trickle.
            Answered: an answer that another try would not change.
            Changed: the object is another version.
            Corrupt: another range was sent.
            NoRanges: all was sent, and what is wanted is neither near its beginning nor the ``rest``.
        """
        try:
            answer = _ask(self._store, key, file, start, end, rest=rest)
            skip = start - _check_version(answer, file, (start, end), what)
            note(str(answer.attributes.get("sha256", "")))
            yield from _body_of(answer, self.server, self._timeout_s, skip, end - start)
        except (LoraCliError, Transient):
            raise
        except Exception as error:
            raise meaning(error, self.server, self._timeout_s) from error

    def _next(self, stream: "Iterator[Sequence[ObjectMeta]]") -> "list[ObjectMeta]":
        """The next objects of a listing, ``PAGE`` of them unless it ends. Asked for in a thread, which may hang."""
        found: queue.SimpleQueue[list[ObjectMeta] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                found.put(list(next(stream, ())))
            except BaseException as error:  # noqa: BLE001 - a panic of the library is none of Python's usual errors
                found.put(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))

        threading.Thread(target=ask, name="listing", daemon=True).start()
        try:
            # The request itself has a limit of the same length: it is told first, if it is the reason.
            page = found.get(timeout=self._timeout_s + 1)
        except queue.Empty:
            raise Transient(f"{self.server} listed nothing for {self._timeout_s:g} s") from None
        if isinstance(page, Exception):
            raise meaning(page, self.server, self._timeout_s) from page
        return page


def client_options(settings: Settings, endpoint: str) -> "ClientConfig":
    """How obstore's connections behave: none may be silent for longer than ``settings.timeout_s``."""
    return {
        "allow_http": endpoint.lower().startswith("http://"),
        # The longest time of a whole answer; how long it is silent is what counts.
        "timeout": timedelta(days=7),
        "read_timeout": timedelta(seconds=settings.timeout_s),
        "connect_timeout": timedelta(seconds=min(settings.timeout_s, CONNECT_TIMEOUT_S)),
        "user_agent": f"lora-cli/{__version__}",
    }


def _ask(store: "ObjectStore", key: str, file: RemoteFile, start: int, end: int, *, rest: bool = True) -> "GetResult":
    """The answer to one request: the range, or all of it from a server that does not know ranges.

    Raises:
        NoRanges: it does not, and the range is neither near the beginning nor the ``rest`` of the file.
    """
    import obstore

    options: GetOptions = {}
    kind, _, etag = file.version.partition(":")
    if kind == "etag":
        options["if_match"] = f'"{etag}"'
    if (start, end) == (0, file.size):
        return obstore.get(store, key, options=options)
    try:
        return obstore.get(store, key, options={**options, "range": (start, end)})
    except obstore.exceptions.GenericError as error:
        if "non-partial response" not in str(error):
            raise
        if not rest and start >= FAR:
            hint = "fetch it: lora-cli fetch reads it as one stream"
            raise NoRanges(f"{key}: its server sends whole files only", hint=hint) from error
        return obstore.get(store, key, options=options)


def _version(meta: "ObjectMeta") -> str:
    return version_of(meta["e_tag"] or "", meta["last_modified"])


def _check_version(answer: "GetResult", file: RemoteFile, wanted: tuple[int, int], what: str) -> int:
    """Where the answer starts, once it is of the version that was listed: some servers ignore the condition.

    Raises:
        Corrupt: it is of another version, or of another range than was asked for.
    """
    if _version(answer.meta) != file.version or answer.meta["size"] != file.size:
        raise Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)
    start, stop = answer.range
    if (start, stop) not in (wanted, (0, file.size)):
        raise Corrupt(f"{what}: bytes {wanted[0]} to {wanted[1]} were asked for, and the server sent others")
    return start


def _body_of(answer: "GetResult", server: str, timeout_s: float, skip: int, left: int) -> Iterator[bytes]:
    """``left`` bytes of the answer after the first ``skip``, at most 1 MiB at a time.

    Raises:
        Transient: it trickles at less than 1 KiB/s over ``timeout_s``.
    """
    pieces = (bytes(chunk) for chunk in answer.stream(min_chunk_size=1))
    for chunk in steady(pieces, server, timeout_s):
        kept = chunk[skip : skip + left]
        skip, left = max(0, skip - len(chunk)), left - len(kept)
        for offset in range(0, len(kept), CHUNK):
            yield kept[offset : offset + CHUNK]
        if not left:
            return
