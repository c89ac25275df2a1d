"""How one version of a file on a web server is told from another, and held to while it is read.

A strong ETag names a version (RFC 9110, 8.8.3), and ``If-Match`` asks for it and no other. Without one, the time of
the last change has to do, with ``If-Unmodified-Since``, and else the size alone.
"""

import base64
import re
from collections.abc import Mapping

from lora_cli.errors import Changed

Headers = Mapping[str, str]

SETTLED_S = 2.0
"""A time of change has whole seconds: a file younger than that could change again and keep it."""

_STRONG = re.compile(r'"[!#-~]{1,512}"')
_WEAK = re.compile(r'W/"[!#-~]{1,512}"')
_DATE = re.compile(r"[A-Za-z]{3}, \d{2} [A-Za-z]{3} \d{4} \d{2}:\d{2}:\d{2} GMT", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Artifactory and Nexus; an object's own metadata behind a web address.
_DIGEST_HEADERS = ("X-Checksum-Sha256", "x-amz-meta-sha256", "x-goog-meta-sha256")


def pin_of(headers: Headers) -> str:
    """What the answer says that tells its version from others: ``etag "…"``, ``date …``, ``weak W/"…"`` or ""."""
    etag, date = headers.get("ETag", "").strip(), headers.get("Last-Modified", "").strip()
    if _STRONG.fullmatch(etag):
        return f"etag {etag}"
    if _DATE.fullmatch(date):
        return f"date {date}"
    return f"weak {etag}" if _WEAK.fullmatch(etag) else ""


def names_a_version(pin: str, headers: Headers) -> bool:
    """Whether the pin will have changed when the file has: it is an ETag, or a time that is past for good."""
    if not pin.startswith("date "):
        return pin.startswith("etag ")
    from email.utils import parsedate_to_datetime

    try:
        now, then = (parsedate_to_datetime(text) for text in (headers.get("Date", ""), pin.removeprefix("date ")))
        return (now - then).total_seconds() >= SETTLED_S
    except (ValueError, TypeError, OverflowError):
        return False


def conditions_of(pin: str) -> Headers:
    """The header that asks for this version only."""
    kind, _, value = pin.partition(" ")
    names = {"etag": "If-Match", "date": "If-Unmodified-Since"}
    return {names[kind]: value} if kind in names else {}


def check_pin(pin: str, headers: Headers, what: str) -> None:
    """Compares an answer's version with the listed one: not every server obeys a condition.

    Raises:
        Changed: it is another one.
    """
    found = pin_of(headers)
    if pin and found != pin:
        raise Changed(
            f"{what}: it is not the version that was listed any more ({found or 'unnamed'}, it was {pin})",
            hint="it changed at its origin, or several servers answer for it: run it again",
        )


def sha256_in(headers: Headers) -> str | None:
    """The sha256 of the whole file, where the answer says it: ``Repr-Digest`` (RFC 9530), or as repositories do."""
    if found := re.search(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):", headers.get("Repr-Digest", "")[:1000]):
        return base64.b64decode(found[1]).hex()
    said = (headers.get(name, "").strip().lower() for name in _DIGEST_HEADERS)
    return next((digest for digest in said if _SHA256.fullmatch(digest)), None)


def size_in(status: int, headers: Headers) -> int | None:
    """The size of the whole file in bytes; None where the answer does not say it."""
    if headers.get("Content-Encoding", "identity") != "identity":
        return None
    if status == 206:
        total = headers.get("Content-Range", "").rpartition("/")[2].strip()
    else:
        total = headers.get("Content-Length", "")
    return int(total) if re.fullmatch(r"\d{1,18}", total, re.ASCII) else None
