"""The golden files and the table of their changes: each file is what the last entry says, or nothing is compared."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
TABLE = HERE / "changes.yaml"
GROUNDS = ("PEFT", "engine run", "SCOPE")
"""Why a golden line may change; the first entry's ground is ``start``."""
Lines = Mapping[str, str]


def golden(name: str) -> Lines:
    """The lines of a golden file by their case."""
    file = HERE / f"{name}.txt"
    return by_case(file.read_text(encoding="utf-8").splitlines()) if file.exists() else {}


def by_case(lines: Sequence[str]) -> Lines:
    found = {line.partition(" | ")[0]: line for line in lines}
    assert len(found) == len(lines), "two cases have the same name"
    return found


def differences(was: Lines, now: Lines) -> Iterator[str]:
    """Both lines of each case that is told otherwise, is gone or has come."""
    for case in {**was, **now}:
        if was.get(case) != now.get(case):
            yield from (f"- {was[case]}" for _ in range(case in was))
            yield from (f"+ {now[case]}" for _ in range(case in now))


def entries() -> list[dict[str, Any]]:
    return yaml.safe_load(TABLE.read_text(encoding="utf-8")) or [] if TABLE.exists() else []


def digests() -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(HERE.glob("*.txt"))}


def tampered() -> list[str]:
    """The golden files that are not what the last entry says."""
    told, found = entries()[-1]["sha256"] if entries() else {}, digests()
    return sorted(name for name in {*told, *found} if told.get(name) != found.get(name))


def write(files: Mapping[str, Lines], ground: str, sentence: str) -> str:
    """Writes these golden files, and the entry that says why; what has changed."""
    known = entries()
    allowed = GROUNDS if known else ("start",)
    if ground not in allowed or not sentence.strip():
        raise SystemExit(f"a ground ({', '.join(allowed)}) and a sentence, please")
    changed = [one for name, lines in files.items() for one in differences(golden(name), lines)]
    if not changed:
        return "nothing has changed"
    for name, lines in files.items():
        (HERE / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines.values()), encoding="utf-8")
    gone, come = (sum(line.startswith(mark) for line in changed) for mark in "-+")
    known.append({"ground": ground, "sentence": sentence, "gone": gone, "come": come, "sha256": digests()})
    TABLE.write_text(yaml.safe_dump(known, sort_keys=False, width=120, allow_unicode=True), encoding="utf-8")
    return f"{gone} lines gone, {come} come"
