"""The model card beside an adapter's weights → ``Card``: the beginning of ``README.md``, and never more."""

from lora_cli.core.card import CARD_FILE, Card
from lora_cli.core.snapshot import Revision
from lora_cli.documents.model_card import parse_card
from lora_cli.errors import FormatError
from lora_cli.reading.headers import check_stand_in
from lora_cli.reading.ranges import read_range
from lora_cli.sources import Source

AFAR_CAP = 8 << 10
"""Bytes of a remote card: the front matter of nearly every one, and what tools write behind it."""

HERE_CAP = 64 << 10
"""Bytes of a card on this disk."""


def read_card(source: Source, revision: Revision, *, here: bool) -> Card | None:
    """The card of the adapter at ``revision``, None where there is none; with ``here`` its files are on this disk.

    What is wrong with it raises nothing: it stands in ``error``.

    Raises:
        LoraCliError: what the source raises.
    """
    file = revision.file(CARD_FILE)
    if file is None:
        return None
    if file.defect:
        return Card(error=f"{file.path}: {file.defect}")
    cap = HERE_CAP if here else AFAR_CAP
    data = read_range(source, revision, file, 0, cap if file.size is None else min(cap, file.size))
    try:
        check_stand_in(data, file)
    except FormatError as error:
        return Card(error=f"{file.path} {error.reason}")
    return parse_card(data, whole=len(data) < cap or len(data) == file.size, file=file.path)
