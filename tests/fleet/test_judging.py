"""What a cluster says of an adapter that no node could judge."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from lora_cli import fleet
from lora_cli.errors import MachineError
from lora_cli.judging.read import Terms
from lora_cli.refs.reference import parse
from lora_cli.refs.request import Request
from lora_cli.settings import Settings

pytestmark = pytest.mark.slow


def test_an_adapter_that_ends_every_worker_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spread(_do: object, items: Sequence[Request], *_: object, lost: Callable[[Request, str], Any]) -> Iterator[Any]:
        return (lost(item, "every worker that ran it died") for item in items)

    monkeypatch.setattr(fleet, "joined", lambda *_: nullcontext(1))
    monkeypatch.setattr(fleet, "spread", spread)
    item = Request("sql", parse("https://example.com/sql", is_path=lambda _: False))
    (checked,) = fleet.judge_fleet("auto", [item], Terms(Settings(tmp_path)))
    assert isinstance(checked.error, MachineError)
    assert checked.error.message == "sql: every worker that ran it died"
    assert (checked.name, checked.source) == ("sql", "https://example.com/sql")
