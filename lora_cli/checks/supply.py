"""LC6xx: the supply chain. Code and templates next to the weights, names of files, and pinned revisions."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, pairwise

from lora_cli.checks.case import Case
from lora_cli.checks.check import MOST_GROUPS, NotChecked, Problems, check, grouped
from lora_cli.finding import Location, Problem, Severity
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.refs.reference import cached_repository
from lora_cli.text import cut, names

LIBRARIES = frozenset({"transformers", "diffusers", "sentence_transformers", "peft", "torch", "timm"})
"""Libraries that the class of a base model in PEFT's ``auto_mapping`` may be from."""

FOLDERS = frozenset({"model", "models", "ckpt", "ckpts", "checkpoint", "checkpoints", "output", "outputs"})
"""Usual names of folders with models; none is an organisation on the Hub with models."""

QUANTISED = r"(?i)-(bnb-[48]bit|AWQ|GPTQ(-Int[48])?|GGUF)$"

LONGEST_TEMPLATES = 1 << 20
"""The maximum number of characters of all chat templates of one adapter; a long one has twenty thousand."""

BEYOND = "the files next to the weights exceed the limit in bytes or number: some templates may be unread"

LEAST_COUNTED = 1024
"""The number of characters that a shorter template counts for, which limits their number."""

WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")}
)
WINDOWS_FORBIDDEN = frozenset('<>:"|?*\\')
LONGEST_NAME_BYTES = 255


@check("LC601", "names-code", "companions",
       hint="remove it: with trust_remote_code a loader would import these classes")  # fmt: skip
def names_code(case: Case) -> Problems:
    """The adapter comes with Python code, or names classes for a loader to import.

    An adapter is numbers and a config. With ``trust_remote_code``, or through ``AutoPeftModel`` and its
    ``auto_mapping``, what is named here is imported and run.
    """
    config = case.adapter.config
    shipped = [file.path for file in case.adapter.files if file.path.endswith((".py", ".pyc", ".so", ".dll"))]
    if shipped:
        hint = "LoRA serving does not need it: remove it, and never set trust_remote_code"
        yield Problem(f"the adapter contains code: {names(shipped)}", Location(cut(shipped[0])), hint)
    for where, named in list(case.companions.code.items())[:MOST_GROUPS]:
        yield Problem(f"it lists classes to import: {named}", Location(where))
    if config is None:
        return
    if config.unknown.get("auto_map"):
        yield Problem("it lists classes to import", Location(CONFIG, "auto_map"))
    if config.megatron_config and config.megatron_core not in {None, "megatron.core"}:
        hint = "Megatron uses megatron.core: remove megatron_core and megatron_config"
        message = f"PEFT would import {cut(repr(config.megatron_core))} to load it"
        yield Problem(message, Location(CONFIG, "megatron_core"), hint)
    library = (config.auto_mapping or {}).get("parent_library")
    if library is not None and (not isinstance(library, str) or library.partition(".")[0] not in LIBRARIES):
        hint = f"the class of a base model must be from one of {', '.join(sorted(LIBRARIES))}"
        message = f"AutoPeftModel would import {cut(repr(library))} to load it"
        yield Problem(message, Location(CONFIG, "auto_mapping"), hint)


@check("LC602", "hostile-template", "companions", floor=Severity.ERROR,
       hint="serve with the base model's own template (--chat-template), and report this one")  # fmt: skip
def hostile_template(case: Case) -> Problems:
    """A chat template contains unsafe code: access to Python's internals, other templates, endless loops.

    An engine renders the template for each request. Code that escapes Jinja's sandbox runs as the server; other code
    can still hang it. Templates are read here, never rendered; a million characters in total are searched.
    """
    companions = case.companions
    for path, reason in companions.unread.items():
        if path not in companions.beyond:
            yield NotChecked(f"{cut(path)} {cut(reason)}: it is unknown whether its chat template is safe")
    messages, left = [(BEYOND, path) for path in companions.beyond], LONGEST_TEMPLATES
    for where, template in companions.templates.items():
        if len(template) > left:
            message = f"the chat templates have over {LONGEST_TEMPLATES} characters, and the rest is not searched"
            messages.append((message, where))
            continue
        left -= max(len(template), LEAST_COUNTED)
        messages += [(f"a chat template {what}: {cut(found)!r}", where) for what, found in hostile_in(template)]
    yield from grouped(messages, "", "template")


CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}"}
"""The delimiters of tags in a template; everything else is text."""

Find = Callable[[str], str]
"""Finds a hostile part of a template's code; empty if there is none."""


def _search(pattern: str, code: str) -> str:
    found = re.search(pattern, code)
    return found.group() if found else ""


def _spelt_out(code: str) -> str:
    """A string with ``%c`` that is formatted: characters by their numbers."""
    for text, after in pairwise(re.split("['\"]", code)):
        at = text.lower().find("%c")
        if at >= 0 and after.lstrip().startswith(("|", "%")):
            return text[at:]
    return ""


def _large_range(code: str) -> str:
    calls = re.finditer(r"range\s*+\(([^()]*+)", code)
    return next((call.group() for call in calls if re.search(r"(?:^|,)\s*+\d{6}", call[1])), "")


def _nested_loops(code: str) -> str:
    loops = list(islice(re.finditer(r"range\s*+\(\s*+\d{4}", code), 2))
    return loops[1].group() if len(loops) == 2 else ""


HOSTILE: tuple[tuple[Find, str], ...] = (
    (partial(_search, r"__\w+__"), "accesses Python's internals"),
    (
        partial(_search, r"['\"]__[A-Za-z]|[A-Za-z]__['\"]|['\"]__['\"]|['\"]_['\"]\s*+\*"),
        "builds names of Python's internals",
    ),
    (partial(_search, r"(?i)\\(?:x5f|u005f|U0000005f|137|N\{low line\})"), "hides names behind escapes"),
    (_spelt_out, "hides names behind escapes"),
    (partial(_search, r"\|\s*+attr\b|\battr\s*+\("), "looks up attributes by computed names"),
    (
        partial(
            _search,
            r"\|\s*+(?:map|sort|sum|min|max|unique|groupby)\s*+\(\s*+attribute\s*+=\s*+[^'\"\s]"
            r"|\|\s*+(?:select|reject)attr\s*+\(\s*+[^'\"\s]",
        ),
        "looks up attributes by computed names",
    ),
    (partial(_search, r"\{%[-+]?\s*+(?:include|import|from|extends)\b"), "loads other templates"),
    (partial(_search, r"\blipsum\b"), "uses a Jinja global that gives access to its modules"),
    (_large_range, "creates an object of millions of elements"),
    (partial(_search, r"\*\s*+\d{6}|\*\*\s*+\d"), "creates an object of millions of elements"),
    (_nested_loops, "loops over millions of elements"),
)
"""Constructs that no chat template needs. Sources: known escapes from Jinja's sandbox; CVE-2024-34359, CVE-2025-61620.

The patterns never backtrack: no repetition can match what the next part begins with.
"""


def hostile_in(template: str) -> Iterator[tuple[str, str]]:
    """The hostile constructs in ``template``: (description, code)."""
    code = "\n".join(_tags(template))
    for find, what in HOSTILE:
        if found := find(code):
            yield what, found


def _tags(template: str) -> Iterator[str]:
    """The tags of a template, in one pass; one that is never closed extends to the end."""
    at, tag = 0, re.compile(r"\{[{%#]")
    while opening := tag.search(template, at):
        closing = CLOSING[opening.group()]
        end = template.find(closing, opening.end())
        at = len(template) if end < 0 else end + len(closing)
        if closing != "#}":
            yield template[opening.start() : at]


@check("LC603", "unsafe-name", hint="rename it")
def unsafe_name(case: Case) -> Problems:
    """A file's name is not safe on every platform: reserved, forbidden, too long, or the same as another's.

    Copied to Windows, macOS, a bucket or a ConfigMap it fails, or overwrites another file.
    """
    reasons = [(reason, file.path) for file in case.adapter.files if (reason := _unsafe(file.path))]
    seen: dict[str, str] = {}
    for file in case.adapter.files:
        folded = unicodedata.normalize("NFC", file.path).casefold()
        if folded in seen:
            reasons.append((f"is the same as {cut(seen[folded])} if case or accents are ignored", file.path))
        seen.setdefault(folded, file.path)
    yield from grouped(((f"a file's name {reason}", path) for reason, path in reasons), "", "file")


