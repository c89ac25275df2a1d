"""An adapter is validated for an engine, rewritten for it, validated again, and its updates are verified.

The proof takes the scales from the config that was written, as PEFT reads it, and the factors from the file, and knows
nothing of the recipes of tensors but which rows of which old module are where.
"""

import filecmp
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lora_cli.core.adapter import Adapter, pair_up
from lora_cli.core.adapter_files import BESIDE, CONFIG, WEIGHTS
from lora_cli.core.adapter_request import Item
from lora_cli.core.base_model import BaseModel
from lora_cli.core.engine_outcome import Deployment, EngineOutcome, Outcome
from lora_cli.core.finding import Severity, Verdict
from lora_cli.core.lora_config import CONFIG_CAP, LoraConfig, parse_config
from lora_cli.core.parse import json_object
from lora_cli.core.patterns import one_budget
from lora_cli.core.reference import AdapterRef
from lora_cli.core.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.core.target_modules import scales
from lora_cli.core.tensor_keys import parse_key
from lora_cli.engines import Profile
from lora_cli.engines.fixes import MERGE
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.fetching.context import AdapterRequest, FetchContext
from lora_cli.fetching.file_selection import Selection
from lora_cli.fetching.pipeline import fetch
from lora_cli.fetching.requirements import Demand
from lora_cli.reading.adapter import SHARD, Opened, join_shards, read_adapter
from lora_cli.reading.base_weights import base_copies
from lora_cli.reading.byte_ranges import read_range
from lora_cli.reading.deltas import Update, distance, norm
from lora_cli.reading.safetensors_writer import write_file
from lora_cli.reading.tensor_values import Bits, decode, encode, load
from lora_cli.repair import Aim, Change, Draft, Factors, Made, Refusal, as_it_is, rewrite
from lora_cli.repair.base_copies import kept, weights
from lora_cli.repair.draft import as_matrix
from lora_cli.repair.fields import sound_fields
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.local import snapshot_at
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.atomic_swap import remove_path
from lora_cli.store.disk import on_disk
from lora_cli.store.writer_ids import new_writer
from lora_cli.validation.base_model import open_checkpoint
from lora_cli.validation.repair_report import EngineFlag, RepairReport, Sameness, TargetEngine, outcome_report
from lora_cli.validation.validate import ref_of, resolve_allowed
from lora_cli.validation.verdict import ENGINE_RULES, Terms, gather, judge

BY_FLAG = frozenset({"rank-above-max", "filtered", "pinned-beyond-slots", "named-like-base", "tower"})
"""What is fixed by how the engine is started, and not in the adapter."""

OF_VALUES = "LC5"
"""Rules about values: what is wrong with them stays so, however they are written."""

Read = Callable[[str], Bits]
"""What gives the bits of the tensor of a name. Raises as ``reading.tensor_values.load``."""

ROUNDING = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-9}
"""Half the distance from 1 to the next number of each dtype: what one rounding changes at most."""

RECKONING = 1e-12
"""What sums in float64 leave."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an adapter is to be repaired for, and how it is to be written.

    ``dtype`` (``bfloat16``) and ``base_name`` are None to leave them. ``to`` is the folder to write, None to write
    nothing. ``base_ref`` is where the base is: its weights, where they are on this disk, show what is a copy of them.
    """

    profile: Profile
    base: BaseModel | None = None
    deployment: Deployment = field(default_factory=Deployment)
    to: Path | None = None
    base_ref: str | AdapterRef | None = None
    dtype: str | None = None
    base_name: str | None = None
    allow_pickle: bool = False


