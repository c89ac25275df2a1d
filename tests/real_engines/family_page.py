"""tests/real_engines/vllm.md: what vLLM did with a base of every family, beside what ``validate`` says of it."""

import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.real_engines.agreement import Predicted
from tests.real_engines.classes import CLASSES
from tests.real_engines.effects import Observed
from tests.real_engines.families import BASES
from tests.real_engines.family_cases import FEATURES
from tests.real_engines.family_oracle import Run
from tests.real_engines.known import FAMILY_DIFFERS, NO_ANSWER

PAGE = Path(__file__).with_name("vllm.md")
LETTERS = {Observed.OK: "·", Observed.REJECTS: "R", Observed.CRASHES: "C", Observed.SERVES_WRONG: "W"}
HEAD = """# What vLLM did with each family

vLLM 0.32.0 on the CPU, started with `--enable-lora --max-lora-rank 64` and a tiny base of each family, {date}.
A cell has what `validate --engine vllm@0.32` says of an adapter and, after the stroke, what vLLM did with it.
`make test-engines` runs it again, and fails where this page says another thing.

"""
LEGEND = """
· serves it right (as PEFT answers), R rejects it, C crashes on first use, W serves it incorrectly, L loads it, but the
base itself has no answer here, – vLLM does not start with that base and LoRA. A cell is empty where the base has no
such module.

- attention, MLP, embedding, head: LoRA of rank 8 on all modules of that part of the text model.
- all-linear: PEFT's word for every linear module but the head; of a wrapper without its towers.
- rsLoRA; a rank of 128; and a rank of 2 in the first layer by `rank_pattern`: on the attention.
- no experts: a base of the same class with dense layers alone.
- a wrapper's names: `language_model.` is put before the names of the attention's modules, or left out where the base
  is a wrapper itself.
"""
POOLED = """
## Bases that give embeddings or classes

The class is the first of `architectures` in the base's `config.json`. `validate` says the same of each cell; an answer
that is served right is PEFT's. *Attention* is LoRA of rank 8, *a head* the same with a trained head saved whole.

| class | attention | a head |
|---|:-:|:-:|
"""
DIFFERENCES = "\n## Where the two differ, or nothing can be compared\n\n"


def line_of(family: str, said: Mapping[str, Predicted], run: Run) -> str:
    """The family's line of the table."""
    seen = {one.name: LETTERS[one.observed] for one in run.seen} | dict.fromkeys(run.loaded, "L")
    cells = [f"{LETTERS[said[name].outcome]}/{seen.get(name, '–')}" if name in said else "" for name in FEATURES]
    return f"| {' | '.join([family, *cells, escaped(run.fails)])} |"


def escaped(words: str) -> str:
    """The first line of an error, as a cell."""
    return words.partition("\n")[0][:200].strip().replace("|", "\\|")


def read(family: str) -> str:
    """The family's line as it stands on the page; empty where it has none."""
    return lines().get(family, "")


def lines() -> dict[str, str]:
    """Every line of the table by its family."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    by_name = {line.removeprefix("| ").partition(" |")[0]: line for line in rows}
    return {name: line for name, line in by_name.items() if name in BASES}


def differences() -> Iterator[str]:
    """Every explained difference as a point of a list."""
    for reason in dict.fromkeys(FAMILY_DIFFERS.values()):
        cells = [f"{family} ({feature})" for (family, feature), why in FAMILY_DIFFERS.items() if why == reason]
        yield f"- {', '.join(cells)}: {reason}."
    for reason in dict.fromkeys(NO_ANSWER.values()):
        yield f"- {', '.join(family for family, why in NO_ANSWER.items() if why == reason)}: {reason}."


def pooled() -> Iterator[str]:
    """The lines of the classes for embeddings and classification."""
    for name, seen in CLASSES.items():
        cells = ["–", "–"]
        if not isinstance(seen, str):
            cells = [LETTERS[seen[one]] if one in seen else "" for one in ("backbone", "head")]
        yield f"| {name} | {' | '.join(cells)} |\n"


def page(rows: Mapping[str, str], date: str) -> str:
    """The whole page."""
    head = ["family", *FEATURES, "why it does not start or answer"]
    table = [f"| {' | '.join(head)} |", f"|---|{':-:|' * len(FEATURES)}---|"]
    table += [rows[family] for family in sorted(rows)]
    return "".join(
        [
            HEAD.format(date=date),
            "\n".join(table),
            "\n",
            LEGEND,
            POOLED,
            *pooled(),
            DIFFERENCES,
            "\n".join(differences()),
            "\n",
        ]
    )


def date_of(text: str) -> str:
    """The date that the page has in its head."""
    return text.partition("each family, ")[2][:10]


def write(line: str, family: str) -> None:
    """Put a family's line on the page, with the date of today."""
    PAGE.write_text(page({**lines(), family: line}, dt.date.today().isoformat()), encoding="utf-8")
