"""An adapter judged for an engine, written anew so that it serves it right, judged again, and proved to be the same."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.core.adapter import Adapter
from lora_cli.core.adapter_files import BESIDE, CONFIG, WEIGHTS
from lora_cli.core.engine_outcome import EngineOutcome, Outcome
from lora_cli.core.finding import Severity, Verdict
from lora_cli.core.lora_config import CONFIG_CAP, parse_config
from lora_cli.core.parse import json_object
from lora_cli.core.patterns import one_budget
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision
from lora_cli.engines.mend import MERGE
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.reading.adapter import SHARD, Opened, joined, read_adapter
from lora_cli.reading.byte_ranges import read_range
from lora_cli.repair import Aim, Change, Draft, Refusal, as_it_is, rewrite
from lora_cli.repair.copies import kept, weights
from lora_cli.repair.fields import sound_fields
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.local import snapshot_at
from lora_cli.sources.registry import Sources, open_source
from lora_cli.store.disk import on_disk
from lora_cli.store.exchange import clear
from lora_cli.store.writers import new_writer
from lora_cli.validation.base import open_checkpoint
from lora_cli.validation.making import Originals, as_adapter, write_tensors
from lora_cli.validation.repair_report import EngineFlag, RepairReport, TargetEngine, outcome_report
from lora_cli.validation.sameness import Sameness, sameness
from lora_cli.validation.validate import ref_of
from lora_cli.validation.verdict import ENGINE_RULES, Terms, gather, judge

if TYPE_CHECKING:
    from lora_cli.core.base_model import BaseModel
    from lora_cli.core.engine_outcome import Deployment
    from lora_cli.engines import Profile

BY_FLAG = frozenset({"rank-above-max", "filtered", "pinned-beyond-slots", "named-like-base", "tower"})
"""What is mended by how the engine is started, and not in the adapter."""

OF_VALUES = "LC5"
"""Rules about values: what is wrong with them stays so, however they are written."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an adapter is to be repaired for, and how it is to be written.

    ``dtype`` (``bfloat16``) and ``base_name`` are None to leave them. ``to`` is the folder to write, None to write
    nothing. ``base_ref`` is where the base is: its weights, where they are on this disk, tell what is a copy of them.
    """

    profile: "Profile"
    base: "BaseModel | None" = None
    deployment: "Deployment | None" = None
    to: Path | None = None
    base_ref: str | AdapterRef | None = None
    dtype: str | None = None
    base_name: str | None = None
    allow_pickle: bool = False
    latest: bool = False


def repair_adapter(text: str | AdapterRef, wish: Wish, settings: Settings) -> RepairReport:
    """Repair one adapter: a local one is read in place, a remote one is fetched first. Neither is changed.

    Raises:
        LoraCliError: it cannot be fetched or read, it is none of LoRA's, or the folder cannot be written.
    """
    with one_budget():
        return _repaired(text, wish, settings)


def _repaired(text: str | AdapterRef, wish: Wish, settings: Settings) -> RepairReport:
    ref = ref_of(text)
    if wish.to is not None:
        _check_free(wish.to)
    one = _open(ref, str(text), wish, settings)
    adapter = one.adapter
    assert adapter.config is not None
    terms = Terms(wish.base, engines=(wish.profile,), deployment=wish.deployment)
    evidence = gather(one, terms, ref)
    verdict = judge(adapter, terms, evidence)
    before = verdict.engines[0]
    config, changes = sound_fields(_json(one), adapter.config)
    tp = wish.deployment.tp if wish.deployment is not None else 1
    copies = _copies(one, wish, settings) if before.outcome is not Outcome.OK else {}
    aim = Aim(adapter, parse_config(config), wish.profile, wish.base, tp, wish.dtype, wish.base_name, copies)
    new = rewrite(aim, config)
    if new.refusals and before.outcome is Outcome.OK:
        new = as_it_is(aim, config)
    changed = (*_files_changed(adapter), *changes, *new.changes)
    planned = verdict
    if changed or not new.refusals:
        written = as_adapter(adapter.name, new, adapter)
        planned = judge(written, terms, replace(evidence, stats={}, stats_reason="they are what they were"))
    after, refusals = planned.engines[0], _refusals(new, aim, before, planned)
    found = RepairReport(
        name=str(text),
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
    return _written(found, new, one, wish.to, settings)


def _refusals(new: Draft, aim: Aim, before: EngineOutcome, planned: Verdict) -> tuple[Refusal, ...]:
    """What keeps it from being written; where that may be whole weights, what is known of them too."""
    found = new.refusals or tuple(_left(before, planned))
    return (*found, *kept(aim)) if found and planned.engines[0].outcome is not Outcome.OK else found


def _copies(one: Opened, wish: Wish, settings: Settings) -> Mapping[str, bool]:
    """Which of its tensors are the base's own weights; empty where these are not on this disk."""
    own = weights(one.adapter)
    if wish.base is None or wish.base_ref is None or not own:
        return {}
    from lora_cli.reading.checkpoint import copies

    checkpoint = open_checkpoint(ref_of(wish.base_ref), wish.base, settings)
    return {} if checkpoint is None else copies(one.source, one.revision, own, checkpoint)


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
    """A hint; merging in the place of one to ``repair``, which has done what it can."""
    return MERGE if "lora-cli repair" in hint else hint


