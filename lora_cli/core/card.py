"""A model card: the YAML at the front of a ``README.md``, and the text behind it. Untrusted, and bounded in every way.

The keys are the Hub's (``huggingface_hub``'s ``ModelCardData``). YAML is read by ``core.document``: no tags, no merge
keys, no deep nesting, and aliases that grow are refused, so that a card can neither run code nor fill memory.
"""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_cli.errors import UsageError

if TYPE_CHECKING:
    from lora_cli.core.document import Node

CARD_FILE = "README.md"

LONGEST = 200
"""Characters of one word of a card; licences, tags and the names of models have far fewer."""

MOST = 100
"""Words of one list; longer lists are cut."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says; what it does not say is empty.

    ``text`` is what stands behind the front matter, as far as it was read. ``error`` says why the front matter could
    not be read, if there is any.
    """

    license: str = ""
    license_name: str = ""
    license_link: str = ""
    library_name: str = ""
    pipeline_tag: str = ""
    base_model: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    text: str = ""
    error: str = ""


WORDS = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
LISTS = ("base_model", "language", "datasets", "tags")


def parse_card(data: bytes, *, whole: bool, file: str = CARD_FILE) -> Card:
    """The card in ``data``, which are the first bytes of a file, or, if ``whole``, all of them.

    Total: what is wrong with it stands in ``error``.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError:
        return Card(error=f"{file} is not text in UTF-8")
    front, body, error = _parted(text.removeprefix("\ufeff"), file, len(data), whole=whole)
    if not front or error:
        return Card(text=body, error=error)
    from lora_cli.core.document import parse_document

    try:
        root = parse_document(front, file)
    except UsageError as wrong:
        return Card(text=body, error=wrong.message)
    if root.kind != "mapping":
        return Card(text=body, error=f"{file}: the front matter is no mapping")
    said: dict[str, Any] = {key: _word(root.entries, key) for key in WORDS}
    said |= {key: _list(root.entries, key) for key in LISTS}
    return Card(**said, text=body)


def _parted(text: str, file: str, size: int, *, whole: bool) -> tuple[str, str, str]:
    """Front matter, the text behind it, and what is wrong. A line ``---`` begins the front matter and one ends it."""
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    if first == len(lines) or lines[first].rstrip() != "---":
        return "", text, ""
    for i in range(first + 1, len(lines)):
        if lines[i].rstrip() == "---":
            # Empty lines stand for what comes before, so that an error names the line of the file.
            return "\n" * (first + 1) + "".join(lines[first + 1 : i]), "".join(lines[i + 1 :]), ""
    if whole:
        return "", text, f"{file}: the front matter, which begins with ---, does not end"
    return "", text, f"{file}: the front matter does not end within the first {size} bytes, which are all that is read"


def _word(entries: "Mapping[str, Node]", key: str) -> str:
    """A plain value, as it is written: ``no`` is a language here, and 1.0 the name of a licence."""
    node = entries.get(key)
    return next(iter(_words(node)), "") if node is not None else ""


def _list(entries: "Mapping[str, Node]", key: str) -> tuple[str, ...]:
    node = entries.get(key)
    return tuple(_words(node)) if node is not None else ()


def _words(node: "Node") -> list[str]:
    """The words of a list, or the one that stands in its place; whatever is nested deeper is none."""
    nodes = (node,) if node.kind == "scalar" else node.items
    found = [one.text.strip()[:LONGEST] for one in nodes[:MOST] if one.kind == "scalar" and one.scalar is not None]
    return [word for word in found if word]
