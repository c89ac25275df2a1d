"""The snapshot, a file of cases for each part of the suite, and where another result differs from it."""

import json
import math
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.recorded.machine import Case
from tests.recorded.normalise import ROUNDING

FOLDER = Path(__file__).parent
PARTS = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
ABSENT = "<absent>"
Difference = tuple[str, Any, Any]
"""A field, what it was and what it is."""


def read(part: str, commit: str = "") -> list[Case]:
    """The cases of a part, as they are or as they were in a commit."""
    if commit:
        show = ["git", "show", f"{commit}:./{part}.jsonl"]
        text = subprocess.run(show, cwd=FOLDER, check=False, capture_output=True, text=True).stdout
    else:
        text = (FOLDER / f"{part}.jsonl").read_text()
    return [Case(**json.loads(line)) for line in text.splitlines()]


def write(part: str, cases: Iterable[Case]) -> None:
    """One line for each case, in which only what is not empty stands."""
    lines = [json.dumps({name: value for name, value in asdict(case).items() if value}) for case in cases]
    (FOLDER / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def differences(old: Any, new: Any, field: str = "") -> Iterator[Difference]:
    """Where two results differ, in the order of the fields; of lists of another length, what only one of them has."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{field}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and old != new:
        if len(old) == len(new) and field not in {"files", "rules"}:
            for number, (one, other) in enumerate(zip(old, new, strict=True)):
                yield from differences(one, other, f"{field}.{number}")
        elif only := [one for one in (*old, *new) if one not in old or one not in new]:
            yield from ((field, *((one, ABSENT) if one in old else (ABSENT, one))) for one in only)
        else:
            yield field, old, new
    elif not _same(old, new):
        yield field, old, new


def _same(old: Any, new: Any) -> bool:
    """Whether two values of a field are equal, numbers but for their last digits."""
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-9, abs_tol=ROUNDING)
    return bool(old == new)


def shown(difference: Difference) -> str:
    """A difference in a line."""
    old, new = (one if one == ABSENT else json.dumps(one, ensure_ascii=False) for one in difference[1:])
    return f"{difference[0]}: {old} → {new}"
