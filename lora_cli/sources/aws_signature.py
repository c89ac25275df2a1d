"""Signature Version 4: who asks S3, in each request."""

import functools
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from lora_cli.redaction import remember
from lora_cli.sources.aws import Keys

_EMPTY = hashlib.sha256(b"").hexdigest()


def object_url(base: str, bucket: str, key: str, *, in_host: bool = False) -> str:
    """The address of an object at ``base``; with ``in_host`` the bucket is in its name already, else in the path."""
    path = key if in_host else f"{bucket}/{key}"
    return f"{base.rstrip('/')}/{quote(path, safe='/-_.~')}"


def signed(
    method: str, url: str, headers: Mapping[str, str], keys: Keys, region: str, now: datetime | None = None
) -> Mapping[str, str]:
    """``headers`` of a GET or HEAD of ``url``, and those that sign it for S3 in ``region``.

    The query of ``url`` has its names in order, and everything in it is encoded.
    As "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)" of the S3 API reference says.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    parts, day = urlsplit(url), stamp[:8]
    sent = {**headers, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
    sent |= {"x-amz-security-token": keys.token} if keys.token else {}
    canonical = sorted((name.lower(), value.strip()) for name, value in {**sent, "host": parts.netloc}.items())
    names = ";".join(name for name, _ in canonical)
    lines = "".join(f"{name}:{value}\n" for name, value in canonical)
    request = f"{method}\n{parts.path}\n{parts.query}\n{lines}\n{names}\n{_EMPTY}"
    scope = f"{day}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(keys.secret, day, region), text.encode(), "sha256").hex()
    remember(signature, passing=True)
    credential = f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}"
    return {**sent, "Authorization": f"{credential}, SignedHeaders={names}, Signature={signature}"}


@functools.lru_cache(16)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    """What a secret signs with on one day in one region."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
