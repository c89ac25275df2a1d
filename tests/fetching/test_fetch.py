"""From a reference to a snapshot: what is asked for, what is remembered, what is refused."""

import fcntl
import os
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_cli.documents.policy import Policy
from lora_cli.errors import Corrupt, Offline, Refused
from lora_cli.fetching.batch import plan_all
from lora_cli.refs.reference import parse
from lora_cli.refs.request import Request, Selection
from lora_cli.settings import Settings
from lora_cli.sources.local import LocalSource
from lora_cli.store import Store
from tests.bringing import fetch
from tests.fetching.desk import BYTES, CONFIG, FILES, README, REF, WEIGHTS, Desk, Scripted, content
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.processes import wait
from tests.store.keeping import edit_in_place, tree


def test_a_branch_costs_the_question_what_it_means_and_a_commit_that_is_here_nothing(desk: Desk) -> None:
    found = desk.bring()
    assert not found.cached
    assert found.revision == desk.commit
    assert content(found) == BYTES
    assert {path.partition("/")[0] for path in tree(desk.store.root)} == {"blobs", "refs", "snapshots"}
    for text, requests in (("org/sql", 1), (f"org/sql@{desk.commit}", 0)):
        desk.hub.requests.clear()
        assert desk.bring(text).cached
        assert desk.hub.count() == requests
    desk.hub.requests.clear()
    desk.hub.add("org/sql", {**FILES, "optimizer.pt": b"other"})
    same = desk.bring()
    assert (same.revision == found.revision, same.snapshot) == (False, found.snapshot)
    assert desk.hub.count("resolve") == 0
    desk.hub.add("org/sql", {**FILES, CONFIG: {"r": 8}})
    assert content(desk.bring()) == {**BYTES, CONFIG: b'{"r": 8}'}
    assert desk.hub.count(WEIGHTS) == 0
    assert content(found) == BYTES


def test_offline_gives_what_a_reference_meant_at_that_server_and_asks_nobody(desk: Desk) -> None:
    with Hub() as mirror:
        mirror.add("org/sql", {**FILES, CONFIG: {"r": 8}})
        found = [content(desk.bring()), content(desk.bring(hub_endpoint=mirror.endpoint))]
        desk.hub.add("org/sql", {**FILES, CONFIG: {"r": 9}})
        desk.hub.requests.clear()
        for one, endpoint in zip(found, (desk.hub.endpoint, mirror.endpoint), strict=True):
            assert content(desk.bring(offline=True, hub_endpoint=endpoint)) == one
    for text in ("org/other", "org/sql@v1"):
        assert isinstance(desk.fails(text, offline=True), Offline)
    assert desk.hub.requests == []


def test_without_sizes_and_digests_everything_is_fetched_once_and_a_git_blob_id_is_held_to(desk: Desk) -> None:
    listed = desk.hub.commit("org/sql").files
    desk.hub.bare = True
    desk.hub.fault(WEIGHTS, cut_at=1_000_000)
    first = desk.bring()
    assert content(first) == BYTES
    assert any(request.range for request in desk.hub.requests)
    desk.hub.requests.clear()
    assert desk.bring().snapshot == first.snapshot
    assert desk.bring(f"org/sql@{first.revision}").cached
    assert desk.hub.count("/resolve/") == 0
    lines = [f'{{"type": "file", "path": "{path}", "oid": "{listed[path].oid}"}}' for path in (CONFIG, README)]
    desk.hub.fault("/tree/", times=-1, status=200, body=f"[{', '.join(lines)}]")
    desk.hub.fault(README, times=-1, flip_at=1)
    desk.hub.add("org/other", FILES)
    assert "git blob" in desk.fails("org/other").message


def test_another_selection_is_another_snapshot_and_a_subfolder_an_adapter_of_its_own(desk: Desk) -> None:
    desk.hub.add("org/sql", {**FILES, "train.log": b"x", f"a/{CONFIG}": {"r": 1}, f"a/{WEIGHTS}": b"a"})
    usual = desk.bring()
    assert content(desk.bring(selection=Selection(include=("*.log",)))) == {**BYTES, "train.log": b"x"}
    assert desk.bring().snapshot == usual.snapshot
    assert content(desk.bring("hf://org/sql/a")) == {CONFIG: b'{"r": 1}', WEIGHTS: b"a"}


def test_a_policy_is_judged_before_anything_is_asked_and_over_files_before_a_byte_is_read(desk: Desk) -> None:
    allow, deny = Policy(allow_sources=("hf://acme/*",)), Policy(deny_sources=("hf://org/*",))
    for policy in (allow, deny, Policy(require_pinned=True)):
        refused = desk.fails(policies=(policy,))
        assert (type(refused), "more)" in refused.message) == (Refused, False)
    assert desk.hub.count() == 0
    assert "max_bytes" in desk.fails(policies=(Policy(max_bytes=1000),)).message
    assert desk.hub.count("resolve") == 0
    desk.bring()
    assert isinstance(desk.fails(f"org/sql@{desk.commit}", policies=(deny,)), Refused)


