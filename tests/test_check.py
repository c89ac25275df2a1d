"""Where fetch, read and rules meet: adapters judged in place, over the wire, and on their way into the cache."""

import hashlib
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from lora_cli.check import Checked, Terms, check_all, check_in_place, open_base
from lora_cli.check.admission import Admission, admit
from lora_cli.core.base_model import BaseModel
from lora_cli.core.finding import Applied
from lora_cli.core.lock import LockedAdapter
from lora_cli.core.policy import Policy
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Blob
from lora_cli.core.suppression import Suppression
from lora_cli.errors import NotFound, UsageError
from lora_cli.fetch.demand import Demand
from lora_cli.rules import RULES
from lora_cli.settings import Settings, load_settings
from lora_cli.store import Store
from lora_cli.store.holds import Hold, held, holding
from lora_cli.store.sweep import Limits, collect
from lora_cli.store.usage import clock
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base, write_base_config


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache")


@pytest.fixture
def base(tmp_path: Path, settings: Settings) -> BaseModel:
    return open_base(str(write_base_config(tmp_path / "base")), settings)


def codes(checked: Checked | Admission) -> set[str]:
    assert checked.verdict is not None
    return {found.code for found in checked.verdict.findings}


def test_a_good_adapter_is_judged_by_every_rule(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    write_adapter(tmp_path / "good", modules=llama_modules())

    checked = check_in_place(str(tmp_path / "good"), Terms(base), settings)

    assert checked.verdict is not None
    assert (checked.verdict.findings, checked.verdict.skipped) == ((), ())
    assert checked.verdict.applied == Applied(14, 14)
    assert list(checked.stage_ms) == ["resolve", "read", "values", "rules"]
    assert checked.exit_code() == 0


def test_judging_in_place_writes_nothing(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    write_adapter(tmp_path / "good", modules=llama_modules())

    check_in_place(str(tmp_path / "good"), Terms(base), settings)

    assert not settings.cache_dir.exists()


def test_a_path_that_does_not_exist_is_an_error_of_its_own(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    checked = check_in_place(str(tmp_path / "gone"), Terms(base), settings)

    assert isinstance(checked.error, NotFound)
    assert checked.exit_code() == 3


def test_a_word_that_is_no_reference_is_kept_as_an_error(base: BaseModel, settings: Settings) -> None:
    assert isinstance(check_in_place("sql", Terms(base), settings).error, UsageError)


def test_without_a_base_nothing_is_said_to_apply(tmp_path: Path, settings: Settings) -> None:
    write_adapter(tmp_path / "good", modules=llama_modules())

    verdict = check_in_place(str(tmp_path / "good"), Terms(), settings).verdict

    assert verdict is not None
    assert verdict.applied is None
    assert {one.reason for one in verdict.skipped} == {"no base model was given"}
    assert {one.code for one in verdict.skipped} == {rule.code for rule in RULES if "base" in rule.needs}


def test_many_are_judged_in_their_order(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    write_adapter(tmp_path / "a", modules=llama_modules())
    write_adapter(tmp_path / "c", modules=llama_modules(), drop=lambda name: "lora_B" in name)

    items = [(name, str(tmp_path / name)) for name in ("a", "b", "c")]
    done = list(check_all(items, Terms(base), settings))

    assert [one.name for one in done] == ["a", "b", "c"]
    assert [one.exit_code() for one in done] == [0, 3, 1]


def test_a_base_is_a_folder_its_config_or_a_checkpoint(tmp_path: Path, settings: Settings) -> None:
    folder = write_base(tmp_path / "base", shards=2)
    by_folder = open_base(str(folder), settings)
    by_config = open_base(str(folder / "config.json"), settings)
    (folder / "config.json").unlink()
    by_header = open_base(str(folder), settings)

    assert by_folder.modules == by_config.modules
    assert by_header.modules.keys() == by_folder.modules.keys()


def test_a_remote_adapter_of_84_mb_costs_less_than_200_kb(tmp_path: Path, base: BaseModel) -> None:
    files = remote_files(tmp_path, d_out=84_000_000 // (16 * 4))
    assert len(files["adapter_model.safetensors"]) > 84_000_000
    with Hub() as hub:
        hub.add("acme/large", files)
        settings = load_settings({"cache_dir": str(tmp_path / "cache")}, {"HF_ENDPOINT": hub.endpoint})
        checked = check_in_place("hf://acme/large", Terms(base), settings)
        asked = [request for request in hub.requests if "resolve" in request.target or "/lfs/" in request.target]

    assert checked.verdict is not None
    assert "LC314" in codes(checked)
    bounds = [re.fullmatch(r"bytes=(\d+)-(\d+)", one.range) for one in asked if "adapter_model" in one.target]
    assert bounds
    assert sum(int(bound[2]) + 1 - int(bound[1]) for bound in bounds if bound) < 200_000
    assert all(bounds)


def test_a_remote_adapter_is_judged_by_its_header_alone(tmp_path: Path, base: BaseModel) -> None:
    files = remote_files(tmp_path, d_out=4096)
    with Hub() as hub:
        hub.add("acme/sql", files)
        settings = load_settings({"cache_dir": str(tmp_path / "cache")}, {"HF_ENDPOINT": hub.endpoint})
        checked = check_in_place("hf://acme/sql", Terms(base), settings)

    assert codes(checked) == {"LC314", "LC604"}
    assert checked.verdict is not None
    assert {one.code for one in checked.verdict.skipped} == {"LC501", "LC502", "LC503", "LC504", "LC505"}
    assert checked.revision is not None
    assert len(checked.revision.id) == 40
    assert not (tmp_path / "cache").exists()


def test_a_suppression_of_what_is_not_here_holds_where_the_lock_knows_the_digest_of_that_commit(
    tmp_path: Path, base: BaseModel
) -> None:
    files = remote_files(tmp_path, d_out=4096)
    blobs = {name: Blob(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    with Hub() as hub:
        commit = hub.add("acme/sql", files)
        settings = load_settings({"cache_dir": str(tmp_path / "cache")}, {"HF_ENDPOINT": hub.endpoint})
        locked = LockedAdapter("sql", "acme/sql", commit, blobs)
        suppressed = Policy(suppressions=(Suppression(locked.digest, "LC314", "it is meant for another base"),))
        settings = replace(settings, policies=(suppressed,))

        def refused(source: str, demand: Demand | None) -> bool:
            verdict = check_in_place(source, Terms(base), settings, demand=demand).verdict
            assert verdict is not None
            return verdict.refused()

        assert not refused(f"hf://acme/sql@{commit}", Demand(None, locked))
        assert refused(f"hf://acme/sql@{commit}", None)
        assert refused("hf://acme/sql", Demand(None, locked))
        assert refused(f"hf://acme/sql@{commit}", Demand(None, replace(locked, revision="0" * 40)))


def test_remote_pickled_weights_are_judged_from_a_few_ranges(tmp_path: Path, base: BaseModel) -> None:
    files = remote_files(tmp_path, d_out=65_536)
    torch.save(load(files.pop("adapter_model.safetensors")), tmp_path / "adapter_model.bin")
    files["adapter_model.bin"] = (tmp_path / "adapter_model.bin").read_bytes()
    with Hub() as hub:
        hub.add("acme/sql", files)
        settings = load_settings({"cache_dir": str(tmp_path / "cache")}, {"HF_ENDPOINT": hub.endpoint})
        checked = check_in_place("hf://acme/sql", Terms(base), settings)
        given = [one.range for one in hub.requests if one.origin == "cdn" and one.method == "GET"]

    assert codes(checked) == {"LC103", "LC314", "LC604"}
    ranges = [tuple(map(int, one.removeprefix("bytes=").split("-"))) for one in given]
    assert len(ranges) <= 4
    assert sum(stop + 1 - start for start, stop in ranges) < 150_000 < len(files["adapter_model.bin"])


def remote_files(tmp_path: Path, d_out: int) -> dict[str, bytes]:
    """An adapter's files, with weights larger than a header's range."""
    modules = {"model.layers.0.self_attn.q_proj": (64, d_out)}
    folder = write_adapter(tmp_path / "remote", modules=modules, r=16, config={"layers_to_transform": [0]})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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

    def admitted() -> Admission:
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
    assert codes(admission) == {"LC302"}


def test_what_a_policy_suppresses_in_these_bytes_is_admitted(
    tmp_path: Path, base: BaseModel, settings: Settings
) -> None:
    folder = write_adapter(tmp_path / "bad", modules=llama_modules(), drop=lambda name: "lora_B" in name)
    ref, store = AdapterRef("file", str(folder)), Store(settings.cache_dir)
    refused = admit(ref, "bad", Terms(base), store, settings)
    assert refused.snapshot is not None

    for digest, stage in ((refused.snapshot.digest, ""), ("ab" * 32, "validate")):
        suppressed = Policy(suppressions=(Suppression(digest, "LC302", "half of it is enough"),))
        admission = admit(ref, "bad", Terms(base), store, replace(settings, policies=(suppressed,)))
        assert admission.stage == stage
        assert (admission.refusal is None) == (stage == "")


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
    with holding(store) as hold:
        admission = admit(AdapterRef("file", str(folder)), "good", Terms(base), store, settings, hold=hold)
        assert admission.snapshot is not None
        assert held(store, clock(store)) == {admission.snapshot.digest}
        assert collect(store, Limits(unused_for_s=-1, max_bytes=0, grace_s=-1)) == []
    assert held(store, clock(store)) == frozenset()
    assert "snapshot" in [one.kind for one in collect(store, Limits(unused_for_s=-1, max_bytes=0, grace_s=-1))]


def test_what_was_cleaned_away_before_it_was_held_is_fetched_again(
    tmp_path: Path, base: BaseModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tmp_path / "good", modules=llama_modules())
    store, keeps = Store(settings.cache_dir), Hold.keeps
    cleanings = iter([True, True, False])

    def late(hold: Hold, digest: str) -> bool:
        if next(cleanings):
            collect(store, Limits(unused_for_s=-1, grace_s=-1))
        return keeps(hold, digest)

    monkeypatch.setattr(Hold, "keeps", late)
    with holding(store) as hold:
        admission = admit(AdapterRef("file", str(folder)), "good", Terms(base), store, settings, hold=hold)
        assert admission.error is None
        assert admission.snapshot is not None
        assert admission.snapshot.directory.is_dir()
    # It was taken away once; the second time it was held already.
    assert list(cleanings) == [False]


def test_weights_in_a_folder_below_are_pointed_at(tmp_path: Path, settings: Settings) -> None:
    folder = write_adapter(tmp_path / "run")
    (folder / "checkpoint-20").mkdir()
    (folder / "adapter_model.safetensors").rename(folder / "checkpoint-20" / "adapter_model.safetensors")

    checked = check_in_place(str(folder), Terms(), settings)

    assert checked.verdict is not None
    found = next(one for one in checked.verdict.findings if one.code == "LC101")
    assert found.problem.hint == "point at the folder that holds them: checkpoint-20"