def _unsafe(path: str) -> str:
    for part in path.split("/"):
        if not part.isprintable():
            return "contains invisible characters"
        if WINDOWS_FORBIDDEN & set(part):
            return "contains characters that Windows forbids"
        if part.partition(".")[0].lower() in WINDOWS_DEVICES:
            return "is reserved for devices on Windows"
        if part.endswith((".", " ")) or part.startswith(("-", " ")):
            return "starts with - or a space, or ends with a dot or a space"
        if len(part.encode(errors="surrogateescape")) > LONGEST_NAME_BYTES:
            return f"is longer than {LONGEST_NAME_BYTES} bytes"
    return ""


@check("LC604", "unpinned-revision", floor=Severity.NOTE)
def unpinned_revision(case: Case) -> Problems:
    """The reference is not pinned: it has a branch, a tag or no revision, and can change at any time.

    An engine may load a different version from the validated one, and anyone who takes over the account can choose it.

    *Fix*: add the commit (``org/name@<40 hex digits>``) or digest (``oci://…@sha256:<64 hex digits>``), or pin it in a
    lock.
    """
    ref, commit = case.evidence.ref, case.evidence.commit
    if ref is None or ref.pinned or ref.scheme not in {"hf", "oci"}:
        return
    if ref.scheme == "oci":
        tag = ref.location.rpartition("/")[2].partition(":")[2] or "latest"
        message, hint = f"the tag {tag} can change", f"append @{commit or 'sha256:DIGEST'}"
    elif ref.revision is None:
        message, hint = "this is the default branch, which can change", f"append @{commit or 'COMMIT'}"
    else:
        message = f"this is {cut(f'{ref.revision}, which can change')}"
        hint = f"@{commit or 'COMMIT'} instead of the name"
    yield Problem(f"not pinned: {message}", Location(cut(str(ref))), f"pin it: {hint}")


@check("LC605", "unpinned-base", "config", floor=Severity.NOTE,
       hint="set revision to the commit that it was trained on")  # fmt: skip
def unpinned_base(case: Case) -> Problems:
    """The config names a Hub repository as the base, but no revision.

    A base that is updated under the same name silently gets the adapter of the old one. PEFT never writes a revision,
    so this runs only with a policy's ``require_pinned`` or with ``--select LC605``.
    """
    base, revision = case.config.base_model_name_or_path, case.config.revision
    is_repository = base and base.count("/") == 1 and base[-1] != "/" and not _is_folder(base)
    if is_repository and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        named = f"the base's revision {cut(revision)} is not pinned to a commit" if revision else ""
        yield Problem(named or "the base has no pinned revision", Location(CONFIG, "revision"))


@check("LC606", "base-unclear", "config", floor=Severity.NOTE,
       hint="`lora-cli repair --base-name ORG/NAME` writes the base's name into a copy")  # fmt: skip
def base_unclear(case: Case) -> Problems:
    """``base_model_name_or_path`` is empty, a path of the machine that it was trained on, or a quantised copy.

    ``AutoPeftModel``, vLLM's resolver and readers look for the base by this name. On other machines a path does not
    exist, and a quantised copy (``…-bnb-4bit``) has a different name from the served base.
    """
    base, hint = case.config.base_model_name_or_path, ""
    cached = cached_repository(base or "")
    if not base:
        wrapped = case.config.base_class == "PeftModel"
        message = (
            f"no base is set{', and the adapter was added to a PeftModel: it is wrapped twice' if wrapped else ''}"
        )
    elif cached:
        message = f"the base is in a Hub cache of the machine that it was trained on: {cut(base)}"
        hint = f"it is {cached[0]} at commit {cached[1]}: write both instead"
    elif _is_folder(base):
        message = f"the base is a folder of the machine that it was trained on: {cut(base)}"
    elif re.search(QUANTISED, base):
        message = f"the base is {cut(base)}, a quantised copy: the served base has a different name"
    else:
        return
    yield Problem(message, Location(CONFIG, "base_model_name_or_path"), hint)


def _is_folder(base: str) -> bool:
    return base[0] in "/.~" or "\\" in base or base.partition("/")[0] in FOLDERS
