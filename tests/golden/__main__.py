"""Compares the golden files with what the command line does now, or writes them anew.

    python -m tests.golden [FILE...] [--only TEXT] [--realworld DIR]
    python -m tests.golden --write GROUND SENTENCE [--realworld DIR]

FILE is judgement, inspection, fetch or realworld. GROUND is PEFT, engine run or SCOPE. DIR has adapters of others that
are not kept here: without it (or ``REALWORLD``), realworld.txt is not compared.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.golden import table

FILES = ("judgement", "inspection", "fetch", "realworld")


def observed(wanted: set[str], only: str, realworld: Path | None) -> Iterator[tuple[str, str]]:
    """The name of a golden file and a line of it, case by case."""
    from tests.corpus.peft_judge import quiet
    from tests.golden import facts
    from tests.golden.adapters import adapters, real_adapters
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
        for case in real_adapters(realworld) if realworld and "realworld" in wanted else ():
            if only in case.id:
                yield "realworld", line(case, validate, facts.judgement)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.golden", description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this in it")
    parser.add_argument(
        "--write", nargs=2, metavar=("GROUND", "SENTENCE"), help="write them, and an entry that says why"
    )
    parser.add_argument("--realworld", default=os.environ.get("REALWORLD"), type=Path, metavar="DIR")
    asked = parser.parse_args()
    wanted = {*asked.files} or {*FILES}
    wanted -= set() if asked.realworld else {"realworld"}
    if unknown := wanted - {*FILES}:
        parser.error(f"no such file: {', '.join(unknown)}")
    if tampered := table.tampered():
        print(f"not as the last entry of {table.TABLE.name} says: {', '.join(tampered)}")
        return 1
    if asked.write and (asked.only or asked.files):
        parser.error("--write takes all files whole")
    found: dict[str, list[str]] = {name: [] for name in FILES if name in wanted}
    for name, line in observed(wanted, asked.only, asked.realworld):
        found[name].append(line)
    now = {name: table.by_case(lines) for name, lines in found.items()}
    if asked.write:
        print(table.write(now, *asked.write))
        return 0
    return int(report(now, asked.only))


def report(now: dict[str, table.Lines], only: str) -> bool:
    """Prints what differs, file by file; whether anything does."""
    differ = False
    for name, lines in now.items():
        was = {case: line for case, line in table.golden(name).items() if only in case}
        changed = list(table.differences(was, lines))
        print(
            f"{name}.txt: {len(lines)} lines, {len(changed)} differ" if changed else f"{name}.txt: {len(lines)} lines"
        )
        print(*changed, sep="\n", end="\n" * bool(changed))
        differ |= bool(changed)
    return differ


if __name__ == "__main__":
    raise SystemExit(main())
