"""``serve-bench --num-adapters N``: a lineup of adapters that nobody trained, for as long as they are measured."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lora_cli.bench.ranks import parse_ranks
from lora_cli.bench.synthetic import total_bytes, write_synthetic
from lora_cli.cli.bench_options import LineupFlags
from lora_cli.cli.lineup import Lineup, base_model
from lora_cli.core.item import Item
from lora_cli.core.text import size
from lora_cli.errors import MachineError, UsageError
from lora_cli.settings import Settings

COPIES = 3
"""Each adapter is on the disk as it was written, as the cache has it, and packed."""

RANKS = "16"


@contextmanager
def synthetic_lineup(
    named: LineupFlags, names: Sequence[str], ranks: str | None, seed: int, settings: Settings
) -> Iterator[tuple[Lineup, Settings]]:
    """The lineup, and settings with a cache of its own: all of it is gone when the block ends.

    Raises:
        UsageError: there is no base, or adapters are named as well.
        MachineError: the disk has no room for them.
    """
    for flag, said in (("REFs", named.refs), ("-f", named.manifest), ("--policy", named.policy)):
        if said:
            raise UsageError(f"{flag} and --num-adapters exclude each other", hint="leave one of them out")
    if not named.base:
        raise UsageError("serve-bench needs a base model", hint="--base DIRECTORY, config.json or ORG/NAME")
    base = base_model(named.base, settings)
    by_name = parse_ranks(ranks or RANKS).of(names, seed)
    with tempfile.TemporaryDirectory(prefix="lora-cli-bench-") as temporary:
        folder = Path(temporary)
        needed, free = COPIES * total_bytes(base, by_name), shutil.disk_usage(folder).free
        if needed > free:
            raise MachineError(
                f"{len(names)} adapters take {size(needed)} in {folder.parent}, which has {size(free)}",
                hint="fewer --num-adapters, smaller --ranks, or TMPDIR on a larger disk",
            )
        for number, name in enumerate(names):
            write_synthetic(folder / str(number), base, by_name[name], name, seed)
        items = tuple(Item(name, str(folder / str(number))) for number, name in enumerate(names))
        yield Lineup(items, named.base), replace(settings, cache_dir=folder / "cache")
