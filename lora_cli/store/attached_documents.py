"""What was attached to an artifact in a registry when it was last fetched: one file for each digest of a manifest.

Offline mode reads it. Nothing here is trusted: who signed a document is verified each time.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lora_cli.errors import MachineError
from lora_cli.store import Store
from lora_cli.store.cachedir_tag import tag_cache
from lora_cli.store.disk import age_s, on_disk, read_small, replace_file
from lora_cli.store.inventory import list_folder
from lora_cli.store.resolution_records import all_records
from lora_cli.store.snapshots import is_digest

LARGEST = 4 << 20
"""Bytes of all documents that are kept of an artifact; a signature or verdict has some thousand."""


def write_attached(store: Store, revision: str, media_type: str, documents: Sequence[bytes]) -> None:
    """Replaces the documents of a type, where there is room and this user may write."""
    if (path := _path(store, revision)) is None:
        return
    kept = _read(path) | {media_type: [one.decode(errors="surrogateescape") for one in documents]}
    data = json.dumps({key: texts for key, texts in kept.items() if texts}).encode()
    # That there are none needs a file only where there was one.
    if len(data) <= LARGEST and (documents or path.exists()):
        with suppress(MachineError), on_disk("writing", path):
            tag_cache(store)
            replace_file(path, data, durable=False)


def read_attached(store: Store, revision: str, media_type: str) -> tuple[bytes, ...]:
    """The documents of a type that were attached to a revision when it was last fetched."""
    return tuple(text.encode(errors="surrogateescape") for text in _read(_path(store, revision)).get(media_type, ()))


def unreferenced_attached(store: Store, now_s: float, grace_s: float) -> Iterator[Path]:
    """The files of revisions of which no record is left, older than the grace."""
    needed = {_path(store, record.revision) for record in all_records(store) if record.ref.startswith("oci://")}
    return (path for path in list_folder(store.attached) if path not in needed and age_s(path, now_s) > grace_s)


def _path(store: Store, revision: str) -> Path | None:
    digest = revision.removeprefix("sha256:")
    return store.attached / f"{digest}.json" if is_digest(digest) else None


def _read(path: Path | None) -> dict[str, list[str]]:
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        kept = json.loads((read_small(path, LARGEST) if path is not None else None) or b"{}")
        return {str(key): [text for text in texts if isinstance(text, str)] for key, texts in kept.items()}
    return {}
