"""A recorded command line, run again."""

from typing import Any

import pytest

from tests.long import in_long
from tests.object_servers import S3Server
from tests.recorded.compare import changes, differences, recorded, unexplained
from tests.recorded.machine import observe

RECORDED = recorded()
CHANGES = changes()
PARTS = ("fetch", "set", "validate", "inspect")
WARM = ("warm-000", "warm-001", "warm-002", "warm-003", "warm-008", "warm-010")
"""Of the cases that start a warm process, one for each source, and for references, a set and a policy."""


def part(name: str) -> list[Any]:
    """The cases of one part of the suite; those of no part are ``others``."""
    if name == "others":
        others = [id for id in RECORDED if id.partition("-")[0] not in PARTS]
        return in_long(others, *(id for id in others if id in WARM or not id.startswith("warm-")))
    return [id for id in RECORDED if id.partition("-")[0] == name]


def check(id: str, request: pytest.FixtureRequest) -> None:
    """Whether a command line does what it did, but for what somebody entered."""
    case, old = RECORDED[id]
    s3: S3Server | None = request.getfixturevalue("seaweed_server") if case.source == "s3" else None
    found = list(differences(old, observe(case, s3)))
    left = unexplained(id, found, CHANGES)
    assert not left, "\n".join(left)
