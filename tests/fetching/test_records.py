"""What is remembered of a reference: its endpoint, and never a token."""

import pytest

from lora_cli.store.records import read_record
from tests.fetching.desk import Desk


def test_a_record_names_the_endpoint_and_never_a_token(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    desk.hub.token("hf_secretsecretsecret", "org/sql")
    desk.bring("org/sql")
    record = read_record(desk.store, "hf://org/sql", endpoint=desk.hub.endpoint)
    assert record is not None
    assert record.endpoint == desk.hub.endpoint
    written = b"".join(path.read_bytes() for path in desk.store.refs.iterdir())
    assert b"hf_secret" not in written
