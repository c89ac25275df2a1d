"""Repair: judge an adapter for an engine, rewrite it, judge what was written, and prove that no update has changed."""

import json
import math
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from lora_cli.adapter.adapter import DDP_PREFIX, INFIXES, PEFT_PREFIX, Adapter, Key, last_name
from lora_cli.adapter.config import LoraConfig, parse_config
from lora_cli.adapter.reading import join_shards
from lora_cli.adapter.safetensors import TORCH_NAMES, TensorInfo
from lora_cli.adapter.values import load
from lora_cli.base.base_model import OTHER_BASE, BaseModel
from lora_cli.base.reading import names_in_memory, read_checkpoint
from lora_cli.checks.check import MERGE, SAVE_AGAIN
from lora_cli.engines import Profile
from lora_cli.engines.name_resolution import LAYER
from lora_cli.errors import NotFound, Offline, Refused, UsageError
from lora_cli.fetching.batch import FetchContext
from lora_cli.fetching.pipeline import fetch
from lora_cli.finding import Deployment, EngineOutcome, Severity, Skipped
from lora_cli.json_schema import Count, ErrorReport
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms
from lora_cli.parse import json_object
from lora_cli.peft.targets import Scale, one_deadline, scales
from lora_cli.refs.adapter_files import BESIDE, CONFIG, WEIGHTS
from lora_cli.refs.reference import AdapterRef, ref_of
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.sources.files import Files, files_at
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.disk import on_disk
from lora_cli.store.materialize import hidden_folder, swap_folders
from lora_cli.text import names

Array = NDArray[Any]

ARITHMETIC = 1e-12
"""What our own arithmetic in float64 may leave, as a share of the update."""

BY_FLAG = frozenset({"LC401", "LC433"})
"""Checks whose findings are fixed by the flags of the engine, not in the adapter."""


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """The engine to repair an adapter for, and where to write it: to the new folder ``to``, or in its own place.

    With the weights of ``base_ref`` on this disk, saved tensors are compared.
    """

    profile: Profile
    base: BaseModel | None = None
    deployment: Deployment = field(default_factory=Deployment)
    to: Path | None = None
    in_place: bool = False
    base_ref: str | AdapterRef | None = None
    base_name: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was repaired, in so many ``modules``; 0 for the config or the files."""

    step: Literal["files", "names", "base", "copies", "scales"]
    what: str
    modules: Count = 0


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What repair did with one adapter: what the engine does with it ``before``, and ``after`` as it is written.

    With ``refusals`` nothing was written; ``flags`` are fixed by how the engine is started. ``skipped`` are the
    checks that need a base. ``proof`` is the largest change of an update, as a share of its norm, and ``directory`` the
    absolute path that was written.
    """

    before: EngineOutcome
    after: EngineOutcome
    changes: tuple[Change, ...]
    refusals: tuple[ErrorReport, ...]
    flags: tuple[ErrorReport, ...]
    skipped: tuple[Skipped, ...]
    proof: float | None
    directory: str | None


@dataclass(slots=True)
class Draft:
    """An adapter while it is rewritten: old to new names of tensors (``written``), new to old paths of ``modules``."""

    adapter: Adapter
    config: dict[str, Any]
    written: Mapping[str, str]
    tensors: dict[str, Array]
    modules: Mapping[str, str]
    changes: list[Change]


