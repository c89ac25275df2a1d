"""One report with everything in it that a report can have, the same on every machine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lora_cli.base.base_model import BaseModel
from lora_cli.checks.case import Case
from lora_cli.checks.check import Check, Problems
from lora_cli.errors import NotFound
from lora_cli.finding import (
    Accepted,
    Applied,
    EngineOutcome,
    Finding,
    Location,
    Outcome,
    Problem,
    Severity,
    Skipped,
)
from lora_cli.judging.result import Naming, Report, Result
from lora_cli.refs.reference import AdapterRef

HOSTILE = (
    "a\x1b[2J\u202e\n::set-output name=ok::1 ##[add-mask]x @octocat #1 <img src=x> | `x` [y](http://evil) {0} %0A,:\x00"
)
"""A name that means something to terminals, runners, Markdown, XML, SARIF and HTML."""

WEIGHTS = "adapter_model.safetensors"
SEVERITIES = {
    "LC102": ("weights-corrupt", Severity.ERROR),
    "LC204": ("field-type", Severity.ERROR),
    "LC302": ("pair-incomplete", Severity.ERROR),
    "LC501": ("nonfinite-values", Severity.ERROR),
    "LC504": ("huge-update", Severity.WARNING),
    "LC605": ("unpinned-base", Severity.NOTE),
}


def _check(_: Case) -> Problems:
    """One half of ``lora_A`` and ``lora_B`` is missing.

    Nothing can be
    multiplied.
    """
    yield from ()


RULES = tuple(
    Check(code, name, (), dict.fromkeys(("peft", "vllm", "sglang"), Outcome.OK), severity, "save it again", {}, _check)
    for code, (name, severity) in SEVERITIES.items()
)
COMMIT = "0e9e" * 10
NOTICES = ("known.json: 1 finding is no longer there",)


def finding(
    code: str, message: str, file: str = "", field: str = "", hint: str = "", accepted: Accepted | None = None
) -> Finding:
    """What a rule found."""
    name, severity = SEVERITIES[code]
    effects = {"vllm@0.33": Outcome.REJECTS} if code == "LC302" else {}
    return Finding(code, name, severity, Problem(message, Location(file, field), hint), accepted, effects=effects)


def checked(
    name: str, source: str, *findings: Finding, skipped: str = "", engines: tuple[EngineOutcome, ...] = ()
) -> Result:
    """One adapter with what was found about it."""
    left = (Skipped("LC501", "nonfinite-values", skipped),) if skipped else ()
    return Result(
        name, source, applied=Applied(13, 14), findings=findings, skipped=left, engines=engines, base="llama",
        stage_ms={"read": 1.25, "rules": 0.5},
    )  # fmt: skip


def all_checked() -> tuple[Result, ...]:
    """Good, bad, hostile, remote, from a manifest, known, suppressed, skipped and unreadable."""
    remote = AdapterRef("hf", "acme/sql", revision=COMMIT)
    from_hub = checked("acme/sql", str(remote), finding("LC605", "main moves"), skipped="the values are not read")
    return (
        checked("good", "file:///srv/work/adapters/good", engines=(_on("vllm", Outcome.OK),)),
        checked(
            "bad",
            "file:///srv/work/adapters/bad%20one",
            finding("LC204", 'r must be an integer, not a string: "8"', "adapter_config.json", "r", "write 8"),
            finding("LC302", "there is lora_A without its lora_B", WEIGHTS, "q_proj", "save it again"),
            finding("LC302", "there is lora_A without its lora_B", WEIGHTS, "q_proj"),
            finding("LC504", "the update is 7 times the median", WEIGHTS, "model.layers.0.mlp.up_proj"),
            engines=(_on("vllm", Outcome.REJECTS),),
        ),
        checked(HOSTILE, "file:///elsewhere/é", finding("LC302", HOSTILE, HOSTILE, HOSTILE, HOSTILE)),
        replace(from_hub, revision=COMMIT, stage_ms={}),
        checked(
            "tone",
            "s3://acme/tone",
            finding("LC302", "half", WEIGHTS, "q_proj", accepted=Accepted("known.json")),
            finding("LC504", "large", WEIGHTS, "up_proj", accepted=Accepted("known.json", "meant so")),
        ),
        Result("gone", "gone", error=NotFound("there is no gone", hint="check the path")),
    )


def report(
    *adapters: Result, fail_on: Severity = Severity.ERROR, folder: str = "/srv/work", notices: Sequence[str] = NOTICES
) -> Report:
    """The report of these, as it is beside a manifest and a baseline."""
    return Report(
        adapters=adapters,
        fail_on=fail_on,
        base=BaseModel("tiny", "llama", {}, 2, 64, source="config.json (llama)"),
        naming=Naming(Path(folder), {"tone": "manifests/set.yaml:12"}),
        baseline="known.json",
        notices=tuple(notices),
    )


def everything() -> Report:
    """The report of ``all_checked``."""
    return report(*all_checked())


def _on(engine: str, outcome: Outcome) -> EngineOutcome:
    return EngineOutcome(engine, "vLLM", "0.33", "0.33", "", outcome, None)
