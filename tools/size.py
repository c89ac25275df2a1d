"""Measures the project and holds it to the ceilings of size.toml, which only fall.

``tools/size.py`` prints each figure with its ceiling and its budget; ``--check`` prints what is wrong and exits with 1;
``--set`` lowers each ceiling to what is there, ``--set PROMISE`` also raises those that are exceeded. What counts:

- lines: of every text file that git tracks (in an sdist: that is there), without lock files and the models in
  tests/recorded/world. A package is a folder of lora_cli with all below it; ``top`` is what lies beside the packages.
- modules and functions: ``.py`` files of lora_cli, and every ``def`` in them, also methods and nested ones.
- options: what the help of each command offers, with a short name or without. Global ones count once, ``--help`` and
  what typer adds for completion never.
- words: what blanks separate in README.md and docs/*.md; a page whose third line says so is generated.
"""

import argparse
import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES = ROOT / "size.toml"
FOLDERS = ("lora_cli", "tests", "docs", "manifests", "benchmarks", "tools")
MODELS = "tests/recorded/world/"
GENERATED = "Generated from "
COMPLETION = ("install_completion", "show_completion")
SECONDS = "tests.make_test_seconds"
"""A machine may be busy: it has a ceiling, and nothing fails above it."""


def git(*arguments: str) -> str | None:
    """What git prints; None where it fails, or this is no repository."""
    if not (ROOT / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def texts() -> Iterator[tuple[str, str]]:
    """Each text file that counts, by its path."""
    tracked = git("ls-files", "-z")
    if tracked is None:
        found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
        names = [path.relative_to(ROOT).as_posix() for path in found] + ["README.md"]
    else:
        names = tracked.split("\0")
    for name in sorted(set(names)):
        path = ROOT / name
        if path.is_file() and not name.startswith(MODELS) and ".lock" not in path.suffixes:
            content = path.read_bytes()
            if b"\0" not in content[:8000]:  # as git tells text from what is none
                yield name, content.decode(errors="replace")


def measure() -> tuple[Counter[str], Counter[str]]:
    """Each figure; and the lines of each package or module right below lora_cli."""
    figures, parts = Counter({"total.lines": 0, "total.options": count_options()}), Counter[str]()
    figures.update({f"{folder}.lines": 0 for folder in FOLDERS[1:]} | {"docs.words": 0, "docs.generated_words": 0})
    for name, text in texts():
        folder, _, below = name.partition("/")
        lines = text.count("\n") + (text[-1:] not in ("", "\n"))
        if folder == "lora_cli":
            package = below.partition("/")[0] if "/" in below else "top"
            counts = {"lines": lines, "modules": 0, "functions": 0}
            if name.endswith(".py"):
                nodes = ast.walk(ast.parse(text))
                functions = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)
                counts |= {"modules": 1, "functions": functions}
            for what, count in counts.items():
                figures[f"total.{what}"] += count
                figures[f"packages.{package}.{what}"] += count
            parts[below.partition("/")[0].removesuffix(".py")] += lines
        elif folder in FOLDERS:
            figures[f"{folder}.lines"] += lines
        if name == "README.md" or (folder == "docs" and name.endswith(".md")):
            generated = any(line.startswith(GENERATED) for line in text.splitlines()[2:3])
            figures["docs.generated_words" if generated else "docs.words"] += len(text.split())
    return figures, parts


def count_options() -> int:
    """The options in the help of all commands; those of the root once."""
    sys.path.insert(0, str(ROOT))
    from lora_cli.cli.main import COMMANDS, build_app, load_command

    def offered(command: Any) -> set[str]:
        context = command.make_context("lora-cli", [], resilient_parsing=True)
        shown = [one for one in command.get_params(context) if one.get_help_record(context) is not None]
        return {one.name for one in shown if one.param_type_name == "option"} - {"help", *COMPLETION}

    def own(command: Any) -> int:
        children = getattr(command, "commands", {}).values()
        return sum(map(own, children)) if children else len(offered(command) - everywhere)

    everywhere = offered(build_app())
    return len(everywhere) + sum(own(load_command(name)) for name in COMMANDS)


