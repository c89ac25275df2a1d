"""Which adapters are measured, and which of them can be: on this disk, judged, composable. The others, and why."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lora_cli.bench.ranks import parse_ranks
from lora_cli.bench.synthetic import total_bytes, write_synthetic
from lora_cli.cli.bench_options import RANKS, BenchOptions, Workload, adapter_names
from lora_cli.cli.lineup import Lineup, base_model, lineup, reaching
from lora_cli.cli.warming import admitting
from lora_cli.core.base_model import BaseModel
from lora_cli.core.item import Item
from lora_cli.core.text import size
from lora_cli.errors import LoraCliError, MachineError, UsageError
from lora_cli.runtime.admitted import reported
from lora_cli.runtime.composable import scalings
from lora_cli.runtime.plan import Job, Limits
from lora_cli.settings import Settings
from lora_cli.store.holds import Hold
from lora_cli.validation import Terms

COPIES = 3
"""Each synthetic adapter is on the disk as it was written, as the cache has it, and packed."""


Failures = dict[str, LoraCliError]
"""Adapters that cannot be served, and why."""


def servable(
    asked: Lineup, base: BaseModel, most: Limits, settings: Settings, hold: Hold, failures: Failures
) -> Iterator[Job]:
    """The adapters that can be served, held in the cache; the others are noted in ``failures``."""
    admit = admitting(Terms(base, max_lora_rank=most.max_lora_rank), settings, hold)
    for item in asked.items:
        try:
            admission = admit(item)
            _, job = reported(item, admission)
            if job is None:
                assert admission.refusal is not None
                raise admission.refusal
            scalings(job.adapter, base)
        except LoraCliError as error:
            failures[item.name] = error
        else:
            yield job


@contextmanager
def measured_lineup(settings: Settings, options: BenchOptions, workload: Workload) -> Iterator[tuple[Lineup, Settings]]:
    """The adapters that are named, or synthetic ones, and the settings that hold for them.

    Raises:
        LoraCliError: they are not named as they must be, or there is no room for those that are made.
    """
    if options.num_adapters is not None:
        with _synthetic_lineup(settings, options, adapter_names(workload.names, options.num_adapters)) as made:
            yield made
        return
    if options.ranks is not None:
        raise UsageError("--ranks is for --num-adapters and --simulate", hint="adapters that are named have ranks")
    asked = lineup(options.manifest, options.refs or [], options.base, "serve-bench", "measure")
    yield asked, reaching(settings, asked.manifest, options.policy)


@contextmanager
def _synthetic_lineup(
    settings: Settings, options: BenchOptions, names: Sequence[str]
) -> Iterator[tuple[Lineup, Settings]]:
    """Adapters that nobody trained, and settings with a cache of its own: all of it is gone when the block ends.

    Raises:
        UsageError: there is no base, or adapters are named as well.
        MachineError: the disk has no room for them.
    """
    for flag in options.given(("refs", "manifest", "policy")):
        raise UsageError(f"{flag} and --num-adapters exclude each other", hint="leave one of them out")
    if not options.base:
        raise UsageError("serve-bench needs a base model", hint="--base DIRECTORY, config.json or ORG/NAME")
    base = base_model(options.base, settings)
    by_name = parse_ranks(options.ranks or RANKS).of(names, options.seed)
    with tempfile.TemporaryDirectory(prefix="lora-cli-bench-") as temporary:
        folder = Path(temporary)
        needed, free = COPIES * total_bytes(base, by_name), shutil.disk_usage(folder).free
        if needed > free:
            raise MachineError(
                f"{len(names)} adapters take {size(needed)} in {folder.parent}, which has {size(free)}",
                hint="fewer --num-adapters, smaller --ranks, or TMPDIR on a larger disk",
            )
        for number, name in enumerate(names):
            write_synthetic(folder / str(number), base, by_name[name], name, options.seed)
        items = tuple(Item(name, str(folder / str(number))) for number, name in enumerate(names))
        yield Lineup(items, options.base), replace(settings, cache_dir=folder / "cache")
