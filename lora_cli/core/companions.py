"""The files next to an adapter's weights, parsed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CARD_FILE = "README.md"
WORDS = ("license", "license_name", "license_link")
"""Keys of a model card, as the Hub has them (``huggingface_hub``'s ``ModelCardData``)."""


@dataclass(frozen=True, slots=True)
class Companions:
    """Read, and never rendered, imported or run.

    ``templates`` maps where a chat template is (``"tokenizer_config.json: chat_template"``) to its text, ``code`` where
    classes are named that a loader would import to what is named there. ``added_tokens`` are the tokens of
    ``added_tokens.json`` with their ids, None without that file. ``unread`` says of a file why it could not be read,
    ``beyond`` are those of which there is more than any adapter has. ``pickles`` maps each pickle next to the weights
    to what is wrong with it, or to nothing; ``pickles_left`` says which could not be looked at.
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