@one_budget()
def repair_adapter(item: Item, wish: Wish, settings: Settings) -> RepairReport:
    """Repair one adapter: a local one is read in place, a remote one is fetched first. Neither is changed.

    Its digest, its lock and ``settings.policies`` must hold.

    Raises:
        LoraCliError: it cannot be fetched or read, it is not a LoRA adapter, or the folder cannot be written.
    """
    ref, text = ref_of(item.source), str(item.source)
    if wish.to is not None:
        _check_free(wish.to)
    one = _open(item, ref, wish, settings)
    adapter = one.adapter
    assert adapter.config is not None
    terms = Terms(wish.base, engines=(wish.profile,), deployment=wish.deployment)
    evidence = gather(one, terms, ref)
    verdict = judge(adapter, terms, evidence)
    before = verdict.engines[0]
    config, changes = sound_fields(_json(one), adapter.config)
    copies = _copies(one, wish, settings) if before.outcome is not Outcome.OK else {}
    aim = Aim(
        adapter, parse_config(config), wish.profile, wish.base, wish.deployment.tp, wish.dtype, wish.base_name, copies
    )
    new = rewrite(aim, config)
    if new.refusals and before.outcome is Outcome.OK:
        new = as_it_is(aim, config)
    changed = (*_files_changed(adapter), *changes, *new.changes)
    planned = verdict
    if changed or not new.refusals:
        written = as_adapter(adapter.name, new, adapter)
        planned = judge(written, terms, replace(evidence, stats={}, stats_reason="they are unchanged"))
    after, refusals = planned.engines[0], _refusals(new, aim, before, planned)
    found = RepairReport(
        name=text,
        source=str(ref),
        engine=TargetEngine(after.engine, after.version or after.profile),
        before=outcome_report(before),
        after=outcome_report(after),
        repairable=not refusals,
        changes=changed,
        refusals=refusals,
        flags=tuple(EngineFlag(reason.message, reason.mend) for reason in after.reasons if reason.feature in BY_FLAG),
        skipped=verdict.skipped,
        proof=None,
        directory=None,
    )
    if found.refusals or wish.to is None:
        return found
    return _written(found, new, one, wish.to)


def _refusals(new: Draft, aim: Aim, before: EngineOutcome, planned: Verdict) -> tuple[Refusal, ...]:
    """What keeps it from being written; where that may be whole weights, what is known of them too."""
    found = new.refusals or tuple(_left(before, planned))
    return (*found, *kept(aim)) if found and planned.engines[0].outcome is not Outcome.OK else found


def _copies(one: Opened, wish: Wish, settings: Settings) -> Mapping[str, bool]:
    """Which of its tensors are the base's own weights; empty if these are not on this disk."""
    own = weights(one.adapter)
    if wish.base is None or wish.base_ref is None or not own:
        return {}
    checkpoint = open_checkpoint(ref_of(wish.base_ref), wish.base, settings)
    return {} if checkpoint is None else base_copies(one.source, one.revision, own, checkpoint)


def _left(before: EngineOutcome, planned: Verdict) -> Iterator[Refusal]:
    """What is still wrong: with the values, for the engine, and whatever else is an error."""
    after = planned.engines[0]
    of_values = [reason for reason in before.reasons if reason.code.startswith(OF_VALUES)]
    reasons = [*of_values, *(reason for reason in after.reasons if reason.feature not in BY_FLAG)]
    yield from (Refusal(reason.message, _beyond_repair(reason.mend)) for reason in reasons)
    told = {reason.code for reason in after.reasons}
    for finding in planned.findings:
        if (
            finding.severity is Severity.ERROR
            and not finding.code.startswith(ENGINE_RULES)
            and finding.code not in told
        ):
            problem = finding.problem
            yield Refusal(f"{finding.code} {finding.name}: {problem.message}", _beyond_repair(problem.hint))


def _beyond_repair(hint: str) -> str:
    """A hint; merging in place of one to ``repair``, which has done what it can."""
    return MERGE if "lora-cli repair" in hint else hint


def _open(item: Item, ref: AdapterRef, wish: Wish, settings: Settings) -> Opened:
    """The adapter with all its tensors, on this disk: where it is, or fetched into the cache.

    Raises:
        FormatError, Refused: it cannot be read, or is no adapter of LoRA.
        LoraCliError: it cannot be fetched.
    """
    source, revision = _here(item, ref, wish, settings)
    name, most = str(item.source), settings.max_header_bytes
    adapter = join_shards(source, revision, read_adapter(source, revision, name, most), most)
    if adapter.config is None:
        raise adapter.config_error or FormatError("it is missing", where=f"{name}: {CONFIG}")
    if adapter.weights_error is not None:
        raise adapter.weights_error
    if (found := adapter.foreign) is not None:
        raise Refused(f"{name}: {found.file} is {found.format.title}, not a PEFT LoRA", hint=found.format.advice)
    if not adapter.pairs:
        raise FormatError("there are no LoRA factors", where=name, hint="see lora-cli validate for its contents")
    return Opened(source, revision, adapter)


def _here(item: Item, ref: AdapterRef, wish: Wish, settings: Settings) -> tuple[Source, Revision]:
    if ref.scheme == "file":
        return resolve_allowed(item, ref, settings, Sources(settings))
    selection = Selection(allow_pickle=wish.allow_pickle, latest=item.latest)
    request = AdapterRequest(ref, item.name, selection, Demand(item.sha256, item.locked))
    with FetchContext(Store(settings.cache_dir), settings) as context:
        return snapshot_at(fetch(request, context).snapshot.directory)


