"""Where a test fetches: a Hub, a cache, and the settings that lead to both."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.core.reference import parse
from lora_cli.core.request import Selection
from lora_cli.documents.policy import Policy
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.bringing import bring
from tests.hub_content import Content
from tests.hub_server import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES: dict[str, Content] = {CONFIG: {"r": 4}, WEIGHTS: b"weights" * 1000, "README.md": "read", "optimizer.pt": b"no"}


class Desk:
    """A cache, a Hub, and the way to ask."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self.hub = hub
        self.settings = Settings(root / "cache", hub_endpoint=hub.endpoint, retries=1, timeout_s=5)
        self.store = Store(self.settings.cache_dir)

    def bring(
        self, text: str, selection: Selection | None = None, policy: Policy | None = None, **demanded: Any
    ) -> Fetched:
        ref = parse(text, is_path=os.path.lexists)
        settings = self.settings if policy is None else replace(self.settings, policies=(policy,))
        source = open_source(ref.scheme, settings)
        return bring(ref, source, self.store, settings, selection=selection or Selection(), **demanded)

    def requests_of(self, text: str) -> int:
        before = self.hub.count()
        self.bring(text)
        return self.hub.count() - before


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Hub() as hub:
        hub.add("org/sql", FILES)
        yield Desk(tmp_path, hub)
