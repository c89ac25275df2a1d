"""The terminal output of ``warm``: loaded adapters, answers, a server's status, and running engines."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from lora_cli import parse
from lora_cli.endpoint.reconcile import AdapterOutcome, Replica
from lora_cli.errors import INTERRUPTED
from lora_cli.render.terminal import Paragraph, hints, separated, table_or_blocks, text
from lora_cli.render.warm_report import EndpointsReport
from lora_cli.results import Answers, LoadReport
from lora_cli.text import by_key, counted, duration, milliseconds, safe, size

DIGEST_SHOWN = 12
"""Characters of a shortened digest, which ``cache show`` accepts."""

STALE_S = 2.0


def load_parts(reports: Sequence[LoadReport], *, quiet: bool = False) -> Iterator[RenderableType]:
    """Tables of outcomes, stage times, next tokens and provenance, the errors, and a summary.

    With ``quiet`` only the errors. Adapters that an interrupt left undone are only counted.
    """
    tried = [report for report in reports if report.exit_code != INTERRUPTED]
    tables = [one for one in _tables(tried) if one[1] and not quiet]
    failed = [report for report in tried if report.error]
    return separated(
        *(
            [table_or_blocks(header, rows, left=left, title=header[0] if number else "")]
            for number, (header, rows, left) in enumerate(tables)
        ),
        *(
            _failed(one.name, f"{outcome(one)}{f' at {one.stage}' if one.stage else ''}", one.error, one.hint)
            for one in failed
        ),
        [] if quiet else [Paragraph(_summary(reports))],
    )


def outcome(report: LoadReport) -> str:
    """The outcome of an adapter in one word."""
    if report.exit_code == INTERRUPTED:
        return "not tried"
    if report.error:
        return "refused" if report.exit_code == 1 else "failed"
    return "proved" if report.moved is not None or (report.proof is not None and report.proof.holds) else "loaded"


def _tables(reports: Sequence[LoadReport]) -> Iterator[tuple[Sequence[str], Sequence[Sequence[object]], int]]:
    """The header, the rows and the number of left-aligned columns of each table."""
    facts = ("adapter", "digest", "outcome", "applied", "rank", "max error", "tolerance")
    yield facts, [_outcome_row(report) for report in reports], 3
    stages = list(dict.fromkeys(stage for report in reports for stage in report.stage_ms))
    times = [
        (
            one.name,
            *(milliseconds(one.stage_ms[stage]) if stage in one.stage_ms else None for stage in stages),
            milliseconds(sum(one.stage_ms.values())),
        )
        for one in reports
    ]
    yield ("milliseconds", *stages, "total"), times, 1
    moved = [
        (one.name, f"{to.max_abs_logit_delta:.3g}", f"{to.kl:.3g}", f"{to.top1_changed} of {to.positions}")
        for one in reports
        if (to := one.moved) is not None
    ]
    yield ("next token", "max |Δlogit|", "KL (nats)", "top token differs"), moved, 1
    yield (
        ("signed by", "as policies require"),
        [(one.name, safe(", ".join(one.signers))) for one in reports if one.signers],
        2,
    )


def _outcome_row(report: LoadReport) -> Sequence[object]:
    worst = report.proof.worst if report.proof is not None else None
    return (
        report.name,
        report.digest[:DIGEST_SHOWN] or None,
        text(outcome(report), "red" if report.error else "green"),
        report.applied or None,
        report.rank,
        worst and f"{worst.error:.1e}",
        worst and f"{worst.tolerance:.1e}",
    )


def _failed(name: object, word: str, message: str, hint: str, more: str = "") -> list[RenderableType]:
    """A failure: the name and a word in red, then the message and the hint."""
    return [Text.assemble(f"{safe(name)}: ", (safe(word), "red"), safe(more)), *_error_lines(message, hint)]


def _error_lines(message: str, hint: str) -> list[RenderableType]:
    return [*(Paragraph(line, indent=2) for line in message.splitlines()), *hints(hint)]


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in Counter(words).items())


def _summary(reports: Sequence[LoadReport]) -> str:
    total = sum(sum(report.stage_ms.values()) for report in reports)
    weights = sorted({report.proof.weights for report in reports if report.proof is not None})
    proof = f"; proved on {' and '.join(weights)} weights" if weights else ""
    counts = _counts(map(outcome, reports)) or "nothing"
    took = f"; {milliseconds(total)} ms in total" if total else ""
    return f"{counted(len(reports), 'adapter')}: {counts}{proof}{took}"


def answer_parts(answers: Sequence[Answers]) -> Iterator[RenderableType]:
    """The answers of the base and of each adapter to the same prompt."""
    by_prompt = by_key(((one.prompt, one.base), one) for one in answers)
    return separated(
        *(
            [*(_labelled_lines("prompt", prompt) + _labelled_lines("base", base) if number == 0 else []), *_answer(one)]
            for (prompt, base), found in by_prompt.items()
            for number, one in enumerate(found)
        )
    )


def _answer(one: Answers) -> list[RenderableType]:
    relation = "same as" if one.adapted == one.base else "differs from"
    moved = f"({relation} the base; max logit change {one.max_abs_logit_delta:.3g})"
    return [*_labelled_lines(one.adapter, one.adapted), Paragraph(moved, indent=2)]


def _labelled_lines(who: str, answer: str) -> list[RenderableType]:
    return [text(who, "bold"), *(Paragraph(line, indent=2) for line in answer.strip().splitlines() or [""])]


def status_parts(status: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The process, its tiers, its adapters, and why some fail.

    ``status`` is the document ``lora_cli/status/1``, of a server that may be another version: what is missing is ``-``.
    """
    tiers = (status.get("tiers") or {}).items()
    adapters, age_s = parse.objects(status, "adapters"), status.get("tiers_age_s")
    yield _process(status)
    if tiers:
        header = ("tier", "adapters", "size", "hits", "evictions")
        yield from ("", table_or_blocks(header, [(name, *_tier(tier)) for name, tier in tiers]))
    if isinstance(age_s, int | float) and age_s > STALE_S:
        yield Paragraph(f"as of {duration(age_s)} ago: the process that owns the device does not respond")
    if adapters:
        named = ("adapter", "tier", "state", "rank", "size", "requests", "max error")
        yield from ("", table_or_blocks(named, map(_adapter, adapters), left=3))
    for one in adapters:
        if one.get("error"):
            where = f"failed at {one['stage']}" if one.get("stage") else "failed"
            again = f", tried again in {duration(one['retry_in_s'])}" if one.get("retry_in_s") else ""
            yield from ("", *_failed(one.get("name"), where, str(one["error"]), str(one.get("hint") or ""), again))


