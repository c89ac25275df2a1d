"""Repair: validate an adapter for an engine, rewrite it, validate it again, and verify that its updates are the same.

The verification reads scales and factors from the files that were written, as PEFT does. Of the recipes it only uses
which rows of an original module are where.
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

from lora_cli.adapter.adapter import Adapter, pair_up
from lora_cli.adapter.byte_ranges import read_range
from lora_cli.adapter.config import CONFIG_CAP, LoraConfig, parse_config
from lora_cli.adapter.deltas import Update, distance, norm
from lora_cli.adapter.names import parse_key
from lora_cli.adapter.reading import SHARD, join_shards, read_adapter
from lora_cli.adapter.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.adapter.safetensors_writer import write_file
from lora_cli.adapter.values import Bits, decode, encode, load
from lora_cli.base.base_model import BaseModel
from lora_cli.base.weights import base_copies
from lora_cli.engines import Profile
from lora_cli.engines.profile import MERGE
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.fetching import gate
from lora_cli.fetching.pipeline import FetchContext, fetch, open_files
from lora_cli.finding import Deployment, EngineOutcome, Severity
from lora_cli.judging.base_model import open_checkpoint
from lora_cli.judging.judge import ENGINE_RULES, Terms, companions_of, evidence_of, judge
from lora_cli.judging.read import check_permitted, ref_of
from lora_cli.judging.repair_report import (
    ARITHMETIC,
    EngineFlag,
    RepairReport,
    Sameness,
    TargetEngine,
    outcome_report,
)
from lora_cli.judging.result import Result
from lora_cli.parse import json_object
from lora_cli.peft.patterns import one_budget
from lora_cli.peft.targets import scales
from lora_cli.refs.adapter_files import BESIDE, CONFIG, WEIGHTS
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.request import Request
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.repair import Change, Draft, Refusal, RepairContext, TensorRecipe, UpdateRecipe, rewrite, unchanged
from lora_cli.repair.draft import as_matrix
from lora_cli.repair.edits import copy_refusals, saved_weights
from lora_cli.repair.initial_draft import fix_field_types
from lora_cli.settings import Settings
from lora_cli.sources.files import Files, files_at, files_of
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.disk import on_disk
from lora_cli.store.materialize import hidden_folder, remove_leftovers
from lora_cli.text import names

BY_FLAG = frozenset({"rank-above-max", "filtered", "pinned-beyond-slots", "tower"})
"""Features that are fixed by the flags of the engine, not in the adapter."""

OF_VALUES = "LC5"
"""Rules about values, which a repair cannot fix."""

ROUNDOFF = {
    "F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8,
    "F8_E4M3": 2.0**-4, "F8_E4M3FNUZ": 2.0**-4, "F8_E5M2": 2.0**-3, "F8_E5M2FNUZ": 2.0**-3, "F8_E8M0": 2.0**-1,
}  # fmt: skip
"""The unit roundoff of each dtype: the most that rounding changes a value by, as a share of it."""

Read = Callable[[str], Bits]
"""Returns the bits of a tensor by name. Raises as ``adapter.values.load``."""


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """The engine to repair an adapter for, and how to write it.

    ``dtype`` (``bfloat16``) and ``base_name`` are None for no change. ``to`` is the folder to write, None to write
    nothing. ``base_ref`` is the base's reference: with its weights on this disk, saved tensors are compared.
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
def repair_adapter(item: Request, options: RepairOptions, settings: Settings) -> RepairReport:
    """Repair one adapter: a local one is read in place, a remote one is fetched first. Neither is changed.

    Its digest, its lock and ``settings.policies`` must hold.

    Raises:
        LoraCliError: it cannot be fetched or read, it is not a LoRA adapter, or the folder cannot be written.
    """
    text, item = str(item.source), replace(item, source=ref_of(item.source))
    if options.to is not None:
        _check_unused(options.to)
    files, adapter = _open(item, text, options, settings)
    terms = Terms(options.base, engines=(options.profile,), deployment=options.deployment)
    as_found = Result(text, str(item.source), adapter=adapter)
    evidence = evidence_of(as_found, files, terms, companions_of(files, terms))
    before = judge(as_found, terms, evidence).engines[0]
    context, fixed = _context(
        files, adapter, options, {} if not before.fails else _copies(files, adapter, options, settings)
    )
    draft = rewrite(context)
    if draft.refusals and not before.fails:
        draft = unchanged(context)
    changes = (*_file_changes(adapter), *fixed, *draft.changes)
    planned = as_found
    if changes or not draft.refusals:
        written = as_adapter(adapter.name, draft, adapter)
        planned = judge(replace(as_found, adapter=written), terms, replace(evidence, stats={}, stats_reason=""))
    after = planned.engines[0]
    refusals = draft.refusals or tuple(_remaining_problems(before, planned))
    if refusals and after.fails:
        refusals = (*refusals, *copy_refusals(context))
    report = RepairReport(
        name=text,
        source=str(item.source),
        engine=TargetEngine(after.engine, after.version or after.profile),
        before=outcome_report(before),
        after=outcome_report(after),
        repairable=not refusals,
        changes=changes,
        refusals=refusals,
        flags=tuple(EngineFlag(reason.message, reason.mend) for reason in after.reasons if reason.feature in BY_FLAG),
        skipped=as_found.skipped,
        proof=None,
        directory=None,
    )
    return report if refusals or options.to is None else _write(report, draft, files, adapter, options.to)


