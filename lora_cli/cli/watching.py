"""``warm --endpoint`` once, or again and again: when the manifest changes, and when a server lost what it had."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lora_cli.cli.lineup import Lineup
from lora_cli.cli.output import Format, colour, width, write
from lora_cli.cli.warm_endpoints import Targets, Warmed, warm_endpoints
from lora_cli.cli.warming import say
from lora_cli.errors import LoraCliError
from lora_cli.serving.signals import ending_signals
from lora_cli.settings import Settings

LOOK_S = 1.0
"""How often the manifest and its lock are looked at."""

AGAIN_S = 30.0
"""How often the servers are asked what they serve, even if nothing changed here: one may have been started anew."""


def warm_and_tell(warmed: Warmed, output_format: Format) -> int:
    """Write the result; gives its exit code."""
    if output_format is Format.JSON:
        from lora_cli.render import json_endpoints

        write(json_endpoints.render_endpoints(warmed.replicas, warmed.refused))
    else:
        from lora_cli.render.terminal_warm import render_endpoints

        write(render_endpoints(warmed.replicas, warmed.refused, width(), colour=colour()))
    return warmed.exit_code


def watch(
    file: Path,
    asked: Callable[[], tuple[Lineup, Settings]],
    targets: Targets,
    output_format: Format,
) -> int:
    """Until SIGTERM, SIGHUP or Ctrl-C: warm, tell when something was done or failed, and look again.

    Raises:
        UsageError: the first reading of the manifest fails.
    """
    ended = threading.Event()
    for number in ending_signals():
        signal.signal(number, lambda *_: ended.set())
    told: object = None
    seen: object = None
    settings: Settings | None = None
    while not ended.is_set():
        seen = _stamp(file)
        try:
            lineup, settings = asked()
            warmed = warm_endpoints(lineup, targets, settings, ended.is_set)
        except LoraCliError as error:
            if settings is None:
                raise
            say(f"error: {error.message}; what is served stays as it is", settings)
        else:
            now = _gist(warmed)
            if now != told:
                warm_and_tell(warmed, output_format)
            # What was loaded is kept the next time, which is no news.
            told = _gist(warmed, afterwards=True)
        until = time.monotonic() + AGAIN_S
        while not ended.wait(LOOK_S) and time.monotonic() < until and _stamp(file) == seen:
            pass
    return 0


def _gist(warmed: Warmed, *, afterwards: bool = False) -> object:
    """What of a result is news."""
    rows: list[tuple[str, str, str, str | None]] = []
    for replica in warmed.replicas:
        for one in replica.done:
            if afterwards and one.action == "pruned":
                continue
            action = "kept" if afterwards and one.action in {"loaded", "replaced"} else one.action
            rows.append((replica.address, one.name, action, one.error.message if one.error else None))
        rows.append((replica.address, "", "", replica.error.message if replica.error else None))
    return rows, [(one.name, one.error and one.error.message) for one in warmed.refused]


def _stamp(file: Path) -> object:
    """What tells one version of the manifest and its lock from another."""
    from lora_cli.reading.manifest import lock_path

    stamps: list[tuple[int, int, int] | None] = []
    for path in (file, lock_path(file)):
        try:
            said = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((said.st_mtime_ns, said.st_size, said.st_ino))
    return stamps
