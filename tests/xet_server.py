"""Xet storage as hf_xet reads it: reconstructions of files from chunks, and xorbs of chunks.

The form of both is that of https://github.com/huggingface/xet-core (version 1 of its API). Chunks are not compressed.
"""

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.hub_routes import Reply, Request, in_range

if TYPE_CHECKING:
    from tests.hub_server import Hub

CHUNK = 64 * 1024
HEADER = 8


def xorb(content: bytes) -> bytes:
    """The chunks of a file, each behind its header: version, length, no compression, length."""
    chunks = (content[at : at + CHUNK] for at in range(0, len(content), CHUNK))
    sized = ((len(chunk).to_bytes(3, "little"), chunk) for chunk in chunks)
    return b"".join(b"\0" + size + b"\0" + size + chunk for size, chunk in sized)


def answer_xet(hub: "Hub", request: Request) -> Reply:
    """The reply of Xet storage: who reads what a file is made of shows the token, who reads a xorb its signature."""
    if found := re.fullmatch(r"/v1/reconstructions/([0-9a-f]{64})", request.path):
        if request.token not in hub.xet_tokens:
            return Reply(401)
        content = hub.xet_files.get(found[1])
        return Reply(404) if content is None else _reconstruction(hub, found[1], content, request.range)
    if found := re.fullmatch(r"/xorbs/([0-9a-f]{64})", request.path):
        if request.authorization or request.query.get("sig") != hub.signature(found[1]):
            return Reply(403)
        return in_range(request, xorb(hub.xet_files[found[1]]), {})
    return Reply(404)


def _reconstruction(hub: "Hub", hash: str, content: bytes, asked: str) -> Reply:
    bounds = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
    start, stop = (int(bounds[1]), min(len(content), int(bounds[2]) + 1)) if bounds else (0, len(content))
    if start >= len(content):
        return Reply(416)
    first, last = start // CHUNK, -(-stop // CHUNK)
    end = min(len(content), last * CHUNK)
    chunks = {"start": first, "end": last}
    held = {"start": first * (CHUNK + HEADER), "end": end + last * HEADER - 1}
    url = f"{hub.cas}/xorbs/{hash}?sig={quote(hub.signature(hash))}"
    told = {
        "offset_into_first_range": start - first * CHUNK,
        "terms": [{"hash": hash, "unpacked_length": end - first * CHUNK, "range": chunks}],
        "fetch_info": {hash: [{"range": chunks, "url": url, "url_range": held}]},
    }
    return Reply(200, {"Content-Type": "application/json"}, json.dumps(told).encode())
