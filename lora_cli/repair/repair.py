"""Repair: judge an adapter for an engine, rewrite it, judge what was written, and prove that its updates are the same.

The proof reads config and factors of both folders again, as PEFT does.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from lora_cli import __version__
from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.byte_ranges import read_range
from lora_cli.adapter.config import CONFIG_CAP, parse_config
from lora_cli.adapter.reading import SHARD, join_shards, read_adapter
from lora_cli.adapter.safetensors import TORCH_NAMES
from lora_cli.adapter.values import load
from lora_cli.base.base_model import BaseModel
from lora_cli.base.checkpoint import names_in_memory
from lora_cli.engines import Profile
from lora_cli.errors import Refused, UsageError
from lora_cli.fetching.pipeline import FetchContext, fetch, open_files
from lora_cli.finding import Deployment, EngineOutcome, Severity, Skipped
from lora_cli.json_schema import ErrorReport, Version
from lora_cli.judging.base_model import open_checkpoint
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.parse import json_object
from lora_cli.peft.patterns import one_budget
from lora_cli.peft.targets import scales
from lora_cli.refs.adapter_files import BESIDE, CONFIG, WEIGHTS
from lora_cli.refs.reference import AdapterRef, ref_of
from lora_cli.refs.request import Request
from lora_cli.repair.rewrite import (
    Array,
    Change,
    Draft,
    Refusal,
    copy_refusals,
    drop_copies,
    fold_scales,
    named_as_peft,
    round_tensors,
    saved_weights,
)
from lora_cli.settings import Settings
from lora_cli.sources.files import Files, files_at
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, write_file
from lora_cli.store.materialize import hidden_folder, swap_folders
from lora_cli.text import names

ARITHMETIC = 1e-12
"""What our own arithmetic in float64 may leave, as a share of the update."""

BY_FLAG = frozenset({"LC401", "LC433", "LC443", "LC444"})
"""Checks whose findings are fixed by the flags of the engine, not in the adapter."""


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """The engine to repair an adapter for, and where to write it: to the new folder ``to``, or in its own place.

    ``dtype`` (``bfloat16``) and ``base_name`` are None for no change. ``base_ref`` is the base's reference: with its
    weights on this disk, saved tensors are compared.
    """

    profile: Profile
    base: BaseModel | None = None
    deployment: Deployment = field(default_factory=Deployment)
    to: Path | None = None
    in_place: bool = False
    base_ref: str | AdapterRef | None = None
    dtype: str | None = None
    base_name: str | None = None


@dataclass(frozen=True, slots=True)
class Sameness:
    """The comparison of every update before and after the repair.

    ``rewritten`` are the modules with other factors or scales than before. ``worst_change`` is the largest change of an
    update, as a share of its norm, ``allowed_change`` what rounding to its dtype explains there.
    """

    modules: int
    rewritten: int = 0
    worst_change: float = 0.0
    allowed_change: float = 0.0
    worst_module: str | None = None


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What repair did with one adapter; its JSON output has the same fields.

    ``before`` and ``after`` are what the engine does with the adapter as it is, and as it is written or would be. With
    ``refusals`` nothing was written. ``flags`` are fixed by how the engine is started. Without a base, ``skipped`` has
    the checks of names and shapes. ``directory`` is the absolute path that was written.
    """

    source: str
    before: EngineOutcome
    after: EngineOutcome
    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]
    flags: tuple[Refusal, ...]
    skipped: tuple[Skipped, ...]
    proof: Sameness | None
    directory: str | None


@dataclass(frozen=True, slots=True)
class RepairedAdapter:
    """One adapter of a run: its report, or why there is none, and what it alone would end the command with."""

    name: str
    repair: RepairReport | None
    error: ErrorReport | None
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairSetReport:
    """What repair did with all adapters; ``exit_code`` is the largest of theirs."""

    schema: Literal["lora_cli/repair/2"] = "lora_cli/repair/2"
    version: Version = __version__
    adapters: tuple[RepairedAdapter, ...]
    exit_code: int


