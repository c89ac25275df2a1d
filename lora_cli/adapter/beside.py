"""The small files next to an adapter's weights → ``Companions`` and ``Card``, within limits; no code is run."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from lora_cli.adapter.adapter import check_stand_in
from lora_cli.adapter.reading import call_in_threads, weights_file
from lora_cli.documents.model_card import CARD_FILE, Card
from lora_cli.errors import FormatError, TooLarge
from lora_cli.parse import integer, json_object, json_value, map_of
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files, read_beginning
from lora_cli.text import shown

CAP = 8 << 20
"""Bytes of all such files: the added tokens of large vocabularies have some megabytes."""

UNSIZED = CAP >> 6
"""Bytes of a file whose size its origin does not say."""

MOST_FILES = 64
"""Such files that are read: a tokenizer has five, and one or two templates."""

CARD_CAP = 32 << 10
"""Bytes of a model card: enough for the front matter."""

ADDED_TOKENS = "added_tokens.json"
READ = frozenset({
    *("tokenizer_config.json", ADDED_TOKENS, "chat_template.jinja", "chat_template.json", "processor_config.json"),
    *("config.json", "preprocessor_config.json", "generation_config.json"),
})  # fmt: skip
"""Files with chat templates, and configs that transformers reads next to an adapter and that may name classes to import
(``CODE_FIELDS``)."""
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate")
MORE_TEMPLATES = re.compile(r"additional_chat_templates/.*\.jinja", re.DOTALL)

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
    """The files next to an adapter's weights, of which ``threads`` are read at once.

    Errors in a file are not raised: they are in ``unread``.

    Raises:
        LoraCliError: what the source raises.
    """
    templates, code, unread, beyond, left = dict[str, str](), dict[str, str](), dict[str, str](), list[str](), CAP
    added_tokens: Mapping[str, int] | None = None
    wanted: list[tuple[RemoteFile, int]] = []
    for file in files:
        if file.path in READ or MORE_TEMPLATES.fullmatch(file.path):
            most = UNSIZED if file.size is None else file.size
            if len(wanted) < MOST_FILES and most <= left:
                wanted.append((file, most))
                left -= most
            else:
                beyond.append(file.path)
                unread[file.path] = f"is over the limit of {CAP} bytes in {MOST_FILES} files"

    def read(file: RemoteFile, most: int) -> bytes | FormatError:
        try:
            return read_beginning(files, file, most + 1)
        except FormatError as error:
            return error

    found = call_in_threads(threads, *(partial(read, *one) for one in wanted))
    for (file, most), data in zip(wanted, found, strict=True):
        try:
            if isinstance(data, FormatError):
                raise data
            if len(data) > most:
                raise TooLarge(f"has over {most} bytes")
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
    named = [file for file in files if PICKLED.search(file.path) and file != weights and not file.defect]
    for number, file in enumerate(named):
        from lora_cli.adapter.torchfile import check_pickle

        try:
            if OPAQUE.search(file.path) or file.size is None:
                left.append(file.path)
            elif number >= MOST_FILES:
                wrong[file.path] = f"is not checked: the folder has over {MOST_FILES} files with a pickle's name"
            elif not check_pickle(files, file, steps):
                left.append(file.path)
        except FormatError as error:
            wrong[file.path] = error.reason
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return wrong, f"{left[0]}{more} may contain pickles, which are not looked for in such files" if left else ""


def read_card(files: Files) -> Card | None:
    """The model card, None if there is none.

    Errors in it are not raised: they are in ``error``.

    Raises:
        LoraCliError: what the source raises.
    """
    from lora_cli.documents.model_card import parse_card

    if (file := files.file(CARD_FILE)) is None:
        return None
    try:
        data = read_beginning(files, file, CARD_CAP)
        check_stand_in(data, file)
    except FormatError as error:
        return Card(error=f"{file.path} {error.reason}")
    return parse_card(data, whole=len(data) < CARD_CAP or len(data) == file.size, file=file.path)