@one_deadline()
@np.errstate(all="ignore")
def repair_adapter(item: Request, options: RepairOptions, settings: Settings) -> RepairReport:
    """Repair one adapter; a remote one is fetched first. Its digest, its lock and ``settings.policies`` must hold.

    What the engine serves correctly keeps its scales and its saved weights; names and files are always PEFT's.

    Raises:
        LoraCliError: it cannot be fetched, read or rewritten, it is no LoRA adapter, or the folder cannot be written.
    """
    request = replace(item, source=ref_of(item.source))
    if request.ref.scheme != "file":
        if options.in_place:
            raise UsageError("--in-place needs an adapter on this disk", hint="write it to a new folder with --to")
        request = replace(request, selection=replace(request.selection, allow_pickle=True))
        with FetchContext(Store(settings.cache_dir), settings) as context:
            found = AdapterRef("file", str(fetch(request, context).snapshot.directory))
        request, settings = Request(item.name, found), replace(settings, policies=())
    terms = Terms(settings, options.base, engines=(options.profile,), deployment=options.deployment)
    judged = judge_one(request, terms)
    written_terms = replace(terms, settings=replace(settings, policies=()))
    if judged.error is not None or judged.adapter is None or (folder := judged.directory) is None:
        raise judged.error or Refused(f"{item.source}: it is not on this disk")
    adapter = join_shards(files := files_at(folder), judged.adapter)
    if adapter.config is None or adapter.foreign is not None or not adapter.pairs:
        problem = judged.findings[0].problem
        raise Refused(f"{ref_of(item.source)}: {problem.message}", hint=problem.hint)
    config = json_object((folder / CONFIG).read_bytes(), CONFIG)
    tensors = {name: _values(files, one) for name, one in adapter.tensors.items()}
    target = folder.resolve() if options.in_place else options.to
    beside = target or Path(tempfile.gettempdir(), "repair")
    with on_disk("writing", beside, "--to"), hidden_folder(beside) as building:
        _put_others(building, folder, adapter, in_place=options.in_place)
        for folded in (False, True):
            modules = (draft := _named_as_peft(adapter, config, tensors, options)).modules
            if folded:
                _drop_copies(draft, options, settings)
            elif (config.get("rank_pattern") or config.get("alpha_pattern")) and [*modules] != [*modules.values()]:
                continue  # patterns may match other modules now
            trained = _fold_scales(draft) if folded else {}
            (building / WEIGHTS).write_bytes(save(dict(sorted(draft.tensors.items())), {"format": "pt"}))
            (building / CONFIG).write_text(json.dumps(draft.config, indent=2, sort_keys=True) + "\n")
            after = judge_one(Request("", AdapterRef("file", str(building))), written_terms)
            outcome = after.engines[0]
            errors = [
                (one.code in BY_FLAG, ErrorReport(f"{one.code} {one.problem.message}", one.problem.hint))
                for one in after.findings
                if one.severity is Severity.ERROR
            ]
            refusals = [error for by_flag, error in errors if not by_flag]
            if not refusals:
                break
        proof = None if refusals else _prove(draft, tensors, trained, after.adapter, files_at(building))
        if proof is not None and options.in_place and draft.changes:
            swap_folders(building, beside)
        elif proof is not None and options.to is not None:
            building.replace(options.to)
    directory = str(target.absolute()) if target is not None and proof is not None else None
    before, changes = judged.engines[0], tuple(draft.changes)
    flags = tuple(error for by_flag, error in errors if by_flag)
    return RepairReport(before, outcome, changes, tuple(refusals), flags, judged.skipped, proof, directory)


def _values(files: Files, tensor: TensorInfo) -> Array:
    return load(files, tensor).view(TORCH_NAMES[tensor.dtype])


