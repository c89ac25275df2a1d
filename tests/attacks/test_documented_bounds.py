"""The bounds that docs/security.md states of a warm server are those that it has."""

import os
import pickle
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.cli.adapter_selection import base_model
from lora_cli.core.adapter import Adapter
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.results import LoadReport
from lora_cli.core.safetensors import MOST_HEADER, MOST_TENSORS, TensorInfo
from lora_cli.core.tensor_keys import parse_key
from lora_cli.errors import Refused
from lora_cli.runtime.child_process import PendingRequest
from lora_cli.serving import adapter_state, admission_child, admissions, cached_status, connection, middleware
from lora_cli.serving.admissions import Admissions, AdmissionSettings, AdmissionStep, Admitted
from lora_cli.serving.connection import connection_limits
from lora_cli.settings import load_settings
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker
from tests.attacks.besieged import children_of
from tests.conftest import ROOT
from tests.making import llama_modules, write_adapter, write_base

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

ROWS = [
    ("adapters that are validated at once", "2,", admissions.VALIDATORS == 2),
    ("time to validate one adapter", "60 s", admissions.VALIDATION_S == 60),
    ("time to validate one adapter", "each 16 MiB", admissions.VALIDATION_BYTES_PER_S == 16 * MIB),
    ("memory of a process that validates", "1 GiB", admissions.VALIDATOR_BYTES == GIB),
    ("memory of a process that validates", "256 MiB", admissions.KEPT_BYTES == 256 * MIB),
    ("adapters that are fetched at once", "64,", admissions.FETCH_AT_ONCE == 64),
    ("memory of the process that fetches", "4 GiB", admissions.FETCH_BYTES == 4 * GIB),
    ("memory of the process that fetches", "4 at once", admissions.FETCH_AGAIN == 4),
    ("silence of the process that fetches", "30 s", admissions.SILENT_S == 30),
    ("what the header of an accepted adapter", "128 MiB", admission_child.LARGEST_ADAPTER == 128 * MIB),
    ("a message about an adapter", "2000 ", admission_child.LONGEST_TEXT == 2000),
    ("the head of a request", "10 s", connection.HEAD_S == 10),
    ("the body of a request", "30 s", connection.BODY_S == 30),
    ("the body of a request", "1 MiB", middleware.LARGEST_BODY == MIB),
    ("the body of a request", "32 MiB", connection.MOST_BODIES == 32 * MIB),
    ("the body of a request", "16 KiB", connection.SMALL_BODY == 16 * KIB),
    ("silence between two requests", "30 s", connection.IDLE_S == connection.UNREAD_S == 30),
    ("connections", "2048", connection.MOST_CONNECTIONS == 2048),
    ("connections", "256", connection.OTHER_FILES == 256),
    ("requests that are answered at once", "half", connection.MOST_REQUESTS * 2 == connection.MOST_CONNECTIONS),
    ("header of safetensors weights", "32 MiB", MOST_HEADER == 32 * MIB),
    ("header of safetensors weights", "150,000 tensors", MOST_TENSORS == 150_000),
    ("an unknown name", "100 ", adapter_state.LONGEST_NAME == 100),
    ("an unknown name", "200 ", adapter_state.MOST_SUGGESTED == 200),
    ("the process that owns the device", "0.5 s", cached_status.PATIENCE_S == 0.5),
    ("the process that owns the device", "0.8 s", cached_status.FIRST_PATIENCE_S == 0.8),
]


@pytest.mark.parametrize(("row", "says", "holds"), ROWS, ids=[f"{row}-{says}" for row, says, _ in ROWS])
def test_what_the_document_says(row: str, says: str, holds: bool) -> None:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {row}")]
    assert says in line
    assert holds


@pytest.fixture
def setup(tmp_path: Path) -> AdmissionSettings:
    write_base(tmp_path / "base")
    settings = load_settings({"cache_dir": tmp_path / "cache"}, {"HOME": str(tmp_path)})
    return AdmissionSettings(settings, base_model(str(tmp_path / "base"), settings))


