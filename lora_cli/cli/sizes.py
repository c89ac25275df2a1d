"""Sizes on the command line."""

from lora_cli.core.units import parse_size
from lora_cli.errors import UsageError


def size_of(text: str | None, flag: str) -> int | None:
    """Bytes that a flag says, None where it is not given. Raises ``UsageError``."""
    if text is None:
        return None
    try:
        found = parse_size(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
    if not 0 < found <= 1 << 60:
        raise UsageError(f"{flag} {text[:60]}: must be above 0", hint=f"{flag} 4GiB")
    return found
