"""LC6xx: the supply chain. Code and templates next to the weights, and pinned revisions."""

import re
from collections.abc import Mapping

from lora_cli.checks.case import Case
from lora_cli.checks.check import MOST_GROUPS, NotChecked, Problems, check, grouped
from lora_cli.finding import Location, Problem, Severity
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.text import cut, names, shown

LIBRARIES = frozenset({"transformers", "diffusers", "sentence_transformers", "peft", "torch", "timm"})
"""Libraries that the class of a base model in PEFT's ``auto_mapping`` may be from."""

FOLDERS = frozenset({"model", "models", "ckpt", "ckpts", "checkpoint", "checkpoints", "output", "outputs"})
"""Usual names of folders with models; none is an organisation on the Hub with models."""

QUANTISED = r"(?i)-(bnb-[48]bit|AWQ|GPTQ(-Int[48])?|GGUF)$"

LONGEST_TEMPLATES = 1 << 20
"""The maximum number of characters of all chat templates of one adapter; a long one has twenty thousand."""

LEAST_COUNTED = 1024
"""The number of characters that a shorter template counts for, which limits their number."""


@check("LC601", "names-code", "companions",
       hint="remove it: LoRA needs no code, and trust_remote_code or AutoPeftModel would run this")  # fmt: skip
def names_code(case: Case) -> Problems:
    """The adapter comes with Python code, or names classes for a loader to import.

    With ``trust_remote_code``, or through ``AutoPeftModel`` and its ``auto_mapping``, what is named here is run.
    """
    shipped = [file.path for file in case.adapter.files if file.path.endswith((".py", ".pyc", ".so", ".dll"))]
    if shipped:
        yield Problem(f"the adapter contains code: {names(shipped)}", Location(cut(shipped[0])))
    for where, named in list(case.companions.code.items())[:MOST_GROUPS]:
        yield Problem(f"it lists classes to import: {named}", Location(where))
    if (config := case.adapter.config) is None:
        return
    library = (config.auto_mapping or {}).get("parent_library")
    is_usual = library is None or (isinstance(library, str) and library.partition(".")[0] in LIBRARIES)
    is_megatron = not config.megatron_config or config.megatron_core in {None, "megatron.core"}
    imported = {
        "auto_map": config.unknown.get("auto_map"),
        "megatron_core": None if is_megatron else config.megatron_core,
        "auto_mapping": None if is_usual else library,
    }
    for field, value in imported.items():
        if value:
            yield Problem(f"{field} names {shown(value)} to import", Location(CONFIG, field))


TAGS = re.compile(r"(?s)\{\{.*?(?:\}\}|\Z)|\{%.*?(?:%\}|\Z)|\{#.*?(?:#\}|\Z)")
"""The tags of a template, of which one that is never closed extends to the end; everything else is text."""

HOSTILE: Mapping[str, str] = {
    "accesses Python's internals": r"__\w+__",
    "builds names of Python's internals": r"['\"]__[A-Za-z]|[A-Za-z]__['\"]|['\"]__['\"]|['\"]_['\"]\s*+\*",
    # Or a string with %c that is formatted: characters by their numbers.
    "hides names behind escapes": r"(?i)\\(?:x5f|u005f|U0000005f|137|N\{low line\})"
    r"|['\"](?:[^'\"%]|%(?!c))*+%c[^'\"]*+['\"]\s*+[|%]",
    "looks up attributes by computed names": r"\|\s*+attr\b|\battr\s*+\("
    r"|\|\s*+(?:map|sort|sum|min|max|unique|groupby)\s*+\(\s*+attribute\s*+=\s*+[^'\"\s]"
    r"|\|\s*+(?:select|reject)attr\s*+\(\s*+[^'\"\s]",
    "loads other templates": r"\{%[-+]?\s*+(?:include|import|from|extends)\b",
    "uses a Jinja global that gives access to its modules": r"\blipsum\b",
    "creates an object of millions of elements": r"range\s*+\((?:[^(),]*+,)*\s*+\d{6}|\*\s*+\d{6}|\*\*\s*+\d",
    "loops over millions of elements": r"(?s)range\s*+\(\s*+\d{4}.*?range\s*+\(\s*+\d{4}",
}
"""Constructs that no chat template needs. Sources: known escapes from Jinja's sandbox; CVE-2024-34359, CVE-2025-61620.
Each pattern takes time in proportion to the template: no part is scanned from two beginnings."""


