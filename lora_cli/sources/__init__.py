"""Sources of adapters. A source only reads: it never writes, caches or parses."""

import logging
import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, TypeVar

from lora_cli.errors import Corrupt, Refused, Unreachable
from lora_cli.redaction import logger
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

CONNECT_TIMEOUT_S, LONGEST_WAIT_S, LONGEST_BACKOFF_S = 10.0, 330.0, 8.0

T = TypeVar("T")
log = logger(__name__)


@dataclass(eq=False)
class Transient(Exception):
    """A failure that may be gone at the next try, after ``wait_s`` if the server says so; not a ``final`` one."""

    reason: str
    _: KW_ONLY
    hint: str = "try again later"
    wait_s: float | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Retries:
    """The retries of an operation: up to ``count`` without progress. ``pause`` waits between the tries."""

    count: int
    pause: Callable[[float], None] = time.sleep

    def call(self, what: str, attempt: Callable[[], T]) -> T:
        """The result of ``attempt``, called again after a ``Transient``. Raises ``Unreachable``: ``what`` begins it."""
        failures = 0
        while True:
            try:
                return attempt()
            except Transient as failure:
                failures += 1
                self._wait(what, failure, failures)

    def stream(self, what: str, start: int, end: int | None, read: Callable[[int], Iterator[bytes]]) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` (None: all), resumed by ``read`` where they broke off; raises as ``call``."""
        failures = 0
        while end is None or start < end:
            before = start
            try:
                for chunk in read(start):
                    start += len(chunk)
                    if end is not None and start > end:
                        raise Corrupt(f"{what}: the server sent more bytes than requested")
                    yield chunk
                if end is None or start >= end:
                    return
                failure = Transient(f"it ended early, at byte {start} of {end}")
            except Transient as broken:
                failure = broken
            failures = failures + 1 if start == before else 0
            self._wait(what, failure, failures)

    def _wait(self, what: str, failure: Transient, failures: int) -> None:
        # Chance keeps forty waiting processes from coming back in the same instant.
        chance = random.random()  # noqa: S311 - spreads load, keeps no secret
        wait_s = min(LONGEST_BACKOFF_S, 0.25 * 2.0 ** min(failures, 10)) * (0.5 + 0.5 * chance)
        if failure.wait_s:
            wait_s = failure.wait_s + chance * (0.2 + 0.1 * failure.wait_s)
        if failures > self.count or failure.final or wait_s > LONGEST_WAIT_S:
            tries = f" (tried {failures} times)" if failures > 1 else ""
            raise Unreachable(f"{what}: {failure.reason}{tries}", hint=failure.hint) from failure
        level = logging.WARNING if wait_s > 5 else logging.INFO
        log.log(level, "%s: %s; next try in %.1f s", what, failure.reason, wait_s)
        self.pause(wait_s)


def from_status(server: str, status: int, headers: Mapping[str, str]) -> Transient:
    """Translates a response of 408, 429 or 5xx from ``server``, with the ``Retry-After`` that it asks for."""
    wait_s, asks = None, ""
    if asked := headers.get("Retry-After"):
        from urllib3.exceptions import InvalidHeader
        from urllib3.util import Retry

        with suppress(InvalidHeader, ValueError, OverflowError):
            wait_s = float(Retry().parse_retry_after(asked))
            asks = f" and requests a wait of {wait_s:.0f} s"
    if status != 429:
        return Transient(f"{server} answered {status}{asks}", wait_s=wait_s)
    hint = "wait, or lower jobs (LORA_CLI_JOBS); requests with a token (HF_TOKEN for the Hub) have higher limits"
    return Transient(f"{server} limits the rate of requests (429){asks}", hint=hint, wait_s=wait_s)


def is_unknown_host(error: BaseException | None) -> bool:
    """Whether DNS does not know the host's name, which another try would not change; a DNS that is down may recover."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)


MOST_ENTRIES = 10_000
ONLINE = "unset --offline, LORA_CLI_OFFLINE and HF_HUB_OFFLINE, or fetch it first with network access"


class NoRanges(Unreachable):
    """The origin sends the whole file where a range far from its beginning was asked for: read it as one stream."""


def at_most_10_000(entries: Iterable[T], what: str) -> Iterator[T]:
    """The entries of a listing; raises ``Refused``, which begins with ``what``, where there are over 10,000."""
    for count, entry in enumerate(entries):
        if count == MOST_ENTRIES:
            raise Refused(f"{what}: its listing has over {MOST_ENTRIES} entries", hint="use the folder of one adapter")
        yield entry


class Source:
    """Two methods, the same for every origin. Third-party errors leave as ``lora_cli.errors``.

    A source implements ``_resolve`` and ``_stream``: one attempt of each. What retries and resumes is here. Paths are
    given as they are listed; they are checked before anything is written.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no credentials yet; ``rule`` is what the operator's settings say of it."""
        self._settings, self._rule = settings, rule
        self._retries = Retries(settings.retries)

    def resolve(self, ref: AdapterRef) -> Revision:
        """The current revision of ``ref``: an immutable id and its files.

        Raises:
            NotFound: there is no such path, repository or revision.
            AccessDenied: it is private or gated, or the token is bad.
            Refused: there are over 10,000 files.
            Unreachable: network or server, after the retries.
        """
        return self._retries.call(str(ref), lambda: self._resolve(ref))

    def _resolve(self, ref: AdapterRef) -> Revision:
        """One attempt of ``resolve``; raises as that, and ``Transient`` for what may be gone at the next one."""
        raise NotImplementedError

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (None: to the end) of exactly that version, in chunks of at most 1 MiB.

        A stream that breaks is resumed: what comes is whole and in order, as far as it comes.

        Raises:
            Corrupt: the file is not the version that was resolved any more.
            NoRanges: before a byte, when this origin sends whole files only, and ``stop`` is not None.
            Unreachable: nothing more comes, after the retries.
        """
        what = f"{revision.ref}: {file.path}"
        if file.defect:
            raise Corrupt(f"{what} {file.defect}")
        if revision.ref.scheme != "file" and re.search("(^|/)\\.\\.(/|$)|[\ud800-\udfff]", file.path):
            raise Refused(f"{what}: its path would leave the folder, or is no text", hint="do not trust this source")
        if stop is not None and file.size is not None:
            stop = min(stop, file.size)
        end = file.size if stop is None else stop
        yield from self._retries.stream(what, start, end, lambda at: self._stream(revision, file, at, stop))

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """One attempt of ``read``; raises as that, and ``Transient`` where it breaks. A range is never empty."""
        raise NotImplementedError

    def local_copy(self, revision: Revision, file: RemoteFile) -> AbstractContextManager[int | None]:
        """A descriptor of the file where it is on this machine already, None where it is not.

        Unless it is the file itself, it is named by a digest, and the caller hashes it.

        Raises:
            Corrupt: the file is not the version that was resolved any more.
            MachineError: this user may not read it.
        """
        return nullcontext()

    def reported_digests(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 that the origin reports, once the file was read: where it is reported → hexadecimal digits."""
        return {}

    def pin(self, ref: AdapterRef) -> AdapterRef:
        """``ref`` at its revision of this moment, where that takes one small request and a listing may take a download.

        Any other source gives it back as it is. Raises as ``resolve``. Who may ask that may read its files.
        """
        return ref