@pytest.fixture
def opened(setup: AdmissionSettings) -> Iterator[Admissions]:
    with InUseMarker(Store(setup.settings.cache_dir)) as hold:
        made = Admissions(setup, hold, 600)
        yield made
        made.close()


def test_the_kernel_ends_these_processes_before_the_server(opened: Admissions, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "good", modules=llama_modules(["q_proj"]))
    others = children_of(os.getpid())
    assert opened.admit(AdapterRequest("good", str(folder)), by_client=False).lora is not None
    found = [Path(f"/proc/{pid}/oom_score_adj").read_text().strip() for pid in children_of(os.getpid()) - others]
    assert found == ["1000", "1000"]


@pytest.mark.parametrize(
    ("size", "most_s", "limit_s"), [(0, 600, 60), (16 * MIB, 600, 61), (GIB, 600, 124), (100 * GIB, 600, 600)]
)
def test_the_time_grows_with_the_bytes(
    opened: Admissions, monkeypatch: pytest.MonkeyPatch, size: int, most_s: float, limit_s: float
) -> None:
    limits: list[float | None] = []

    def ask(asked: PendingRequest, _step: AdmissionStep) -> Admitted:
        limits.append(asked.limit_s)
        raise Refused("enough")

    monkeypatch.setattr(opened, "_limit_s", most_s)
    monkeypatch.setattr(opened._validating, "ask", ask)
    monkeypatch.setattr(opened._fetching, "ask", lambda _asked, _step: Admitted(LoadReport("x"), size=size))
    assert opened.admit(AdapterRequest("x", "x"), by_client=False).report.error == "enough"
    assert limits == [limit_s]


def test_a_long_message_is_cut(opened: Admissions, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "long", config={"target_modules": ["x" * 100_000]})
    report = opened.admit(AdapterRequest("long", str(folder)), by_client=False).report
    assert report.error
    assert len(report.error) <= 2001
    missing = opened.admit(AdapterRequest("missing", "/" + "x/" * 2000), by_client=False).report
    assert missing.error.endswith("…")
    assert len(missing.error) == 2001


def test_what_many_tensors_describe_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"base_model.model.layers.{number}.q_proj.lora_A.weight" for number in range(5000)]
    tensors = {name: TensorInfo(name, "F32", (1,), 0, 4, "adapter_model.safetensors") for name in names}
    keys = {name: parse_key(name) for name in names}
    adapter = Adapter("many", (), (), None, None, tensors, None, keys, {}, {"said": "x" * 10_000_000})
    kept = admission_child._pickled(adapter)
    assert len(kept) < 2_000_000, "what no process reads of it is left out"
    assert pickle.loads(kept) == replace(adapter, metadata={})
    monkeypatch.setattr(admission_child, "LARGEST_ADAPTER", 100_000)
    with pytest.raises(Refused, match="5000 tensors"):
        admission_child._pickled(adapter)


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "most"),
    [
        (1024, 20_000, 2304, 2048),
        (1024, 1024, 1024, 768),
        (65_536, 65_536, 65_536, 2048),
        (1024, resource.RLIM_INFINITY, 2304, 2048),
        (100, 100, 100, 64),
    ],
)
def test_connections_are_as_many_as_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, most: int
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _which, new: limits.append(new))
    room = connection_limits()
    assert (room.most, room.requests, limits[-1][0]) == (most, most // 2, raised)


def test_processes_are_started_before_the_first_adapter(opened: Admissions) -> None:
    others = children_of(os.getpid())
    opened.start()
    assert len(children_of(os.getpid()) - others) == 2
    opened.close()
    until = time.monotonic() + 2
    while children_of(os.getpid()) - others and time.monotonic() < until:
        time.sleep(0.02)
    assert not children_of(os.getpid()) - others
