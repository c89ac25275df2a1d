"""Which folder of an artifact a reference meant at the last fetch, under whatever name that was."""

from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.lock import LockedAdapter
from lora_cli.core.reference import parse
from lora_cli.core.request import Selection
from lora_cli.core.snapshot import Blob
from lora_cli.fetching.resolution_history import picked_folder
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of
from lora_cli.store import Store
from lora_cli.store.resolution_records import Record, write_record

FILES = {"adapter_config.json": Blob("e" * 64, 7)}
REVISION, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
LOCKED = LockedAdapter("sql", "oci://registry.example/sql:v1", REVISION, FILES)
BY_TAG = "oci://registry.example/sql:v1"


@pytest.mark.parametrize(
    ("text", "locked", "folder"),
    [
        (BY_TAG, None, "models/sql"),
        (BY_TAG, LOCKED, "models/sql"),
        (f"oci://registry.example/sql@{REVISION}", None, None),
        (f"oci://registry.example/sql@{REVISION}", LOCKED, "models/sql"),
        (f"oci://registry.example/sql@{OTHER}", replace(LOCKED, revision=OTHER), None),
        (f"{BY_TAG}//models/chat", LOCKED, "models/chat"),
        ("hf://acme/sql/models", LOCKED, "models"),
    ],
)
def test_a_folder_is_known_from_the_reference_or_else_from_the_digest_that_is_locked(
    text: str, locked: LockedAdapter | None, folder: str | None, tmp_path: Path
) -> None:
    store, settings = Store(tmp_path), Settings(tmp_path)
    fetched = parse(BY_TAG, is_path=lambda _: False)
    endpoint = endpoint_of(fetched, settings)
    write_record(
        store, Record(fetched.in_records, "", REVISION, "d" * 64, FILES, endpoint=endpoint, folder="models/sql")
    )
    # Fetched with its folder, which says nothing about the whole artifact.
    write_record(
        store, Record(f"{BY_TAG}//models/x", "", REVISION, "d" * 64, FILES, endpoint=endpoint, folder="models/x")
    )
    ref = parse(text, is_path=lambda _: False)
    assert picked_folder(store, ref, Selection(), locked, settings) == folder
