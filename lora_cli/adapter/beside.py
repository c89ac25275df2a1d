"""The small files next to an adapter's weights → ``Companions`` and ``Card``, within limits; no code is run."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from lora_cli.adapter.adapter import check_stand_in
from lora_cli.adapter.reading import weights_file
from lora_cli.errors import FormatError, TooLarge, UsageError
from lora_cli.parse import integer, json_object, json_value, map_of
from lora_cli.sources.files import Files, read_beginning
from lora_cli.text import shown

CAP = 8 << 20
"""Bytes of all such files: the added tokens of large vocabularies have some megabytes."""

CARD_FILE, CARD_CAP = "README.md", 32 << 10
"""A model card, and its bytes that are read: enough for the front matter."""

LONGEST, MOST = 200, 100
"""Characters of one word of a card, and words of one list: longer ones are cut."""

ADDED_TOKENS = "added_tokens.json"
READ = frozenset({
    *("tokenizer_config.json", ADDED_TOKENS, "chat_template.jinja", "chat_template.json", "processor_config.json"),
    *("config.json", "preprocessor_config.json", "generation_config.json"),
})  # fmt: skip
"""Files with chat templates, and configs that transformers reads next to an adapter and that may name classes to import
(``CODE_FIELDS``)."""
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate")
MORE_TEMPLATES = re.compile(r"additional_chat_templates/.*\.jinja", re.DOTALL)

PICKLED = re.compile(
    r"\.(?:bin|pt|pth|ckpt|th|torch|pkl|pickle|p|pk|pckl|pcl|cpkl|dill|sav|(npy|npz|nemo|joblib|jbl|distcp|metadata))"
    r"((?:\.(?:gz|z|bz2|xz|lzma|lz4|zst|tar)){0,4})$",
    re.IGNORECASE | re.ASCII,
)
"""Endings of files for ``torch.load``, ``pickle.load`` and the like. The groups are those of what may contain pickles,
in which they are not looked for."""


@dataclass(frozen=True, slots=True)
class Companions:
    """Read, and never rendered, imported or run.

    ``templates`` maps where a chat template is (``"tokenizer_config.json: chat_template"``) to its text, ``code`` where
    classes are named that a loader would import to what is named there. ``added_tokens`` are the tokens of
    ``added_tokens.json`` with their ids, None without that file. ``unread`` says of a file why it could not be read,
    ``beyond`` are those of which there is more than any adapter has. ``pickles`` maps files with a pickle's name to
    what is wrong with them; ``pickles_left`` says which could not be looked into.
    """

    templates: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    added_tokens: Mapping[str, int] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    beyond: Sequence[str] = ()
    pickles: Mapping[str, str] = field(default_factory=dict)
    pickles_left: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """What the front matter of README.md says of licence and base. What it does not say is empty."""

    license: str = ""
    license_name: str = ""
    license_link: str = ""
    base_model: tuple[str, ...] = ()
    error: str = ""
    """Why the front matter was not read; empty if it was."""


def read_companions(files: Files) -> Companions:
    """The files next to an adapter's weights. Errors in a file are not raised: they are in ``unread``.

    Raises:
        LoraCliError: what the source raises.
    """
    templates, code, unread, beyond, left = dict[str, str](), dict[str, str](), dict[str, str](), list[str](), CAP
    added_tokens: Mapping[str, int] | None = None
    for file in (file for file in files if file.path in READ or MORE_TEMPLATES.fullmatch(file.path)):
        try:
            if (file.size or 0) > left or len(data := read_beginning(files, file, left + 1)) > left:
                raise TooLarge(f"is over the limit of {CAP} bytes for all such files")
            left -= len(data)
            if file.path.endswith(".jinja"):
                templates[file.path] = data.decode()
                continue
            check_stand_in(data, file)
            if file.path == ADDED_TOKENS:
                added_tokens = map_of(integer)(json_value(data, file.path), file.path)
                continue
            fields = json_object(data, file.path)
            templates |= dict(_templates(fields.get("chat_template"), f"{file.path}: chat_template"))
            code |= {f"{file.path}: {name}": shown(fields[name]) for name in CODE_FIELDS if fields.get(name)}
        except UnicodeDecodeError:
            unread[file.path] = "is not text in UTF-8"
        except FormatError as error:
            unread[file.path] = error.reason
            beyond += [file.path] if isinstance(error, TooLarge) else []
    return Companions(templates, code, added_tokens, unread, beyond, *_pickles(files))


def _templates(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Location and text of each chat template: a string, or a list or mapping of named ones (transformers)."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, Mapping) and isinstance(item.get("template"), str):
                yield f"{where}[{index}]", item["template"]
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, str):
                yield f"{where}.{name}", item


def _pickles(files: Files) -> tuple[dict[str, str], str]:
    """What is wrong with the files with a pickle's name, by path; and which could not be looked into, in words."""
    weights, steps, wrong, left = weights_file(files), count(), dict[str, str](), list[str]()
    for file in files:
        found = None if file.defect or file == weights else PICKLED.search(file.path)
        if found is None:
            continue
        from lora_cli.adapter.torchfile import check_pickle

        try:
            if any(found.groups()) or file.size is None or not check_pickle(files, file, steps):
                left.append(file.path)
        except FormatError as error:
            wrong[file.path] = error.reason
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return wrong, f"{left[0]}{more} may contain pickles, which are not looked for in such files" if left else ""


def read_card(files: Files) -> Card | None:
    """The model card, None if there is none. Errors in it are not raised: they are in ``error``.

    Raises:
        LoraCliError: what the source raises.
    """
    if (file := files.file(CARD_FILE)) is None:
        return None
    from lora_cli.documents.document import parse_yaml

    try:
        data = read_beginning(files, file, CARD_CAP)
        check_stand_in(data, file)
        text = data.decode("utf-8-sig", errors="replace")
        begin = re.match(r"\s*^---[ \t\r]*\n", text, re.MULTILINE)
        if begin is None:
            return Card()
        if (end := re.compile(r"^---\s*?$", re.MULTILINE).search(text, begin.end())) is None:
            return Card(error=f"{file.path}: the front matter does not end in the {len(data)} bytes read")
        front = parse_yaml(text[: end.start()], file.path).value
    except (FormatError, UsageError) as error:
        return Card(error=f"{file.path} {error.reason}" if isinstance(error, FormatError) else error.message)
    if not isinstance(front, dict):
        return Card(error=f"{file.path}: the front matter is not a mapping")
    words = {key: _words(front.get(key)) for key in ("license", "license_name", "license_link", "base_model")}
    models = tuple(words.pop("base_model"))
    return Card(**{key: found[0] for key, found in words.items() if found}, base_model=models)


def _words(value: object) -> list[str]:
    """The words of a list, or the one that is in its place; deeper nesting is ignored."""
    listed = value[:MOST] if isinstance(value, list) else [value]
    texts = (one.strip()[:LONGEST] for one in listed if isinstance(one, str))
    return [text for text in texts if text not in {"", "~", "null"}]
