"""Records that contradict each other. A commit of the Hub is made of its files: of two that differ in one, one lies."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lora_cli.core.reference import parse
from lora_cli.core.snapshot import Blob
from lora_cli.errors import UsageError
from lora_cli.store.records import Record


@dataclass(frozen=True, slots=True)
class Contradiction:
    """``record`` has other bytes of ``path`` than another record, or a lock, has for the same commit."""

    record: Record
    path: str

    @property
    def server(self) -> str:
        """Where the record is from, for messages."""
        return self.record.endpoint or "the cache of the Hub's own client"


def commit_of(record: Record) -> str:
    """The commit that a server's word is about, with repository and folder; "" where there is none.

    What was taken by a lock's digests alone is no server's word.
    """
    if not record.ref.startswith("hf://") or record.selection.startswith("locked "):
        return ""
    try:
        ref = parse(record.ref, is_path=lambda _: False)
    except UsageError:
        return ""
    return f"{ref.location}/{ref.subfolder}@{record.revision}"


def contradicting(files: Mapping[str, Blob], records: Iterable[Record]) -> Iterator[Contradiction]:
    """The records of one commit that have other bytes than ``files``, each with the first such path."""
    for record in records:
        path = next((path for path, blob in sorted(record.files.items()) if files.get(path, blob) != blob), None)
        if path is not None:
            yield Contradiction(record, path)


def contradictions(records: Iterable[Record]) -> Iterator[tuple[Record, Contradiction]]:
    """Each record that contradicts an earlier one of its commit, with that one."""
    seen: dict[str, list[Record]] = {}
    for record in records:
        commit = commit_of(record)
        for earlier in seen.get(commit, ()) if commit else ():
            found = next(contradicting(earlier.files, [record]), None)
            if found is not None:
                yield earlier, found
                break
        seen.setdefault(commit, []).append(record)
