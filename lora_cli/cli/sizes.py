"""Sizes and durations on the command line."""

from lora_cli.core.units import parse_duration, parse_size
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


def seconds(text: str, flag: str, hint: str = "write 30s, 10m or 1h") -> float:
    """Seconds that a flag says. Raises ``UsageError``."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}", hint=hint) from error
