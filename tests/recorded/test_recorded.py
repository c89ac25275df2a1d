"""Whether each recorded command line does what it did."""

import json
import os
from pathlib import Path

import pytest

from tests.object_servers import S3Server
from tests.recorded.machine import Case, observe
from tests.recorded.snapshot import PARTS, differences, read, shown

RESULTS = "RECORDED_RESULTS"
"""A variable: the folder that results are written to, instead of being compared."""

CASES = [case for part in PARTS for case in read(part)]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.id, marks=[pytest.mark.slow] * case.slow) for case in CASES]
)
def test_it_does_what_it_did(case: Case, request: pytest.FixtureRequest) -> None:
    s3: S3Server | None = request.getfixturevalue("seaweed_server") if case.source == "s3" else None
    result = json.dumps(observe(case, s3), sort_keys=True)
    if folder := os.environ.get(RESULTS):
        Path(folder, case.id).write_text(result)
        return
    found = list(differences(case.result, json.loads(result)))
    assert not found, "\n".join(map(shown, found))
