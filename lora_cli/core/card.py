"""What a model card says. The keys are the Hub's (``huggingface_hub``'s ``ModelCardData``)."""

from dataclasses import dataclass

CARD_FILE = "README.md"


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
