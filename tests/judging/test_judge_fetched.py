"""Adapters on their way into the cache: fetched, then judged there, and held as long as they are used."""

import os
import threading
from pathlib import Path

import pytest

from lora_cli.base.base_model import BaseModel
from lora_cli.errors import NotFound
from lora_cli.fetching.batch import FetchContext
from lora_cli.judging.judge import Terms, fetch_one, judge_fetched
from lora_cli.judging.result import Result
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.gc import Retention, collect
from lora_cli.store.locks import InUse
from tests.making import llama_modules, write_adapter


def admit(
    ref: AdapterRef, name: str, terms: Terms, store: Store, settings: Settings, hold: InUse | None = None
) -> Result:
    with FetchContext(store, settings, in_use=hold) as context:
        return judge_fetched(fetch_one(Request(name, ref), context), terms, settings)


def test_an_admitted_adapter_is_on_this_disk_with_each_stage_timed(
    tmp_path: Path, base: BaseModel, settings: Settings
) -> None:
    folder = write_adapter(tmp_path / "good", modules=llama_modules())

    admission = admit(AdapterRef("file", str(folder)), "good", Terms(base), Store(settings.cache_dir), settings)

    assert admission.refusal is None
    assert admission.snapshot is not None
    assert (admission.snapshot.directory / "adapter_model.safetensors").is_file()
    assert list(admission.stage_ms) == ["resolve", "fetch", "validate"]


def test_an_adapter_is_judged_while_others_that_share_its_files_come_and_go(
    tmp_path: Path, base: BaseModel, settings: Settings
) -> None:
    folder, store = write_adapter(tmp_path / "good", modules=llama_modules()), Store(settings.cache_dir)

    def admitted() -> Result:
        return admit(AdapterRef("file", str(folder)), "good", Terms(base), store, settings)

    snapshot = admitted().snapshot
    assert snapshot is not None
    blobs, over = [store.blob(blob.sha256) for blob in snapshot.files.values()], threading.Event()

    def link() -> None:
        while not over.is_set():
            for blob in blobs:
                os.link(blob, tmp_path / "link")
                (tmp_path / "link").unlink()

    other = threading.Thread(target=link)
    other.start()
    try:
        assert [admitted().error for _ in range(20)] == [None] * 20
    finally:
        over.set()
        other.join()


def test_a_refused_adapter_says_at_which_stage(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    folder = write_adapter(tmp_path / "bad", modules=llama_modules(), drop=lambda name: "lora_B" in name)

    admission = admit(AdapterRef("file", str(folder)), "bad", Terms(base), Store(settings.cache_dir), settings)

    assert admission.refusal is not None
    assert admission.stage == "validate"
    assert {found.code for found in admission.findings} == {"LC302"}


def test_an_adapter_that_is_not_there_fails_at_resolve(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    ref = AdapterRef("file", str(tmp_path / "gone"))

    admission = admit(ref, "gone", Terms(base), Store(settings.cache_dir), settings)

    assert isinstance(admission.error, NotFound)
    assert (admission.stage, list(admission.stage_ms)) == ("resolve", ["resolve"])


def test_an_adapter_that_cannot_be_copied_fails_at_fetch(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    folder = write_adapter(tmp_path / "bad", modules=llama_modules())
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to("gone")

    admission = admit(AdapterRef("file", str(folder)), "bad", Terms(base), Store(settings.cache_dir), settings)

    assert admission.stage == "fetch"
    assert admission.error is not None
    assert admission.error.exit_code == 1


def test_what_is_admitted_is_held_as_long_as_it_is_used(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    folder = write_adapter(tmp_path / "good", modules=llama_modules())
    store = Store(settings.cache_dir)
    with InUse(store) as hold:
        admission = admit(AdapterRef("file", str(folder)), "good", Terms(base), store, settings, hold=hold)
        assert admission.snapshot is not None
        assert collect(store, Retention(unused_for_s=-1, max_bytes=0, grace_s=-1)) == []
    assert "snapshot" in [one.kind for one in collect(store, Retention(unused_for_s=-1, max_bytes=0, grace_s=-1))]


def test_what_was_cleaned_away_before_it_was_held_is_fetched_again(
    tmp_path: Path, base: BaseModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tmp_path / "good", modules=llama_modules())
    store, keeps = Store(settings.cache_dir), InUse.add
    cleanings = iter([True, True, False])

    def late(hold: InUse, digest: str) -> bool:
        if next(cleanings):
            collect(store, Retention(unused_for_s=-1, grace_s=-1))
        return keeps(hold, digest)

    admit(AdapterRef("file", str(folder)), "good", Terms(base), store, settings)
    monkeypatch.setattr(InUse, "add", late)
    with InUse(store) as hold:
        admission = admit(AdapterRef("file", str(folder)), "good", Terms(base), store, settings, hold=hold)
        assert admission.error is None
        assert admission.snapshot is not None
        assert admission.snapshot.directory.is_dir()
    # It was taken away once; the second time it was held already.
    assert list(cleanings) == [False]
