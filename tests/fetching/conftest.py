"""A desk to ask at, and the places that the tests of faults are run at."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli import sources
from lora_cli.settings import Settings
from tests.fetching.desk import Desk
from tests.fetching.places import FILES, PLACES, Place, standing
from tests.hub_server import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, hub: Hub) -> Desk:
    return Desk(tmp_path, hub)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Each remote source, or those that a test names, with ``FILES`` there; pauses between tries are short."""
    monkeypatch.setattr(sources, "LONGEST_BACKOFF_S", 0.02)
    settings = Settings(tmp_path / "cache", timeout_s=5, retries=2, keep_free=0)
    with standing(request, settings) as place:
        place.write(FILES)
        yield place
