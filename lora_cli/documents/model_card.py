"""A model card: the YAML at the front of a ``README.md``. Untrusted, and bounded in every way.

YAML is read by ``documents.yaml_nodes``: no tags, no merge keys, no deep nesting, and aliases that grow are refused, so
that a card can neither run code nor fill memory.
"""

import codecs
from dataclasses import dataclass

import yaml

from lora_cli.documents.yaml_nodes import compose, plain
from lora_cli.errors import UsageError

CARD_FILE = "README.md"
WORDS = ("license", "license_name", "license_link")
"""Keys of a model card, as the Hub has them (``huggingface_hub``'s ``ModelCardData``)."""

LONGEST = 200
"""Characters of one word of a card; licences and the names of models have far fewer."""

MOST = 100
"""Words of one list; longer lists are cut."""


@dataclass(frozen=True, slots=True)
class Card:
    """What the front matter of README.md says of licence and base. What it does not say is empty."""

    license: str = ""
    license_name: str = ""
    license_link: str = ""
    base_model: tuple[str, ...] = ()
    error: str = ""
    """Why the front matter was not read; empty if it was."""


def parse_card(data: bytes, *, whole: bool, file: str = CARD_FILE) -> Card:
    """The card in ``data``, which are the first bytes of a file, or, if ``whole``, all of them.

    Total: what is wrong with it is in ``error``.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError:
        return Card(error=f"{file} is not text in UTF-8")
    front, error = _front_matter(text.removeprefix("\ufeff"), file, len(data), whole=whole)
    if not front or error:
        return Card(error=error)
    try:
        root = compose(front, file)
    except UsageError as wrong:
        return Card(error=wrong.message)
    if not isinstance(root, yaml.MappingNode):
        return Card(error=f"{file}: the front matter is not a mapping")
    entries = {key.value: _words(value) for key, value in root.value if key.value in {*WORDS, "base_model"}}
    words = {key: next(iter(entries.get(key, ())), "") for key in WORDS}
    return Card(**words, base_model=tuple(entries.get("base_model", ())))


def _front_matter(text: str, file: str, size: int, *, whole: bool) -> tuple[str, str]:
    """The front matter, and what is wrong. A line ``---`` begins it and one ends it."""
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    if first == len(lines) or lines[first].rstrip() != "---":
        return "", ""
    for i in range(first + 1, len(lines)):
        if lines[i].rstrip() == "---":
            # Empty lines stand for what comes before, so that an error names the line of the file.
            return "\n" * (first + 1) + "".join(lines[first + 1 : i]), ""
    if whole:
        return "", f"{file}: the front matter starts with --- but does not end"
    return "", f"{file}: the front matter does not end within the first {size} bytes, which is the limit"


def _words(node: yaml.Node) -> list[str]:
    """The words of a list, or the one that is in its place; deeper nesting is ignored.

    A word is as it is written: ``no`` is a language here, and 1.0 the name of a licence.
    """
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    scalars = (one for one in nodes[:MOST] if isinstance(one, yaml.ScalarNode) and plain(one) is not None)
    return [word for one in scalars if (word := one.value.strip()[:LONGEST])]
