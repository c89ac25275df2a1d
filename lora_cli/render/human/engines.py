"""What ``engines`` says to people: a matrix of features and engines, or all that one engine does."""

from collections.abc import Iterator, Mapping, Sequence

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines import Profile
from lora_cli.engines.profile import Row
from lora_cli.render.text import paint, wrap
from lora_cli.rules.features import FEATURES

LETTERS: Mapping[Outcome | None, str] = {
    None: "?",
    Outcome.OK: "·",
    Outcome.REJECTS: "R",
    Outcome.CRASHES: "C",
    Outcome.SERVES_WRONG: "W",
}
SHORT = {"sglang": "SGL", "trtllm": "TRT"}
LEGEND = "· serves it right, R rejects it, C crashes on it at first use, W serves it wrong, * by the base, ? not known"
BESIDE = 28
"""Columns that titles need to stand beside the letters; with fewer they stand above."""

ORDER = (Outcome.REJECTS, Outcome.CRASHES, Outcome.SERVES_WRONG)
PROOFS = {"run": "its code was run", "read": "its code was read", "reasoned": "follows from what was read"}


def render_matrix(profiles: Sequence[Profile], width: int) -> str:
    """Every feature beside what each profile does with it, in letters that a legend explains."""
    heads = [(SHORT.get(one.engine.name, one.engine.title), one.version) for one in profiles]
    columns = [max(map(len, head)) for head in heads]
    room = max(width - sum(columns) - len(columns), 0)
    beside = room >= BESIDE
    lines = ["".ljust(room) + _cells([head[line] for head in heads], columns) for line in (0, 1)]
    for name, feature in FEATURES.items():
        cells = _cells([letter(name, profile) for profile in profiles], columns)
        first, *rest = wrap(feature.title, room if beside else width, " ", "")
        lines += [first.ljust(room) + cells, *rest] if beside else [first, *rest, "".ljust(room) + cells]
    named = [f"{SHORT[one.name]} is {one.title}" for one in {p.engine.name: p.engine for p in profiles}.values()
             if one.name in SHORT]  # fmt: skip
    lines += ["", *wrap("; ".join([LEGEND, *named]), width)]
    lines += wrap("lora-cli engines NAME[@VERSION] says why, and what mends it.", width)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def letter(name: str, profile: Profile) -> str:
    """What the engine does with the feature called ``name``, as a letter of the legend."""
    if name == "embedding" and profile.grammar.embeddings is not None:
        return "*"
    return LETTERS[FEATURES[name].outcome(name, profile)]


def _cells(cells: Sequence[str], columns: Sequence[int]) -> str:
    return "".join(f" {cell:>{column}}" for cell, column in zip(cells, columns, strict=True))


def render_engine(profile: Profile, width: int, *, colour: bool = False) -> str:
    """One profile: its ranks, then what it rejects, crashes on and serves wrong, why, and what mends it."""
    lines = [paint(profile.title, "bold", colour=colour)]
    lines += wrap(profile.note, width) if profile.note else []
    lines += wrap(profile.allowed, width)
    lines += wrap(f"profiles: {', '.join(profile.engine.versions)}", width)
    if not profile.rows:
        lines += ["", *wrap("It owns the format: the rules that hold without an engine are its.", width)]
    for outcome in ORDER:
        rows = [row for row in profile.rows if row.outcome is outcome]
        lines += ["", paint(outcome.label, "bold", colour=colour)] if rows else []
        for row in rows:
            lines += _row(row, width)
    return "\n".join(lines) + "\n"


def _row(row: Row, width: int) -> Iterator[str]:
    reason = f": {row.reason}" if row.reason else ""
    yield from wrap(FEATURES[row.feature].title + reason, width, "    ", "  ")
    if row.mend and not row.mend.startswith("{"):
        yield from wrap(row.mend.format_map(Ellipses()), width, "      ", "    mend: ")
    yield from wrap(f"{row.evidence} ({PROOFS[row.proof]})", width, "      ", "    from: ")


class Ellipses(dict[str, str]):
    """The fields of a text whose values only an adapter has."""

    def __missing__(self, key: str) -> str:
        return "…"
