"""The reports of ``warm`` and ``warm --endpoint``: JSON is the fields; what people read, and a server's status."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lora_cli import parse
from lora_cli.endpoint.client import Refusal
from lora_cli.endpoint.reconcile import AdapterOutcome, Replica
from lora_cli.errors import EndpointError
from lora_cli.json_schema import Version
from lora_cli.reports.terminal import Paragraph, failure, hints, separated, table, text
from lora_cli.results import LoadReport
from lora_cli.text import counted, duration, milliseconds, size
from lora_cli.version import __version__

if TYPE_CHECKING:
    from rich.table import Table

    from lora_cli.reports.terminal import Parts

WEIGHTS: Mapping[str, str] = {"base": "the base's", "synthetic": "random base"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmReport:
    """What was loaded and proved. A field may be added under the same number."""

    schema: Literal["lora_cli/warm/1"] = "lora_cli/warm/1"
    version: Version = __version__
    adapters: Sequence[LoadReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsReport:
    """What was done on running servers. A field may be added under the same number."""

    schema: Literal["lora_cli/endpoints/1"] = "lora_cli/endpoints/1"
    version: Version = __version__
    servers: Sequence[Replica]
    refused: Sequence[AdapterOutcome]
    """Adapters that no server was asked to load."""

    @property
    def done(self) -> Sequence[AdapterOutcome]:
        """The results of each adapter on each server, and the refused adapters."""
        return [*(one for server in self.servers for one in server.adapters), *self.refused]

    @property
    def reached(self) -> bool:
        """Whether each server responded for at least one adapter: a single one may hang."""

        def silent(one: AdapterOutcome) -> bool:
            return isinstance(one.error, EndpointError) and not isinstance(one.error, Refusal)

        return all(one.error is None and not (one.adapters and all(map(silent, one.adapters))) for one in self.servers)

    @property
    def exit_code(self) -> int:
        """The highest exit code of all errors."""
        errors = [*(server.error for server in self.servers), *(one.error for one in self.done)]
        return max((error.exit_code for error in errors if error is not None), default=0)


def human(report: WarmReport, *, quiet: bool = False, verbose: bool = False) -> "Parts":
    """What was proved and how far it moves the next token, the answers, the errors, and a summary.

    ``verbose`` has times; ``quiet`` only errors.
    """
    loaded = [one for one in report.adapters if not one.error and not quiet]
    return separated(
        [_proofs(loaded)] if loaded else [],
        [_times(report.adapters)] if verbose and report.adapters else [],
        *(
            failure(one.name, f"{outcome(one)}{f' at {one.stage}' if one.stage else ''}", one.error, one.hint)
            for one in report.adapters
            if one.error
        ),
        [] if quiet else [Paragraph(_summary(report.adapters))],
    )


def outcome(report: LoadReport) -> str:
    """The outcome of an adapter in words."""
    if report.error:
        return "failed"
    return "verified" if report.moved is not None or (report.proof is not None and report.proof.holds) else "loaded"


def _proofs(reports: Sequence[LoadReport]) -> "Table":
    """The proof, the next token where the whole model was run, and who signed the adapter."""
    header = ("adapter", "outcome", "signed by", "modules", "rank", "max error")
    rows = []
    for one in reports:
        worst, moved = one.proof.worst if one.proof is not None else None, one.moved
        cells = [one.name, text((outcome(one), "green")), ", ".join(one.signers), one.applied or None, one.rank]
        changes: list[object] = [None] * 2
        if moved is not None:
            changes = [f"{moved.max_abs_logit_delta:.3g}", f"{moved.top1_changed} of {moved.positions}"]
        rows.append([*cells, worst and f"{worst.error:.1e}", *changes])
    return table((*header, "max |Δlogit|", "top token differs"), rows, left=3)


def _times(reports: Sequence[LoadReport]) -> "Table":
    """The milliseconds of each stage."""
    stages = list(dict.fromkeys(stage for one in reports for stage in one.stage_ms))
    taken = ((one, [one.stage_ms.get(stage) for stage in stages]) for one in reports)
    rows = ([one.name, *(None if ms is None else milliseconds(ms) for ms in times)] for one, times in taken)
    return table(("milliseconds", *stages), rows)


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in Counter(words).items())


def _summary(reports: Sequence[LoadReport]) -> str:
    """``33 adapters: 28 verified, 5 failed; on random base weights``."""
    weights = sorted({WEIGHTS[one.proof.weights] for one in reports if one.proof is not None})
    proof = f"; on {' and '.join(weights)} weights" if weights else ""
    return f"{counted(len(reports), 'adapter')}: {_counts(map(outcome, reports)) or 'nothing'}{proof}"


def human_status(status: Mapping[str, Any]) -> "Parts":
    """The process, its tiers, its adapters, and why some fail.

    ``status`` is the document ``lora_cli/status/2``, of a server that may be another version: what is missing is ``-``.
    """
    up, starts = status.get("up_s"), status.get("starts")
    device = f"{status.get('device') or '-'} {status.get('dtype') or ''}".rstrip()
    since = f", up {duration(up)}" if isinstance(up, int | float) else ""
    again = f", started {starts} times" if isinstance(starts, int) and starts > 1 else ""
    ready = ("ready", "green") if status.get("ready") else ("not ready", "red")
    yield text(status.get("base", "-"), ": ", ready, f", {device}{since}{again}")
    adapters = parse.objects(status, "adapters")
    if tiers := status.get("tiers"):
        sizes = []
        for name, one in tiers.items():
            held = f"{one.get('adapters')} of {one.get('most')}"
            sizes.append((name, held, size(one.get("bytes", 0)), one.get("hits", 0), one.get("evictions", 0)))
        yield from ("", table(("tier", "adapters", "size", "hits", "evictions"), sizes))
    rows = []
    for one in adapters:
        state = text((str(one.get("state") or ""), "red" if one.get("error") else ""))
        taken = size(one["bytes"]) if one.get("bytes") else None
        worst = f"{one['worst_error']:.1e}" if one.get("worst_error") is not None else None
        rows.append((one.get("name"), one.get("tier"), state, one.get("rank"), taken, one.get("requests"), worst))
    if rows:
        header = ("adapter", "tier", "state", "rank", "size", "requests", "max error")
        yield from ("", table(header, rows, left=3))
    for one in adapters:
        if one.get("error"):
            later = f", tried again in {duration(one['retry_in_s'])}" if one.get("retry_in_s") else ""
            yield from ("", *failure(one.get("name"), f"failed{later}", str(one["error"]), str(one.get("hint") or "")))


def human_endpoints(report: EndpointsReport, *, quiet: bool = False, verbose: bool = False) -> "Parts":
    """For each server what changed (``verbose``: also what did not, and times), the failures, and a summary.

    With ``quiet`` only the failures.
    """
    refused = {one.name for one in report.refused}  # counted once, although a server may still have an earlier version
    on_servers = (one for server in report.servers for one in server.adapters if one.name not in refused)
    counts = _counts(_action(one) for one in (*on_servers, *report.refused))
    down = sum(one.error is not None for one in report.servers)
    servers = counted(len(report.servers), "server")
    done = Paragraph(f"{servers}{f' ({down} failed)' * bool(down)}: {counts}" if counts else f"0 of {servers} updated")
    return separated(
        *(_replica(one, quiet=quiet, verbose=verbose) for one in report.servers),
        *(_failed(one, ", not loaded into any server") for one in report.refused),
        [] if quiet else [done],
    )


def _action(one: AdapterOutcome) -> str:
    return "failed" if one.error is not None else "unchanged" if one.action == "kept" else one.action


def _replica(replica: Replica, *, quiet: bool, verbose: bool) -> "Parts":
    version = f" {replica.version}" if replica.version else ""
    failed = [one for one in replica.adapters if one.error is not None]
    rows = [
        (f"  {one.name}", _action(one), one.effect and one.effect.how, milliseconds(one.ms) if verbose else None)
        for one in replica.adapters
        if one.error is None and (verbose or one.action != "kept")
    ]
    note = replica.note and not quiet
    if failed or replica.error is not None or note or (rows and not quiet):
        yield text((f"{replica.address} ({replica.kind}{version})", "bold"))
    if rows and not quiet:
        yield table(("  adapter", "action", "effect", "ms"), rows, left=3)
    yield from [Paragraph(f"note: {replica.note}", indent=2)] if note else []
    yield from (part for one in failed for part in _failed(one))
    if replica.error is not None:
        yield from (Paragraph(replica.error.message, indent=2), *hints(replica.error.hint))


def _failed(one: AdapterOutcome, note: str = "") -> "Parts":
    message, hint = ("", "") if one.error is None else (one.error.message, one.error.hint)
    return failure(one.name, f"failed{note}", message, hint)
