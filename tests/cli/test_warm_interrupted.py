"""``lora-cli warm`` that is interrupted tells what it did until then."""

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.cli.output import render_parts
from lora_cli.reports.warm import WarmReport, human
from lora_cli.results import LoadReport
from lora_cli.warm.plan import LoraRequest
from lora_cli.warm.worker import OnStage, Worker
from tests.making import llama_modules, write_adapter, write_base_config

pytestmark = pytest.mark.slow

COUNT = 300


def test_what_was_proved_until_an_interrupt_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "a", modules=llama_modules())
    names = "".join(f"  - {{name: a{number}, source: ./a}}\n" for number in range(COUNT))
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n  - {name: gone, source: ./gone}\n"
    (tmp_path / "set.yaml").write_text(head + names)
    cache = tmp_path / "cache"

    proved = threading.Event()

    def load(worker: Worker, lora: LoraRequest, on_stage: OnStage) -> LoadReport:
        report = whole(worker, lora, on_stage)
        proved.set()
        return report

    whole = Worker.load
    monkeypatch.setattr(Worker, "load", load)

    def interrupt() -> None:
        """When the first is proved."""
        proved.wait(60)
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    argv = ["warm", "-f", str(tmp_path / "set.yaml"), "--device", "cpu", "--cache-dir", str(cache)]
    assert main([*argv, "--format", "json"]) == 130
    watcher.join()
    reports = json.loads(capsys.readouterr().out)["adapters"]
    codes = [report["exit_code"] for report in reports]
    assert [report["name"] for report in reports] == ["gone", *(f"a{number}" for number in range(COUNT))]
    assert codes[:2] == [3, 0]
    assert 130 in codes[2:]
    assert set(codes[2:]) <= {0, 130}
    assert all("interrupted" in report["error"] for report in reports if report["exit_code"] == 130)


def test_what_an_interrupt_left_undone_is_not_called_failed() -> None:
    done = LoadReport("sql", error="has no weights", exit_code=1)
    undone = LoadReport("chat", error="not done: interrupted", exit_code=130)
    shown = render_parts(human(WarmReport(adapters=[done, undone, undone])))
    assert "sql: failed" in shown
    assert "3 adapters: 1 failed, 2 not tried" in shown
    assert "chat" not in shown
