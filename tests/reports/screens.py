"""What every command shows for people, made of reports in which each word from outside is ``word``."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_cli.adapter.adapter import Change as Differs
from lora_cli.adapter.adapter import Comparison
from lora_cli.base.families import base_from_config
from lora_cli.checks import find
from lora_cli.endpoint.canary import Effect
from lora_cli.endpoint.reconcile import AdapterOutcome, Replica
from lora_cli.engines import all_profiles, choose_engine
from lora_cli.errors import EndpointError
from lora_cli.fetching import batch
from lora_cli.fetching.batch import PlannedAdapter
from lora_cli.fetching.lock_update import CheckedAdapter
from lora_cli.finding import Applied, EngineOutcome, Outcome, Skipped
from lora_cli.json_schema import ErrorReport
from lora_cli.judging.engine_args import EngineArgs, Remark
from lora_cli.judging.inspection import Inspected, Inspection, InspectReport
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.repair import Change, RepairReport
from lora_cli.reports import cache, catalog, fetch, inspect, repair, validate, warm
from lora_cli.results import LoadReport, ModuleProof, Moved, Proof
from lora_cli.store import Store
from lora_cli.store.gc import Removed
from lora_cli.store.inventory import StoredSnapshot, Verified
from lora_cli.store.records import Record
from tests.making import base_config
from tests.reports.reports import all_checked, everything, report

Parts = Iterable[Any]
DIGEST = "ab" * 32


def inspection(word: str) -> Inspection:
    """An inspection in which every field says something."""
    return Inspection(
        format=word, base=word, base_revision=word, peft_version=word, task_type=word, modules=6, ranks={8: 5, 16: 1},
        scalings={2.0: 5, 4.0: 1}, targets={"q_proj": 3, word: 3}, layers=(0, 1, 2), dtypes={"BF16": 12},
        parameters=6144, weight_bytes=12288, total_bytes=20000, files=3, features=(word,),
    )  # fmt: skip


def inspected(word: str) -> InspectReport:
    """Two adapters that were read, and one that was not; flags, with all that can be said of them."""
    fields = (Differs(word, (word,), ()), Differs("r", 4, None))
    differs = Comparison(word, word, word, fields, (Differs(word, word, None),))
    args = EngineArgs(
        engine="vllm", version="0.40", flags=("--enable-lora",), command="vllm serve acme/base \\\n  --enable-lora",
        max_lora_rank=256, lora_target_modules=("q_proj", "v_proj"), max_loras=3, max_cpu_loras=4, slot_bytes=2 << 30,
        served=(word, "tone"), left_out=(Remark(word, word, word, 1),), absent=(word,),
        note=word,
    )  # fmt: skip
    first, second, *_, gone = all_checked()
    others = replace(inspection(word), base="acme/other", total_bytes=4096, ranks={4: 6})
    adapters = (Inspected(replace(first, name=word), inspection(word), differs), Inspected(second, others, None))
    base = base_from_config(base_config("llama"), "tiny")
    return InspectReport(base=base, adapters=(*adapters, Inspected(gone, None, None)), engine_args=args)


def loads(word: str) -> warm.WarmReport:
    """One adapter that is verified, on the whole model too, and one that failed."""
    proof = Proof((ModuleProof(word, 4.5e-6, 0.4, 1e-5),), "synthetic", "float32", holds=True)
    stage_ms = {"resolve": 0.312, "proof": 1203.7}
    good = LoadReport(
        word, DIGEST, 4, "60/60", 460800, stage_ms=stage_ms, proof=proof, moved=Moved(32.41, 0.01234, 3, 16),
        signers=(word,),
    )  # fmt: skip
    bad = LoadReport("misnested", stage="validate", error=f"LC311 {word}", hint=f"validate {word}", exit_code=1)
    return warm.WarmReport(adapters=[good, bad])


def status(word: str) -> dict[str, Any]:
    """A server with an adapter that is served, and one that failed."""
    tiers = {"gpu": {"adapters": 1, "most": 2, "bytes": 2048, "hits": 5, "evictions": 1}}
    good = {
        "name": "sql",
        "tier": "gpu",
        "state": "ready",
        "rank": 4,
        "bytes": 2048,
        "requests": 7,
        "worst_error": 1e-7,
    }
    bad = {"name": word, "state": "failed", "error": "gone", "hint": "look", "retry_in_s": 9}
    about = {"base": word, "ready": True, "device": "cpu", "dtype": "float32", "up_s": 75, "starts": 2}
    return {**about, "tiers": tiers, "adapters": [good, bad]}


def endpoints(word: str) -> warm.EndpointsReport:
    """A server that took an adapter, kept one and refused one, one that is down, and an adapter that was not sent."""
    error, effect = EndpointError(word, hint=word), Effect(proved=True, how="other tokens", shift=1.0)
    done = (
        AdapterOutcome(word, "loaded", 41.7, effect, None),
        AdapterOutcome("kept", "kept", 1.0, effect, None),
        AdapterOutcome("chat", "kept", 1.0, None, error),
    )
    servers = [
        Replica("http://pod-0:8000", "vllm", "0.32.0", None, done),
        Replica("http://pod-1", "vllm", "", error, ()),
    ]
    return warm.EndpointsReport(servers=servers, refused=[AdapterOutcome("bad", "failed", 0.0, None, error)])


def repaired(word: str) -> list[repair.RepairedAdapter]:
    """Adapters that are repaired, cannot be, need no repair, and cannot be read."""
    before = EngineOutcome("vllm", "vLLM", "0.33", "0.33", "", Outcome.WRONG_OUTPUT, Applied(0, 4))
    after = replace(before, outcome=Outcome.OK, applied=Applied(4, 4))
    said, skipped = (ErrorReport(word, word),), (Skipped("LC311", "modules-not-in-base", word),)
    done = RepairReport(before, after, (Change("names", word, 4),), (), said, skipped, 1e-9, word)
    return [
        repair.RepairedAdapter(word, done, None, 0),
        repair.RepairedAdapter("odd", replace(done, refusals=said, proof=None), None, 1),
        repair.RepairedAdapter("fine", replace(done, changes=(), proof=None), None, 0),
        repair.RepairedAdapter("gone", None, ErrorReport(word, word), 3),
    ]


def cached(word: str) -> list[StoredSnapshot]:
    """A snapshot with two references, and one without."""
    records = tuple(Record(ref, "", word, DIGEST, {}, endpoint=word) for ref in (word, f"{word}/other"))
    return [StoredSnapshot(DIGEST, Path("/c/ab"), {"adapter_config.json": 512}, records),
            StoredSnapshot("cd" * 32, Path("/c/cd"), {}, ())]  # fmt: skip


def screens(word: str) -> dict[str, Parts]:
    """The parts of each screen by its name."""
    known = inspected(word)
    assert known.engine_args is not None
    error = ErrorReport(word, word)
    planned = [PlannedAdapter(word, word, "0e9e" * 10, 2, 2048, 1, 1024), PlannedAdapter("cached", word, files=2)]
    planned.append(PlannedAdapter("gone", word, exit_code=3, error=error))
    drifted = CheckedAdapter(word, word, "a", "b", (f"main moved to {word}",), 1, None)
    checked = [drifted, replace(drifted, name="same", drift=()), replace(drifted, name="gone", drift=(), error=error)]
    corrupt = [Verified("snapshot", Path("/c/ab"), 10, word, removed=True), Verified("blob", Path("/c/cd"), 1024)]
    mended = [batch.Outcome(Request(word, word, digest), None, None, 0.0) for digest in ("ab", "cd")]
    mended[1] = replace(mended[1], error=EndpointError(word, hint=word))
    removed = [Removed("snapshot", DIGEST, 2048, (word, f"{word}2")), Removed("blob", "cd" * 32, 1024)]
    unsure = EngineOutcome("vllm", "vLLM", "0.10", "0.31", word, Outcome.UNKNOWN, None)
    odd = Result(word, word, engines=(unsure,), unchecked=(word,), base="tiny")
    return {
        "validate": validate.human(everything()),
        "validate, quiet": validate.human(report(all_checked()[0], all_checked()[-1]), quiet=True),
        "validate, one adapter": validate.human(report(all_checked()[1])),
        "validate, one adapter that is ok": validate.human(report(all_checked()[0])),
        "validate, what is unknown": validate.human(
            report(odd, replace(odd, name="other", base="wide"), all_checked()[0])
        ),
        "validate, nothing": validate.human(report()),
        "inspect": inspect.human(known),
        "inspect, one adapter": inspect.human(replace(known, adapters=known.adapters[1:2])),
        "inspect --engine-args": inspect.human_engine_args(
            replace(known, adapters=known.adapters[1:]), known.engine_args
        ),
        "fetch --dry-run": fetch.human_plan(planned),
        "fetch --check": fetch.human_check(checked, [f"{word}-old"]),
        "repair": repair.human(repaired(word), check=False),
        "warm, verbose": warm.human(loads(word), verbose=True),
        "warm --status": warm.human_status(status(word)),
        "warm --status, of another version": warm.human_status({"adapters": [{"name": word}]}),
        "warm --endpoint": warm.human_endpoints(endpoints(word)),
        "warm --endpoint, verbose": warm.human_endpoints(endpoints(word), verbose=True),
        "cache ls": cache.human(Store(Path("/nowhere")), cached(word), 4096),
        "cache show": cache.human_details(cached(word)[:1]),
        "cache verify --repair": cache.human_verified(corrupt, mended),
        "cache gc": cache.human_removed(removed),
        "cache gc, verbose": cache.human_removed(removed, dry_run=True, verbose=True),
        "rules LC109": catalog.human_rule(find("LC109")[0]),
        "rules LC10": list(catalog.human_rules(find("LC101"))),
        "engines": list(catalog.human_matrix(all_profiles()))[1:],
        "engines sglang": list(catalog.human_engine(choose_engine("sglang"), all_profiles()))[:6],
    }
