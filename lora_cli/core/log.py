"""The loggers of our modules: what they say is of others, and goes to a terminal or to the log of a CI server."""

import logging

from lora_cli.core.text import harmless
from lora_cli.redaction import redact


def logger(name: str) -> logging.Logger:
    """The logger of a module, whose records hold nothing that a terminal would obey, and no secret."""
    made = logging.getLogger(name)
    made.addFilter(_told)
    return made


def _told(record: logging.LogRecord) -> bool:
    record.msg, record.args = harmless(redact(record.getMessage())), ()
    return True