def _open(ref: AdapterRef, name: str, wish: Wish, settings: Settings) -> Opened:
    """The adapter with all its tensors, on this disk: where it is, or fetched into the cache.

    Raises:
        FormatError, Refused: it cannot be read, or is no adapter of LoRA.
        LoraCliError: it cannot be fetched.
    """
    source, revision = _here(ref, wish, settings)
    most = settings.max_header_bytes
    adapter = joined(source, revision, read_adapter(source, revision, name, most), most)
    if adapter.config is None:
        raise adapter.config_error or FormatError("there is none", where=f"{name}: {CONFIG}")
    if adapter.weights_error is not None:
        raise adapter.weights_error
    if (found := adapter.foreign) is not None:
        raise Refused(f"{name}: {found.file} is {found.format.title}, not a LoRA of PEFT", hint=found.format.advice)
    if not adapter.pairs:
        raise FormatError("there are no factors of LoRA", where=name, hint="lora-cli validate says what is there")
    return Opened(source, revision, adapter)


def _here(ref: AdapterRef, wish: Wish, settings: Settings) -> tuple[Source, Revision]:
    origin = Sources(settings).of(ref)
    if wish.latest:
        from lora_cli.fetching.checkpoint import LatestOf

        origin = LatestOf(origin)
    if ref.scheme == "file":
        return origin, origin.resolve(ref)
    from lora_cli.fetching import AdapterRequest, FetchContext, Selection, bring
    from lora_cli.store import Store

    selection = Selection(allow_pickle=wish.allow_pickle, latest=wish.latest)
    with FetchContext(Store(settings.cache_dir), settings) as context:
        return snapshot_at(bring(AdapterRequest(ref, selection=selection), context, origin).snapshot.directory)


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
        changes.append(
            Change("files", what, "a pickle may run code where it is loaded; this one was read, and not run")
        )
    return tuple(changes)


def _check_free(to: Path) -> None:
    """Whether a new folder can be made there: nothing is ever repaired in place."""
    if os.path.lexists(to) and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"{to} is there already", hint="name a new folder with --to: nothing is repaired in place")


def _written(found: RepairReport, new: Draft, one: Opened, to: Path, settings: Settings) -> RepairReport:
    """Writes it beside ``to``, proves it there, and gives it its name in one step."""
    building = to.with_name(f".{to.name[:100]}.{new_writer()}")
    originals = Originals(one)
    with on_disk("writing", to, "--to"):
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            building.mkdir()
            metadata = {**one.adapter.metadata, "format": "pt", "lora-cli": f"repaired for {found.after.judged}"}
            write_tensors(building / WEIGHTS, new.tensors, metadata, originals.bits)
            (building / CONFIG).write_text(json.dumps(new.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            for file in one.revision.files:
                if file.path in BESIDE and not file.defect:
                    with (building / file.path).open("wb") as stream:
                        stream.writelines(one.source.read(one.revision, file, 0, None))
            same = _proved(new, originals, building, settings)
            if to.is_dir():
                to.rmdir()
            building.rename(to)
        except BaseException:
            clear(building)
            raise
    return replace(found, proof=same, directory=str(to.absolute()))


def _proved(new: Draft, originals: Originals, building: Path, settings: Settings) -> Sameness:
    """That what lies there has the updates that were read.

    Raises:
        Refused: a value left the range of its dtype, or was rounded further than that explains.
    """
    local = open_source("file", settings)
    revision = local.resolve(AdapterRef("file", str(building.absolute())))
    written = read_adapter(local, revision, building.name)
    same = sameness(new, originals, Originals(Opened(local, revision, written)))
    if not same.holds:
        raise Refused(
            f"{same.worst_module} would change by {same.worst_change:.2g} of its size, "
            f"where rounding explains {same.allowed_change:.2g}",
            hint="write it with --dtype float32 or bfloat16, which have the range",
        )
    return same
