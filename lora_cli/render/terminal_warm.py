"""What ``warm`` prints for people: loaded adapters, answers, a server's status, and running servers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from lora_cli.core import parse
from lora_cli.core.results import Answers, LoadReport
from lora_cli.core.text import counted, duration, milliseconds, safe, share, size
from lora_cli.endpoint.reconcile import Done, Replica
from lora_cli.render.terminal import Paragraph, hints, rendered, table_or_blocks, text

DIGEST_SHOWN = 12
"""Characters of a snapshot digest: enough to tell one from another, and to paste after ``cache show``."""

STALE_S = 2.0


def render_load_reports(reports: Sequence[LoadReport], width: int, *, colour: bool = False, quiet: bool = False) -> str:
    """Each adapter's outcome, applied modules and proof; each stage's milliseconds; next tokens, copies, page cache.

    The error and hint of each that failed stand below; with ``quiet`` nothing else is said.
    """
    parts: list[RenderableType] = []
    for header, rows, left in () if quiet else _tables(reports):
        title = header[0] if parts else ""
        parts += [table_or_blocks(header, rows, left=left, title=title), ""] if rows else []
    for report in reports:
        if report.error:
            where = f" at {report.stage}" if report.stage else ""
            parts += [*_problem(report.name, f"{outcome(report)}{where}", report.error, report.hint), ""]
    return rendered(parts[:-1] if quiet else [*parts, Paragraph(_summary(reports))], width, colour=colour)


def outcome(report: LoadReport) -> str:
    """One word for how far it came."""
    if report.error:
        return "refused" if report.exit_code == 1 else "failed"
    return "proved" if report.moved is not None or (report.proof is not None and report.proof.holds) else "loaded"


def _tables(reports: Sequence[LoadReport]) -> Iterator[tuple[Sequence[str], Sequence[Sequence[object]], int]]:
    """The header and rows of each table, and how many columns of it are to the left."""
    facts = ("adapter", "digest", "outcome", "applied", "rank", "slot", "max error", "tolerance")
    yield facts, [_fact(report) for report in reports], 3
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
    yield ("copied to memory", "folder"), [(one.name, one.copied_to) for one in reports if one.copied_to], 2
    seen = [
        (one.name, kind, size(to.bytes), share(to.before_bytes, to.bytes), share(to.after_bytes, to.bytes))
        for one in reports
        for kind, to in one.residency.items()
    ]
    yield ("in the page cache", "files", "size", "before", "after"), seen, 2


def _fact(report: LoadReport) -> Sequence[object]:
    worst = report.proof.worst if report.proof is not None else None
    return (
        report.name,
        report.digest[:DIGEST_SHOWN] or None,
        text(outcome(report), "red" if report.error else "green"),
        report.applied or None,
        report.rank,
        report.slot,
        worst and f"{worst.error:.1e}",
        worst and f"{worst.tolerance:.1e}",
    )


def _problem(name: object, word: str, message: str, hint: str, more: str = "") -> Iterator[RenderableType]:
    """What failed: its name and a word in red, then the message and what to try."""
    yield Text.assemble(f"{safe(name)}: ", (safe(word), "red"), safe(more))
    yield from _message(message, hint)


def _message(message: str, hint: str) -> Iterator[RenderableType]:
    yield from (Paragraph(line, indent=2) for line in message.splitlines())
    yield from hints(hint)


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in Counter(words).items())


def _summary(reports: Sequence[LoadReport]) -> str:
    total = sum(sum(report.stage_ms.values()) for report in reports)
    weights = sorted({report.proof.weights for report in reports if report.proof is not None})
    proof = f"; proved on {' and '.join(weights)} weights" if weights else ""
    told = _counts(map(outcome, reports)) or "nothing"
    return f"{counted(len(reports), 'adapter')}: {told}{proof}; {milliseconds(total)} ms in total"


def render_answers(answers: Sequence[Answers], width: int, *, colour: bool = False) -> str:
    """The same prompt, answered by the base and by each adapter on it, one below the other."""
    parts: list[RenderableType] = []
    prompt = None
    for answer in answers:
        if answer.prompt != prompt:
            prompt = answer.prompt
            parts += [*_said("prompt", prompt), *_said("base", answer.base)]
        told = "same as" if answer.adapted == answer.base else "differs from"
        moved = f"({told} the base; max logit change {answer.max_abs_logit_delta:.3g})"
        parts += [*_said(answer.adapter, answer.adapted), Paragraph(moved, indent=2), ""]
    return rendered(parts[:-1], width, colour=colour)


def _said(who: str, answer: str) -> Iterator[RenderableType]:
    yield text(who, "bold")
    yield from (Paragraph(line, indent=2) for line in answer.strip().splitlines() or [""])


def render_status(status: Mapping[str, Any], width: int, *, colour: bool = False) -> str:
    """The process, its tiers, its adapters, and why some fail.

    ``status`` is the document ``lora_cli/status/1``, of a server that may be another version: what is missing is ``-``.
    """
    parts: list[RenderableType] = [_process(status)]
    tiers = [
        (
            name,
            f"{tier.get('adapters')} of {tier.get('most')}",
            size(tier.get("bytes", 0)),
            tier.get("hits", 0),
            tier.get("evictions", 0),
        )
        for name, tier in (status.get("tiers") or {}).items()
    ]
    if tiers:
        parts += ["", table_or_blocks(("tier", "adapters", "size", "hits", "evictions"), tiers)]
    age_s = status.get("tiers_age_s")
    if isinstance(age_s, int | float) and age_s > STALE_S:
        parts.append(Paragraph(f"as of {duration(age_s)} ago: the process that owns the device does not answer"))
    adapters = parse.objects(status, "adapters")
    if adapters:
        header = ("adapter", "tier", "state", "rank", "size", "requests", "max error")
        parts += ["", table_or_blocks(header, map(_adapter, adapters), left=3)]
    for one in adapters:
        if one.get("error"):
            where = f"failed at {one['stage']}" if one.get("stage") else "failed"
            again = f", tried again in {duration(one['retry_in_s'])}" if one.get("retry_in_s") else ""
            parts += ["", *_problem(one.get("name"), where, str(one["error"]), str(one.get("hint") or ""), again)]
    return rendered(parts, width, colour=colour)


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
    return (
        one.get("name"),
        one.get("tier"),
        text(state(one), "red" if one.get("error") else ""),
        one.get("rank"),
        size(one["bytes"]) if one.get("bytes") else None,
        one.get("requests"),
        None if worst is None else f"{worst:.1e}",
    )


def state(one: Mapping[str, Any]) -> str:
    """One word for how it is."""
    if one.get("error"):
        return "failing"
    return ("pinned" if one.get("pinned") else "proved") if one.get("proved") else "waiting"


def render_endpoints(
    replicas: Sequence[Replica], refused: Sequence[Done], width: int, *, colour: bool = False, quiet: bool = False
) -> str:
    """A table for each server, then what failed, and a line that sums it up; with ``quiet`` only what failed."""
    parts: list[RenderableType] = []
    for replica in replicas:
        if quiet and replica.error is None and all(one.error is None for one in replica.adapters):
            continue
        parts += [*_replica(replica, quiet=quiet), ""]
    for one in refused:
        parts += [*_failure(one, ", no server was asked to load it"), ""]
    return rendered(parts[:-1] if quiet else [*parts, Paragraph(_done(replicas, refused))], width, colour=colour)


def _replica(replica: Replica, *, quiet: bool) -> Iterator[RenderableType]:
    version = f" {replica.version}" if replica.version else ""
    yield text(f"{replica.address} ({replica.kind}{version})", "bold")
    rows = [(one.name, one.action, milliseconds(one.ms), one.effect and one.effect.how) for one in replica.adapters]
    if rows and not quiet:
        yield Padding(table_or_blocks(("adapter", "action", "ms", "effect"), rows, left=2), (0, 0, 0, 2), expand=False)
    for one in replica.adapters:
        if one.error is not None:
            yield from _failure(one)
    if replica.error is not None:
        yield from _message(replica.error.message, replica.error.hint)


def _failure(one: Done, note: str = "") -> Iterator[RenderableType]:
    message, hint = ("", "") if one.error is None else (one.error.message, one.error.hint)
    return _problem(one.name, "failed", message, hint, note)


def _done(replicas: Sequence[Replica], refused: Sequence[Done]) -> str:
    told = _counts(one.action for one in (*(one for replica in replicas for one in replica.adapters), *refused))
    servers = counted(len(replicas), "server")
    return f"{servers}: {told}" if told else f"0 of {servers} updated"
