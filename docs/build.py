"""Writes the generated pages: commands, rules, engines, and manifest, policy and settings from their schemas.

``make docs`` runs it; a test compares what it would write with what is there.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_cli.checks import CHECKS
from lora_cli.cli.main import COMMANDS, UNITS, Command, build_app, load_command
from lora_cli.cli.options import GLOBAL
from lora_cli.engines import ENGINES, Profile, all_profiles
from lora_cli.reports.catalog import HUNDREDS, LEGEND, letters, told_apart

HERE = Path(__file__).parent
SCHEMAS = HERE.parent / "manifests" / "schemas"
Entry = dict[str, Any]

MANIFEST = (
    "`lora-cli init REF…` writes one. `-f set.yaml` on `fetch`, `validate`, `inspect`, `warm` and "
    "`serve-bench` reads it. An unknown key is an error that names its line and the nearest known key. "
    "[production.yaml](../manifests/production.yaml) is a commented example."
)
POLICY = (
    "Set a policy with `--policy policy.yaml`, `LORA_CLI_POLICY`, or the block `policy:` of a manifest; if there are "
    "both, both apply. A violation exits with 1 and names the rule. [policy.yaml](../manifests/policy.yaml) is an "
    "example."
)
ABOUT_SETTINGS = (
    "Each can be set in three places; the last one wins: the settings file (`$XDG_CONFIG_HOME/lora-cli/config.toml`, "
    "or the one that `LORA_CLI_CONFIG` names), the variable `LORA_CLI_<KEY>`, and, where a command has it, the flag. "
    "Only the file has `[[sources]]`. A path in the file is relative to it; `~` is your home.",
    "A variable that begins with `LORA_CLI_` and belongs to no setting and no option ([all of them](cli.md)) is an "
    "error in every command: it is misspelt, or of another version, and what it was set for would not happen. The "
    "message names each with the nearest known one (exit 2). What Kubernetes sets for a Service called lora-cli is "
    "ignored.",
    "A size is a number of bytes, `2GiB` (powers of 1024) or `500MB` (powers of 1000); a time is a number of seconds, "
    "`500ms`, `30s` or `1h30m`.",
)
ABOUT_COMMANDS = (
    "`lora-cli COMMAND --help` shows the same. An option with an environment variable next to it can also be set by "
    "that; blanks separate the values of one that may be repeated. A flag takes precedence over the variable, and the "
    "variable over the [settings file](settings.md).",
    *UNITS.values(),
)


def pages() -> dict[str, str]:
    """Each page's text by its file name."""
    made = {
        "cli.md": commands_page(),
        "rules.md": rules_page(),
        "engines.md": engines_page(),
        "manifest.md": reference_page("adapter-set", "The manifest", MANIFEST),
        "policy.md": reference_page("policy", "The policy", POLICY),
        "settings.md": reference_page("settings", "Settings", "\n\n".join(ABOUT_SETTINGS)),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


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
    """A table for each group of a command's help; global options and ``--help`` are only in that of the root."""
    context = command.make_context(path, [], resilient_parsing=True)
    groups: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record, group = parameter.get_help_record(context), getattr(parameter, "rich_help_panel", None)
        everywhere = group == GLOBAL or "--help" in parameter.opts
        if record is not None and (path == "lora-cli" or not everywhere):
            variable = f"`{parameter.envvar}`" if parameter.envvar else ""
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            words, text = (cell.replace("|", "\\|") for cell in record)
            if usual == "Arguments":
                words = words.partition(" <")[0]  # its type, which its name tells
            groups.setdefault(group or usual, []).append(f"| `{words}` | {text} | {variable} |")
    for group, rows in groups.items():
        yield from ("", f"| {group} | description | variable |", "|---|---|---|", *rows)


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
    """Every check of ``validate``, as it documents itself."""
    yield from ("# The rules of `lora-cli validate`", "", "Generated from the checks by `make docs`.")
    hundred = ""
    for check in CHECKS:
        if check.code[:3] != hundred:
            hundred = check.code[:3]
            yield from ("", f"## {hundred}xx: {HUNDREDS[hundred]}")
        needs = f"; needs {', '.join(check.needs)}" if check.needs else ""
        yield from ("", f"### {check.code} {check.name}", f"{check.severity}{needs}", "")
        yield check.documentation.replace("``", "`")


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
