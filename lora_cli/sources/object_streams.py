"""One answer of an object store: checked to be of the version and range that were asked for, and read as it comes."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Changed, Corrupt
from lora_cli.sources import NoRanges
from lora_cli.sources.connection import SLOWEST_BYTES_PER_S, Transient
from lora_cli.sources.http import AGAIN, FAR

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ObjectStore

CHUNK = 1 << 20


def ask(store: "ObjectStore", key: str, file: RemoteFile, start: int, end: int, *, rest: bool = True) -> "GetResult":
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


def version_of(meta: "ObjectMeta") -> str:
    """What tells this version of an object from any other; some servers leave out the quotes of an ETag."""
    etag = (meta["e_tag"] or "").removeprefix("W/").strip('"')
    return f"etag:{etag}" if etag else f"time:{meta['last_modified'].isoformat(timespec='seconds')}"


def check_version(answer: "GetResult", file: RemoteFile, wanted: tuple[int, int], what: str) -> int:
    """Where the answer starts, once it is of the version that was listed: some servers ignore the condition.

    Raises:
        Corrupt: it is of another version, or of another range than was asked for.
    """
    if version_of(answer.meta) != file.version or answer.meta["size"] != file.size:
        raise Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)
    start, stop = answer.range
    if (start, stop) not in (wanted, (0, file.size)):
        raise Corrupt(f"{what}: bytes {wanted[0]} to {wanted[1]} were asked for, and the server sent others")
    return start


def body_of(answer: "GetResult", server: str, timeout_s: float, skip: int, left: int) -> Iterator[bytes]:
    """``left`` bytes of the answer after the first ``skip``, at most 1 MiB at a time.

    Raises:
        Transient: it trickles at less than 1 KiB/s over ``timeout_s``.
    """
    for chunk in _paced(answer, server, timeout_s):
        kept = chunk[skip : skip + left]
        skip, left = max(0, skip - len(chunk)), left - len(kept)
        for offset in range(0, len(kept), CHUNK):
            yield kept[offset : offset + CHUNK]
        if not left:
            return


def _paced(answer: "GetResult", server: str, timeout_s: float) -> Iterator[bytes]:
    body, waited_s, received = iter(answer.stream(min_chunk_size=1)), 0.0, 0
    while True:
        began = time.monotonic()
        chunk = next(body, None)
        if chunk is None:
            return
        # Only time spent waiting for the server counts: the reader may take as long as it likes.
        waited_s, received = waited_s + time.monotonic() - began, received + len(chunk)
        if waited_s >= timeout_s:
            if received < SLOWEST_BYTES_PER_S * waited_s:
                raise Transient(f"{server} sent only {received} bytes in {waited_s:.0f} s", slow=True)
            waited_s, received = 0.0, 0
        yield bytes(chunk)
