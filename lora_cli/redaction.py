"""Secrets that no message and no log may repeat: tokens, keys, passwords. A server may say back what it was sent."""

import logging
import re
import traceback
from collections.abc import Iterator, Mapping

from lora_cli.text import safe_lines

SHORTEST = 6
"""A shorter value is no secret: it would be found in any word."""

WINDOW = 12
"""How many characters in a row of a longer secret are taken for it: a server may repeat a part."""

_known: dict[str, frozenset[str]] = {}
"""Each secret with its parts."""

_OF_THE_HUB = r"\b(?:hf|api_org)_(?:(?:oauth|jwt)_[\w.-]{8,}|[A-Za-z0-9]{20,})"
_PASSWORDS = (
    (("@",), r"(?i)(\bhttps?:/{1,2})[^\s/@]{1,1024}@", r"\1***@"),
    (("@",), r"(?i)(\b[a-z][a-z0-9+.-]{1,15}:/{1,2})[^\s/:@\[]{0,400}:(?!\d{1,5}(?:[/?#]|\s|$))\S{1,1024}@", r"\1***@"),
)
_SHAPES = (
    (("hf_", "api_org_"), _OF_THE_HUB, "***"),
    (("ya29.", "eyJ"), r"\bya29\.[\w.-]{10,}|\beyJ[\w-]{10,}[\w.-]*", "***"),
    (("earer", "asic"), r"(?i)\b(bearer|basic)\s+(?=[^\s'\"]{0,200}[0-9+/=._~])[\w+/=.~-]{12,}", r"\1 ***"),
    (("Signature",), r"\b(Signature=)[0-9a-f]{16,}", r"\1***"),
    *_PASSWORDS,
    (("?", "&"), r"(?i)([?&][\w.-]{0,40}(?:sig|signature|token|key|password|secret|credential)=)[^\s&'\"]+", r"\1***"),
)
"""Words of which one must be there, what a secret looks like, and what is in its place."""

_SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?|SIGNATURE)$", re.IGNORECASE)
_IN_TRACEBACKS = (
    (re.compile(r"\b(Bearer|Basic)\s+[^\s'\",;]+", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"\bhf_[A-Za-z0-9_]{6,}"), "***"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/@'\"]+@", re.IGNORECASE), r"\1***@"),
    (re.compile(r"(\bhttps?://(?:[^\s?'\"<>:]|:(?!//))++\?)[^\s'\"<>]+", re.IGNORECASE), r"\1***"),
)
"""What besides looks like a secret in a text of another program: the traceback of a bug."""


def remember(secret: str) -> None:
    """Says that ``secret`` is one from now on."""
    if len(secret) < SHORTEST:
        return
    plain = secret.casefold()
    _known[secret] = frozenset(_windows(plain, min(len(plain), WINDOW)))


def forget() -> None:
    """Nothing is known to be a secret any more."""
    _known.clear()


def without_tokens(text: str) -> str:
    """``text`` without what has the shape of a token of the Hub."""
    return re.sub(_OF_THE_HUB, "***", text, flags=re.ASCII)


def without_secrets(text: str) -> str:
    """A reference without a user in front of the host, without a query (either may hold a password), without tokens."""
    text = _without(_PASSWORDS, without_tokens(text))
    scheme, _, rest = text.partition("://")
    if not rest:
        return re.sub(r"^[^/@:]+:[^/@]*@", "***@", text)
    host, slash, path = rest.partition("?")[0].partition("/")
    user, _, name = host.rpartition("@")
    # hf://NAME@REVISION and abfs://CONTAINER@HOST have no user.
    bare = ":" not in user and scheme.lower() in {"hf", "az", "abfs", "abfss"}
    return f"{scheme}://{host if bare else name}{slash}{path}"


def redact(text: str) -> str:
    """``text`` as it may be shown: without what is known to be a secret, and without what looks like one."""
    text = _without(_SHAPES, text)
    if _known:
        for secret in _known:
            text = text.replace(secret, "***")
        parts = frozenset[str]().union(*_known.values())
        text = re.sub(r"\S{6,}", lambda found: "***" if _echoes(found[0], parts) else found[0], text)
    return text


def _without(shapes: tuple[tuple[tuple[str, ...], str, str], ...], text: str) -> str:
    for words, shape, instead in shapes:
        if any(word in text for word in words):
            text = re.sub(shape, instead, text, flags=re.ASCII)
    return text


def _windows(text: str, length: int) -> Iterator[str]:
    """Every ``length`` characters in a row of ``text``."""
    return (text[at : at + length] for at in range(len(text) - length + 1))


def _echoes(word: str, parts: frozenset[str]) -> bool:
    """Whether a part of a secret is in ``word``, in any of the forms that servers give a text."""
    from html import unescape
    from urllib.parse import unquote

    plain = re.sub(r"\\u00([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), word)
    forms, lengths = {word.casefold(), unquote(unescape(plain)).casefold()}, set(map(len, parts))
    return not all(parts.isdisjoint(_windows(form, length)) for length in lengths for form in forms)


def is_secret(name: str) -> bool:
    """Whether a variable or an option of that name holds a secret."""
    return bool(_SECRET_NAME.search(name))


def redacted(text: str, environ: Mapping[str, str]) -> str:
    """A traceback without the values of variables that are named as secrets are, and without what looks like one.

    That is a token, an ``Authorization``, a user in an address and a query, which may be a signature.
    """
    from urllib.parse import quote

    values = {value.strip() for name, value in environ.items() if is_secret(name)}
    for value in sorted((value for value in values if len(value) >= SHORTEST), key=len, reverse=True):
        text = text.replace(value, "***").replace(quote(value, safe=""), "***")
    for shape, instead in _IN_TRACEBACKS:
        text = shape.sub(instead, text)
    return redact(text)


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