def _json(one: Opened) -> Mapping[str, Any]:
    file = one.revision.file(CONFIG)
    assert file is not None
    return json_object(read_range(one.source, one.revision, file, 0, CONFIG_CAP), CONFIG)


def _files_changed(adapter: Adapter) -> tuple[Change, ...]:
    changes = []
    if any(SHARD.fullmatch(path) for path in adapter.weight_files):
        what = f"{len(adapter.weight_files)} shards joined in {WEIGHTS}"
        changes.append(Change("files", what, "engines and PEFT read one file"))
    if adapter.pickled:
        what = f"{adapter.weight_files[0]} written as {WEIGHTS}"
        changes.append(Change("files", what, "loading a pickle can run code; this one was read without running it"))
    return tuple(changes)


def _check_free(to: Path) -> None:
    """Whether a new folder can be made there, or one is that an earlier repair may have written."""
    if os.path.lexists(to) and not (to / WEIGHTS).is_file() and (not to.is_dir() or any(to.iterdir())):
        raise _taken(to)


def _taken(to: Path) -> UsageError:
    hint = "remove it, or use a new folder with --to: nothing is repaired in place"
    return UsageError(f"{to} already exists with different content", hint=hint)


def _put(building: Path, to: Path) -> None:
    """Gives the folder its name; one that has the same files, byte for byte, stays instead.

    Raises:
        UsageError: something else is there.
    """
    if not to.is_dir() or not any(to.iterdir()):
        building.replace(to)
        return
    names, there = (sorted(path.name for path in folder.iterdir()) for folder in (building, to))
    if names != there or filecmp.cmpfiles(building, to, names, shallow=False)[0] != names:
        raise _taken(to)
    remove_path(building)


