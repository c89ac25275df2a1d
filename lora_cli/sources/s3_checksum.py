"""The checksum that S3 keeps of an object, where that is the sha256 of all its bytes.

It comes along with a whole object, and is asked for where an object is read in ranges.
"""

import base64
import binascii
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from lora_cli.core.log import logger
from lora_cli.sources.retries import Retries, from_status
from lora_cli.sources.s3_requests import CHECKSUM, Place, asked, pinned
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.snapshot import RemoteFile

HEADER = "x-amz-checksum-sha256"

log = logger(__name__)


def may_have_one(file: "RemoteFile") -> bool:
    """Whether S3 can have a sha256 of all of it: one that came in parts (``etag-N``) has none."""
    return file.version.startswith("etag:") and "-" not in file.version


def checksum(place: Place, key: str, file: "RemoteFile", what: str, retries: Retries) -> Mapping[str, str]:
    """``x-amz-checksum-sha256`` → hexadecimal digits, as S3 has it for this version of the object; empty for none.

    Raises:
        Unreachable: network or server, after the retries.
    """
    return retries.call(what, lambda: _from_head(place, key, file))


def hexadecimal(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The checksum among the headers of an answer as hexadecimal digits; empty for none, and for what is no sha256."""
    try:
        digest = base64.b64decode(headers.get(HEADER, ""), validate=True)
    except (binascii.Error, ValueError):
        return {}
    return {HEADER: digest.hex()} if len(digest) == 32 else {}


def _from_head(place: Place, key: str, file: "RemoteFile") -> Mapping[str, str]:
    with closing(asked(place, "HEAD", key, {**pinned(file), **CHECKSUM})) as response:
        server, status, said = host(response.url), response.status, response.headers
    if status in (408, 429) or status >= 500:
        raise from_status(server, status, said)
    if status != 200:
        # Whoever may not ask for a checksum may still read the object.
        log.debug("%s answers %d to the question for a checksum", server, status)
        return {}
    return hexadecimal(said)
