"""Files in the page cache before a warm number is claimed: without that it proves nothing."""

import os
from pathlib import Path

from lora_cli.store.page_cache import residency


def make_resident(path: Path) -> None:
    """Read a file until all of it is in memory, and written to its disk; raises where it will not stay."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while file.read(1 << 24):
            pass
    found = residency([path])
    if found.resident_bytes is None or found.resident_bytes < found.bytes:
        raise SystemExit(
            f"{path} does not stay in memory: {found.resident_bytes} of {found.bytes} bytes of it are there"
        )
