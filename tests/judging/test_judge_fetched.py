"""Adapters on their way into the cache: fetched, then judged there, and held as long as they are used."""

from pathlib import Path

import pytest

from lora_cli.base.base_model import BaseModel
from lora_cli.fetching.batch import FetchContext
from lora_cli.judging.judge import Terms, fetch_one, judge_fetched
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.store import InUse, Store
from lora_cli.store.gc import Retention, collect
from tests.making import llama_modules, write_adapter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", modules=llama_modules())


def admit(folder: Path, base: BaseModel, settings: Settings, hold: InUse | None = None) -> Result:
    with FetchContext(Store(settings.cache_dir), settings, in_use=hold) as context:
        return judge_fetched(fetch_one(Request("x", str(folder)), context), Terms(base), settings)


def test_an_admitted_adapter_is_on_this_disk_with_each_stage_timed(
    folder: Path, base: BaseModel, settings: Settings
) -> None:
    admission = admit(folder, base, settings)
    assert (admission.refusal, admission.stage) == (None, "")
    assert admission.snapshot is not None
    assert (admission.snapshot.directory / "adapter_model.safetensors").is_file()
    assert list(admission.stage_ms) == ["resolve", "fetch", "validate"]


@pytest.mark.parametrize(("stage", "exit_code"), [("resolve", 3), ("fetch", 1), ("validate", 1)])
def test_a_refused_adapter_says_at_which_stage(
    stage: str, exit_code: int, folder: Path, base: BaseModel, settings: Settings
) -> None:
    weights = folder / "adapter_model.safetensors"
    if stage == "resolve":
        folder = folder / "gone"
    elif stage == "fetch":
        weights.unlink()
        weights.symlink_to("gone")
    else:
        write_adapter(folder, modules=llama_modules(), drop=lambda name: "lora_B" in name)
    admission = admit(folder, base, settings)
    assert admission.refusal is not None
    assert (admission.stage, admission.refusal.exit_code) == (stage, exit_code)
    assert list(admission.stage_ms)[-1] == stage


def test_what_is_admitted_is_held_as_long_as_it_is_used(folder: Path, base: BaseModel, settings: Settings) -> None:
    store, everything = Store(settings.cache_dir), Retention(unused_for_s=-1, max_bytes=0, grace_s=-1)
    with InUse(store) as hold:
        assert admit(folder, base, settings, hold).refusal is None
        assert collect(store, everything) == []
    assert "snapshot" in [one.kind for one in collect(store, everything)]


def test_what_was_cleaned_away_before_it_was_held_is_fetched_again(
    folder: Path, base: BaseModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keeps, cleanings = Store(settings.cache_dir), InUse.add, iter([True, True, False])

    def late(hold: InUse, digest: str) -> bool:
        if next(cleanings):
            collect(store, Retention(unused_for_s=-1, grace_s=-1))
        return keeps(hold, digest)

    admit(folder, base, settings)
    monkeypatch.setattr(InUse, "add", late)
    with InUse(store) as hold:
        admission = admit(folder, base, settings, hold)
        assert admission.error is None
        assert admission.snapshot is not None
        assert admission.snapshot.directory.is_dir()
    assert list(cleanings) == [False]  # it was taken away once; the second time it was held already
