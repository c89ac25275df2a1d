"""What ``engines`` and ``rules`` print for people."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines import Profile
from lora_cli.engines.profile import Row
from lora_cli.render.terminal import Paragraph, rendered, table, text
from lora_cli.render.text import unmarked
from lora_cli.rules.features import FEATURES
from lora_cli.rules.rule import Rule

LETTERS: Mapping[Outcome | None, str] = {
    None: "?",
    Outcome.OK: "·",
    Outcome.REJECTS: "R",
    Outcome.CRASHES: "C",
    Outcome.SERVES_WRONG: "W",
}
STYLES = {"R": "red", "C": "red", "W": "yellow"}
SHORT = {"sglang": "SGL", "trtllm": "TRT"}
LEGEND = (
    "· serves it right, R rejects it, C crashes on first use, W serves it incorrectly, * depends on the base, ? unknown"
)
ORDER = (Outcome.REJECTS, Outcome.CRASHES, Outcome.SERVES_WRONG)
PROOFS = {"run": "tested", "read": "from source", "reasoned": "inferred"}
HUNDREDS = {
    "LC1": "files",
    "LC2": "config",
    "LC3": "tensors",
    "LC4": "engine",
    "LC5": "values",
    "LC6": "supply chain",
}


def render_matrix(profiles: Sequence[Profile], width: int, *, colour: bool = False) -> str:
    """Every feature with what each profile does with it, in letters that a legend explains."""
    heads = [Text(f"{SHORT.get(one.engine.name, one.engine.title)}\n{one.version}") for one in profiles]
    rows = [
        (feature.title, *(text(cell, STYLES.get(cell, "")) for cell in (letter(name, one) for one in profiles)))
        for name, feature in FEATURES.items()
    ]
    matrix = table(("", *heads), rows)
    matrix.padding = (0, 1, 0, 0)
    engines = {one.engine.name: one.engine for one in profiles}
    named = [f"{SHORT[name]} is {engine.title}" for name, engine in engines.items() if name in SHORT]
    legend = Paragraph("; ".join([LEGEND, *named]))
    more = Paragraph("`lora-cli engines NAME[@VERSION]` shows the reasons and the fixes.")
    return rendered([matrix, "", legend, more], width, colour=colour)


def letter(name: str, profile: Profile) -> str:
    """What the engine does with the feature called ``name``, as a letter of the legend."""
    if name == "embedding" and profile.grammar.embeddings is not None:
        return "*"
    return LETTERS[FEATURES[name].outcome(name, profile)]


def render_engine(profile: Profile, width: int, *, colour: bool = False) -> str:
    """One profile: its ranks, then what it rejects, crashes on and serves incorrectly, why, and the fix."""
    parts: list[RenderableType] = [text(profile.title, "bold")]
    told = (profile.note, profile.allowed, f"profiles: {', '.join(profile.engine.versions)}")
    parts += [Paragraph(one) for one in told if one]
    if not profile.rows:
        parts += ["", Paragraph("It owns the format: the rules that hold without an engine are its.")]
    for outcome in ORDER:
        rows = [row for row in profile.rows if row.outcome is outcome]
        parts += ["", text(outcome.label, "bold")] if rows else []
        parts += [part for row in rows for part in _row(row)]
    return rendered(parts, width, colour=colour)


def _row(row: Row) -> Iterator[RenderableType]:
    reason = f": {row.reason}" if row.reason else ""
    yield Paragraph(FEATURES[row.feature].title + reason, indent=2)
    if row.mend and not row.mend.startswith("{"):
        yield Paragraph(row.mend.format_map(Ellipses()), "fix: ", indent=4)
    yield Paragraph(f"{row.evidence} ({PROOFS[row.proof]})", "source: ", indent=4)


class Ellipses(dict[str, str]):
    """The fields of a text whose values only an adapter has."""

    def __missing__(self, key: str) -> str:
        return "…"


def render_rules(rules: Sequence[Rule], width: int, *, colour: bool = False) -> str:
    """All rules by hundreds: code, severity, name, and what each looks for."""
    parts: list[RenderableType] = []
    hundred = ""
    for rule in rules:
        if rule.code[:3] != hundred:
            hundred = rule.code[:3]
            parts += [*([""] if parts else []), text(HUNDREDS.get(hundred, hundred), "bold")]
        parts += [
            f"  {rule.code}  {rule.severity!s:<7}  {rule.name}",
            Paragraph(unmarked(rule.summary), indent=9),
        ]
    return rendered(parts, width, colour=colour)


def render_rule(rule: Rule, width: int, *, colour: bool = False) -> str:
    """One rule's documentation: what it checks, why that is bad, how to fix it."""
    needs = f"; needs {', '.join(rule.needs)}" if rule.needs else ""
    parts: list[RenderableType] = [text(f"{rule.code} {rule.name}", "bold"), f"{rule.severity}{needs}"]
    for paragraph in rule.documentation.split("\n\n"):
        parts += ["", Paragraph(unmarked(" ".join(paragraph.split())))]
    return rendered(parts, width, colour=colour)
