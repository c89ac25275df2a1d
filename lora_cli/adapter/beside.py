"""The small files next to an adapter's weights → ``Companions`` and ``Card``, within limits; no code is run."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from lora_cli import parse
from lora_cli.adapter.byte_ranges import check_stand_in, read_beginning
from lora_cli.adapter.reading import call_in_threads, weights_file
from lora_cli.documents.model_card import CARD_FILE, Card
from lora_cli.errors import FormatError, TooLarge
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files
from lora_cli.text import shown

LOCAL_CAP = 8 << 20
"""Bytes of all such local files: the added tokens of large vocabularies have some megabytes."""

REMOTE_CAP = 32 << 10
"""Bytes of one remote file: remote adapters are checked with a few kilobytes."""

CARD_REMOTE_CAP, CARD_LOCAL_CAP = 8 << 10, 64 << 10
"""Bytes of a model card: enough for the front matter of nearly all."""

MOST_FILES = 64
"""Such files that are read: a tokenizer has five, and one or two templates."""

ADDED_TOKENS = "added_tokens.json"
READ = frozenset({
    *("tokenizer_config.json", ADDED_TOKENS, "chat_template.jinja", "chat_template.json", "processor_config.json"),
    *("config.json", "preprocessor_config.json", "generation_config.json"),
})  # fmt: skip
"""Files with chat templates, and configs that transformers reads next to an adapter and that may name classes to import
(``CODE_FIELDS``)."""
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate")
MORE_TEMPLATES = "additional_chat_templates/"

_PACKED = r"\.(gz|z|bz2|xz|lzma|lz4|zst|tar)"
_CONTAINER = r"\.(npy|npz|nemo|joblib|jbl|distcp|metadata)"
_PICKLE = r"\.(bin|pt|pth|ckpt|th|torch|pkl|pickle|p|pk|pckl|pcl|cpkl|dill|sav)"
PICKLED = re.compile(rf"({_PICKLE}|{_CONTAINER})({_PACKED}){{0,4}}$", re.IGNORECASE | re.ASCII)
"""Endings of files for ``torch.load``, ``pickle.load`` and the like, and of what may contain pickles."""
OPAQUE = re.compile(rf"({_CONTAINER}|{_PACKED})$", re.IGNORECASE | re.ASCII)
"""Endings of those in which pickles are not looked for."""


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


def read_companions(files: Files, *, threads: int = 1) -> Companions:
    """The files next to an adapter's weights.

    Away from this disk ``threads`` are read at once; of local files one at a time is in memory. Errors in a file are
    not raised: they are in ``unread``.

    Raises:
        LoraCliError: what the source raises.
    """
    templates: dict[str, str] = {}
    code: dict[str, str] = {}
    added_tokens: Mapping[str, int] | None = None
    wanted: list[RemoteFile] = []
    beyond: list[str] = []
    left, most = LOCAL_CAP, LOCAL_CAP if files.on_disk else REMOTE_CAP
    for file in files:
        if file.path in READ or (file.path.startswith(MORE_TEMPLATES) and file.path.endswith(".jinja")):
            size = file.size or 0 if files.on_disk and not file.defect else 0
            if len(wanted) == MOST_FILES or size > left:
                beyond.append(file.path)
            else:
                wanted.append(file)
                left -= size
    unread = dict.fromkeys(beyond, f"is over the limit of {LOCAL_CAP} bytes in {MOST_FILES} files")

    def text_of(file: RemoteFile) -> bytes | FormatError:
        try:
            text = read_beginning(files, file, most + 1) if file.defect or (file.size or 0) <= most else b""
        except FormatError as error:
            return error
        size = file.size or len(text)
        return text if size <= most else FormatError(f"has over {most} bytes", where=file.path)

    parts = [partial(text_of, file) for file in wanted]
    texts = (part() for part in parts) if files.on_disk else call_in_threads(threads, *parts)
    for file, text in zip(wanted, texts, strict=True):
        try:
            if isinstance(text, FormatError):
                raise text
            if file.path == ADDED_TOKENS:
                added_tokens = parse.map_of(parse.integer)(parse.json_value(text, file.path), file.path)
            elif file.path.endswith(".jinja"):
                templates[file.path] = text.decode()
            else:
                check_stand_in(text, file)
                fields = parse.json_object(text, file.path)
                templates |= dict(_templates(fields.get("chat_template"), f"{file.path}: chat_template"))
                named = {name: shown(fields[name]) for name in CODE_FIELDS if fields.get(name)}
                code |= {f"{file.path}: {name}": classes for name, classes in named.items()}
        except UnicodeDecodeError:
            unread[file.path] = "is not text in UTF-8"
        except FormatError as error:
            unread[file.path] = error.reason
            beyond += [file.path] if isinstance(error, TooLarge) else []
    return Companions(templates, code, added_tokens, unread, beyond, *_pickles(files))


def _pickles(files: Files) -> tuple[dict[str, str], str]:
    """What is wrong with the files with a pickle's name, by path; and which could not be looked into, in words."""
    weights, steps = weights_file(files), count()
    named = [file for file in files if PICKLED.search(file.path) and file != weights and not file.defect]
    left = [file.path for file in named if OPAQUE.search(file.path) or file.size is None]
    named = [file for file in named if file.path not in left]
    beyond = f"is not checked: the folder has over {MOST_FILES} files with a pickle's name"
    wrong = {file.path: beyond for file in named[MOST_FILES:]}
    for file in named[:MOST_FILES]:
        from lora_cli.adapter.torchfile import check_pickle

        try:
            if not check_pickle(files, file, steps):
                left.append(file.path)
        except FormatError as error:
            wrong[file.path] = error.reason
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return wrong, f"{left[0]}{more} may contain pickles, which are not looked for in such files" if left else ""


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


def read_card(files: Files) -> Card | None:
    """The model card, None if there is none.

    Errors in it are not raised: they are in ``error``.

    Raises:
        LoraCliError: what the source raises.
    """
    from lora_cli.documents.model_card import parse_card

    file, cap = files.file(CARD_FILE), CARD_LOCAL_CAP if files.on_disk else CARD_REMOTE_CAP
    if file is None:
        return None
    try:
        data = read_beginning(files, file, cap)
        check_stand_in(data, file)
    except FormatError as error:
        return Card(error=f"{file.path} {error.reason}")
    return parse_card(data, whole=len(data) < cap or len(data) == file.size, file=file.path)
