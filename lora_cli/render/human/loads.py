"""What ``warm`` prints: each adapter's way through the house, in numbers, and why some did not get through."""

from collections.abc import Iterator, Sequence

from lora_cli.core.results import Answers, LoadReport, Moved, PageCache
from lora_cli.core.text import counted, milliseconds, safe, share, size
from lora_cli.render.text import columns, paint, pairs, wrap

NARROW = 72
NONE = "-"
DIGEST_SHOWN = 12
"""Characters of a snapshot digest: enough to tell one from another, and to paste after ``cache show``."""


def render_load_reports(reports: Sequence[LoadReport], width: int, *, colour: bool = False) -> str:
    """The table of ``warm``: outcome, applied modules, rank, slot, proof; then each stage's milliseconds; then memory.

    Below ``NARROW`` columns, and where names are too long for a table, each adapter gets a few lines instead.
    The reason and hint of each that failed stand below.
    """
    stages = _stages(reports)
    tables = [_facts(reports), _times(reports, stages), *_moves(reports), *_copies(reports), *_in_memory(reports)]
    fits = width >= NARROW and all(len(line) <= width for table in tables for line in table)
    if fits:
        lines = list(_styled(tables[0], reports, colour))
        for table in tables[1:]:
            lines += ["", *_headed(table, colour)]
    else:
        lines = [line for report in reports for line in _block(report, width, colour)]
    for report in reports:
        if report.error:
            lines += ["", *_failure(report, width, colour)]
    lines += ["", *wrap(_summary(reports), width)]
    return "\n".join(lines) + "\n"


def _stages(reports: Sequence[LoadReport]) -> list[str]:
    return list(dict.fromkeys(stage for report in reports for stage in report.stage_ms))


def outcome(report: LoadReport) -> str:
    """One word for how far it came."""
    if report.error:
        return "refused" if report.exit_code == 1 else "failed"
    return "proved" if report.moved is not None or (report.proof is not None and report.proof.holds) else "loaded"


def _proof(report: LoadReport) -> tuple[str, str]:
    """The worst module's error and what it may be; a failed proof without numbers has none."""
    worst = report.proof.worst if report.proof is not None else None
    if worst is None:
        return NONE, NONE
    return f"{worst.error:.1e}", f"{worst.tolerance:.1e}"


def _facts(reports: Sequence[LoadReport]) -> list[str]:
    header = ("adapter", "digest", "outcome", "applied", "rank", "slot", "worst error", "tolerance")
    rows = [
        (
            report.name,
            report.digest[:DIGEST_SHOWN] or NONE,
            outcome(report),
            report.applied or NONE,
            NONE if report.rank is None else report.rank,
            NONE if report.slot is None else report.slot,
            *_proof(report),
        )
        for report in reports
    ]
    return columns(header, rows, left=3)


def _times(reports: Sequence[LoadReport], stages: Sequence[str]) -> list[str]:
    rows = [
        (
            report.name,
            *(milliseconds(report.stage_ms[stage]) if stage in report.stage_ms else NONE for stage in stages),
            milliseconds(sum(report.stage_ms.values())),
        )
        for report in reports
    ]
    return columns(("milliseconds", *stages, "total"), rows)


def _moves(reports: Sequence[LoadReport]) -> Iterator[list[str]]:
    """The table of what each adapter does to the whole model's next token, where that was run."""
    rows = [(report.name, *_move(report.moved)) for report in reports if report.moved is not None]
    if rows:
        yield columns(("next token", "max |Δlogit|", "KL (nats)", "another is likeliest"), rows)


def _move(moved: Moved) -> tuple[str, str, str]:
    return f"{moved.max_abs_logit_delta:.3g}", f"{moved.kl:.3g}", f"{moved.top1_changed} of {moved.positions}"


def _copies(reports: Sequence[LoadReport]) -> Iterator[list[str]]:
    """The table of the copies in memory, where there are any."""
    rows = [(report.name, report.copied_to) for report in reports if report.copied_to]
    if rows:
        yield columns(("copied", "to"), rows, left=2)


