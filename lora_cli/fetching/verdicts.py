"""Check the verdicts that policies require: signed statements of ``validate --attest`` about a snapshot."""

import base64
import json
import time
from calendar import timegm
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import MissingExtra, Refused, UsageError
from lora_cli.fetching.reference_names import entries_for
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.documents.policy import RequiredVerdict

RULE = "policy require_verdict"
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
    found = [
        about
        for statement in verified_statements(lines, tuple(map(Path, entry.keys)))
        if (about := _about(statement)).get("snapshot") == digest and _is_for_engine(about, entry.engine)
    ]
    if not found:
        engine = f" for {entry.engine}" if entry.engine else ""
        raise Refused(
            f"{ref}: {RULE}: there is no verdict{engine} on the snapshot {digest} by an allowed key",
            hint="lora-cli validate REF --engine ENGINE --attest FILE --key KEY writes one",
        )
    newest = max(found, key=_time_of)
    if newest["result"] not in {"PASSED", "WARNED"}:
        raise Refused(f"{ref}: {RULE}: the newest verdict is {newest['result']}", hint="lora-cli validate REF says why")
    age_s = time.time() - _time_of(newest)
    if entry.max_age is not None and not -CLOCK_S <= age_s <= entry.max_age:
        raise Refused(
            f"{ref}: {RULE}: the newest verdict is of {newest.get('time')}, and max_age is {entry.max_age:g} s",
            hint="validate it again with --attest",
        )


def _lines_about(file: Path, digest: str) -> Sequence[str]:
    """The lines of a file whose statements mention ``digest``; they are not verified."""
    try:
        status = file.stat()
    except OSError as error:
        raise UsageError(f"{RULE}: {file} cannot be read: {error.strerror}") from error
    return _by_snapshot(file, status.st_mtime_ns, status.st_size).get(digest, ())


@lru_cache(maxsize=16)  # for each adapter of a set the same file
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
        return {**predicate["lora-cli"], "result": predicate["result"]}
    except (KeyError, TypeError):
        return {}


def _is_for_engine(about: Mapping[str, Any], wanted: str) -> bool:
    """Whether it is about the engine ``NAME`` or ``NAME@VERSION``; "" is any, and none."""
    name, _, version = wanted.partition("@")
    engines = about.get("engines", [])
    return not wanted or any(
        one.get("engine") == name and (not version or one.get("version") == version) for one in engines
    )


def _time_of(about: Mapping[str, Any]) -> float:
    """Seconds since 1970; 0 for a time that cannot be read."""
    try:
        return timegm(time.strptime(str(about.get("time")), "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0.0
