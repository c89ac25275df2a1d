"""Writes the generated pages (commands, checks, engines), and the tables of keys in docs/manifest.md.

``make docs`` runs it; a test compares what it would write with what is there.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_cli.checks import CHECKS
from lora_cli.cli.main import COMMANDS, Command, build_app, load_command
from lora_cli.cli.options import GLOBAL
from lora_cli.engines import ENGINES, Profile, all_profiles
from lora_cli.finding import Severity
from lora_cli.reports.catalog import HUNDREDS, LEGEND, letters, told_apart

HERE = Path(__file__).parent
SCHEMAS = HERE.parent / "manifests" / "schemas"
Entry = dict[str, Any]

ABOUT_COMMANDS = (
    "`lora-cli COMMAND --help` shows the same. An option with a variable can also be set by that; blanks separate the "
    "values of one that may be repeated. A flag takes precedence over the variable, and the variable over the "
    "[settings file](manifest.md#settings).",
)


def pages() -> dict[str, str]:
    """Each page's text by its file name."""
    made = {"cli.md": commands_page(), "rules.md": rules_page(), "engines.md": engines_page()}
    manifest = (HERE / "manifest.md").read_text(encoding="utf-8")
    for name in ("adapter-set", "policy", "settings"):
        head, mark, below = manifest.partition(f"<!-- keys of {name} -->\n")
        _, end, rest = below.partition("<!-- end -->\n")
        manifest = "".join([head, mark, *(f"{line}\n" for line in keys_of(name)), end, rest])
    return {**{name: "\n".join(lines) + "\n" for name, lines in made.items()}, "manifest.md": manifest}


def commands_page() -> Iterator[str]:
    """Every command with its arguments, options and examples; the global options stand once."""
    yield from ("# Commands and options", "", "Generated from the command line by `make docs`.")
    for paragraph in ABOUT_COMMANDS:
        yield from ("", paragraph)
    yield from ("", "## Global options", "", "They stand before or after the command.")
    yield from _options(build_app(), "lora-cli")
    for name in COMMANDS:
        yield from _command(load_command(name), f"lora-cli {name}", "##")


def _command(command: Command, path: str, heading: str) -> Iterator[str]:
    """A command, and those below it: their text, usage, options in groups, and examples."""
    context = command.make_context(path, [], resilient_parsing=True)
    about = (command.help or "").replace("\n\n", " ")
    yield from ("", f"{heading} {path}", "", about, "", f"`{path} {' '.join(command.collect_usage_pieces(context))}`")
    children = getattr(command, "commands", {})
    if not children:
        yield from _options(command, path)
        examples = [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  $ ")]
        yield from ("", "```text", *examples, "```")
    for name, child in children.items():
        yield from _command(child, f"{path} {name}", f"{heading}#")


def _options(command: Command, path: str) -> Iterator[str]:
    """A table of its own options; global ones and ``--help`` are only in that of the root."""
    context = command.make_context(path, [], resilient_parsing=True)
    yield from ("", "| option | |", "|---|---|")
    for parameter in command.get_params(context):
        record, group = parameter.get_help_record(context), getattr(parameter, "rich_help_panel", None)
        everywhere = group == GLOBAL or "--help" in parameter.opts
        if record is not None and parameter.param_type_name == "option" and (path == "lora-cli" or not everywhere):
            words, text = (cell.replace("|", "\\|") for cell in record)
            yield f"| `{words}` | {text}{f' `{parameter.envvar}`' if parameter.envvar else ''} |"


def keys_of(schema: str) -> Iterator[str]:
    """A table of every key that a file may have, from its JSON schema; a manifest's policy has one of its own."""
    value = json.loads((SCHEMAS / f"{schema}.schema.json").read_text())
    yield from ("| key | value | |", "|---|---|---|")
    known = value.get("$defs", {})
    for key, entry, required in _keys(value, "", known):
        if key.startswith("policy."):
            continue
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
    types = entry["type"] if isinstance(entry.get("type"), list) else []
    if any_of := entry.get("anyOf") or [{"type": one} for one in types]:
        return " or ".join(dict.fromkeys(_kind(one) for one in any_of))
    if entry.get("type") == "array":
        items = _resolved(entry.get("items", {}), known)
        return "list of mappings" if items.get("type") == "object" else "list"
    words = {"object": "mapping", "string": "text", "integer": "whole number", "boolean": "true or false"}
    kind = words.get(entry.get("type", ""), str(entry.get("type", "text")))
    if "minimum" in entry and entry.get("maximum", 1 << 62) < 1 << 50:
        return f"{kind}, {entry['minimum']} to {entry['maximum']}"
    return kind


def rules_page() -> Iterator[str]:
    """Every check of ``validate``: what it finds, and what fixes it."""
    yield from ("# The rules of `lora-cli validate`", "", "Generated from the checks by `make docs`.", "")
    yield "`lora-cli rules LC311` explains one: what PEFT and the engines do then. `W` is a warning."
    hundred = ""
    for check in CHECKS:
        if check.code[:3] != hundred:
            hundred = check.code[:3]
            yield from ("", f"## {hundred}xx: {HUNDREDS[hundred]}", "", "| rule | finds | fix |", "|---|---|---|")
        about, fix = check.documentation.partition("\n\n")[0], check.hint.format(engine="ENGINE")
        level = " W" if check.severity == Severity.WARNING else ""
        yield f"| {check.code}{level} {check.name} | {_cell(about)} | {_cell(fix)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def engines_page() -> Iterator[str]:
    """The matrix of checks and engines, then each engine's with their evidence."""
    profiles = all_profiles()
    yield from ("# What engines do with which adapters", "", "Generated from `lora_cli/checks` by `make docs`.", "")
    yield "| [rule](rules.md) | " + " | ".join(one.title for one in profiles) + " |"
    yield "|---|" + ":-:|" * len(profiles)
    for check in told_apart(profiles):
        yield f"| {check.code} {check.name} | " + " | ".join(map(_plain, letters(check, profiles))) + " |"
    yield from ("", f"{_plain(LEGEND)}.", "")
    yield "What all make the same of, such as damaged files and non-finite values, is left out."
    for engine in ENGINES.values():
        profile = Profile(engine, engine.versions[-1])
        rows = [one for one in told_apart(profiles) if engine.name in one.evidence]
        yield from ("", f"## {engine.title}", "", f"{profile.allowed}.", "", "| rule | evidence |", "|---|---|")
        yield from (f"| {one.code} {one.name} | {_plain(one.evidence[engine.name])} |" for one in rows)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    from schemas import write

    write()
    for file, text in pages().items():
        (HERE / file).write_text(text, encoding="utf-8")
