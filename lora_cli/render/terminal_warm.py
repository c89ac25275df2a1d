"""What ``warm`` prints for people: loaded adapters, answers, a server's status, and running servers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from lora_cli.core import parse
from lora_cli.core.results import Answers, LoadReport, Moved, PageCache
from lora_cli.core.text import counted, duration, milliseconds, safe, share, size
from lora_cli.endpoint.reconcile import Done, Replica
from lora_cli.render.terminal import Paragraph, rendered, table_or_blocks, text

NONE = "-"
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
    yield ("milliseconds", *stages, "total"), [_times(report, stages) for report in reports], 1
    moved = [(report.name, *_moved(report.moved)) for report in reports if report.moved is not None]
    yield ("next token", "max |Δlogit|", "KL (nats)", "top token differs"), moved, 1
    yield ("copied to memory", "folder"), [(report.name, report.copied_to) for report in reports if report.copied_to], 2
    seen = [
        (report.name, kind, size(seen.bytes), *_shares(seen))
        for report in reports
        for kind, seen in report.residency.items()
    ]
    yield ("in the page cache", "files", "size", "before", "after"), seen, 2


def _fact(report: LoadReport) -> Sequence[object]:
    worst = report.proof.worst if report.proof is not None else None
    return (
        report.name,
        report.digest[:DIGEST_SHOWN] or NONE,
        text(outcome(report), "red" if report.error else "green"),
        report.applied or NONE,
        NONE if report.rank is None else report.rank,
        NONE if report.slot is None else report.slot,
        NONE if worst is None else f"{worst.error:.1e}",
        NONE if worst is None else f"{worst.tolerance:.1e}",
    )


def _times(report: LoadReport, stages: Sequence[str]) -> Sequence[object]:
    times = [milliseconds(report.stage_ms[stage]) if stage in report.stage_ms else NONE for stage in stages]
    return (report.name, *times, milliseconds(sum(report.stage_ms.values())))


def _moved(moved: Moved) -> tuple[str, str, str]:
    return f"{moved.max_abs_logit_delta:.3g}", f"{moved.kl:.3g}", f"{moved.top1_changed} of {moved.positions}"


def _shares(seen: PageCache) -> tuple[str, str]:
    return share(seen.before_bytes, seen.bytes), share(seen.after_bytes, seen.bytes)


def _problem(name: object, word: str, message: str, hint: str, more: str = "") -> Iterator[RenderableType]:
    """What failed: its name and a word in red, then the message and what to try."""
    yield Text.assemble(f"{safe(name)}: ", (safe(word), "red"), safe(more))
    yield from _message(message, hint)


def _message(message: str, hint: str) -> Iterator[RenderableType]:
    for line in message.splitlines():
        yield Paragraph(line, indent=2)
    if hint:
        yield Paragraph(hint, "hint: ", indent=2)


def _summary(reports: Sequence[LoadReport]) -> str:
    words = [outcome(report) for report in reports]
    told = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    total = sum(sum(report.stage_ms.values()) for report in reports)
    weights = sorted({report.proof.weights for report in reports if report.proof is not None})
    proof = f"; proved on {' and '.join(weights)} weights" if weights else ""
    return f"{counted(len(reports), 'adapter')}: {told or 'nothing'}{proof}; {milliseconds(total)} ms in total"


def render_answers(answers: Sequence[Answers], width: int, *, colour: bool = False) -> str:
    """The same prompt, answered by the base and by each adapter on it, one below the other."""
    parts: list[RenderableType] = []
    prompt = None
    for answer in answers:
        parts += [""] if parts else []
        if answer.prompt != prompt:
            prompt = answer.prompt
            parts += [*_said("prompt", prompt), *_said("base", answer.base)]
        parts += _said(answer.adapter, answer.adapted)
        told = "same as" if answer.adapted == answer.base else "differs from"
        moved = f"({told} the base; max logit change {answer.max_abs_logit_delta:.3g})"
        parts.append(Paragraph(moved, indent=2))
    return rendered(parts, width, colour=colour)


def _said(who: str, answer: str) -> Iterator[RenderableType]:
    yield text(who, "bold")
    for line in answer.strip().splitlines() or [""]:
        yield Paragraph(line, indent=2)


def render_status(status: Mapping[str, Any], width: int, *, colour: bool = False) -> str:
    """The process, its tiers, its adapters, and why some fail.

    ``status`` is the document ``lora_cli/status/1``, of a server that may be another version: what is missing is ``-``.
    """
    parts: list[RenderableType] = [_process(status)]
    tiers = [_tier(name, tier) for name, tier in (status.get("tiers") or {}).items()]
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
        f"{status.get('device') or NONE} {status.get('dtype') or ''}".rstrip(),
        f"up {duration(up)}" if isinstance(up, int | float) else "",
        f"started {starts} times" if isinstance(starts, int) and starts > 1 else "",
        f"{status['queued']} queued" if status.get("queued") else "",
    ]
    word = ("ready", "green") if status.get("ready") else ("not ready", "red")
    return Text.assemble(f"{safe(status.get('base', NONE))}: ", word, *(f", {safe(one)}" for one in rest if one))


def _tier(name: str, tier: Mapping[str, Any]) -> Sequence[object]:
    held = f"{tier.get('adapters')} of {tier.get('most')}"
    return (name, held, size(tier.get("bytes", 0)), tier.get("hits", 0), tier.get("evictions", 0))


def _adapter(one: Mapping[str, Any]) -> Sequence[object]:
    rank, bytes_, worst = one.get("rank"), one.get("bytes"), one.get("worst_error")
    return (
        one.get("name"),
        one.get("tier"),
        text(state(one), "red" if one.get("error") else ""),
        NONE if rank is None else rank,
        size(bytes_) if bytes_ else NONE,
        one.get("requests", NONE),
        NONE if worst is None else f"{worst:.1e}",
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
    rows = [
        (one.name, one.action, milliseconds(one.ms), NONE if one.effect is None else one.effect.how)
        for one in replica.adapters
    ]
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
    words = [one.action for replica in replicas for one in replica.adapters] + [one.action for one in refused]
    told = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    servers = counted(len(replicas), "server")
    return f"{servers}: {told}" if told else f"0 of {servers} updated"
