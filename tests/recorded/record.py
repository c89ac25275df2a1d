"""Runs every command line of the matrix and writes the baseline; later changes go into ``changes.yaml``.

It is removed and written again only where a change is in the results of hundreds of cases, as a new rule is in their
lists of rules; what differs is then looked at as a whole (``compare.differences``).
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.object_servers import seaweed
from tests.recorded.compare import BASELINE
from tests.recorded.machine import observe
from tests.recorded.matrix import cases


def main() -> int:
    """Writes the baseline; 1 when there is one."""
    if BASELINE.exists():
        print(f"{BASELINE} is there; later changes go into changes.yaml", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, seaweed(Path(folder)) as s3:
        lines = [json.dumps({**case.as_json(), "result": observe(case, s3)}) + "\n" for case in cases()]
    BASELINE.write_text("".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
