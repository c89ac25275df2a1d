"""Check the verdicts that policies require: signed statements of ``validate --attest`` about a snapshot."""

import base64
import json
import time
from calendar import timegm
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.core.adapter_files import VERDICT_TYPE
from lora_cli.core.provenance import JudgedEngine, VerifiedVerdict
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import MissingExtra, Refused, UsageError
from lora_cli.fetching.attachments import Attached, nothing
from lora_cli.fetching.reference_names import entries_for
from lora_cli.settings import Settings
from lora_cli.signing.trusted_files import read_trusted

if TYPE_CHECKING:
    from lora_cli.documents.policy import RequiredVerdict

RULE = "policy require_verdict"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PASSED = ("PASSED", "WARNED")
CLOCK_S = 300.0
"""How much later than this machine's clock a verdict may be dated."""

MOST_ATTACHED = 1000
"""Statements on one snapshot that are attached at its origin: each is verified."""

LARGEST = 64 << 20
"""Bytes of a file with statements; one has a few thousand."""


def check_verdicts(
    ref: AdapterRef, digest: str, settings: Settings, attached: Attached = nothing
) -> tuple[VerifiedVerdict, ...]:
    """The verdicts on the snapshot ``digest`` that policies require of ``ref`` and accept, the newest first.

    Those that are ``attached`` at its origin are read if the ones in the policy's files do not do.

    Raises:
        Refused: there is none by one of the keys, the newest one failed, or it is too old.
        MissingExtra, UsageError: the extra ``signing`` is not installed, or a file cannot be read.
    """
    entries: list[RequiredVerdict] = entries_for(ref, settings, "require_verdict")
    accepted = [one for entry in entries for one in _accepted(ref, digest, entry, attached)]
    return tuple(sorted(accepted, key=lambda one: one.time, reverse=True))


def _accepted(ref: AdapterRef, digest: str, entry: "RequiredVerdict", attached: Attached) -> list[VerifiedVerdict]:
    """The accepted verdicts of the policy's files; if these do not do, with those that are attached."""
    lines = [line for file in entry.attestations for line in lines_by_snapshot(Path(file)).get(digest, ())]
    try:
        return _accepted_of(lines, ref, digest, entry)
    except Refused:
        more = [line for data in attached(VERDICT_TYPE) for line in _by_snapshot(data).get(digest, ())]
        if len(more) > MOST_ATTACHED:
            raise Refused(f"{ref}: {RULE}: over {MOST_ATTACHED} verdicts are attached to it") from None
        if not more:
            raise
    return _accepted_of([*lines, *more], ref, digest, entry)


def _accepted_of(lines: Sequence[str], ref: AdapterRef, digest: str, entry: "RequiredVerdict") -> list[VerifiedVerdict]:
    """Those that passed on the required engine, after every failure and within the largest age; at least one."""
    try:
        from lora_cli.signing.attestation import verified_statements  # securesystemslib
    except ImportError as error:
        raise MissingExtra(RULE, "signing", error.name or "securesystemslib") from error
    statements = verified_statements(lines, tuple(map(Path, entry.keys)))
    found = [(about, by) for one, by in statements if (about := _about(one)).get("snapshot") == digest]
    failed = [one for one, _ in found if one["result"] not in PASSED and _concerns(one, entry.engine)]
    failed_s = max(map(_time_of, failed), default=-inf)
    passed = [
        (_verified(one, by, entry), time_s)
        for one, by in found
        if one["result"] in PASSED
        and _is_ok_on(one, entry.engine)
        and failed_s < (time_s := _time_of(one)) <= time.time() + CLOCK_S
    ]
    if failed and not passed:
        raise Refused(f"{ref}: {RULE}: the newest verdict is FAILED", hint="lora-cli validate REF says why")
    if not passed:
        engine = f" that {entry.engine} serves it" if entry.engine else ""
        hint = f"lora-cli validate REF --engine {entry.engine or 'ENGINE'} --attest FILE --key KEY writes one"
        raise Refused(
            f"{ref}: {RULE}: there is no verdict{engine} on the snapshot {digest} by an allowed key", hint=hint
        )
    oldest_s = -inf if entry.max_age is None else time.time() - entry.max_age
    if accepted := [one for one, time_s in passed if time_s >= oldest_s]:
        return accepted
    raise Refused(
        f"{ref}: {RULE}: the newest verdict is of {max(one.time for one, _ in passed)}, "
        f"and max_age is {entry.max_age:g} s",
        hint="validate it again with --attest",
    )


