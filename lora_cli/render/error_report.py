"""Why something failed, in the reports of commands."""

from dataclasses import dataclass

from lora_cli.errors import LoraCliError


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What happened, and what to try."""

    message: str
    hint: str


def error_report(error: LoraCliError | None) -> ErrorReport | None:
    """What the report says of an error; None where there is none."""
    return None if error is None else ErrorReport(error.message, error.hint)