def _tier(tier: Mapping[str, Any]) -> Sequence[object]:
    adapters = f"{tier.get('adapters')} of {tier.get('most')}"
    return (adapters, size(tier.get("bytes", 0)), tier.get("hits", 0), tier.get("evictions", 0))


def _process(status: Mapping[str, Any]) -> Text:
    up, starts = status.get("up_s"), status.get("child_starts")
    rest = [
        f"{status.get('device') or '-'} {status.get('dtype') or ''}".rstrip(),
        f"up {duration(up)}" if isinstance(up, int | float) else "",
        f"started {starts} times" if isinstance(starts, int) and starts > 1 else "",
        f"{status['queued']} queued" if status.get("queued") else "",
    ]
    word = ("ready", "green") if status.get("ready") else ("not ready", "red")
    return Text.assemble(f"{safe(status.get('base', '-'))}: ", word, *(f", {safe(one)}" for one in rest if one))


def _adapter(one: Mapping[str, Any]) -> Sequence[object]:
    worst = one.get("worst_error")
    state = ("pinned" if one.get("pinned") else "proved") if one.get("proved") else "waiting"
    return (
        one.get("name"),
        one.get("tier"),
        text("failing", "red") if one.get("error") else state,
        one.get("rank"),
        size(one["bytes"]) if one.get("bytes") else None,
        one.get("requests"),
        None if worst is None else f"{worst:.1e}",
    )


def endpoint_parts(report: EndpointsReport, *, quiet: bool = False) -> Iterator[RenderableType]:
    """A table for each server, the failures, and a summary; with ``quiet`` only the failures."""
    counts = _counts("failed" if one.error is not None else one.action for one in report.done)
    down = sum(one.error is not None for one in report.servers)
    servers = counted(len(report.servers), "server")
    done = Paragraph(f"{servers}{f' ({down} failed)' * bool(down)}: {counts}" if counts else f"0 of {servers} updated")
    return separated(
        *(_replica(one, quiet=quiet) for one in report.servers),
        *(_failure(one, ", this version is not loaded into any server") for one in report.refused),
        [] if quiet else [done],
    )


def _replica(replica: Replica, *, quiet: bool) -> Iterator[RenderableType]:
    version = f" {replica.version}" if replica.version else ""
    failed = [one for one in replica.adapters if one.error is not None]
    if failed or replica.error is not None or not quiet:
        yield text(f"{replica.address} ({replica.kind}{version})", "bold")
    rows = [(one.name, one.action, milliseconds(one.ms), one.effect and one.effect.how) for one in replica.adapters]
    if rows and not quiet:
        yield Padding(table_or_blocks(("adapter", "action", "ms", "effect"), rows, left=2), (0, 0, 0, 2), expand=False)
    if replica.note and not quiet:
        yield Paragraph(f"note: {replica.note}", indent=2)
    yield from (part for one in failed for part in _failure(one))
    if replica.error is not None:
        yield from _error_lines(replica.error.message, replica.error.hint)


def _failure(one: AdapterOutcome, note: str = "") -> list[RenderableType]:
    message, hint = ("", "") if one.error is None else (one.error.message, one.error.hint)
    return _failed(one.name, "failed", message, hint, note)