def _put_others(building: Path, folder: Path, adapter: Adapter, *, in_place: bool) -> None:
    """Puts the files that are needed beside an adapter into ``building``; in place all others, as hard links."""
    for file in adapter.files if not in_place else ():
        if file.path in BESIDE and not file.defect:
            shutil.copyfile(folder / file.path, building / file.path)
    if in_place:
        shutil.copytree(folder, building, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
        for name in (f"{WEIGHTS}.index.json", *adapter.weight_files, *adapter.stray_weights, WEIGHTS, CONFIG):
            (building / name).unlink(missing_ok=True)
        for name in (WEIGHTS, CONFIG):
            shutil.copy(folder / CONFIG, building / name)  # they are overwritten, and keep its mode
        for path in (building, *building.rglob("*")) if os.geteuid() == 0 else ():
            owner = next(one.lstat() for one in (folder / path.relative_to(building), folder) if os.path.lexists(one))
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _named_as_peft(
    adapter: Adapter, config: Mapping[str, Any], tensors: Mapping[str, Array], options: RepairOptions
) -> Draft:
    """Every tensor in one file under the name that PEFT writes, in the modules of the base if it is known.

    Raises ``Refused`` if a module lacks a factor, or two tensors would have one name.
    """
    if lone := [module for module, pair in adapter.pairs.items() if len(pair.factors) < 2]:
        raise Refused(f"lora_A or lora_B is missing: {names(lone, 8)}", hint=SAVE_AGAIN)
    moved = {} if options.base is None else dict(_moves(adapter, options.base))
    written = {name: _written(key, moved.get(key.module, key.module)) for name, key in adapter.keys.items()}
    modules = {moved.get(module, module): module for module in adapter.pairs}
    if len({*written.values()}) < len(written) or len(modules) < len(adapter.pairs):
        raise Refused("two tensors would have one name", hint=OTHER_BASE if moved else SAVE_AGAIN)
    draft = Draft(adapter, dict(config), written, {written[name]: tensors[name] for name in written}, modules, [])
    if others := [path for path in (*adapter.weight_files, *adapter.stray_weights) if path != WEIGHTS]:
        draft.changes.append(Change("files", f"only {WEIGHTS} is written, without {names(others, 3)}"))
    if odd := [name for name in written if name != written[name]]:
        what, many = f"{odd[0]} → {written[odd[0]]}", len({adapter.keys[name].module for name in odd})
        draft.changes.append(Change("names", what, many))
    targets = config.get("target_modules")
    if moved and isinstance(targets, list):
        draft.config["target_modules"] = [moved.get(target, target) for target in targets]
    elif moved and targets is not None:  # a pattern, over the old names
        draft.config["target_modules"] = sorted({last_name(module) for module in modules})
    if options.base_name and options.base_name != config.get("base_model_name_or_path"):
        draft.config["base_model_name_or_path"] = options.base_name
        draft.changes.append(Change("base", f"base: {options.base_name}"))
    return draft


def _written(key: Key, module: str) -> str:
    """The name that PEFT writes to disk for the tensor of ``key``, in ``module``."""
    if key.part == "unknown":
        return key.name
    after_ddp = key.name.split(".")[key.infixes[:1] == (DDP_PREFIX,) :]
    tail = ".".join(one for one in after_ddp if one not in INFIXES)[len(key.prefix) + len(key.module) :]
    if key.adapter_name:
        tail = tail.replace(".modules_to_save", "", 1).replace(f".{key.adapter_name}", "", 1)
    return PEFT_PREFIX + module + tail


def _moves(adapter: Adapter, base: BaseModel) -> Iterator[tuple[str, str]]:
    """Each module that the base has under another path only, and that path.

    It is found by the name of its layers, its number and what follows (``layers.3.self_attn.q_proj``), if the base has
    that once and as wide as the factors: by names alone an adapter of another model would match, too.
    """
    ends = defaultdict[tuple[str, int | None, int | None], list[str]](list)
    for path, module in base.modules.items():
        if found := LAYER.search(path):
            ends[path[found.start("stack") :], module.d_in, module.d_out].append(path)
    known = {path.removesuffix(".weight") for path in base.parameters} | base.modules.keys()
    for old, pair in adapter.pairs.items():
        if old not in known and (found := LAYER.search(old)):
            fitting = ends.get((old[found.start("stack") :], *pair.widths), [])
            if len(fitting) == 1:
                yield old, fitting[0]


def _drop_copies(draft: Draft, options: RepairOptions, settings: Settings) -> None:
    """Leaves out saved weights that equal the base's own in the adapter's dtype, as far as these are on this disk."""
    saved = {name: key for name, key in draft.adapter.keys.items() if key.part in {"base_layer", "saved"}}
    if not saved or options.base is None or options.base_ref is None:
        return
    ref = ref_of(options.base_ref)
    source = Sources(replace(settings, offline=True)).of(ref)  # a folder, or a repository in huggingface_hub's cache
    try:
        files = Files(source, source.resolve(ref))
    except (NotFound, Offline, UsageError):  # it is not on this disk, or its config alone
        return
    stored, same = read_checkpoint(files), list[str]()
    # A name on disk stands for itself, too, for an adapter that has the old names as well.
    known = {**{name: name for name in stored}, **names_in_memory(stored)}
    for name, key in saved.items():
        path, ours = f"{key.module}.{key.param}", draft.tensors[draft.written[name]]
        own = stored.get(known.get(path) or known.get(options.base.tied_weights.get(path, ""), ""))
        theirs = None if own is None or own.dtype not in TORCH_NAMES else _values(files, own).astype(ours.dtype)
        if theirs is not None and theirs.shape == ours.shape and theirs.tobytes() == ours.tobytes():
            del draft.tensors[draft.written[name]]
            same.append(path)
    if isinstance(modules := draft.config.get("modules_to_save"), list) and same:
        left = [name for name in modules if any(f".{name}." in f".{tensor}" for tensor in draft.tensors)]
        draft.config["modules_to_save"] = left or None
    if same:
        draft.changes.append(Change("copies", f"weights that equal the base's own left out: {names(same, 8)}"))


def _fold_scales(draft: Draft) -> Mapping[str, Scale]:
    """One rank and one scale for all modules, which every engine reads: the rest of a scale goes into B.

    Smaller ranks are padded with zeros. The common scale is the most frequent one, so that few factors are rounded.
    Gives the scale that each module was trained with. Raises ``Refused`` if it is unknown, and ``FormatError``.
    """
    config, stated = draft.config, scales(parse_config(draft.config), draft.modules.values())
    factors = {old: [draft.written[one.name] for one in draft.adapter.pairs[old].factors] for old in stated}
    for old, of in factors.items():
        a, b = (draft.tensors[name] for name in of)
        if config.get("target_parameters") or not (a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]):
            raise Refused("fused experts and block factors keep their rank and scale", hint=MERGE)
        if a.shape[0] != stated[old].r or config.get("r") is None or config.get("lora_alpha") is None:
            what = f"{old}: its rank is {a.shape[0]}, but {stated[old].r} in the config: the trained scale is unknown"
            raise Refused(what, hint=SAVE_AGAIN)
    r = max(scale.r for scale in stated.values())
    # A scale of 0 fits any alpha, and an alpha of 0 fits no other scale.
    common = Counter([one.scaling for one in stated.values() if one.scaling] or [0.0]).most_common(1)[0][0]
    for old, (of_a, of_b) in factors.items():
        factor, more = stated[old].scaling / common if common else 0.0, r - stated[old].r
        draft.tensors[of_a] = np.pad(draft.tensors[of_a], ((0, more), (0, 0)))
        b = draft.tensors[of_b] = np.pad(draft.tensors[of_b], ((0, 0), (0, more)))
        if not math.isclose(factor, 1, rel_tol=ARITHMETIC):
            draft.tensors[of_b] = (b.astype("f8") * factor).astype(b.dtype)
    near = float(f"{common * r:.12g}")  # a square root that is squared again is not exact
    new: dict[str, Any] = {"r": r, "lora_alpha": int(near) if near.is_integer() else common * r, "use_rslora": False}
    new |= {"rank_pattern": {}, "alpha_pattern": {}}
    changed = {name: value for name, value in new.items() if (config.get(name) or type(value)()) != value}
    told = [f"{name}: {config[name]} → {value}" if value else f"{name} emptied" for name, value in changed.items()]
    config |= changed
    if told:
        draft.changes.append(Change("scales", ", ".join(told), len(draft.modules)))
    return stated


