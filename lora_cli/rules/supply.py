"""LC6xx: the supply chain. What comes along with an adapter, and how firmly it is tied to what it claims to be."""

import re
import unicodedata
from collections.abc import Iterator

from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.core.reference import cached_repository
from lora_cli.core.text import cut, names
from lora_cli.rules.case import CONFIG_FILE, Case
from lora_cli.rules.rule import NotChecked, rule
from lora_cli.rules.templates import hostile_in
from lora_cli.rules.wording import MOST_PROBLEMS, grouped

LIBRARIES = frozenset({"transformers", "diffusers", "sentence_transformers", "peft", "torch", "timm"})
"""Where PEFT's ``auto_mapping`` may have the class of a base model from."""

COMMIT = re.compile(r"[0-9a-f]{40}")

QUANTISED = re.compile(r"-(bnb-[48]bit|AWQ|GPTQ(-Int[48])?|GGUF)$", re.IGNORECASE)

FOLDERS = frozenset({"model", "models", "ckpt", "ckpts", "checkpoint", "checkpoints", "output", "outputs"})
"""What people call a folder of models; no organisation of the Hub that publishes any."""

LONGEST_TEMPLATES = 1 << 20
"""Characters of all chat templates of one adapter together: a long one has twenty thousand."""

BEYOND = "there are more bytes or files beside the weights than any adapter has, and a template may not be read"

LEAST_COUNTED = 1024
"""So many characters a shorter one counts for, so that there are not many of them."""

WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")}
)
WINDOWS_FORBIDDEN = frozenset('<>:"|?*\\')
LONGEST_NAME_BYTES = 255


@rule("LC601", "names-code", Severity.WARNING, needs=("companions",))
def names_code(case: Case) -> Iterator[Problem]:
    """The adapter comes with Python code, or names classes for a loader to import.

    *Why is this bad?* An adapter is numbers and a config. With ``trust_remote_code``, or through
    ``AutoPeftModel`` and its ``auto_mapping``, what is named here is imported and run.

    *Fix*: take the code and the ``auto_map`` out; nothing that serves LoRA needs them.
    """
    companions, config = case.evidence.companions, case.adapter.config
    assert companions is not None
    shipped = [file.path for file in case.adapter.files if file.path.endswith((".py", ".pyc", ".so", ".dll"))]
    if shipped:
        yield Problem(
            f"it comes with code: {names(shipped)}",
            Location(cut(shipped[0])),
            "nothing that serves LoRA needs it: leave it out with --exclude, and never set trust_remote_code",
        )
    hint = "take it out: with trust_remote_code a loader would import what it names"
    for where, named in list(companions.code.items())[:MOST_PROBLEMS]:
        yield Problem(f"classes to import are named: {named}", Location(where), hint)
    if config is not None and config.unknown.get("auto_map"):
        yield Problem("classes to import are named", Location(CONFIG_FILE, "auto_map"), hint)
    if config is not None and config.megatron_config and config.megatron_core not in {None, "megatron.core"}:
        yield Problem(
            f"PEFT would import {cut(repr(config.megatron_core))} to load it",
            Location(CONFIG_FILE, "megatron_core"),
            "Megatron's is megatron.core: take megatron_core and megatron_config out",
        )
    library = (config.auto_mapping or {}).get("parent_library") if config is not None else None
    if library is not None and (not isinstance(library, str) or library.partition(".")[0] not in LIBRARIES):
        yield Problem(
            f"AutoPeftModel would import {cut(repr(library))} to load it",
            Location(CONFIG_FILE, "auto_mapping"),
            f"the class of a base model is from one of {', '.join(sorted(LIBRARIES))}",
        )


@rule("LC602", "hostile-template", Severity.ERROR, needs=("companions",))
def hostile_template(case: Case) -> Iterator[Problem | NotChecked]:
    """A chat template has what no template needs: a way to Python's internals, other templates, endless loops.

    Templates are read here, never rendered; of all together a million characters are searched.

    *Why is this bad?* An engine renders the template for each request. What leaves Jinja's sandbox runs as the
    server; what does not may still hang it.

    *Fix*: serve with the base model's own template, and tell whoever published this one.
    """
    companions = case.evidence.companions
    assert companions is not None
    for path, reason in companions.unread.items():
        if path in companions.beyond:
            continue
        yield NotChecked(f"{cut(path)} {cut(reason)}: whether its chat template is harmless is not known")
    said, left = [(BEYOND, path) for path in companions.beyond], LONGEST_TEMPLATES
    for where, template in companions.templates.items():
        if len(template) > left:
            told = f"the chat templates have over {LONGEST_TEMPLATES} characters, and what goes beyond is not searched"
            said.append((told, where))
            continue
        left -= max(len(template), LEAST_COUNTED)
        said += [(f"a chat template {what}: {cut(found)!r}", where) for what, found in hostile_in(template)]
    hint = "serve with the base model's own template (--chat-template), and report this one"
    yield from grouped(said, "", "template", hint)