def test_a_demanded_digest_is_judged_whether_it_is_cached_or_not(desk: Desk) -> None:
    with pytest.raises(Corrupt, match="the manifest has sha256"):
        desk.bring(sha256="0" * 64)
    assert not any(desk.store.snapshots.iterdir())
    digest = desk.bring().snapshot.digest
    assert desk.bring(sha256=digest).cached
    with pytest.raises(Corrupt, match="the manifest has sha256"):
        desk.bring(sha256="0" * 64)
    for ref in (parse(text, is_path=os.path.lexists) for text in ("org/sql", f"org/sql@{desk.commit}")):
        wanted = [Request("sql", ref, sha256) for sha256 in (digest, "0" * 64)]
        assert [one.exit_code for one in plan_all(wanted, desk.store, desk.settings)] == [0, 5]


def test_an_edit_in_place_of_a_folder_or_of_the_cache_is_noticed_and_mended(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = desk.bring(str(adapter := write_adapter(tmp_path / "adapter")))
    assert desk.bring(str(adapter)).cached
    weights = (adapter / WEIGHTS).read_bytes()
    edit_in_place(adapter / WEIGHTS, at=len(weights) - 1)
    assert content(desk.bring(str(adapter)))[WEIGHTS] == (adapter / WEIGHTS).read_bytes()
    assert content(first)[WEIGHTS] == weights
    found = desk.bring()
    edit_in_place(found.snapshot.directory / WEIGHTS)
    again = desk.bring(f"org/sql@{found.revision}")
    assert "the cached file was corrupt and was removed" in caplog.text
    assert not again.cached
    assert content(again) == BYTES
    assert desk.is_sound


@pytest.mark.parametrize("changes", [False, True])
def test_a_folder_is_shared_with_the_cache_where_the_disk_can_do_that_and_hashed_all_the_same(
    desk: Desk, tmp_path: Path, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        if changes and os.fstat(source).st_ino == (adapter / WEIGHTS).stat().st_ino:
            (adapter / WEIGHTS).write_bytes(b"other")
        return os.copy_file_range(source, target, os.fstat(source).st_size, 0, 0) * 0

    adapter = write_adapter(tmp_path / "adapter")
    monkeypatch.setattr(fcntl, "ioctl", share)
    monkeypatch.setattr(LocalSource, "read", Mock(side_effect=AssertionError))
    if changes:
        assert "changed while it was read" in desk.fails(str(adapter), retries=0).message
        assert not desk.store.snapshots.exists()
    else:
        found = desk.bring(str(adapter)).snapshot
        assert (found.directory / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
        assert not (found.directory / WEIGHTS).samefile(adapter / WEIGHTS)


def test_somebody_who_cleans_meanwhile_only_costs_another_try(tmp_path: Path) -> None:
    source, settings, store = Scripted({CONFIG: b"{}", WEIGHTS: b"weights"}), Settings(tmp_path), Store(tmp_path)
    fetch(REF, Scripted({CONFIG: b"{}"}), store, settings)
    (config,) = (path for path in store.blobs.rglob("*") if path.is_file())
    source.before = lambda path, start: config.unlink(missing_ok=True)
    assert tree(fetch(replace(REF, revision="main"), source, store, settings).directory) == {CONFIG, WEIGHTS}


def test_many_go_on_when_one_fails_and_come_in_their_order(desk: Desk, tmp_path: Path) -> None:
    adapter, broken = write_adapter(tmp_path / "adapter"), tmp_path / "broken"
    broken.mkdir()
    refs = ["org/sql", "org/none", str(adapter), str(broken), str(tmp_path / "nowhere"), "az://loras/sql"]
    outcomes = desk.ask(*refs)
    assert [outcome.request.name for outcome in outcomes] == refs
    assert [outcome.exit_code for outcome in outcomes] == [0, 3, 0, 1, 3, 2]


def test_the_same_adapter_many_times_in_one_process_is_fetched_once_and_no_thread_is_left(desk: Desk) -> None:
    desk.hub.fault("GET cdn", delay_s=0.2, times=-1)
    before = threading.enumerate()
    fetched = [outcome.fetched for outcome in desk.ask(*["org/sql"] * 8)]
    assert [one.cached for one in fetched if one].count(False) == 1
    assert desk.hub.count("GET cdn") == 1
    ours = [one for one in threading.enumerate() if one.name.startswith("range-") and one not in before]
    wait(lambda: not any(thread.is_alive() for thread in ours), "the last thread")
