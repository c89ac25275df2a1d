"""What machines read: one JSON document per command, with raw integers and a ``schema`` that says what it is.

A field may be added under the same schema number; a change of meaning makes a new number.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli import __version__
from lora_cli.core.results import Answers, LoadReport
from lora_cli.errors import LoraCliError
from lora_cli.rules.rule import Rule

if TYPE_CHECKING:
    from lora_cli.engines import Profile


def document(thing: str, body: Mapping[str, Any]) -> str:
    """``body`` as a JSON document of schema ``lora_cli/<thing>/1``; a float that is not finite is null."""
    return encoded({"schema": f"lora_cli/{thing}/1", "version": __version__, **body})


def encoded(value: Any) -> str:
    """``value`` as JSON text; a report model is one object (``core.json_schema``).

    On a CI server's console no line of it is taken for a command (``##[…]``).
    What does not show is escaped: a terminal may obey it, and some readers take it for the end of a line.
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    if not text.replace("\n", "").isprintable():
        text = "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
        text = text.replace("\x7f", "\\u007f")
    return text.replace("##", "#\\u0023") + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, LoraCliError):
        value = {"message": value.message, "hint": value.hint, "exit_code": value.exit_code}
    if is_dataclass(value) or isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in _items(value)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str | Enum | Path):
        # A lone surrogate (a path that is not UTF-8) has no bytes in a JSON file.
        return str(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124 - NaN
        return None
    return value


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """The keys of a mapping with their values, or those of a report model as ``core.json_schema`` says."""
    if isinstance(value, Mapping):
        yield from value.items()
        return
    for field in fields(value):
        one = getattr(value, field.name)
        if field.metadata.get("inline"):
            yield from _items(one)
        elif not field.metadata.get("excluded") and (one is not None or field.default is not None):
            yield field.name.removesuffix("_"), one


def render_load_reports(reports: Sequence[LoadReport], answers: Sequence[Answers] = ()) -> str:
    """The document of ``warm``: each adapter's stages and proof, and the answers where a prompt was given."""
    adapters = [
        {**asdict(one), "proof": one.proof and {**asdict(one.proof), "holds": one.proof.holds}} for one in reports
    ]
    return document("warm", {"adapters": adapters, "answers": list(answers)})


def render_rules(rules: Sequence[Rule]) -> str:
    """The document of ``rules``."""
    keys = ("code", "name", "severity", "needs", "summary", "documentation")
    return document("rules", {"rules": [{key: getattr(rule, key) for key in keys} for rule in rules]})


def render_engines(profiles: "Sequence[Profile]") -> str:
    """The document of ``engines``: one entry for each profile, one row for each feature."""
    return document("engines", {"engines": [_profile(profile) for profile in profiles]})


def _profile(profile: "Profile") -> dict[str, Any]:
    from lora_cli.rules.features import FEATURES

    engine = profile.engine
    rows = {row.feature: row for row in profile.rows}
    return {
        "name": engine.name,
        "title": engine.title,
        "version": profile.version,
        "asked": profile.asked or None,
        "note": profile.note,
        "proven": profile.proven,
        "ranks": list(engine.ranks) or None,
        "default_rank": engine.default_rank,
        "features": [
            {
                "feature": name,
                "title": feature.title,
                "outcome": feature.outcome(name, profile),
                **{key: getattr(rows.get(name), key, "") for key in ("reason", "mend", "evidence", "proof")},
            }
            for name, feature in FEATURES.items()
        ],
        "rules": dict(sorted(engine.generic.items())),
    }