@check("LC602", "hostile-template", "companions", floor=Severity.ERROR,
       hint="serve with the base model's own template (--chat-template), and report this one")  # fmt: skip
def hostile_template(case: Case) -> Problems:
    """A chat template contains unsafe code: access to Python's internals, other templates, endless loops.

    Code that escapes Jinja's sandbox runs as the server. A million characters in total are searched, none rendered.
    """
    companions, left = case.companions, LONGEST_TEMPLATES
    for path, reason in companions.unread.items():
        if path not in companions.beyond:
            yield NotChecked(f"{cut(path)} {cut(reason)}: it is unknown whether its chat template is safe")
    beyond = "the files next to the weights exceed the limit in bytes or number"
    messages = [(beyond, path) for path in companions.beyond]
    for where, template in companions.templates.items():
        if len(template) > left:
            message = f"the chat templates have over {LONGEST_TEMPLATES} characters, and the rest is not searched"
            messages.append((message, where))
            continue
        left -= max(len(template), LEAST_COUNTED)
        code = "\n".join(tag for tag in TAGS.findall(template) if not tag.startswith("{#"))
        for what, pattern in HOSTILE.items():
            if found := re.search(pattern, code):
                messages.append((f"a chat template {what}: {cut(found.group())!r}", where))
    yield from grouped(messages, "", "template")


@check("LC604", "unpinned-revision", floor=Severity.NOTE,
       hint="end it with the commit (`@` and 40 hex digits) or digest (`@sha256:` and 64), or use a lock")  # fmt: skip
def unpinned_revision(case: Case) -> Problems:
    """The reference has a branch, a tag or no revision: an engine may load another version than the validated one."""
    ref = case.evidence.ref
    if ref is not None and not ref.pinned and ref.scheme in {"hf", "oci"}:
        pin = case.evidence.commit or ("sha256:DIGEST" if ref.scheme == "oci" else "COMMIT")
        yield Problem("the reference is not pinned", Location(cut(str(ref))), f"end it with @{pin}")


@check("LC605", "unpinned-base", "config", floor=Severity.NOTE,
       hint="set revision to the commit that it was trained on")  # fmt: skip
def unpinned_base(case: Case) -> Problems:
    """The config names a Hub repository as base, but no commit: told with ``require_pinned`` or ``--select LC605``."""
    base, revision = case.config.base_model_name_or_path, case.config.revision or ""
    is_repository = base and base.count("/") == 1 and base[-1] != "/" and not _is_folder(base)
    if is_repository and not re.fullmatch(r"[0-9a-f]{40}", revision):
        message = f"the base's revision {cut(revision)} is no commit" if revision else "the base has no revision"
        yield Problem(message, Location(CONFIG, "revision"))


@check("LC606", "base-unclear", "config", floor=Severity.NOTE,
       hint="`lora-cli repair --base-name ORG/NAME` writes the base's name into a copy")  # fmt: skip
def base_unclear(case: Case) -> Problems:
    """``base_model_name_or_path`` is empty, a path of the machine that it was trained on, or a quantised copy.

    ``AutoPeftModel``, vLLM's resolver and readers look for the base by this name, also on other machines.
    """
    base = case.config.base_model_name_or_path or ""
    if not base:
        message = "no base is set"
    elif _is_folder(base):
        message = f"the base is a folder of the machine that it was trained on: {cut(base)}"
    elif re.search(QUANTISED, base):
        message = f"the base is {cut(base)}, a quantised copy: the served base has a different name"
    else:
        return
    yield Problem(message, Location(CONFIG, "base_model_name_or_path"))


def _is_folder(base: str) -> bool:
    return base[0] in "/.~" or "\\" in base or base.partition("/")[0] in FOLDERS