def _context(
    files: Files, adapter: Adapter, options: RepairOptions, copies: Mapping[str, bool]
) -> tuple[RepairContext, tuple[Change, ...]]:
    """The context of the steps, and the changes to fields of the config that come before them."""
    assert adapter.config is not None
    file = files.file(CONFIG)
    assert file is not None
    as_read = json_object(read_range(files, file, 0, CONFIG_CAP), CONFIG)
    config, fixed = fix_field_types(as_read, adapter.config)
    context = RepairContext(
        adapter,
        config,
        parse_config(config),
        options.profile,
        options.base,
        options.dtype,
        options.base_name,
        copies,
    )
    return context, fixed


def _copies(files: Files, adapter: Adapter, options: RepairOptions, settings: Settings) -> Mapping[str, bool]:
    """Whether saved tensors equal the base's own weights; empty if these are not on this disk."""
    saved = saved_weights(adapter)
    if options.base is None or options.base_ref is None or not saved:
        return {}
    checkpoint = open_checkpoint(ref_of(options.base_ref), options.base, settings)
    return {} if checkpoint is None else base_copies(files, saved, checkpoint)


def _remaining_problems(before: EngineOutcome, planned: Result) -> Iterator[Refusal]:
    """The problems that the repair does not fix: of values, for the engine, and other errors."""
    after = planned.engines[0]
    of_values = [reason for reason in before.reasons if reason.code.startswith(OF_VALUES)]
    reasons = [*of_values, *(reason for reason in after.reasons if reason.feature not in BY_FLAG)]
    yield from (Refusal(reason.message, _beyond_repair(reason.mend)) for reason in reasons)
    engine_codes = {reason.code for reason in after.reasons}
    for finding in planned.findings:
        if (
            finding.severity is Severity.ERROR
            and not finding.code.startswith(ENGINE_RULES)
            and finding.code not in engine_codes
        ):
            problem = finding.problem
            yield Refusal(f"{finding.code} {finding.name}: {problem.message}", _beyond_repair(problem.hint))


def _beyond_repair(hint: str) -> str:
    """The hint, or one to merge instead of one to use ``repair``."""
    return MERGE if "lora-cli repair" in hint else hint


def _open(item: Request, name: str, options: RepairOptions, settings: Settings) -> tuple[Files, Adapter]:
    """The adapter with all its tensors on this disk: in place, or fetched into the cache.

    Raises:
        FormatError, Refused: it cannot be read, or is not a LoRA adapter.
        LoraCliError: it cannot be fetched.
    """
    files, most = _local_files(item, options, settings), settings.max_header_bytes
    adapter = join_shards(files, read_adapter(files, name, most), most)
    if adapter.config is None and adapter.config_error is None:
        raise FormatError("it is missing", where=f"{name}: {CONFIG}", hint="add the file that PEFT wrote")
    if (error := adapter.config_error or adapter.weights_error) is not None:
        raise FormatError(error.message, where=name, hint=error.hint)
    if (found := adapter.foreign) is not None:
        raise Refused(f"{name}: {found.file} is {found.format.title}, not a PEFT LoRA", hint=found.format.advice)
    if not adapter.pairs:
        raise FormatError("there are no LoRA factors", where=name, hint="see lora-cli validate for its contents")
    return files, adapter