@one_budget()
def repair_adapter(item: Request, options: RepairOptions, settings: Settings) -> RepairReport:
    """Repair one adapter; a remote one is fetched first. Its digest, its lock and ``settings.policies`` must hold.

    What the engine serves correctly keeps its scales and its saved weights; names and files are always PEFT's.

    Raises:
        LoraCliError: it cannot be fetched or read, it is not a LoRA adapter, or the folder cannot be written.
    """
    source, target = str(ref_of(item.source)), options.to
    if target is not None and target.exists():
        raise UsageError(f"{target} already exists", hint="remove it, or use a new folder with --to")
    terms = Terms(options.base, engines=(options.profile,), deployment=options.deployment)
    judged, files = _opened(replace(item, source=ref_of(item.source)), terms, settings, in_place=options.in_place)
    most = settings.max_header_bytes
    adapter = join_shards(files, read_adapter(files, source, most), most)
    if adapter.config is None or adapter.foreign is not None or not adapter.pairs:
        problem = max(judged.findings, key=lambda one: one.severity).problem
        raise Refused(f"{source}: {problem.message}", hint=problem.hint)
    if options.in_place and files.directory is not None:
        target = files.directory.resolve()
    tensors = {name: load(files, one).view(TORCH_NAMES[one.dtype]) for name, one in adapter.tensors.items()}
    copies = _copies(adapter, tensors, options, settings)
    beside = target or Path(tempfile.gettempdir(), "repair")
    with on_disk("writing", beside, "--to"), hidden_folder(beside) as building:
        for fold in (False, True):
            draft = named_as_peft(adapter, _config(files), tensors, options.base)
            draft.changes[:0] = _file_changes(adapter)
            if fold:
                drop_copies(draft, adapter, copies)
                fold_scales(draft)
            _as_asked(draft, options)
            after, refusals = judged, draft.refusals
            if not fold and draft.scales_may_move:
                continue
            if not refusals:
                _write(draft, building, files)
                after = judge_one(Request("", AdapterRef("file", str(building))), terms, settings)
                refusals = list(_remaining(after))
            if not refusals:
                break
        if options.in_place and not refusals:
            _keep_others(beside, adapter, building)
            after = judge_one(Request("", AdapterRef("file", str(building))), terms, settings)
            refusals = list(_remaining(after))
        proof = None if refusals else _prove(draft, adapter, tensors, building)
        if proof is not None and options.in_place and draft.changes:
            swap_folders(building, beside)
        elif proof is not None and target is not None and not options.in_place:
            building.replace(target)
    outcome = after.engines[0]
    if refusals and outcome.fails:
        refusals += copy_refusals(adapter, copies)
    return RepairReport(
        source=source,
        before=judged.engines[0],
        after=outcome,
        changes=tuple(draft.changes),
        refusals=tuple(refusals),
        flags=tuple(
            Refusal(one.problem.message, one.problem.hint)
            for one in after.findings
            if one.code in BY_FLAG and one.severity is Severity.ERROR
        ),
        skipped=judged.skipped,
        proof=proof,
        directory=str(target.absolute()) if target is not None and proof is not None else None,
    )


def _opened(item: Request, terms: Terms, settings: Settings, *, in_place: bool) -> tuple[Result, Files]:
    """What is judged of the adapter, and its files on this disk: a remote one is fetched first."""
    if item.ref.scheme != "file":
        if in_place:
            raise UsageError("--in-place needs an adapter on this disk", hint="write it to a new folder with --to")
        request = replace(item, selection=replace(item.selection, allow_pickle=True))
        with FetchContext(Store(settings.cache_dir), settings) as context:
            item = Request(item.name, AdapterRef("file", str(fetch(request, context).snapshot.directory)))
    judged = judge_one(item, terms, settings)
    if judged.error is not None:
        raise judged.error
    return judged, open_files(item, settings, Sources(settings))


def _copies(
    adapter: Adapter, tensors: Mapping[str, Array], options: RepairOptions, settings: Settings
) -> Mapping[str, bool]:
    """Whether saved tensors equal the base's own weights, as far as these are on this disk as numbers.

    PEFT saves whole embeddings that are targeted (``save_embedding_layers="auto"``), in the dtype that the model had in
    memory: a copy equals the base's weight in that dtype.
    """
    saved, found = saved_weights(adapter), dict[str, bool]()
    if not saved or options.base is None or options.base_ref is None:
        return found
    if (opened := open_checkpoint(ref_of(options.base_ref), settings)) is None:
        return found
    (files, stored), tied = opened, options.base.tied_weights
    # A name on disk stands for itself, too, for an adapter that has the old names as well.
    names = {**{name: name for name in stored}, **names_in_memory(stored)}
    for path, tensor in saved.items():
        own = stored.get(names.get(path) or names.get(tied.get(path, ""), ""))
        if own is not None and own.dtype in TORCH_NAMES:
            ours, theirs = tensors[tensor.name], load(files, own).view(TORCH_NAMES[own.dtype])
            found[tensor.name] = own.shape == tensor.shape and theirs.astype(ours.dtype).tobytes() == ours.tobytes()
    return found


def _as_asked(draft: Draft, options: RepairOptions) -> None:
    """The base's name and the dtype that the user asks for."""
    if options.base_name and options.base_name != draft.config.get("base_model_name_or_path"):
        draft.config["base_model_name_or_path"] = options.base_name
        draft.changes.append(Change("base", f"base: {options.base_name}", "--base-name asks for it"))
    if options.dtype:
        round_tensors(draft, options.dtype)


def _config(files: Files) -> Mapping[str, object]:
    file = files.file(CONFIG)
    assert file is not None
    return json_object(read_range(files, file, 0, CONFIG_CAP), CONFIG)