@rule("LC603", "unsafe-name", Severity.WARNING)
def unsafe_name(case: Case) -> Iterator[Problem]:
    """A file's name is not safe on every platform: reserved, forbidden, too long, or the same as another's.

    *Why is this bad?* Copied to Windows, macOS, a bucket or a ConfigMap it fails, or overwrites another file.

    *Fix*: rename the file.
    """
    said = [(reason, file.path) for file in case.adapter.files if (reason := _unsafe(file.path))]
    seen: dict[str, str] = {}
    for file in case.adapter.files:
        folded = unicodedata.normalize("NFC", file.path).casefold()
        if folded in seen:
            said.append((f"is the same as {cut(seen[folded])} where case or accents do not count", file.path))
        seen.setdefault(folded, file.path)
    yield from grouped(
        ((f"a file's name {reason}", path) for reason, path in said),
        "",
        "file",
        "rename it, or leave it out with --exclude",
    )


def _unsafe(path: str) -> str:
    for part in path.split("/"):
        if not part.isprintable():
            return "holds characters that do not show"
        if WINDOWS_FORBIDDEN & set(part):
            return "holds characters that Windows forbids"
        if part.partition(".")[0].lower() in WINDOWS_DEVICES:
            return "is one that Windows keeps for devices"
        if part.endswith((".", " ")) or part.startswith(("-", " ")):
            return "begins with - or a space, or ends in a dot or a space"
        if len(part.encode(errors="surrogateescape")) > LONGEST_NAME_BYTES:
            return f"is longer than {LONGEST_NAME_BYTES} bytes"
    return ""


@rule("LC604", "unpinned-revision", Severity.NOTE)
def unpinned_revision(case: Case) -> Iterator[Problem]:
    """The reference names a branch or a tag of a repository, or nothing: what it means can change at any time.

    *Why is this bad?* What was validated today is not what an engine loads tomorrow, and whoever takes the account over
    decides what that is.

    *Fix*: name the commit (``org/name@<40 hex digits>``), or pin it in a lock.
    """
    ref = case.evidence.ref
    if ref is not None and ref.scheme == "hf" and not ref.pinned:
        meant = f"{ref.revision}, which can move" if ref.revision else "the default branch, which moves"
        commit = f"@{case.evidence.commit}" if case.evidence.commit else "@COMMIT"
        yield Problem(
            f"the reference means {cut(meant)}",
            Location(cut(str(ref))),
            f"pin it: append {commit}" if ref.revision is None else f"pin it: {commit} instead of the name",
        )


@rule("LC605", "unpinned-base", Severity.NOTE, needs=("config",))
def unpinned_base(case: Case) -> Iterator[Problem]:
    """The config names the base as a repository of the Hub, and no revision of it.

    *Why is this bad?* A base that is updated under the same name gets the adapter of the old one, silently.

    *Fix*: write the commit that it was trained on into ``revision``.
    """
    config = case.config
    base = config.base_model_name_or_path
    if base and _is_repository(base) and not COMMIT.fullmatch(config.revision or ""):
        yield Problem(
            f"the base's revision {cut(config.revision)} is no commit: what it means can change"
            if config.revision
            else "no commit of the base is named: what its name means can change",
            Location(CONFIG_FILE, "revision"),
            "write the commit that it was trained on into revision",
        )


@rule("LC606", "base-unclear", Severity.NOTE, needs=("config",))
def base_unclear(case: Case) -> Iterator[Problem]:
    """``base_model_name_or_path`` is empty, a path of the machine that it was trained on, or a quantised copy.

    *Why is this bad?* ``AutoPeftModel``, vLLM's resolver and readers look for the base by this name. Elsewhere a path
    leads nowhere, and a quantised copy (``…-bnb-4bit``) has another name than the base that is served.

    *Fix*: ``lora-cli repair --base-name ORG/NAME`` writes the base's name into a copy.
    """
    config = case.config
    base = config.base_model_name_or_path
    cached = cached_repository(base or "")
    hint = "`lora-cli repair --base-name ORG/NAME` writes the base's name into a copy"
    if not base:
        wrapped = (config.auto_mapping or {}).get("base_model_class") == "PeftModel"
        said = "no base is named" + (", and it was put on a PeftModel: the adapter is wrapped twice" if wrapped else "")
    elif cached:
        said = f"the base is in a Hub cache of the machine that it was trained on: {cut(base)}"
        hint = f"it is {cached[0]} at commit {cached[1]}: write the two instead"
    elif base[0] in "/.~" or "\\" in base or base.partition("/")[0] in FOLDERS:
        said = f"the base is a folder of the machine that it was trained on: {cut(base)}"
    elif QUANTISED.search(base):
        said = f"the base is {cut(base)}, a quantised copy: the base that is served has another name"
    else:
        return
    yield Problem(said, Location(CONFIG_FILE, "base_model_name_or_path"), hint)


def _is_repository(name: str) -> bool:
    """Whether it is a repository of the Hub, and no path."""
    return name.count("/") == 1 and name[0] not in "/.~" and name[-1] != "/" and name.partition("/")[0] not in FOLDERS
