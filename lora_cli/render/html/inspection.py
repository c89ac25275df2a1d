"""The report of ``inspect`` as a page: of each adapter its verdict, what it is, its modules and where it is from."""

from collections.abc import Iterator, Sequence

from lora_cli.core.engine_outcome import EngineOutcome, Outcome
from lora_cli.core.finding import Finding, Severity, Skipped
from lora_cli.core.inspection import Inspection
from lora_cli.core.text import counted, size
from lora_cli.render.described import identity, origin, shape
from lora_cli.render.engine_flags import command, costs, title
from lora_cli.render.html.comparison import comparison
from lora_cli.render.html.markup import Child, Markup, joined, tag
from lora_cli.render.html.modules import memory, modules
from lora_cli.render.html.page import badge, facts, folded, page, prose, table
from lora_cli.render.html.spectrum import spectrum
from lora_cli.validation import Checked
from lora_cli.validation.engine_args import EngineArgs

KIND = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}
ENGINE_KIND = {Outcome.OK: "good", Outcome.SERVES_WRONG: "warning", Outcome.CRASHES: "error", Outcome.REJECTS: "error"}

MOST_FILES = 1000
"""Rows of the table of one adapter's files; how many more there are is said."""

Inspected = tuple[Checked, Inspection | None]


def render_inspections(done: Sequence[Inspected], args: EngineArgs | None = None) -> str:
    """One file for all of ``done``; ``args`` are the flags with which an engine serves them, where these were asked."""
    several = len(done) != 1
    heading = counted(len(done), "LoRA adapter") if several else done[0][0].name
    body: list[Child] = [tag("h1", heading), _contents(done) if several else ""]
    if args is not None:
        body.append(_flags(args))
    for number, (checked, one) in enumerate(done, 1):
        called = tag("h2", checked.name) if several or args is not None else ""
        body.append(tag("section", called, _adapter(checked, one), id=f"adapter-{number}"))
    return page(heading, *body)


def _contents(done: Sequence[Inspected]) -> Markup:
    """All adapters in a table, each with a link to what is said of it."""
    rows = []
    for number, (checked, one) in enumerate(done, 1):
        applied = checked.verdict.applied if checked.verdict is not None else None
        rows.append(
            (
                tag("a", checked.name, href=f"#adapter-{number}"),
                _verdict(checked),
                "–" if applied is None else str(applied),
                "–" if one is None or not one.ranks else str(max(one.ranks)),
                "–" if one is None or not one.modules else f"{one.parameters:,}",
                "–" if one is None else size(one.total_bytes),
            )
        )
    return table("Adapters", ("adapter", "verdict", "applies", "highest rank", "parameters", "size"), rows, text=2)


def _flags(args: EngineArgs) -> Markup:
    told: list[Child] = [tag("h2", title(args))]
    if args.fit is not None:
        lines = tag("code", joined(command(args), "\n"))
        told.append(tag("pre", lines, role="region", aria_label="The command", tabindex=0))
    return tag("section", told, facts(costs(args)))


def _adapter(checked: Checked, one: Inspection | None) -> Iterator[Child]:
    yield tag("p", _badges(checked))
    if checked.error is not None:
        yield tag("p", prose(checked.error.message), _hint(checked.error.hint))
    yield from _findings(checked)
    if one is not None:
        yield [tag("h3", "What it is"), facts(shape(checked, one)), modules(one), memory(one)]
        yield [spectrum(checked.spectrum), comparison(checked.name, checked.comparison)]
        yield [tag("h3", "Where it is from"), facts([*identity(checked, one), *origin(one)]), _files(checked)]


def _badges(checked: Checked) -> Iterator[Child]:
    yield _verdict(checked)
    if checked.verdict is not None:
        for engine in checked.verdict.engines:
            yield badge(f"{engine}: {engine.outcome.label}", ENGINE_KIND[engine.outcome])


def _verdict(checked: Checked) -> Markup:
    """The outcome in a word or two, and how much was found."""
    if checked.error is not None:
        return badge("not read", "error")
    found = checked.verdict.findings if checked.verdict is not None else ()
    by_severity = {one: sum(each.severity is one for each in found) for one in (Severity.ERROR, Severity.WARNING)}
    for severity, number in by_severity.items():
        if number:
            return badge(counted(number, severity.label), KIND[severity])
    return badge("header ok", "good")


def _findings(checked: Checked) -> Iterator[Child]:
    if checked.verdict is None:
        return
    found = [one for one in checked.verdict.findings if not one.problem.by]
    if found:
        yield tag("h3", "What is odd about it")
        yield tag("ul", [_finding(one) for one in sorted(found, key=lambda one: -one.severity)])
    for engine in checked.verdict.engines:
        if engine.reasons:
            yield tag("h3", f"What {engine} makes of it")
            yield tag("ul", list(_reasons(engine)))
    if checked.verdict.skipped:
        yield folded(
            f"{counted(len(checked.verdict.skipped), 'check')} could not look",
            tag("ul", [_skipped(one) for one in checked.verdict.skipped]),
        )


def _finding(one: Finding) -> Markup:
    label = tag("strong", f"{one.severity.label} {one.code}", class_=KIND[one.severity])
    where = tag("span", f" ({one.problem.at})", class_="soft") if str(one.problem.at) else ""
    return tag("li", label, ": ", prose(one.problem.message), where, _hint(one.problem.hint))


def _reasons(engine: EngineOutcome) -> Iterator[Markup]:
    for one in engine.reasons:
        label = tag("strong", one.outcome.label, class_=ENGINE_KIND[one.outcome])
        yield tag("li", label, ": ", prose(one.message), _hint(one.mend))


def _hint(said: str) -> Child:
    return tag("div", "hint: ", prose(said)) if said else ""


def _skipped(one: Skipped) -> Markup:
    return tag("li", tag("code", one.code), f" {one.name}: {one.reason}")


def _files(checked: Checked) -> Child:
    """Every file with its size and the digest that its origin says."""
    if checked.revision is None or not checked.revision.files:
        return ""
    files = checked.revision.files
    rows = [
        (one.path, one.sha256 or one.git_sha1 or one.defect or "not told", "–" if one.size is None else f"{one.size:,}")
        for one in files[:MOST_FILES]
    ]
    more = tag("p", f"and {counted(len(files) - MOST_FILES, 'more file')}") if len(files) > MOST_FILES else ""
    return folded(
        counted(len(files), "file"), table("Files at the origin", ("path", "digest", "bytes"), rows, text=2), more
    )