def _written(found: RepairReport, new: Draft, one: Opened, to: Path) -> RepairReport:
    """Writes it next to ``to``, proves it there, and gives it its name in one step; what is the same already stays.

    Raises:
        UsageError: something else is there.
    """
    building = to.with_name(f".{to.name[:100]}.{new_writer()}")
    originals = tensors_of(one)
    with on_disk("writing", to, "--to"):
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            building.mkdir()
            metadata = {**one.adapter.metadata, "format": "pt", "lora-cli": f"repaired for {found.after.judged}"}
            write_tensors(building / WEIGHTS, new.tensors, metadata, originals)
            (building / CONFIG).write_text(json.dumps(new.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            for file in one.revision.files:
                if file.path in BESIDE and not file.defect:
                    with (building / file.path).open("wb") as stream:
                        stream.writelines(one.source.read(one.revision, file, 0, None))
            same = _proved(new, originals, building)
            _put(building, to)
        except BaseException:
            remove_path(building)
            raise
    return replace(found, proof=same, directory=str(to.absolute()))


def _proved(new: Draft, originals: Read, building: Path) -> Sameness:
    """That what is there has the updates that were read.

    Raises:
        Refused: a value left the range of its dtype, or was rounded further than that explains.
    """
    local, revision = snapshot_at(building)
    written = read_adapter(local, revision, building.name)
    assert written.config is not None
    same = sameness(new, written.config, originals, tensors_of(Opened(local, revision, written)))
    if not same.holds:
        raise Refused(
            f"{same.worst_module} would change by {same.worst_change:.2g} of its size, "
            f"while rounding allows {same.allowed_change:.2g}",
            hint="write it with --dtype float32 or bfloat16, which have a larger range",
        )
    return same


def tensors_of(one: Opened) -> Read:
    """What reads the tensors of an adapter as they are asked for; the last two are held, to be asked for again."""
    return lru_cache(maxsize=2)(lambda name: load(one.source, one.revision, one.adapter.tensors[name]))


def made_bits(made: Made, read: Read) -> Bits:
    """The bits of a tensor by its recipe; what is only moved is not rounded.

    Raises:
        FormatError: a tensor holds no floats that are to be scaled or rounded.
        LoraCliError: what reading raises.
    """
    if made.untouched is not None:
        return read(made.untouched)
    reckoned = made.reckoned
    target: Any = np.zeros(as_matrix(made.shape), "<f8" if reckoned else f"<u{DTYPE_BITS[made.dtype] // 8}")
    for block in made.blocks:
        old = read(block.tensor)
        part: Any = old.reshape(as_matrix(old.shape))[slice(*block.rows), slice(*block.columns)]
        top, left = block.at
        place = (slice(top, top + part.shape[0]), slice(left, left + part.shape[1]))
        target[place] = decode(part, made.source).astype("f8") * block.factor if reckoned else part
    return (encode(target, made.dtype) if reckoned else target).reshape(made.shape)


def write_tensors(path: Path, tensors: Mapping[str, Made], metadata: Mapping[str, str], read: Read) -> None:
    """Writes the tensors as a safetensors file, durably, with one at a time in memory; ``read`` gives the originals.

    Raises:
        OSError: as it comes.
        LoraCliError: what reading raises.
    """
    placed = _placed(tensors)
    write_file(path, placed.values(), (made_bits(tensors[name], read).tobytes() for name in placed), metadata)


def _placed(tensors: Mapping[str, Made]) -> dict[str, TensorInfo]:
    """Each tensor in the order of their names, with its first byte and its last counted from the end of the header."""
    placed, start = {}, 0
    for name in sorted(tensors):
        made = tensors[name]
        placed[name] = TensorInfo(name, made.dtype, made.shape, start, start + made.nbytes, WEIGHTS)
        start += made.nbytes
    return placed


def as_adapter(name: str, new: Draft, old: Adapter) -> Adapter:
    """The adapter that ``new`` will be, before it is written: what the rules say of it can be asked first."""
    tensors = _placed(new.tensors)
    keys = {name: old.keys.get(name) or parse_key(name) for name in tensors}
    beside = tuple(file for file in old.files if file.path in BESIDE)
    return replace(
        old,
        name=name,
        files=(RemoteFile(CONFIG, None), RemoteFile(WEIGHTS, None), *beside),
        weight_files=(WEIGHTS,),
        config=parse_config(new.config),
        tensors=tensors,
        keys=keys,
        pairs=pair_up(tensors, keys),
    )


def sameness(new: Draft, config: LoraConfig, originals: Read, rewritten: Read) -> Sameness:
    """Compares each update of ``new`` as it was and as it was written, with its ``config``.

    Raises:
        LoraCliError: what reading raises.
    """
    plain = [module for module, one in new.factors.items() if one.plain]
    worst, moved = Sameness(len(new.factors), 0, 0.0, 0.0, None), 0
    for module, scale in scales(config, plain).items():
        one = new.factors[module]
        if _is_untouched(one, new.before.get(module), scale.scaling):
            continue
        moved += 1
        a, b = (decode(rewritten(name), made.dtype) for name, made in one.named(module).items())
        for change, allowed in _changes(Update(a, b, scale.scaling), one, new, originals):
            holds = change <= allowed
            if (not holds, change) > (not worst.holds, worst.worst_change):
                worst = replace(worst, worst_change=change, allowed_change=allowed, worst_module=module, holds=holds)
    return replace(worst, rewritten=moved)


def _is_untouched(one: Factors, before: Factors | None, scaling: float) -> bool:
    if before is None or one.a.untouched is None or one.b.untouched is None:
        return False
    return (one.a, one.b) == (before.a, before.b) and math.isclose(before.scaling, scaling, rel_tol=RECKONING)


def _changes(now: Update, one: Factors, new: Draft, originals: Read) -> Iterator[tuple[float, float]]:
    """For each old module whose rows are in this one: how much they changed, and what rounding explains."""
    if not one.b.blocks:
        yield norm(now), 0.0
        return
    sources = {before.b.blocks[0].tensor: before for before in new.before.values() if before.plain}
    for block in one.b.blocks:
        old = sources[block.tensor]
        top, height = block.at[0], block.rows[1] - block.rows[0]
        was = Update(
            decode(originals(old.a.blocks[0].tensor), old.a.source),
            decode(originals(block.tensor), old.b.source)[slice(*block.rows)],
            old.scaling,
        )
        yield _relative(was, replace(now, b=now.b[top : top + height]), one)


def _relative(was: Update, now: Update, one: Factors) -> tuple[float, float]:
    if not (np.isfinite(now.b).all() and np.isfinite(now.a).all()):
        return math.inf, 0.0
    size = norm(was)
    if size == 0:
        return norm(now), 0.0
    lengths = abs(was.scaling) * float(np.linalg.norm(was.a.astype("f8")) * np.linalg.norm(was.b.astype("f8")))
    rounding = sum(ROUNDING[made.dtype] for made in (one.a, one.b) if made.reckoned) + RECKONING
    return distance(was, now) / size, rounding * lengths / size
