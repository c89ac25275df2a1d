"""What was attached to an artifact is kept as long as a record has its revision."""

import os
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.attached_documents import read_attached, unreferenced_attached, write_attached

REVISION = f"sha256:{'0' * 64}"


def test_documents_of_a_revision_without_a_record_go_once_the_grace_is_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_attached(store, REVISION, "signature", [b"\xff", b"{}"])
    assert read_attached(store, REVISION, "signature") == (b"\xff", b"{}")
    assert read_attached(store, REVISION, "verdict") == ()
    (file,) = store.attached.iterdir()
    os.utime(file, (100, 100))
    assert list(unreferenced_attached(store, 160.0, 60.0)) == []
    assert list(unreferenced_attached(store, 160.5, 60.0)) == [file]