def _in_memory(reports: Sequence[LoadReport]) -> Iterator[list[str]]:
    """The table of what is in the page cache, where anybody asked: whose, which files, their size, before and after."""
    rows = [
        (report.name, kind, size(seen.bytes), *_shares(seen))
        for report in reports
        for kind, seen in report.residency.items()
    ]
    if rows:
        yield columns(("in the page cache", "files", "size", "before", "after"), rows, left=2)


def _shares(seen: PageCache) -> tuple[str, str]:
    return share(seen.before_bytes, seen.bytes), share(seen.after_bytes, seen.bytes)


def _headed(table: Sequence[str], colour: bool) -> list[str]:
    return [paint(table[0], "bold", colour=colour), *table[1:]]


def _styled(table: Sequence[str], reports: Sequence[LoadReport], colour: bool) -> Iterator[str]:
    yield paint(table[0], "bold", colour=colour)
    for line, report in zip(table[1:], reports, strict=True):
        word = outcome(report)
        at = line.index(f" {word} ", len(safe(report.name))) + 1
        yield line[:at] + paint(word, "red" if report.error else "green", colour=colour) + line[at + len(word) :]


def _block(report: LoadReport, width: int, colour: bool) -> Iterator[str]:
    word = outcome(report)
    error, tolerance = _proof(report)
    yield f"{safe(report.name)}: {paint(word, 'red' if report.error else 'green', colour=colour)}"
    rows: list[tuple[str, object]] = [
        ("digest", report.digest[:DIGEST_SHOWN]),
        ("applied", report.applied),
        ("rank", report.rank),
        ("slot", report.slot),
        ("proof", "" if error == NONE else f"worst error {error} of {tolerance}"),
        ("next token", _moved_in_words(report.moved) if report.moved is not None else ""),
        ("copied to", report.copied_to),
        ("ms", ", ".join(f"{stage} {milliseconds(ms)}" for stage, ms in report.stage_ms.items())),
        *(
            (kind, f"{after} of {size(seen.bytes)} in the page cache, {before} before")
            for kind, seen in report.residency.items()
            for before, after in [_shares(seen)]
        ),
    ]
    yield from pairs(rows, width)


def _moved_in_words(moved: Moved) -> str:
    delta, kl, changed = _move(moved)
    return f"logits moved by at most {delta}, KL {kl} nats, another is likeliest in {changed}"


def _failure(report: LoadReport, width: int, colour: bool) -> Iterator[str]:
    where = f" at {report.stage}" if report.stage else ""
    yield f"{safe(report.name)}: {paint(outcome(report) + where, 'red', colour=colour)}"
    for line in report.error.splitlines():
        yield from wrap(line, width, "  ", "  ")
    if report.hint:
        yield from wrap(report.hint, width, "    ", "  hint: ")


def _summary(reports: Sequence[LoadReport]) -> str:
    words = [outcome(report) for report in reports]
    told = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    total = sum(sum(report.stage_ms.values()) for report in reports)
    weights = sorted({report.proof.weights for report in reports if report.proof is not None})
    proof = f"; proved on {' and '.join(weights)} weights" if weights else ""
    return f"{counted(len(reports), 'adapter')}: {told or 'nothing'}{proof}; {milliseconds(total)} ms in all"


def render_answers(answers: Sequence[Answers], width: int, *, colour: bool = False) -> str:
    """The same prompt, answered by the base and by each adapter on it, one below the other."""
    lines: list[str] = []
    prompt = None
    for answer in answers:
        if answer.prompt != prompt:
            prompt = answer.prompt
            lines += [*_said("prompt", prompt, width, colour), *_said("base", answer.base, width, colour)]
        lines += _said(answer.adapter, answer.adapted, width, colour)
        lines += wrap(_moved(answer), width, "  ", "  ")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _moved(answer: Answers) -> str:
    told = "the same answer as" if answer.adapted == answer.base else "another answer than"
    return f"({told} the base; logits moved by at most {answer.max_abs_logit_delta:.3g})"


def _said(who: str, text: str, width: int, colour: bool) -> Iterator[str]:
    yield paint(safe(who), "bold", colour=colour)
    for line in text.strip().splitlines() or [""]:
        yield from wrap(line, width, "  ", "  ")
