"""A model card: the YAML at the front of a ``README.md``. Untrusted: no tags, no aliases, no deep nesting."""

import codecs
import re
from dataclasses import dataclass

from lora_cli.errors import UsageError

CARD_FILE = "README.md"

LONGEST, MOST = 200, 100
"""Characters of one word of a card, and words of one list: longer ones are cut."""


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
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=whole).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return Card(error=f"{file} is not text in UTF-8")
    begin = re.match(r"\s*^---[ \t\r]*\n", text, re.MULTILINE)
    if begin is None:
        return Card()
    end = re.compile(r"^---\s*?$", re.MULTILINE).search(text, begin.end())
    if end is None:
        return Card(error=f"{file}: the front matter starts with --- but does not end in the {len(data)} bytes read")
    from lora_cli.documents.document import parse_yaml

    try:
        # Empty lines stand for what comes before, so that an error names the line of the file.
        front = parse_yaml("\n" * begin[0].count("\n") + text[begin.end() : end.start()], file).value
    except UsageError as wrong:
        return Card(error=wrong.message)
    if not isinstance(front, dict):
        return Card(error=f"{file}: the front matter is not a mapping")
    words = {key: _words(front.get(key)) for key in ("license", "license_name", "license_link", "base_model")}
    models = tuple(words.pop("base_model"))
    return Card(**{key: found[0] for key, found in words.items() if found}, base_model=models)


def _words(value: object) -> list[str]:
    """The words of a list, or the one that is in its place; deeper nesting is ignored."""
    listed = value[:MOST] if isinstance(value, list) else [value]
    texts = (one.strip()[:LONGEST] for one in listed if isinstance(one, str))
    return [text for text in texts if text not in {"", "~", "null"}]
