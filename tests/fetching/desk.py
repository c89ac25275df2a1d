"""Where a test fetches: a cache with a Hub, or with a source that does what the test says; and the way to ask."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lora_cli.errors import LoraCliError
from lora_cli.fetching.batch import FetchContext, Outcome, fetch_all
from lora_cli.fetching.download import download
from lora_cli.fetching.pipeline import Deadline, Fetched
from lora_cli.refs.reference import AdapterRef, parse
from lora_cli.refs.request import USUAL, Request, Selection
from lora_cli.refs.snapshot import Blob, RemoteFile, Revision
from lora_cli.settings import Settings
from lora_cli.sources import NoRanges, Retries, Source, Transient
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.inventory import verify
from tests.bringing import bring
from tests.hub_content import Content
from tests.hub_server import Hub

MIB = 1 << 20
CONFIG, WEIGHTS, README = "adapter_config.json", "adapter_model.safetensors", "README.md"
DATA = os.urandom(3_000_000)
FILES: dict[str, Content] = {CONFIG: {"r": 4}, WEIGHTS: DATA, README: "read", "optimizer.pt": b"no"}
BYTES = {CONFIG: b'{"r": 4}', WEIGHTS: DATA, README: b"read"}
"""What is fetched of ``FILES``."""
REF = AdapterRef("hf", "org/name", "", "c" * 40)


class Desk:
    """A cache, a Hub with ``org/sql``, and the way to ask; settings that are given are for that fetch alone."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self.hub, self.commit = hub, hub.add("org/sql", FILES)
        self.settings = Settings(root / "cache", hub_endpoint=hub.endpoint, retries=1, timeout_s=5, keep_free=0)
        self.store = Store(self.settings.cache_dir)

    def bring(
        self, text: str = "org/sql", selection: Selection = USUAL, sha256: str | None = None, **settings: object
    ) -> Fetched:
        now, ref = replace(self.settings, **settings), parse(text, is_path=os.path.lexists)  # type: ignore[arg-type]
        return bring(ref, Sources(now), Store(now.cache_dir), now, selection=selection, sha256=sha256)

    def fails(self, text: str = "org/sql", **settings: object) -> LoraCliError:
        with pytest.raises(LoraCliError) as caught:
            self.bring(text, **settings)  # type: ignore[arg-type]
        assert self.is_sound
        return caught.value

    def ask(self, *names: str, **settings: object) -> list[Outcome]:
        """What comes of a run over several."""
        wanted = [Request(name, parse(name, is_path=os.path.lexists)) for name in names]
        return list(fetch_all(wanted, self.store, replace(self.settings, **settings)))  # type: ignore[arg-type]

    @property
    def is_sound(self) -> bool:
        return not any(one.problem for one in verify(self.store))


def content(found: Fetched) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in found.snapshot.directory.iterdir()}


@dataclass
class Scripted(Source):
    """A source of ``files``, as they are promised; ``served`` replaces some of them by what is sent instead.

    ``chunk`` gives the size of the chunk at an offset. ``breaks`` says after which offsets of a read the stream
    breaks; each holds once. ``sizes``, ``digests`` and ``ranges`` say what the origin has. ``reads`` is a log.
    """

    files: Mapping[str, bytes]
    served: dict[str, bytes] = field(default_factory=dict)
    chunk: Callable[[int], int] = lambda _: MIB
    breaks: set[int] = field(default_factory=set)
    sizes: bool = True
    digests: bool = True
    ranges: bool = True
    before: Callable[[str, int], None] = lambda path, start: None
    reads: list[tuple[str, int, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._retries = Retries(2, lambda _: None)

    def resolve(self, ref: AdapterRef) -> Revision:
        """The files, as promised."""
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in self.files.items() if self.digests}
        sizes = {path: len(data) for path, data in self.files.items() if self.sizes}
        listed = (RemoteFile(path, sizes.get(path), digests.get(path)) for path in self.files)
        return Revision(ref, "c" * 40, tuple(listed))

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        self.reads.append((file.path, start, stop))
        self.before(file.path, start)
        if start and stop is not None and not self.ranges:
            raise NoRanges(file.path)
        data = self.served.get(file.path, self.files[file.path])
        end = len(data) if stop is None else min(stop, len(data))
        while start < end:
            if start in self.breaks:
                self.breaks.remove(start)
                raise Transient(f"{file.path}: the stream broke at {start}")
            size = max(1, min(self.chunk(start), end - start))
            yield data[start : start + size]
            start += size


def downloaded(source: Scripted, root: Path, **settings: object) -> dict[str, bytes]:
    """Path → bytes that are in the cache ``root`` afterwards."""
    with context_of(root, **settings) as context:
        blobs = download_of(source, context)
    return {path: context.store.blob(blob.sha256).read_bytes() for path, blob in blobs.items()}


def context_of(root: Path, **settings: object) -> FetchContext:
    """A run into the cache ``root``."""
    return FetchContext(Store(root), Settings(root, **({"jobs": 4, "retries": 2} | settings)))  # type: ignore[arg-type]


def download_of(source: Scripted, context: FetchContext, *files: RemoteFile) -> Mapping[str, Blob]:
    """All of ``source``, or what it is to have of ``files``."""
    revision = Revision(REF, "r", files) if files else source.resolve(REF)
    deadline = Deadline("org/name", context.settings)
    return download(Files(source, revision), revision.files, {}, deadline, context)


def partials(root: Path) -> list[Path]:
    return [path for path in (root / "tmp").rglob("*") if path.is_file()]
