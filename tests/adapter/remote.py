"""Files at an origin that lists what it has, and remembers what it was asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lora_cli.refs.reference import AdapterRef, Scheme
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.sources import Source
from lora_cli.sources.files import Files


class Origin(Source):
    """Files in memory as a source; ``ranges`` are those that it gave, in chunks of 1000 bytes."""

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self.content = content
        self.ranges: list[tuple[str, int, int]] = []

    def resolve(self, ref: AdapterRef) -> Revision:
        return Revision(ref, "fixed", tuple(RemoteFile(path, len(data)) for path, data in self.content.items()))

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        data = self.content[file.path][start:stop]
        self.ranges.append((file.path, start, start + len(data)))
        yield from (data[at : at + 1000] for at in range(0, len(data), 1000))

    @property
    def given(self) -> int:
        """Bytes of all ranges."""
        return sum(stop - start for _, start, stop in self.ranges)


def remote(content: Mapping[str, bytes] | Path, *, sized: bool = True, scheme: Scheme = "hf") -> tuple[Origin, Files]:
    """These files, or those of a folder, at an origin; not ``sized``: it does not know how long they are."""
    if isinstance(content, Path):
        content = {path.name: path.read_bytes() for path in sorted(content.iterdir())}
    origin = Origin(content)
    revision = origin.resolve(AdapterRef(scheme, "acme/sql"))
    if not sized:
        revision = replace(revision, files=tuple(RemoteFile(path, None) for path in content))
    return origin, Files(origin, revision)