def _file_changes(adapter: Adapter) -> Iterator[Change]:
    if any(SHARD.fullmatch(path) for path in adapter.weight_files):
        what = f"{len(adapter.weight_files)} shards joined in {WEIGHTS}"
        yield Change("files", what, "engines and PEFT read one file")
    if adapter.pickled:
        what = f"{adapter.weight_files[0]} written as {WEIGHTS}"
        yield Change("files", what, "loading a pickle can run code; this one was read without running it")
    if stray := adapter.stray_weights:
        yield Change("files", f"{names(stray)} left out", "some engines load every such file of a folder")


def _write(draft: Draft, building: Path, files: Files) -> None:
    """The adapter with the files beside it in the folder ``building``."""
    write_file(building / WEIGHTS, save(dict(sorted(draft.tensors.items())), {"format": "pt"}))
    write_file(building / CONFIG, json.dumps(draft.config, indent=2, sort_keys=True) + "\n")
    for file in files:
        if file.path in BESIDE and not file.defect:
            write_file(building / file.path, b"".join(files.read(file)))


def _remaining(after: Result) -> Iterator[Refusal]:
    """What is still wrong: for the engine, but what its flags mend, and other errors."""
    for finding in after.findings:
        if finding.severity is Severity.ERROR and finding.code not in BY_FLAG:
            yield Refusal(f"{finding.code} {finding.name}: {finding.problem.message}", finding.problem.hint)


def _keep_others(target: Path, adapter: Adapter, building: Path) -> None:
    """Puts all into ``building`` that ``target`` has and that is not written anew, as hard links."""
    gone = {CONFIG, WEIGHTS, f"{WEIGHTS}.index.json", *adapter.weight_files, *adapter.stray_weights}
    for file in building.iterdir():
        if file.name not in {CONFIG, WEIGHTS}:
            file.unlink()
    shutil.copytree(
        target,
        building,
        symlinks=True,
        copy_function=os.link,
        dirs_exist_ok=True,
        ignore=lambda folder, _: gone if Path(folder) == target else (),
    )
    for old, new in ((target, building), (target / CONFIG, building / CONFIG), (target / CONFIG, building / WEIGHTS)):
        shutil.copymode(old, new)
        os.chown(new, old.stat().st_uid, old.stat().st_gid)


def _prove(draft: Draft, adapter: Adapter, before: Mapping[str, Array], folder: Path) -> Sameness:
    """Compare each update in ``folder`` with the original one, from the factors: norms by QR, without the product.

    Raises:
        Refused: a value left the range of its dtype, or was rounded further than that explains.
    """
    files = files_at(folder)
    written = read_adapter(files, folder.name)
    rewritten, worst = 0, Sameness(len(draft.modules))
    # Where no scale can have changed, it is not asked for: the engine may serve right what PEFT does not read.
    fields = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    moved = any(module != old for module, old in draft.modules.items())
    changed = moved or any(draft.config.get(name) != draft.original.get(name) for name in fields)
    trained = draft.trained() if changed else {}
    now = scales(parse_config(_config(files)), draft.modules) if changed else {}
    for module, old in draft.modules.items():
        a0, b0 = (before[one.name] for one in adapter.pairs[old].factors)
        a1, b1 = (load(files, one).view(TORCH_NAMES[one.dtype]) for one in written.pairs[module].factors)
        s0, s1 = (trained[module].scaling, now[module].scaling) if changed else (1.0, 1.0)
        if a0.tobytes() == a1.tobytes() and b0.tobytes() == b1.tobytes() and math.isclose(s0, s1, rel_tol=ARITHMETIC):
            continue
        rewritten += 1
        size = norm(s0, b0, a0)
        change = norm(1.0, np.hstack((b1.astype("f8") * s1, b0.astype("f8") * -s0)), np.vstack((a1.astype("f8"), a0)))
        lengths = abs(s0) * float(np.linalg.norm(a0.astype("f8")) * np.linalg.norm(b0.astype("f8")))
        finfo: Any = ml_dtypes.finfo
        rounding = sum(float(finfo(one.dtype).eps) / 2 for one in (a1, b1))
        change, allowed = (change / size, (rounding + ARITHMETIC) * lengths / size) if size else (change, 0.0)
        if not change <= allowed:
            hint = "write it with --dtype float32"
            raise Refused(
                f"{module} would change by {change:.2g} of its size, rounding allows {allowed:.2g}", hint=hint
            )
        if change >= worst.worst_change:
            worst = replace(worst, worst_change=change, allowed_change=allowed, worst_module=module)
    return replace(worst, rewritten=rewritten)


def norm(scaling: float, b: Array, a: Array) -> float:
    """The Frobenius norm of ``scaling · b @ a`` for b ``[d_out, r]`` and a ``[r, d_in]``; nan if one is not finite.

    With ``b = Q R`` and ``aᵀ = P S`` it is that of ``R Sᵀ``, ``[r, r]``, since Q and P are orthonormal.
    """
    if not (np.isfinite(b).all() and np.isfinite(a).all()):
        return math.nan
    left, right = (np.asarray(np.linalg.qr(one.astype("f8"), mode="r")) for one in (b, a.T))
    return abs(scaling) * float(np.linalg.norm(left @ right.T))