def _local_files(item: Request, options: RepairOptions, settings: Settings) -> Files:
    if item.ref.scheme == "file":
        gate.refuse(item, settings)
        files = open_files(item, settings, Sources(settings))
        check_permitted(item, files, settings)
        return files
    request = replace(item, selection=replace(item.selection, allow_pickle=options.allow_pickle))
    with FetchContext(Store(settings.cache_dir), settings) as context:
        return files_of(fetch(request, context).snapshot, item.ref)


def _file_changes(adapter: Adapter) -> tuple[Change, ...]:
    changes = []
    if any(SHARD.fullmatch(path) for path in adapter.weight_files):
        what = f"{len(adapter.weight_files)} shards joined in {WEIGHTS}"
        changes.append(Change("files", what, "engines and PEFT read one file"))
    if adapter.pickled:
        what = f"{adapter.weight_files[0]} written as {WEIGHTS}"
        changes.append(Change("files", what, "loading a pickle can run code; this one was read without running it"))
    if stray := adapter.stray_weights:
        changes.append(Change("files", f"{names(stray)} left out", "some engines load every such file of a folder"))
    return tuple(changes)


def _check_unused(to: Path) -> None:
    """Check that ``to`` does not exist, is an empty folder, or is one that an earlier repair may have written."""
    if os.path.lexists(to) and not (to / WEIGHTS).is_file() and (not to.is_dir() or any(to.iterdir())):
        raise _different_content(to)


def _different_content(to: Path) -> UsageError:
    hint = "remove it, or use a new folder with --to: nothing is repaired in place"
    return UsageError(f"{to} already exists with different content", hint=hint)


def _publish(building: Path, to: Path) -> None:
    """Rename the folder to ``to``; a folder there with the same files, byte for byte, stays instead.

    Raises:
        UsageError: something else is there.
    """
    if not to.is_dir() or not any(to.iterdir()):
        building.replace(to)
        return
    names, there = (sorted(path.name for path in folder.iterdir()) for folder in (building, to))
    if names != there or filecmp.cmpfiles(building, to, names, shallow=False)[0] != names:
        raise _different_content(to)


