"""The loggers of our modules: what they say is of others, and goes to a terminal or to the log of a CI server."""

import logging
import traceback

from lora_cli.redaction import redact
from lora_cli.text import safe_lines


def logger(name: str) -> logging.Logger:
    """The logger of a module, whose records hold nothing that a terminal would obey, and no secret."""
    log = logging.getLogger(name)
    log.addFilter(_sanitize)
    return log


def log_to_stderr(level: str, form: str = "%(message)s") -> None:
    """Have the loggers of lora-cli write records of ``level`` and above to standard error, each in this ``form``."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(form))
    ours = logging.getLogger("lora_cli")
    ours.setLevel(level)
    ours.handlers = [handler]


def log_bug(log: logging.Logger, error: Exception) -> None:
    """Log where an unexpected ``error`` was raised, and not its message: who made the adapter may have made that."""
    where = "".join(traceback.format_tb(error.__traceback__))[-2000:]
    log.error("a bug of lora-cli: %s at\n%s", type(error).__name__, where)


def _sanitize(record: logging.LogRecord) -> bool:
    record.msg, record.args = safe_lines(redact(record.getMessage())), ()
    return True
