"""A source that does what a test says: chunks of any size, streams that break, bytes that are wrong."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Unreachable
from lora_cli.sources import NoRanges

REF = AdapterRef("hf", "org/name", "", "c" * 40)


@dataclass(slots=True)
class Scripted:
    """``files`` are the bytes that are promised; ``served`` replaces some of them by what is sent instead.

    ``chunk`` gives the size of the chunk at an offset. ``breaks`` says after which offsets of a read the stream
    breaks; each holds once. ``sizes``, ``digests`` and ``ranges`` say what the origin has. ``reads`` is a log.
    """

    files: Mapping[str, bytes]
    served: dict[str, bytes] = field(default_factory=dict)
    chunk: Callable[[int], int] = lambda _: 1 << 20
    breaks: set[int] = field(default_factory=set)
    sizes: bool = True
    digests: bool = True
    ranges: bool = True
    before: Callable[[str, int], None] = lambda path, start: None
    reads: list[tuple[str, int, int | None]] = field(default_factory=list)
    resolved: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def resolve(self, ref: AdapterRef) -> Revision:
        """The files, as promised."""
        self.resolved += 1
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in self.files.items() if self.digests}
        listed = [
            RemoteFile(path, len(data) if self.sizes else None, digests.get(path)) for path, data in self.files.items()
        ]
        return Revision(ref, "c" * 40, tuple(listed))

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """The bytes, as scripted."""
        with self.lock:
            self.reads.append((file.path, start, stop))
        self.before(file.path, start)
        if start and stop is not None and not self.ranges:
            raise NoRanges(file.path)
        data = self.served.get(file.path, self.files[file.path])
        end = len(data) if stop is None else min(stop, len(data))
        while start < end:
            with self.lock:
                broken = start in self.breaks
                self.breaks.discard(start)
            if broken:
                raise Unreachable(f"{file.path}: the stream broke at {start}")
            size = max(1, min(self.chunk(start), end - start))
            yield data[start : start + size]
            start += size
