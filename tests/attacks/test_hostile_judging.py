"""Adapters that hold the interpreter, take all memory or kill whoever reads them: each fails alone, within bounds."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from lora_cli.serving import admissions
from lora_cli.serving.admissions import Admissions, AdmissionSettings, Admitted

from lora_cli.cli.adapter_selection import base_model
from lora_cli.refs.request import Request
from lora_cli.settings import load_settings
from lora_cli.store import Store
from lora_cli.store.locks import InUse
from tests.attacks.besieged import alive, children_of, ends_s, probed
from tests.attacks.hooked import hook, import_path
from tests.making import llama_modules, write_adapter, write_base
from tests.warm.running import Running, error_of

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_base(folder / "base")
    write_adapter(folder / "root" / "good", modules=QUERIES)
    return folder


class Admitting:
    """Admits the one good adapter under names that the hook knows."""

    def __init__(self, folder: Path, limit_s: float, cache: Path) -> None:
        self.settings = load_settings({"cache_dir": cache}, {"HOME": str(cache)})
        self.setup = AdmissionSettings(self.settings, base_model(str(folder / "base"), self.settings))
        self.source, self.limit_s = str(folder / "root" / "good"), limit_s

    def open(self) -> Iterator[Admissions]:
        with InUse(Store(self.settings.cache_dir)) as hold:
            opened = Admissions(self.setup, hold, self.limit_s)
            yield opened
            opened.close()

    def admit(self, opened: Admissions, name: str) -> Admitted:
        return opened.admit(Request(name, self.source), by_client=False)


@pytest.fixture
def others() -> set[int]:
    """The processes of other tests' fixtures."""
    return children_of(os.getpid())


@pytest.fixture
def admitting(
    request: pytest.FixtureRequest, others: set[int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Admissions, "Admitting"]]:
    """Three seconds for each, or as many as the test's parameter says, and little memory."""
    limit_s = getattr(request, "param", 3.0)
    monkeypatch.syspath_prepend(hook(tmp_path / "hook"))
    judge, fetcher = admissions.VALIDATOR, admissions.FETCHER
    monkeypatch.setattr(admissions, "VALIDATOR", replace(judge, max_bytes=200_000_000))
    monkeypatch.setattr(admissions, "FETCHER", replace(fetcher, max_bytes=200_000_000, silent_s=limit_s - 0.5))
    made = Admitting(folder, limit_s, tmp_path / "cache")
    for opened in made.open():
        assert made.admit(opened, "good").lora is not None
        yield opened, made


def outcome(admitted: Admitted) -> tuple[int, str, str]:
    report = admitted.report
    assert admitted.lora is None
    return report.exit_code, report.stage, report.error


@pytest.mark.parametrize(
    ("name", "code", "stage", "said"),
    [
        ("stuck", 1, "validate", "takes longer than 3 s"),
        ("greedy", 1, "validate", "more memory"),
        ("dies", 6, "validate", "killed by SIGKILL"),
        ("raises", 70, "validate", "ZeroDivisionError"),
        ("fetch-stuck", 6, "resolve", "did not respond for 2.5 s"),
        ("fetch-greedy", 1, "resolve", "more memory"),
        ("fetch-dies", 6, "resolve", "killed by SIGKILL"),
        ("fetch-raises", 70, "resolve", "ZeroDivisionError"),
    ],
)
def test_what_one_adapter_does_is_its_own_failure(
    admitting: tuple[Admissions, Admitting], name: str, code: int, stage: str, said: str
) -> None:
    opened, made = admitting
    began = time.monotonic()
    found = outcome(made.admit(opened, name))
    assert found[:2] == (code, stage)
    assert said in found[2]
    assert time.monotonic() - began < 12
    assert made.admit(opened, "good").lora is not None, "in a new process where the old one died"


@pytest.mark.parametrize("admitting", [30.0], indirect=True)
def test_those_beside_a_process_that_dies_are_fetched_by_the_next_one(
    admitting: tuple[Admissions, Admitting],
) -> None:
    opened, made = admitting
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(made.admit, opened, f"fetch-slow-{number}") for number in range(3)]
        time.sleep(0.3)
        dies = pool.submit(made.admit, opened, "fetch-dies")
        assert outcome(dies.result())[0] == 6
        assert all(one.result().lora is not None for one in slow)


def test_more_are_validated_one_after_the_other(others: set[int], admitting: tuple[Admissions, Admitting]) -> None:
    opened, made = admitting
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(made.admit, opened, f"silent-{number}") for number in range(4)]
        most = 0
        while not all(one.done() for one in waiting):
            most = max(most, len(children_of(os.getpid()) - others))
            time.sleep(0.02)
        assert all("takes longer" in outcome(one.result())[2] for one in waiting)
    assert most <= 1 + admissions.VALIDATORS + 1, "the one that fetches, and one that is being replaced"


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Running]:
    argv = (folder / "root" / "good", "--base", folder / "base", "--root", folder / "root")
    with Running(tmp_path, *argv, PYTHONPATH=import_path(tmp_path / "hook")) as running:
        yield running.until_ready()


def test_a_server_answers_beside_all_of_them_and_ends_when_told(server: Running) -> None:
    """A bug stands in its log without the words of an adapter."""
    assert error_of(server.load("raises", "good"))[0] == 500
    assert "a bug of lora-cli: ZeroDivisionError" in server.said()
    assert "nobody foresaw it" not in server.said()
    names = ["stuck-1", "stuck-2", "fetch-stuck", "fetch-greedy", "greedy", "dies", "raises"]
    with ThreadPoolExecutor(len(names)) as clients:
        with probed(server), probed(server, "/metrics"):
            loads = [clients.submit(server.load, name, "good") for name in names]
            time.sleep(3)
            assert server.probe("good").status_code == 200
        assert ends_s(server) < 2
        for load in loads:
            status, said = error_of(load.result())
            assert status in {422, 500, 503}, said


def test_no_process_outlives_a_server_that_is_killed(server: Running) -> None:
    with ThreadPoolExecutor(2) as clients:
        loads = [clients.submit(server.load, name, "good") for name in ("stuck", "fetch-stuck")]
        time.sleep(1.5)
        children = children_of(server.process.pid)
        assert len(children) >= 3
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        until = time.monotonic() + 2
        while any(map(alive, children)) and time.monotonic() < until:
            time.sleep(0.02)
        assert not any(map(alive, children))
        for load in loads:
            with pytest.raises(Exception, match=r".*"):
                load.result().raise_for_status()
