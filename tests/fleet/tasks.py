"""What the tests give to the workers of a cluster, which import no more than this."""

import os
import time
from pathlib import Path


def slowly(batch: list[int], begun: str) -> list[int]:
    Path(begun).touch()
    time.sleep(0.3)
    return [item * 2 for item in batch]


def deadly(batch: list[int]) -> list[int | str]:
    if 7 in batch:
        os._exit(1)
    return list(batch)


def refusing(batch: list[int]) -> list[int]:
    message = f"{len(batch)} refused"
    raise ValueError(message)