def _write(report: RepairReport, new: Draft, files: Files, adapter: Adapter, to: Path) -> RepairReport:
    """Write the adapter next to ``to``, verify it there, and rename it; an equal folder that is there already stays.

    Raises:
        UsageError: something else is there.
    """
    originals = tensor_reader(files, adapter)
    with on_disk("writing", to, "--to"):
        remove_leftovers(to.parent)
        with hidden_folder(to) as building:
            metadata = {**adapter.metadata, "format": "pt", "lora-cli": f"repaired for {report.after.judged}"}
            write_tensors(building / WEIGHTS, new.tensors, metadata, originals)
            (building / CONFIG).write_text(json.dumps(new.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            for file in files:
                if file.path in BESIDE and not file.defect:
                    with (building / file.path).open("wb") as stream:
                        stream.writelines(files.read(file))
            same = _prove(new, originals, building)
            _publish(building, to)
    return replace(report, proof=same, directory=str(to.absolute()))


def _prove(new: Draft, originals: Read, building: Path) -> Sameness:
    """Verify that the written adapter has the updates of the original.

    Raises:
        Refused: a value left the range of its dtype, or was rounded further than that explains.
    """
    files = files_at(building)
    written = read_adapter(files, building.name)
    assert written.config is not None
    same = sameness(new, written.config, originals, tensor_reader(files, written))
    if not same.holds:
        raise Refused(
            f"{same.worst_module} would change by {same.worst_change:.2g} of its size, "
            f"while rounding allows {same.allowed_change:.2g}",
            hint="write it with --dtype float32 or bfloat16, which have a larger range",
        )
    return same


def tensor_reader(files: Files, adapter: Adapter) -> Read:
    """A function that reads a tensor of the adapter by name; the last two are cached."""
    return lru_cache(maxsize=2)(lambda name: load(files, adapter.tensors[name]))


def tensor_bits(recipe: TensorRecipe, read: Read) -> Bits:
    """The bits of a tensor by its recipe; values that are only moved are not rounded.

    Raises:
        FormatError: a tensor that is to be scaled or rounded has no floats.
        LoraCliError: what reading raises.
    """
    if recipe.untouched is not None and (whole := read(recipe.untouched)).nbytes == recipe.nbytes:
        return whole
    is_computed = recipe.is_computed
    target: Any = np.zeros(as_matrix(recipe.shape), "<f8" if is_computed else f"<u{DTYPE_BITS[recipe.dtype] // 8}")
    for block in recipe.blocks:
        old = read(block.tensor)
        part: Any = old.reshape(as_matrix(old.shape))[slice(*block.rows), slice(*block.columns)]
        top, left = block.at
        place = (slice(top, top + part.shape[0]), slice(left, left + part.shape[1]))
        target[place] = decode(part, recipe.source).astype("f8") * block.factor if is_computed else part
    return (encode(target, recipe.dtype) if is_computed else target).reshape(recipe.shape)


def write_tensors(path: Path, tensors: Mapping[str, TensorRecipe], metadata: Mapping[str, str], read: Read) -> None:
    """Write the tensors to a safetensors file, with one at a time in memory; ``read`` reads the original ones.

    Raises:
        OSError: the file cannot be written.
        LoraCliError: what reading raises.
    """
    placed = _laid_out(tensors)
    write_file(path, placed.values(), (tensor_bits(tensors[name], read).tobytes() for name in placed), metadata)


def _laid_out(tensors: Mapping[str, TensorRecipe]) -> dict[str, TensorInfo]:
    """The tensors sorted by name, with their first and last byte after the header."""
    placed, start = {}, 0
    for name in sorted(tensors):
        recipe = tensors[name]
        placed[name] = TensorInfo(name, recipe.dtype, recipe.shape, start, start + recipe.nbytes, WEIGHTS)
        start += recipe.nbytes
    return placed


def as_adapter(name: str, new: Draft, old: Adapter) -> Adapter:
    """The adapter of the draft ``new`` before it is written, so that rules can be applied to it."""
    tensors = _laid_out(new.tensors)
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
    """Compare each update of ``new`` with the original one, by the tensors and the ``config`` that were written.

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
        a, b = (decode(rewritten(name), recipe.dtype) for name, recipe in one.named(module).items())
        for change, allowed in _changes(Update(a, b, scale.scaling), one, new, originals):
            holds = change <= allowed
            if (not holds, change) > (not worst.holds, worst.worst_change):
                worst = replace(worst, worst_change=change, allowed_change=allowed, worst_module=module, holds=holds)
    return replace(worst, rewritten=moved)


def _is_untouched(one: UpdateRecipe, before: UpdateRecipe | None, scaling: float) -> bool:
    return (
        before is not None
        and (one.a, one.b) == (before.a, before.b)
        and math.isclose(before.scaling, scaling, rel_tol=ARITHMETIC)
    )


def _changes(now: Update, one: UpdateRecipe, new: Draft, originals: Read) -> Iterator[tuple[float, float]]:
    """For each original module with rows in this one: (relative change, change that rounding explains)."""
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


def _relative(was: Update, now: Update, one: UpdateRecipe) -> tuple[float, float]:
    if not (np.isfinite(now.b).all() and np.isfinite(now.a).all()):
        return math.inf, 0.0
    size = norm(was)
    if size == 0:
        return norm(now), 0.0
    lengths = abs(was.scaling) * float(np.linalg.norm(was.a.astype("f8")) * np.linalg.norm(was.b.astype("f8")))
    rounding = sum(ROUNDOFF[recipe.dtype] for recipe in (one.a, one.b) if recipe.is_computed) + ARITHMETIC
    return distance(was, now) / size, rounding * lengths / size
