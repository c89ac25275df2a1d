"""``fetch --check``: the lock beside the manifest and beside what the origins have now, and one code for CI."""

from collections.abc import Iterator

from lora_cli.cli.locking import LockFile
from lora_cli.cli.output import Format, to_stderr, write
from lora_cli.cli.wanted import Order
from lora_cli.core.lock import Lock
from lora_cli.documents.lockfile import mismatch
from lora_cli.fetching.drift import Drift, look
from lora_cli.fetching.plan import Selection
from lora_cli.settings import Settings


def report_drift(order: Order, file: LockFile, settings: Settings, selection: Selection, output_format: Format) -> int:
    """Writes what differs and gives the exit code: 1 for drift, else what kept an origin from being asked."""
    done: list[Drift] = []
    for drift in _drifts(order, file.lock or Lock(()), settings, selection):
        done.append(drift)
        if output_format is Format.HUMAN:
            from lora_cli.render.human.fetched import render_drift

            line = render_drift(drift)
            to_stderr(line) if drift.error is not None else write(f"{line}\n")
    removed = _left_over(order, file.lock or Lock(()))
    if output_format is Format.JSON:
        from lora_cli.render.json_store import render_drifts

        write(render_drifts(done, removed, file.path))
    else:
        for name in removed:
            write(f"{name}: is locked, and not in the manifest\n")
    return max([drift.exit_code for drift in done] + [int(bool(removed))])


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