def _prove(
    draft: Draft, before: Mapping[str, Array], trained: Mapping[str, Scale], new: Adapter | None, files: Files
) -> float:
    """The largest change of an update from the tensors ``before`` to those that were written, as a share of its norm.

    Norms are those of the factors, without the product. Where no scale has changed, none is ``trained``: the engine may
    serve right what PEFT does not read. Raises ``Refused`` if a change is larger than rounding explains.
    """
    assert new is not None
    now, worst = scales(new.config or LoraConfig(), draft.modules) if trained else {}, 0.0
    finfo: Any = ml_dtypes.finfo
    for module, old in draft.modules.items():
        pair = draft.adapter.pairs[old].factors
        a0, b0 = (before[one.name] for one in pair)
        a1, b1 = (_values(files, new.tensors[draft.written[one.name]]) for one in pair)
        s0, s1 = (trained[old].scaling, now[module].scaling) if trained else (1.0, 1.0)
        if a0.tobytes() == a1.tobytes() and b0.tobytes() == b1.tobytes() and s0 == s1:
            continue
        size = _norm(s0 * b0.astype("f8"), a0) or 1.0
        change = _norm(np.hstack((s1 * b1.astype("f8"), -s0 * b0.astype("f8"))), np.vstack((a1.astype("f8"), a0)))
        lengths = abs(s0) * float(np.linalg.norm(a0.astype("f8")) * np.linalg.norm(b0.astype("f8")))
        allowed = lengths * (ARITHMETIC + sum(float(finfo(one.dtype).eps) / 2 for one in (a1, b1)))
        if not change <= allowed:
            what = f"{module} would change by {change / size:.2g} of its size, rounding allows {allowed / size:.2g}"
            raise Refused(what, hint="save the adapter in float32")
        worst = max(worst, change / size)
    return worst


def _norm(b: Array, a: Array) -> float:
    """The Frobenius norm of ``b @ a``: that of ``R Sᵀ`` for ``b = Q R`` and ``aᵀ = P S``."""
    left, right = (np.asarray(np.linalg.qr(one.astype("f8"), mode="r")) for one in (b, a.T))
    return float(np.linalg.norm(left @ right.T))
