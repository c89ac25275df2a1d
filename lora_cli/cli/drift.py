"""``fetch --check``: the lock beside the manifest and beside what the origins have now, and one code for CI."""

import sys
from collections.abc import Iterator

from lora_cli.cli.locking import LockFile
from lora_cli.cli.output import Format, drawn, to_stderr, write
from lora_cli.cli.wanted import Order
from lora_cli.core.lock import Lock
from lora_cli.documents.lockfile import mismatch
from lora_cli.fetching.drift import Drift, look
from lora_cli.fetching.plan import Selection
from lora_cli.settings import Settings


def report_drift(order: Order, file: LockFile, settings: Settings, selection: Selection, output_format: Format) -> int:
    """Writes what differs: a line for each adapter in a pipe, a table on a terminal.

    Gives the exit code: 1 for drift, else that of what kept an origin from being asked.
    """
    from lora_cli.render.terminal_fetch import drift_parts, render_drift, render_drift_error

    done: list[Drift] = []
    in_a_pipe = output_format is Format.HUMAN and not sys.stdout.isatty()
    for drift in _drifts(order, file.lock or Lock(()), settings, selection):
        done.append(drift)
        if output_format is Format.HUMAN and drift.error is not None:
            to_stderr(render_drift_error(drift))
        elif in_a_pipe and (drift.changes or not settings.quiet):
            write(render_drift(drift))
    removed = _left_over(order, file.lock or Lock(()))
    code = max([drift.exit_code for drift in done] + [int(bool(removed))])
    if output_format is Format.JSON:
        from lora_cli.render import json_store

        write(json_store.render_drifts(done, removed, file.path))
    elif in_a_pipe:
        write("".join(f"{name}: is locked, and not in the manifest\n" for name in removed))
    elif code or not settings.quiet:
        write(drawn(drift_parts(done, removed)))
    return code


def _drifts(order: Order, lock: Lock, settings: Settings, selection: Selection) -> Iterator[Drift]:
    """Each adapter in order; an origin is asked only where lock and manifest agree."""
    assert order.manifest is not None
    entries = {entry.name: entry for entry in order.manifest.adapters}
    looked = look([item for item in order.adapters if item.locked is not None], settings, selection)
    for item in order.adapters:
        if item.locked is not None:
            yield next(looked)
        else:
            said = mismatch(entries[item.name], lock.adapter(item.name))
            yield Drift(item, (said.removeprefix(f"{item.name} "),))


def _left_over(order: Order, lock: Lock) -> list[str]:
    assert order.manifest is not None
    names = {entry.name for entry in order.manifest.adapters}
    return [locked.name for locked in lock.adapters if locked.name not in names]
