"""``python -m tests.recorded [PREFIX…]`` runs the cases, or those with such ids, and prints what differs.

``--update`` writes it into the snapshot, also the results of cases that have none yet. ``--since COMMIT`` runs nothing
and prints what differs between that commit's snapshot and this one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.recorded.snapshot import FOLDER, PARTS, differences, read, shown, write
from tests.recorded.test_recorded import RESULTS

LONGEST = 1000
"""Characters that are printed of a difference."""


def main() -> int:
    """Prints each difference with the cases that have it; 1 when there is one, or when a case did not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.recorded", description=__doc__)
    parser.add_argument("prefix", nargs="*")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--update", action="store_true")
    how.add_argument("--since", metavar="COMMIT")
    asked = parser.parse_args()
    if asked.since:
        code, pairs = 0, changed(asked.since)
    else:
        code, pairs = repeated(asked.prefix, update=asked.update)
    found = defaultdict(list)
    for id, (old, new) in pairs.items():
        for difference in differences(old, new):
            found[shown(difference)].append(id)
    for line, ids in found.items():
        print(line if len(line) <= LONGEST else f"{line[:LONGEST]}…", f"    {len(ids)}: {' '.join(ids)}", sep="\n")
    return code or int(bool(found))


def changed(commit: str) -> dict[str, tuple[Any, Any]]:
    """Each case as it was in a commit and as it is; of one that only one of them has only that."""
    then, now = ({case.id: asdict(case) for part in PARTS for case in read(part, at)} for at in (commit, ""))
    return {
        id: (then[id], now[id]) if id in then and id in now else ({"there": id in then}, {"there": id in now})
        for id in sorted(then.keys() | now.keys())
    }


def repeated(prefixes: Sequence[str], *, update: bool) -> tuple[int, dict[str, tuple[Any, Any]]]:
    """How the run ended, and each case's result in the snapshot and now; ``update`` writes those that differ."""
    words = ["-n", str(os.cpu_count()), "-o", "addopts=-q", "-k", " or ".join(f"[{prefix}" for prefix in prefixes)]
    pairs: dict[str, tuple[Any, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", *words, str(FOLDER / "test_recorded.py")]
        code = subprocess.run(
            command, check=False, cwd=FOLDER.parents[1], env={**os.environ, RESULTS: folder}
        ).returncode
        for part in PARTS:
            cases = read(part)
            for number, case in enumerate(cases):
                if (file := Path(folder, case.id)).exists():
                    result = json.loads(file.read_text())
                    pairs[case.id] = case.result, result
                    if any(differences(case.result, result)):
                        cases[number] = replace(case, result=result)
            if update:
                write(part, cases)
    return code, pairs


if __name__ == "__main__":
    sys.exit(main())