def lines_by_snapshot(file: Path) -> Mapping[str, Sequence[str]]:
    """For each snapshot's digest the lines of a file whose statements are about it; they are not verified.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="check the path of the file") from error
    return _read_lines(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=128)  # for each adapter of a set the same file
def _read_lines(file: Path, _mtime_ns: int, _size: int) -> Mapping[str, list[str]]:
    return _by_snapshot(read_trusted(file, LARGEST))


def _by_snapshot(data: bytes) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in data.decode(errors="replace").splitlines():
        try:
            snapshot = _about(json.loads(base64.b64decode(json.loads(line)["payload"]))).get("snapshot")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(snapshot, str):
            found.setdefault(snapshot, []).append(line)
    return found


def _about(statement: Any) -> Mapping[str, Any]:
    """What a statement says, with its ``result``; empty if it is none of ``validate``."""
    try:
        predicate = statement["predicate"]
        about = {
            **predicate["lora-cli"],
            "result": str(predicate["result"]),
            "configuration": predicate.get("configuration"),
        }
        is_ours = statement["predicateType"] == TEST_RESULT and all(isinstance(one, dict) for one in about["engines"])
    except (KeyError, TypeError):
        return {}
    return about if is_ours else {}


def _verified(about: Mapping[str, Any], by: str, entry: "RequiredVerdict") -> VerifiedVerdict:
    """A verdict by the key ``by``, as far as it is about the engine of ``entry`` ("": all)."""
    wanted = entry.engine
    base = next((one for one in about["configuration"] or () if isinstance(one, dict)), {})
    digest, deployment = base.get("digest"), about.get("deployment")
    return VerifiedVerdict(
        by=by,
        time=str(about.get("time")),
        result=about["result"],
        version=str(about.get("version")),
        base=str(base.get("name", "")),
        engines=tuple(
            JudgedEngine(*(str(one.get(key)) for key in ("engine", "version", "outcome")))
            for one in (_engines(about, wanted) if wanted else about["engines"])
        ),
        base_sha256=str(digest.get("sha256", "")) if isinstance(digest, dict) else "",
        deployment=deployment if isinstance(deployment, dict) else {},
        replaces_validation=entry.replaces_validation,
    )


def _engines(about: Mapping[str, Any], wanted: str) -> list[Mapping[str, Any]]:
    """The engines that it names and that are ``NAME`` or ``NAME@VERSION``."""
    name, _, version = wanted.partition("@")
    named: Sequence[Mapping[str, Any]] = about["engines"]
    return [one for one in named if one.get("engine") == name and (not version or one.get("version") == version)]


def _is_ok_on(about: Mapping[str, Any], wanted: str) -> bool:
    """Whether the wanted engine serves it as it was trained; an accepted finding does not change what it does."""
    engines = _engines(about, wanted)
    return not wanted or (bool(engines) and all(one.get("outcome") == "ok" for one in engines))


def _concerns(about: Mapping[str, Any], wanted: str) -> bool:
    """Whether a failure counts for the wanted engine: one that names no engine counts for all."""
    return not wanted or not about["engines"] or bool(_engines(about, wanted))


def _time_of(about: Mapping[str, Any]) -> float:
    """Seconds since 1970; infinite for a time that cannot be read: a failure then counts, and nothing else does."""
    try:
        return timegm(time.strptime(str(about.get("time")), "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return inf
