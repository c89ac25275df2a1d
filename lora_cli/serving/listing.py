"""Lists of adapters, which may be a hundred thousand: written piece by piece, with others answered in between."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from lora_cli.serving.answers import encoded

PIECE_BYTES = 1 << 15
"""So much is written at once: about a millisecond of work."""


def listed(head: Mapping[str, Any], key: str, values: Iterable[object]) -> Response:
    """A JSON object: what ``head`` says, and under ``key`` the list of ``values``, which are made as they are sent."""
    return StreamingResponse(_pieces(head, key, values), media_type="application/json")


async def _pieces(head: Mapping[str, Any], key: str, values: Iterable[object]) -> AsyncIterator[bytes]:
    piece = bytearray(encoded({**head, key: []})[:-2])
    for number, value in enumerate(values):
        piece += b"," * bool(number) + encoded(value)
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
            await asyncio.sleep(0)
    yield bytes(piece) + b"]}"
