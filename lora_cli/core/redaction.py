"""What may hold a secret, taken out of a text that nobody wrote for reading: the traceback of a bug."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from lora_cli.redaction import redact

SHORTEST = 6
_SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?|SIGNATURE)$", re.IGNORECASE)
_SHAPES = (
    (re.compile(r"\b(Bearer|Basic)\s+[^\s'\",;]+", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"\bhf_[A-Za-z0-9_]{6,}"), "***"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/@'\"]+@", re.IGNORECASE), r"\1***@"),
    (re.compile(r"(\bhttps?://(?:[^\s?'\"<>:]|:(?!//))++\?)[^\s'\"<>]+", re.IGNORECASE), r"\1***"),
)


def is_secret(name: str) -> bool:
    """Whether a variable or an option of that name holds a secret."""
    return bool(_SECRET_NAME.search(name))


def redacted(text: str, environ: Mapping[str, str]) -> str:
    """``text`` without the values of variables that are named as secrets are, and without what looks like one.

    That is a token, an ``Authorization``, a user in an address and a query, which may be a signature.
    """
    values = {value.strip() for name, value in environ.items() if is_secret(name)}
    for value in sorted((value for value in values if len(value) >= SHORTEST), key=len, reverse=True):
        text = text.replace(value, "***").replace(quote(value, safe=""), "***")
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return redact(text)
