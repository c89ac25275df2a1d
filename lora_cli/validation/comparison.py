"""Another adapter beside the one that is inspected: opened where it lies, and compared with it."""

from lora_cli.core.addresses import without_secrets
from lora_cli.core.base_model import BaseModel
from lora_cli.core.comparison import Comparison
from lora_cli.errors import Refused
from lora_cli.reading.adapter import Opened, read_adapter
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.validation.spectrum import unreadable
from lora_cli.validation.validate import in_place, ref_of


def open_other(text: str, settings: Settings) -> Opened:
    """The adapter that ``text`` names, from here or from its header alone.

    Raises:
        Refused: it is there, and its config or its weights cannot be read.
        LoraCliError: what its source gives reason to.
    """
    ref = ref_of(text)
    source = in_place(ref, settings, Sources(settings).of(ref))
    revision = source.resolve(ref)
    name = without_secrets(text)
    adapter = read_adapter(source, revision, name, settings.max_header_bytes)
    for error in (adapter.config_error, adapter.weights_error):
        if error is not None:
            raise Refused(f"--diff {name}: {error.message}", hint=error.hint)
    if not adapter.weight_files and not adapter.unread:
        raise Refused(f"--diff {name} holds no weights of an adapter", hint="name the folder that they are in")
    return Opened(source, revision, adapter)


def compare_in_place(one: Opened, other: Opened, base: BaseModel | None) -> Comparison:
    """How ``other`` differs from ``one``; of what is not on this disk config and header alone.

    Raises:
        LoraCliError: what the sources raise.
    """
    from lora_cli.reading.comparison import compare

    unread, hint = "", ""
    for side, opened in (("A", one), ("B", other)):
        if not unread and (found := unreadable(opened)) is not None:
            unread, hint = f"of {side}, {found[0]}", found[1]
    return compare(one, other, base, unread, hint)
