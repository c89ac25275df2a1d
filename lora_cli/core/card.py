"""What a model card says. The keys are the Hub's (``huggingface_hub``'s ``ModelCardData``)."""

from dataclasses import dataclass, field

from lora_cli.core.json_schema import EXCLUDED

CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class Card:
    """The front matter of README.md. What it does not say is empty."""

    license: str = ""
    license_name: str = ""
    license_link: str = ""
    library_name: str = ""
    pipeline_tag: str = ""
    base_model: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    text: str = field(default="", metadata=EXCLUDED)
    """What stands behind the front matter, as far as it was read."""
    error: str = ""
    """Why the front matter was not read; empty where it was."""


WORDS = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
LISTS = ("base_model", "language", "datasets", "tags")
