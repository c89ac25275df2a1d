"""What the server is made of, each part alone."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lora_cli.cli.output import termination_log, with_adapter_name, write_termination_log
from lora_cli.endpoint.address import Address
from lora_cli.errors import NotFound, Refused
from lora_cli.refs.request import Request
from lora_cli.render.prometheus_metrics import labelled, metric, render_metrics
from lora_cli.results import LoadReport
from lora_cli.serving.adapter_state import AdapterState, Counters, shorten_name
from lora_cli.serving.admission_child import AdmissionWorker
from lora_cli.serving.admissions import AdmissionSettings, AdmissionStep
from lora_cli.serving.path_allowlist import allowed_reference
from lora_cli.serving.server import repeat
from lora_cli.settings import load_settings
from lora_cli.store import Store
from lora_cli.store.locks import InUse
from tests.hub_faults import Fault
from tests.hub_server import Hub


def test_a_failure_is_remembered_for_longer_each_time() -> None:
    entry, waits = AdapterState(Request("sql", "sql")), []
    for _ in range(12):
        entry.record_result(LoadReport("sql", error="broken"))
        waits.append(round(entry.retry_in_s))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    entry.retry_at = time.monotonic()
    assert (entry.failures, entry.retry_in_s) == (12, 0)
    entry.record_result(LoadReport("sql"))
    assert (entry.failure, entry.failures, entry.retry_in_s) == (None, 0, 0)


def test_a_chore_that_fails_is_tried_again_later_and_does_not_end_the_others() -> None:
    calls: list[str] = []

    async def fails() -> None:
        calls.append("fails")
        raise NotFound("gone")

    async def works() -> None:
        calls.append("works")

    async def run() -> None:
        chores = [asyncio.create_task(repeat(do.__name__, 0.01, do)) for do in (fails, works)]
        while calls.count("works") < 9:
            await asyncio.sleep(0.001)
        for chore in chores:
            chore.cancel()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert 0 < calls.count("fails") < calls.count("works") - 2


def test_roots_hold_whatever_a_path_says(tmp_path: Path) -> None:
    settings = load_settings({"cache_dir": tmp_path / "cache"}, {"HOME": str(tmp_path)})
    root, other = tmp_path / "root", tmp_path / "root-other"
    for folder in (root / "sql", other / "x"):
        folder.mkdir(parents=True)
    (root / "out").symlink_to(other)
    assert allowed_reference("sql", [root], settings).location == str(root / "sql")
    assert allowed_reference(str(root / "sql"), [root], settings).location == str(root / "sql")
    for path in (str(other / "x"), "../root-other/x", "out/x", str(root), "sql/../../root-other/x"):
        with pytest.raises(Refused):
            allowed_reference(path, [root], settings)
    with pytest.raises(NotFound):
        allowed_reference("nothing", [root], settings)
    with pytest.raises(Refused) as refused:
        allowed_reference(str(root / "sql"), [], settings)
    assert "--root" in refused.value.hint


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False), ("a.b", False)],
)
def test_only_loopback_needs_no_token(host: str, local: bool) -> None:
    assert Address(host).is_local is local


def test_addresses_are_written_as_clients_need_them() -> None:
    assert Address("::1", 80).url == "http://[::1]:80"
    assert "[::1]:80" in Address("::1", 80).hosts
    assert str(Address(uds=Path("/run/x"))) == "unix:/run/x"


def test_prometheus_text_is_as_its_format_says() -> None:
    """As its own parser reads it; values of other people's names are escaped, also those that are not UTF-8."""
    counted = metric("a_total", "As.", {'q"\\\n': 3, "b": 0.25}, "x")
    several = labelled("vllm:x", "Xs.", [({"a": "b\udc80", "c": "d"}, 1)])
    text = render_metrics([counted, metric("none", "No values.", {}, "x"), metric("now_s", "A value.", 1.0), several])
    families = {one.name: one for one in text_string_to_metric_families(text)}
    assert set(families) == {"a", "now_s", "vllm:x"}
    assert [(one.labels, one.value) for one in families["a"].samples] == [({"x": 'q"\\\n'}, 3), ({"x": "b"}, 0.25)]
    assert (families["now_s"].type, families["now_s"].samples[0].value) == ("gauge", 1)
    assert families["vllm:x"].samples[0].labels == {"a": "b\\udc80", "c": "d"}


def test_the_reason_stands_in_the_termination_log_where_there_is_one(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    write_termination_log("nobody made it", str(log))
    assert not log.exists()
    log.write_text("what was there before, and longer")
    with pytest.raises(Refused), termination_log(str(log)):
        raise Refused("no", hint="try yes")
    assert log.read_text() == "no\ntry yes"
    write_termination_log("é" * 5000, str(log))
    assert len(log.read_bytes()) == 4096


def test_adapters_that_are_fetched_at_once_share_the_budget_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        names = ["a", "b", "c"]
        for seed, name in enumerate(names):
            files = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes([seed]) * 1_000_000}
            hub.add(f"acme/{name}", files)
        hub.faults.append(Fault("/resolve/.*safetensors", times=-1, delay_s=0.5))
        settings = load_settings({"cache_dir": tmp_path / "cache"}, {**os.environ, "LORA_CLI_CACHE_BUDGET": "2500000"})
        with InUse(store := Store(settings.cache_dir)) as hold, ThreadPoolExecutor(3) as threads:
            worker = AdmissionWorker(AdmissionSettings(settings, None, threads=3), store, hold)
            steps = [AdmissionStep("resolve", Request(name, f"hf://acme/{name}")) for name in names]
            answers = list(threads.map(lambda step: worker.answer(step, lambda *_: None), steps))
    refused = [one.report.error for one in answers if one.report.error]
    assert len(refused) == 1
    assert "the cache budget is" in refused[0]


def test_a_reason_has_the_adapters_name_once() -> None:
    assert with_adapter_name("sql", "sql: 466.2 KiB needed") == "sql: 466.2 KiB needed"
    assert with_adapter_name("sql", "sql: 466.2 KiB needed", "fetch") == "sql: fetch: 466.2 KiB needed"
    assert with_adapter_name("sql", "the disk is full") == "sql: the disk is full"


def test_a_name_of_100_characters_is_said_and_a_longer_one_is_cut() -> None:
    assert [shorten_name("x" * length) for length in (100, 101)] == ["x" * 100, "x" * 100 + "…"]


def test_loads_are_counted_with_their_bytes_and_failures_by_stage() -> None:
    counters = Counters()
    for report in (LoadReport("a", bytes=10), LoadReport("b", bytes=5), LoadReport("c", error="no", stage="fetch")):
        counters.load(report)
    assert (counters.loads, counters.load_bytes, dict(counters.failures)) == (2, 15, {"fetch": 1})
