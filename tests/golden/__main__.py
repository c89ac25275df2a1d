"""Compares the golden files with what the command line does now, or writes them anew.

    python -m tests.golden [FILE...] [--only TEXT]
    python -m tests.golden --write

FILE is judgement, inspection or fetch. Look at what differs before you write, and say why in the commit. A case that
says what one before it said has no line of its own, and differs once it says anything new.
"""

import argparse
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FILES = ("judgement", "inspection", "fetch")
HERE = Path(__file__).parent


def observed(wanted: set[str], only: str) -> Iterator[tuple[str, str]]:
    """The name of a golden file and a line of it, case by case."""
    from tests.corpus.peft_judge import quiet
    from tests.golden import facts
    from tests.golden.adapters import adapters
    from tests.golden.fetches import fetches
    from tests.golden.running import line

    validate = ("validate", *(word for name in ("peft", "vllm", "sglang") for word in ("--engine", name)))
    with tempfile.TemporaryDirectory(prefix="golden-") as folder, quiet():
        (data := Path(folder) / "servers").mkdir()
        for case in adapters(Path(folder)) if wanted & {"judgement", "inspection"} else ():
            if only in case.id and "judgement" in wanted:
                yield "judgement", line(case, validate, facts.judgement)
            if only in case.id and "inspection" in wanted and case.inspected:
                yield "inspection", line(case, ("inspect",), facts.inspection)
        for case in fetches(data) if "fetch" in wanted else ():
            if only in case.id:
                yield "fetch", line(case, ("fetch",), facts.fetched)


def said(line: str) -> str:
    """What one line of a file is enough for: what was done and came of it, wherever it is fetched from.

    Of an option or a break the codes and outcomes count, on whichever base; of a rule these alone.
    """
    kind, _, rest = line.partition(": ")
    case, _, told = rest.partition(" | ")
    if kind in {"rules", "peft", "served"}:
        case = "" if kind == "rules" else case.rpartition(", ")[0]
        told = re.sub(r"\d+/\d+|(LC\d+ \w+)[^|]*", r"\1", told)
    return f"{case} | {told}"


def by_case(lines: Sequence[str]) -> Mapping[str, str]:
    found = {line.partition(" | ")[0]: line for line in lines}
    assert len(found) == len(lines), "two cases have the same name"
    return found


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.golden", description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this in it")
    parser.add_argument("--write", action="store_true", help="write them")
    asked = parser.parse_args()
    wanted = {*asked.files} or {*FILES}
    if unknown := wanted - {*FILES}:
        parser.error(f"no such file: {', '.join(unknown)}")
    if asked.write and asked.only:
        parser.error("--write takes a file whole")
    found: dict[str, list[str]] = {name: [] for name in FILES if name in wanted}
    for name, line in observed(wanted, asked.only):
        found[name].append(line)
    differ = False
    for name, lines in found.items():
        file, now = HERE / f"{name}.txt", by_case(lines)
        written = by_case(file.read_text(encoding="utf-8").splitlines()) if file.exists() else {}
        was = {case: line for case, line in written.items() if asked.only in case}
        known = {*map(said, written.values())}
        changed = [case for case in {**was, **now} if was.get(case) != now.get(case)]
        changed = [case for case in changed if case in was or said(now[case]) not in known]
        print(f"{name}.txt: {len(now)} cases" + (f", {len(changed)} differ" if changed else ""))
        for case in changed:
            print(*(f"{mark} {lines[case]}" for mark, lines in (("-", was), ("+", now)) if case in lines), sep="\n")
        if asked.write:
            first = {said(line): line for line in reversed(lines)}
            file.write_text("".join(f"{line}\n" for line in lines if first[said(line)] is line), encoding="utf-8")
        differ |= bool(changed)
    return int(differ and not asked.write)


if __name__ == "__main__":
    raise SystemExit(main())
