"""A client of a Hub that misbehaves when it is told to."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lora_cli.errors import LoraCliError
from lora_cli.sources.http import Http, Piece, get_bytes, get_json
from lora_cli.sources.retries import Retries
from tests.hub_server import Hub

WEIGHTS = bytes(range(256)) * 4000
NAME = "acme/sql-lora/resolve/main/adapter_model.safetensors"


def resumed(http: Http, url: str, piece: Piece) -> Iterator[bytes]:
    """The bytes of ``piece`` as a source reads them: by one attempt after the other."""
    return http.retries.stream(
        "weights", piece.start, piece.end, lambda at: get_bytes(http, url, replace(piece, start=at), "weights")
    )


class Client:
    """An ``Http`` that writes down how long it would have waited, instead of waiting."""

    def __init__(self, hub: Hub, *, retries: int = 5, timeout_s: float = 5) -> None:
        self.hub, self.waits = hub, list[float]()
        self.http = Http(hub.endpoint, timeout_s, Retries(retries, self.waits.append))

    def read(self, start: int = 0, stop: int | None = None, size: int | None = len(WEIGHTS)) -> bytes:
        return b"".join(resumed(self.http, f"{self.hub.endpoint}/{NAME}", Piece(start, stop, size)))

    def json(self) -> object:
        return get_json(self.http, f"{self.hub.endpoint}/api/models/acme/sql-lora/revision/main", "info")[0]

    def fails(self) -> LoraCliError:
        with pytest.raises(LoraCliError) as caught:
            self.read()
        return caught.value
