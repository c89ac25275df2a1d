"""Writes the generated pages: rules, engines, settings, and the references of manifest and policy from their schemas.

``make docs`` runs it; a test compares what it would write with what is there.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines import ENGINES, Profile, all_profiles, profiles_of
from lora_cli.render.terminal_catalog import HUNDREDS, LEGEND, PROOFS, letter
from lora_cli.rules import RULES
from lora_cli.rules.features import FEATURES
from lora_cli.settings import SETTINGS

HERE = Path(__file__).parent
SCHEMAS = HERE.parent / "manifests" / "schemas"
Entry = dict[str, Any]

MANIFEST = (
    "`lora-cli init REF…` writes one. `-f set.yaml` on `fetch`, `validate`, `inspect`, `warm` and `serve-bench` reads "
    "it. An unknown key is an error that names its line and the nearest known key. "
    "[production.yaml](../manifests/production.yaml) is a commented example."
)
POLICY = (
    "`--policy policy.yaml`, `LORA_CLI_POLICY`, or the block `policy:` of a manifest; where there are both, both must "
    "hold. What it forbids ends with 1 and names the rule. [policy.yaml](../manifests/policy.yaml) is an example. "
    "`trusted_endpoints`, `allow_token_env` and `allow_profiles` forbid nothing: they let manifests use credentials of "
    "yours. Only a file that you name has them, and the settings; a manifest's own block cannot."
)
ABOUT_SETTINGS = (
    "Each can be set in three places; the later one wins: the settings file (`$XDG_CONFIG_HOME/lora-cli/config.toml`, "
    "or `--config FILE`), the variable `LORA_CLI_<KEY>`, and, where a command has it, the flag. In a variable a list "
    "has commas: `LORA_CLI_ALLOW_PROFILES=adapters,models`. A path in the file is relative to it; `~` is your home.",
    "A size is a number of bytes, `2GiB` (powers of 1024) or `500MB` (powers of 1000); a time is a number of seconds, "
    "`500ms`, `30s` or `1h30m`.",
)


def pages() -> dict[str, str]:
    """Each page's text by its file name."""
    made = {
        "rules.md": rules_page(),
        "engines.md": engines_page(),
        "manifest.md": reference_page("adapter-set", "The manifest", MANIFEST),
        "policy.md": reference_page("policy", "The policy", POLICY),
        "settings.md": settings_page(),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def settings_page() -> Iterator[str]:
    """Every setting, with its key, variable and flag."""
    yield from ("# Settings", "", "Generated from `lora_cli/settings.py` by `make docs`.", "")
    for paragraph in ABOUT_SETTINGS:
        yield from (paragraph, "")
    yield from ("| key | value | default | |", "|---|---|---|---|")
    for key, setting in SETTINGS.items():
        default = "" if setting.default is None else f"`{json.dumps(setting.default).strip(chr(34))}`"
        yield f"| `{key}` | {_kind(setting.schema)} | {default} | {setting.help} |"


def reference_page(schema: str, title: str, about: str) -> Iterator[str]:
    """Every key that a file may have, from its JSON schema."""
    file = SCHEMAS / f"{schema}.schema.json"
    value = json.loads(file.read_text())
    yield from (f"# {title}", "", f"Generated from [its schema](../manifests/schemas/{file.name}) by `make docs`.", "")
    yield from (about, "", "| key | value | |", "|---|---|---|")
    known = value.get("$defs", {})
    for key, entry, required in _keys(value, "", known):
        told = entry.get("description", "").replace("|", "\\|")
        if "default" in entry:
            told = f"{told} Default: `{json.dumps(entry['default']).strip(chr(34))}`."
        yield f"| `{key}` | {_kind(entry, known)}{', required' if required else ''} | {told} |"


def _keys(entry: Entry, path: str, known: Mapping[str, Entry]) -> Iterator[tuple[str, Entry, bool]]:
    """Each key below ``entry`` with its path (``adapters[].name``), its schema and whether it must be there."""
    for name, written in entry.get("properties", {}).items():
        one = _resolved(written, known)
        yield f"{path}{name}", one, name in entry.get("required", ())
        inner, mark = (_resolved(one["items"], known), "[]") if "items" in one else (one, "")
        yield from _keys(inner, f"{path}{name}{mark}.", known)


def _resolved(entry: Entry, known: Mapping[str, Entry]) -> Entry:
    """What a ``$ref`` stands for."""
    target = entry.get("$ref", "").rpartition("/")[2]
    return {**known[target], **entry} if target else entry


def _kind(entry: Entry, known: Mapping[str, Entry] = MappingProxyType({})) -> str:
    """In a word or two, what a value may be."""
    if "const" in entry:
        return f"`{json.dumps(entry['const']).strip(chr(34))}`"
    if "enum" in entry:
        return ", ".join(f"`{one}`" for one in entry["enum"])
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(_kind(one) for one in entry["anyOf"]))
    if entry.get("type") == "array":
        items = _resolved(entry.get("items", {}), known)
        return "list of mappings" if items.get("type") == "object" else "list"
    words = {"object": "mapping", "string": "text", "integer": "whole number", "boolean": "true or false"}
    kind = words.get(entry.get("type", ""), str(entry.get("type", "text")))
    if "minimum" in entry and entry.get("maximum", 1 << 62) < 1 << 50:
        return f"{kind}, {entry['minimum']} to {entry['maximum']}"
    return kind


def rules_page() -> Iterator[str]:
    """Every rule of ``validate``, as it documents itself."""
    yield from ("# The rules of `lora-cli validate`", "", "Generated from the rules by `make docs`.")
    hundred = ""
    for rule in RULES:
        if rule.code[:3] != hundred:
            hundred = rule.code[:3]
            yield from ("", f"## {hundred}xx: {HUNDREDS[hundred]}")
        needs = f"; needs {', '.join(rule.needs)}" if rule.needs else ""
        yield from ("", f"### {rule.code} {rule.name}", f"{rule.severity}{needs}", "")
        yield rule.documentation.replace("``", "`")


def engines_page() -> Iterator[str]:
    """The matrix of features and engines, then each engine's rows with their evidence."""
    profiles = all_profiles()
    yield from ("# What engines do with which adapters", "", "Generated from `lora_cli/engines` by `make docs`.", "")
    yield "| feature of the adapter | " + " | ".join(one.title for one in profiles) + " |"
    yield "|---|" + ":-:|" * len(profiles)
    for name, feature in FEATURES.items():
        yield f"| {feature.title} | " + " | ".join(_plain(letter(name, profile)) for profile in profiles) + " |"
    yield from ("", f"{_plain(LEGEND)}.", "")
    yield "Of damaged files, broken configs and values that are not finite the rules without an engine say what is so."
    for engine in ENGINES.values():
        for profile in reversed(profiles_of(engine)):
            if profile.rows:
                yield from ("", f"## {profile.title}", "", f"{profile.allowed}.", "", *_rows(profile))


def _rows(profile: Profile) -> Iterator[str]:
    yield "| feature | outcome | why | what mends it | evidence |"
    yield "|---|---|---|---|---|"
    for outcome in (Outcome.REJECTS, Outcome.CRASHES, Outcome.SERVES_WRONG):
        for row in profile.rows:
            if row.outcome is outcome:
                mend = row.mend.format_map(defaultdict(lambda: "…")).removeprefix("…")
                evidence = f"`{row.evidence}`; {PROOFS[row.proof]}"
                cells = (FEATURES[row.feature].title, outcome.label, row.reason, mend, evidence)
                yield f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    from schemas import write

    write()
    for file, text in pages().items():
        (HERE / file).write_text(text, encoding="utf-8")
