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

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import MissingExtra, Refused, UsageError
from lora_cli.fetching.reference_names import entries_for
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.documents.policy import RequiredVerdict

RULE = "policy require_verdict"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PASSED = ("PASSED", "WARNED")
CLOCK_S = 300.0
"""How much later than this machine's clock a verdict may be dated."""

LARGEST = 64 << 20
"""Bytes of a file with statements; one has a few thousand."""


def check_verdicts(ref: AdapterRef, digest: str, settings: Settings) -> None:
    """Checks that each verdict that a policy requires of ``ref`` is there for the snapshot ``digest``, and passed.

    Raises:
        Refused: there is none by one of the keys, the newest one failed, or it is too old.
        MissingExtra, UsageError: the extra ``signing`` is not installed, or a file cannot be read.
    """
    for entry in entries_for(ref, settings, "require_verdict"):
        _check(ref, digest, entry)


def _check(ref: AdapterRef, digest: str, entry: "RequiredVerdict") -> None:
    try:
        from lora_cli.signing.attestation import verified_statements  # securesystemslib
    except ImportError as error:
        raise MissingExtra(RULE, "signing", error.name or "securesystemslib") from error
    lines = [line for file in entry.attestations for line in _lines_about(Path(file), digest)]
    statements = map(_about, verified_statements(lines, tuple(map(Path, entry.keys))))
    found = [one for one in statements if one.get("snapshot") == digest]
    passed = [one for one in found if one["result"] in PASSED and _is_ok_on(one, entry.engine)]
    newest_s = max((time_s for one in passed if (time_s := _time_of(one)) <= time.time() + CLOCK_S), default=None)
    failed = [one for one in found if one["result"] not in PASSED and _concerns(one, entry.engine)]
    if any(newest_s is None or _time_of(one) >= newest_s for one in failed):
        raise Refused(f"{ref}: {RULE}: the newest verdict is FAILED", hint="lora-cli validate REF says why")
    if newest_s is None:
        engine = f" that {entry.engine} serves it" if entry.engine else ""
        raise Refused(
            f"{ref}: {RULE}: there is no verdict{engine} on the snapshot {digest} by an allowed key",
            hint="lora-cli validate REF --engine ENGINE --attest FILE --key KEY writes one",
        )
    if entry.max_age is not None and time.time() - newest_s > entry.max_age:
        day = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest_s))
        raise Refused(
            f"{ref}: {RULE}: the newest verdict is of {day}, and max_age is {entry.max_age:g} s",
            hint="validate it again with --attest",
        )


def _lines_about(file: Path, digest: str) -> Sequence[str]:
    """The lines of a file whose statements mention ``digest``; they are not verified."""
    try:
        status = file.stat()
    except OSError as error:
        raise UsageError(f"{RULE}: {file} cannot be read: {error.strerror}") from error
    return _by_snapshot(file, status.st_mtime_ns, status.st_size).get(digest, ())


@lru_cache(maxsize=128)  # for each adapter of a set the same file
def _by_snapshot(file: Path, _mtime_ns: int, _size: int) -> Mapping[str, list[str]]:
    from lora_cli.signing.verify import read_trusted  # model-signing

    found: dict[str, list[str]] = {}
    for line in read_trusted(file, LARGEST).decode(errors="replace").splitlines():
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
        about = {**predicate["lora-cli"], "result": str(predicate["result"])}
        is_ours = statement["predicateType"] == TEST_RESULT and all(isinstance(one, dict) for one in about["engines"])
    except (KeyError, TypeError):
        return {}
    return about if is_ours else {}


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
