"""What a command line did, beside what was recorded and the changes since that somebody entered.

``python -m tests.recorded.compare`` runs all cases, or those whose names begin with its arguments, and prints the
entries that ``changes.yaml`` lacks, each to be given a reason.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.object_servers import seaweed
from tests.recorded.machine import Case, observe

FOLDER = Path(__file__).parent
BASELINE, CHANGES = FOLDER / "baseline.jsonl", FOLDER / "changes.yaml"
ABSENT = "<absent>"
Difference = tuple[str, Any, Any]
"""A field, what it was and what it is."""

MACHINE = {"stdout.environment.python", "stdout.environment.cores"}
"""Fields that hold what a case ran on."""

ROUNDING = 1e-13
"""Numbers below it are what rounding left; other releases of numpy and torch add in another order."""


IN_FLOAT32 = ("base_norm", "relative")
"""Fields that a sum of float32 is behind, which each processor's BLAS adds in an order of its own."""


RACES = frozenset({"mistake-gated"})
"""Cases whose files are asked for at once: the first refusal may come before the second question."""


def recorded() -> dict[str, tuple[Case, dict[str, Any]]]:
    """Each case, and what it did when it was recorded."""
    lines = (json.loads(line) for line in BASELINE.read_text().splitlines())
    return {line["id"]: (_case(line), line["result"]) for line in lines}


def _case(line: Mapping[str, Any]) -> Case:
    return Case(**{name: value for name, value in line.items() if name != "result"})


def changes() -> list[dict[str, Any]]:
    """The deliberate changes: cases, field, old, new, reason."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where that is there: eight times as fast
    return yaml.load(CHANGES.read_text(), loader) or []


def differences(old: Any, new: Any, field: str = "") -> Iterator[Difference]:
    """Where two results differ, in the order of the fields; of lists of another length, what only one of them has."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - _chosen_by_rounding(old, new)):
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{field}.{key}".lstrip("."))
    elif field == "stdout.engines" and isinstance(old, list) and isinstance(new, list) and len(old) < len(new):
        yield from _profiles(old, new, field)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and field not in {"files", "rules"}:
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{field}.{number}")
    elif (
        isinstance(old, list)
        and isinstance(new, list)
        and (gone := [one for one in old if one not in new]) + (come := [one for one in new if one not in old])
    ):
        yield from ((field, one, ABSENT) for one in gone)
        yield from ((field, ABSENT, one) for one in come)
    elif field not in MACHINE and not _same(field, old, new):
        yield field, old, new


def _profiles(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], field: str) -> Iterator[Difference]:
    """Engines by name and version: one that is new changes the numbers of no other."""
    there = {(one["name"], one["version"]): one for one in new}
    for number, one in enumerate(old):
        yield from differences(one, there.pop((one["name"], one["version"]), ABSENT), f"{field}.{number}")
    yield from ((field, ABSENT, one) for one in there.values())


def _same(field: str, old: Any, new: Any) -> bool:
    """Whether two values of a field are equal, numbers but for their last digits."""
    if isinstance(old, float) and isinstance(new, float):
        rel_tol = 1e-6 if field.rpartition(".")[2] in IN_FLOAT32 else 1e-9
        return math.isclose(old, new, rel_tol=rel_tol, abs_tol=ROUNDING)
    return bool(old == new)


def _chosen_by_rounding(*proofs: Mapping[str, Any]) -> set[str]:
    """The worst module of a repair where none changed by more than rounding, and what is another module's with it."""
    changes = [proof.get("worst_change") for proof in proofs]
    if not all(isinstance(one, float) and 0 < one < ROUNDING for one in changes):
        return set()
    one_module = len({proof.get("worst_module") for proof in proofs}) == 1
    return {"worst_module"} if one_module else {"worst_module", "allowed_change"}


def unexplained(id: str, found: Sequence[Difference], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Differences that no entry explains, and entries of this case that explain none."""
    explained = [(entry["field"], entry["old"], entry["new"]) for entry in entries if id in entry["cases"]]
    found = [one for one in found if not (id in RACES and "/resolve/" in one[0])]
    new = [f"not in {CHANGES.name}: {_shown(one)}" for one in found if not _among(one, explained)]
    return new + [f"in {CHANGES.name}, and not so: {_shown(one)}" for one in explained if not _among(one, found)]


def _among(one: Difference, others: Sequence[Difference]) -> bool:
    return any(
        one[0] == other[0] and _same(one[0], one[1], other[1]) and _same(one[0], one[2], other[2]) for other in others
    )


def _shown(difference: Difference) -> str:
    field, old, new = difference
    return f"{field}: {json.dumps(old)} became {json.dumps(new)}"


def main() -> int:
    """Prints entries for what differs and stands nowhere; 1 when something does."""
    entries: dict[str, dict[str, Any]] = {}
    known, asked = changes(), tuple(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder, seaweed(Path(folder)) as s3:
        for id, (case, old) in recorded().items():
            if not id.startswith(asked or ""):
                continue
            explained = [(entry["field"], entry["old"], entry["new"]) for entry in known if id in entry["cases"]]
            for one in differences(old, observe(case, s3)):
                if not _among(one, explained):
                    entry = dict(zip(("field", "old", "new"), one, strict=True))
                    entries.setdefault(_shown(one), {"cases": [], **entry, "reason": "?"})["cases"].append(id)
    print(
        yaml.safe_dump(list(entries.values()), sort_keys=False, allow_unicode=True, width=120) if entries else "",
        end="",
    )
    return int(bool(entries))


if __name__ == "__main__":
    sys.exit(main())
