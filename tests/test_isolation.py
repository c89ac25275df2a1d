"""Adapters of strangers are read in processes that may be killed: one that is too large or too slow fails alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora_cli import isolation
from lora_cli.isolation import Isolation, Setup
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.store import InUse, Store
from tests.making import llama_modules, write_adapter
from tests.warm.reading import LLAMA

QUERIES = llama_modules(["q_proj"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache")


@pytest.fixture
def pool(settings: Settings) -> Iterator[Isolation]:
    with InUse(Store(settings.cache_dir)) as hold:
        made = Isolation(Setup(settings, LLAMA, "vllm"), hold, 2)
        yield made
        made.close()


def pid(pool: Isolation) -> int:
    (child,) = pool._all
    return child.pid


def test_what_passes_is_in_the_cache_and_what_does_not_has_its_reason_and_one_process_reads_both(
    pool: Isolation, settings: Settings, tmp_path: Path
) -> None:
    good = write_adapter(tmp_path / "good", modules=QUERIES)
    bad = write_adapter(tmp_path / "bad", modules=QUERIES, drop=lambda name: "lora_B" in name)
    first = pool.admit(Request("one", str(good)))
    assert (first.report.error, first.report.applied, first.cached) == ("", "2/2", False)
    assert Path(first.directory) == Store(settings.cache_dir).snapshot(first.report.digest)
    assert Path(first.directory, "adapter_model.safetensors").is_file()
    refused = pool.admit(Request("two", str(bad)))
    assert (refused.report.stage, refused.report.exit_code) == ("validate", 1)
    assert refused.report.error.startswith("LC302 ")
    assert pool.admit(Request("three", str(tmp_path / "nowhere"))).report.exit_code == 3
    assert pool.admit(Request("one", str(good))).cached
    assert pid(pool) == pid(pool)


def test_clients_reach_only_what_is_below_the_roots(settings: Settings, tmp_path: Path) -> None:
    inside, outside = write_adapter(tmp_path / "roots" / "inside"), write_adapter(tmp_path / "outside")
    (tmp_path / "roots" / "link").symlink_to(outside)
    with InUse(Store(settings.cache_dir)) as hold:
        pool = Isolation(Setup(settings, None, roots=(tmp_path / "roots",)), hold)
        codes = [
            pool.admit(Request("x", str(place)), by_client=by_client).report.exit_code
            for place, by_client in (
                (inside, True),
                (outside, True),
                (tmp_path / "roots" / "link", True),
                (outside, False),
            )
        ]
        pool.close()
    assert codes == [0, 1, 1, 0]


def test_one_that_was_killed_while_it_had_nothing_to_do_costs_nothing(pool: Isolation, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", modules=QUERIES)
    assert pool.admit(Request("first", str(adapter))).report.error == ""
    before = pid(pool)
    os.kill(before, signal.SIGKILL)
    time.sleep(0.5)
    assert pool.admit(Request("second", str(adapter))).report.error == ""
    assert pid(pool) != before


@pytest.mark.parametrize("stopped", [False, True])
def test_an_adapter_that_takes_longer_than_its_deadline_is_killed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    monkeypatch.setattr(isolation, "GRACE_S", 0.001 - settings.adapter_timeout_s)
    adapter = write_adapter(tmp_path / "a")
    with InUse(Store(settings.cache_dir)) as hold:
        pool = Isolation(Setup(settings, None), hold)
        if stopped:  # so that it cannot end itself
            monkeypatch.setattr(isolation, "START_S", 0.5)
            os.kill(pid(pool), signal.SIGSTOP)
        report = pool.admit(Request("slow", str(adapter))).report
        pool.close()
    slow = f"reading it takes longer than {settings.adapter_timeout_s:g} s"
    said = "the process that reads it ended: it was killed by SIGKILL" if stopped else slow
    assert (report.exit_code, report.error) == (1, said)


def test_one_that_needs_more_memory_than_is_allowed_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hungry = tmp_path / "hungry"
    hungry.mkdir()
    (hungry / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'lora_cli.isolation' in sys.orig_argv:\n"
        "    from lora_cli.judging import judge\n"
        "    judge.read_adapter = lambda *a, **k: bytearray(4 << 30)\n"
    )
    monkeypatch.syspath_prepend(hungry)
    adapter = write_adapter(tmp_path / "a")
    with InUse(Store(settings.cache_dir)) as hold:
        pool = Isolation(Setup(settings, None), hold)
        report = pool.admit(Request("hungry", str(adapter))).report
        pool.close()
    assert (report.exit_code, report.error) == (1, "it needs more memory than is allowed for one adapter")


def test_the_processes_end_with_their_parent_and_nothing_of_torch_is_imported_there(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from lora_cli.isolation import *\n"
        "folder = Path(sys.argv[1]); settings = Settings(folder / 'cache')\n"
        "pool = Isolation(Setup(settings, None), InUse(Store(settings.cache_dir)))\n"
        "assert not pool.admit(Request('a', str(folder / 'a'))).report.error\n"
        "print(*[child.pid for child in pool._all], flush=True); time.sleep(60)\n"
    )
    write_adapter(tmp_path / "a")
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        libraries = Path(f"/proc/{child}/maps").read_text()
        assert "torch" not in libraries
        assert Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n", "it is ended before its parent"
        parent.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)


def test_after_close_who_waits_is_told_that_the_server_is_stopping(pool: Isolation, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", modules=QUERIES)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(pool.admit, Request(str(number), str(adapter))) for number in range(4)]
        pool.close()
    assert {one.result().report.error for one in waiting} <= {"", "the process that reads it was stopped"}
    assert pool.admit(Request("late", str(adapter))).report.error == "the process that reads it was stopped"