def ceilings_of(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, int]]:
    """Each figure's ceiling in size.toml."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ceilings_of(value, f"{above}{key}.") if key != "budget" else ()
        elif key != "raised":
            yield f"{above}{key}", value


def committed(text: str) -> dict[str, int]:
    """The ceilings before this change: those of HEAD, or of the commit before it if HEAD has the same file."""
    for revision in ("HEAD", "HEAD~1"):
        before = git("show", f"{revision}:size.toml")
        if before is None:
            break
        if before != text:
            return dict(ceilings_of(tomllib.loads(before)))
    return {}


def faults(figures: dict[str, int], ceilings: dict[str, int], before: dict[str, int], raised: Any) -> Iterator[str]:
    """What is above its ceiling, without a ceiling or without a figure, and ceilings that rose without a promise."""
    for figure, value in figures.items():
        if figure not in ceilings:
            yield f"{figure} is {value:,} and has no ceiling in size.toml: tools/size.py --set"
        elif value > ceilings[figure] and figure != SECONDS:
            yield f"{figure} is {value:,}, above its ceiling of {ceilings[figure]:,}"
    for figure in ceilings.keys() - figures.keys() - {SECONDS}:
        yield f"{figure} has a ceiling in size.toml and is gone: tools/size.py --set"
    promised = {(one.get("figure"), one.get("from"), one.get("to")) for one in raised if one.get("promise")}
    for figure, ceiling in ceilings.items():
        old = before.get(figure, ceiling)
        if ceiling > old and (figure, old, ceiling) not in promised:
            yield f"the ceiling of {figure} rose from {old:,} to {ceiling:,} without a [[raised]] in size.toml"


def written(ceilings: dict[str, int], text: str, before: dict[str, int], promise: str) -> str:
    """size.toml with other ceilings; what is above them and the budget stay. A promise replaces those before it."""
    sections: dict[str, list[str]] = {"total": [], "packages": []}
    packages: dict[str, list[str]] = {}
    for figure, value in ceilings.items():
        section, *package, what = figure.split(".")
        lines = packages.setdefault(package[0], []) if package else sections.setdefault(section, [])
        lines.append(f"{what} = {value}")
    sections["packages"] = [f"{name} = {{{', '.join(values)}}}" for name, values in sorted(packages.items())]
    tables = "\n".join("\n".join([f"[{name}]", *lines, ""]) for name, lines in sections.items())
    budget, _, raised = text.partition("\n[budget]")[2].partition("\n[[raised]]")
    rose = [(figure, before[figure], value) for figure, value in ceilings.items() if value > before.get(figure, value)]
    if promise:
        raised = "\n[[raised]]".join(
            f'\nfigure = "{figure}"\nfrom = {old}\nto = {new}\npromise = "{promise}"\n' for figure, old, new in rose
        )
    head = text.partition("\n[")[0].rstrip()
    return f"{head}\n\n{tables}\n[budget]{budget}" + (f"\n[[raised]]{raised}" if raised else "")


def row(figure: str, now: int | None, ceiling: int | None, budget: int | None) -> str:
    """A line of the table; what is not known is left out."""
    cells = ("" if cell is None else f"{cell:,}" for cell in (ceiling, budget))
    return f"{figure:<44}{'' if now is None else f'{now:,}':>8}{''.join(f'{cell:>10}' for cell in cells)}".rstrip()


def main() -> int:
    """Prints the table, checks or lowers the ceilings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="print only what is wrong, and exit with 1")
    parser.add_argument(
        "--set", nargs="?", const="", metavar="PROMISE",
        help="lower each ceiling to what is there now; for a promise to users also raise what is above its own",
    )  # fmt: skip
    parser.add_argument("--seconds", type=int, metavar="N", help="what `make test` took: printed beside its ceiling")
    asked = parser.parse_args()
    text = SIZES.read_text(encoding="utf-8")
    table = tomllib.loads(text)
    ceilings, budget = dict(ceilings_of(table)), table.get("budget", {})
    if asked.seconds is not None and asked.set is None:
        print(f"make test took {asked.seconds} s: ceiling {ceilings[SECONDS]}, budget {budget[SECONDS]}")
        return 0
    figures, parts = measure()
    if asked.set is not None:
        before = dict(ceilings_of(tomllib.loads(git("show", "HEAD:size.toml") or text)))
        figures[SECONDS] = ceilings[SECONDS] if asked.seconds is None else asked.seconds
        new = {
            figure: value if asked.set else min(value, ceilings.get(figure, value)) for figure, value in figures.items()
        }
        SIZES.write_text(written(new, text, before, asked.set), encoding="utf-8")
    elif asked.check:
        found = list(faults(figures, ceilings, committed(text), table.get("raised", ())))
        print(*found, sep="\n", end="\n" if found else "")
        return int(bool(found))
    else:
        print(f"{'figure':<44}{'now':>8}{'ceiling':>10}{'budget':>10}")
        for figure in sorted(ceilings.keys() | figures.keys()):
            print(row(figure, figures.get(figure), ceilings.get(figure), budget.get(figure)))
        for part, lines in budget.get("parts", {}).items():
            print(row(part, sum(parts[one] for one in part.split(" + ")), None, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
