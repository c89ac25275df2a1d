"""What is remembered of a reference: its endpoint, and never a token."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lora_cli.store.records import read_record
from tests.fetching.desk import CONFIG, Desk


def test_a_record_names_the_endpoint_and_never_a_token(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    desk.hub.token("hf_secretsecretsecret", "org/sql")
    desk.bring("org/sql")
    record = read_record(desk.store, "hf://org/sql", endpoint=desk.hub.endpoint)
    assert record is not None
    assert record.endpoint == desk.hub.endpoint
    written = b"".join(path.read_bytes() for path in desk.store.refs.iterdir())
    assert b"hf_secret" not in written


def test_what_was_published_is_recorded_before_another_may_fetch_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for a download finds what it was, however long its record takes to be written."""
    arrived, replace = threading.Event(), os.replace

    def slow(source: Path, target: Path, **words: Any) -> None:
        if Path(target).parent == desk.store.refs and not arrived.is_set():
            arrived.set()
            second.join(1)
        replace(source, target, **words)

    second = threading.Thread(target=lambda: arrived.wait(10) and desk.bring("org/sql"))
    monkeypatch.setattr(os, "replace", slow)
    second.start()
    desk.bring("org/sql")
    second.join()
    assert arrived.is_set()
    assert sum(CONFIG in asked.target for asked in desk.hub.requests) == 1
