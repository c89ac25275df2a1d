"""From a reference to a snapshot: what is asked for, what is remembered, what is refused."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.request import Request, Selection
from lora_cli.documents.policy import Policy
from lora_cli.errors import AccessDenied, Corrupt, FormatError, NotFound, Offline, Refused, Unreachable
from lora_cli.fetching.batch import fetch_all
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.verify import verify
from tests.bringing import fetch
from tests.fetching.desk import CONFIG, FILES, WEIGHTS, Desk
from tests.fetching.scripted import REF, Scripted
from tests.making import write_adapter
from tests.store.keeping import tree


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def test_a_hub_repository_becomes_a_snapshot_of_what_an_adapter_needs(desk: Desk) -> None:
    found = desk.bring("org/sql")
    assert not found.cached
    assert found.revision == desk.hub.commit("org/sql").id
    assert tree(found.snapshot.directory) == {CONFIG, WEIGHTS, "README.md"}
    assert (found.snapshot.directory / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert not any(one.problem for one in verify(desk.store))
    assert list(desk.store.partials.iterdir()) == []
    assert list(desk.store.locks.iterdir()) == []


def test_a_branch_that_is_here_costs_the_question_what_it_means(desk: Desk) -> None:
    desk.bring("org/sql")
    assert desk.requests_of("org/sql") == 2
    assert desk.bring("org/sql").cached


def test_a_commit_that_is_here_costs_nothing(desk: Desk) -> None:
    desk.bring("org/sql")
    commit = desk.hub.commit("org/sql").id
    assert desk.requests_of(f"org/sql@{commit}") == 0
    assert desk.bring(f"hf://org/sql@{commit}").cached


def test_a_branch_that_moved_is_fetched_as_far_as_it_changed(desk: Desk) -> None:
    first = desk.bring("org/sql")
    desk.hub.add("org/sql", {**FILES, CONFIG: {"r": 8}})
    before = desk.hub.count(WEIGHTS)
    second = desk.bring("org/sql")
    assert second.snapshot.digest != first.snapshot.digest
    assert desk.hub.count(WEIGHTS) == before
    assert (first.snapshot.directory / CONFIG).read_text() == '{"r": 4}'
    assert (second.snapshot.directory / CONFIG).read_text() == '{"r": 8}'


def test_a_new_commit_with_the_same_files_is_the_same_snapshot_and_reads_nothing(desk: Desk) -> None:
    first = desk.bring("org/sql")
    desk.hub.add("org/sql", {**FILES, "optimizer.pt": b"other"})
    before = desk.hub.count("resolve")
    second = desk.bring("org/sql")
    assert second.revision != first.revision
    assert second.snapshot == first.snapshot
    assert desk.hub.count("resolve") == before


def test_offline_gives_what_a_reference_meant_and_asks_nobody(desk: Desk) -> None:
    found = desk.bring("org/sql")
    desk.hub.add("org/sql", {**FILES, CONFIG: {"r": 8}})
    desk.settings = replace(desk.settings, offline=True)
    assert desk.requests_of("org/sql") == 0
    assert desk.bring("org/sql").snapshot == found.snapshot
    with pytest.raises(Offline, match="is not cached"):
        desk.bring("org/other")
    with pytest.raises(Offline):
        desk.bring("org/sql@v1")


def test_a_hub_that_is_down_is_an_error_that_points_at_the_cache(desk: Desk) -> None:
    found = desk.bring("org/sql")
    desk.hub.fault("", status=503, times=-1, headers={"Retry-After": "0"})
    with pytest.raises(Unreachable) as caught:
        desk.bring("org/sql")
    assert "--offline" in caught.value.hint
    assert found.revision in caught.value.hint
    assert desk.bring(f"org/sql@{found.revision}").snapshot == found.snapshot


def test_another_selection_is_another_snapshot(desk: Desk) -> None:
    desk.hub.add("org/sql", {**FILES, "train.log": b"x"})
    usual = desk.bring("org/sql")
    more = desk.bring("org/sql", Selection(include=("*.log",)))
    assert tree(more.snapshot.directory) == {CONFIG, WEIGHTS, "README.md", "train.log"}
    assert desk.bring("org/sql").snapshot == usual.snapshot


def test_a_subfolder_is_an_adapter_of_its_own(desk: Desk) -> None:
    desk.hub.add("org/many", {f"a/{CONFIG}": {"r": 1}, f"a/{WEIGHTS}": b"a", f"b/c/{CONFIG}": {"r": 2}})
    assert tree(desk.bring("hf://org/many/a").snapshot.directory) == {CONFIG, WEIGHTS}
    with pytest.raises(FormatError, match="neither"):
        desk.bring("org/many")


@pytest.mark.parametrize("text", ["org/none", "org/sql@none"])
def test_what_is_not_there_is_said_so(desk: Desk, text: str) -> None:
    with pytest.raises((NotFound, AccessDenied)) as caught:
        desk.bring(text)
    assert text.partition("@")[0] in caught.value.message
    assert caught.value.hint


def test_a_byte_that_was_corrupted_on_the_way_is_fetched_again(desk: Desk) -> None:
    desk.hub.fault(WEIGHTS + "|cdn", flip_at=5, times=1)
    desk.hub.fault("GET cdn", flip_at=5, times=1)
    assert (desk.bring("org/sql").snapshot.directory / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_bytes_that_stay_wrong_are_refused_and_never_get_a_name(desk: Desk) -> None:
    desk.hub.fault("GET cdn", flip_at=5, times=-1)
    with pytest.raises(Corrupt, match=WEIGHTS):
        desk.bring("org/sql")
    assert not desk.store.snapshots.exists()
    assert not any(one.problem for one in verify(desk.store))


def test_a_small_file_without_sha256_is_verified_by_its_git_id(desk: Desk) -> None:
    desk.hub.fault(CONFIG, flip_at=2, times=-1)
    with pytest.raises(Corrupt, match="git blob"):
        desk.bring("org/sql")


def test_a_cut_connection_is_gone_on_with(desk: Desk) -> None:
    desk.hub.fault("GET cdn", cut_at=3000, times=1)
    assert (desk.bring("org/sql").snapshot.directory / WEIGHTS).read_bytes() == FILES[WEIGHTS]


@pytest.mark.parametrize("path", ["../../evil", "/evil", "a/../../evil", "a\nb", "adapter_config.json/evil"])
def test_a_path_that_leads_out_of_the_cache_is_refused(tmp_path: Path, path: str) -> None:
    source = Scripted({CONFIG: b"{}", path: b"evil"})
    settings = Settings(tmp_path / "a" / "b" / "cache")
    with pytest.raises(Refused):
        fetch(REF, source, Store(settings.cache_dir), settings, selection=Selection(include=("*",)))
    assert tree(tmp_path) == set()


def test_a_policy_is_judged_before_anything_is_asked(desk: Desk) -> None:
    before = desk.hub.count()
    for policy in (
        Policy(allow_sources=("hf://acme/*",)),
        Policy(deny_sources=("hf://org/*",)),
        Policy(require_pinned=True),
    ):
        with pytest.raises(Refused, match="policy"):
            desk.bring("org/sql", policy=policy)
    assert desk.hub.count() == before


def test_a_policy_over_files_is_judged_before_a_byte_is_read(desk: Desk) -> None:
    with pytest.raises(Refused, match="max_bytes"):
        desk.bring("org/sql", policy=Policy(max_bytes=1000))
    assert desk.hub.count("resolve") == 0


def test_a_demanded_digest_is_judged_whether_it_is_cached_or_not(desk: Desk) -> None:
    digest = desk.bring("org/sql").snapshot.digest
    assert desk.bring("org/sql", sha256=digest).cached
    with pytest.raises(Corrupt, match="the manifest has sha256"):
        desk.bring("org/sql", sha256="0" * 64)


def test_somebody_who_cleans_meanwhile_only_costs_another_try(tmp_path: Path) -> None:
    source = Scripted({CONFIG: b"{}", WEIGHTS: b"weights"})
    settings = Settings(tmp_path)
    store = Store(tmp_path)
    fetch(REF, Scripted({CONFIG: b"{}"}), store, settings)
    (config,) = (path for path in store.blobs.rglob("*") if path.is_file())

    def clean(path: str, start: int) -> None:
        config.unlink(missing_ok=True)

    source.before = clean
    assert tree(fetch(replace(REF, revision="main"), source, store, settings).directory) == {CONFIG, WEIGHTS}


def test_many_go_on_when_one_fails_and_come_in_their_order(desk: Desk, adapter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    refs = ["org/sql", "org/none", str(adapter), str(broken), str(tmp_path / "nowhere"), "az://loras/sql"]
    wanted = [Request(text, parse(text, is_path=os.path.lexists)) for text in refs]
    outcomes = list(fetch_all(wanted, desk.store, desk.settings))
    assert [outcome.request.name for outcome in outcomes] == refs
    assert [outcome.exit_code for outcome in outcomes] == [0, 3, 0, 1, 3, 2]
    assert all((outcome.fetched is None) == (outcome.error is not None) for outcome in outcomes)


def test_the_same_adapter_many_times_in_one_process_is_fetched_once(desk: Desk) -> None:
    desk.hub.fault("GET cdn", delay_s=0.2, times=-1)
    wanted = [Request(f"sql-{number}", AdapterRef("hf", "org/sql")) for number in range(8)]
    outcomes = list(fetch_all(wanted, desk.store, desk.settings))
    assert {outcome.exit_code for outcome in outcomes} == {0}
    assert len({outcome.fetched.snapshot.digest for outcome in outcomes if outcome.fetched}) == 1
    assert sum(not outcome.fetched.cached for outcome in outcomes if outcome.fetched) == 1
    assert desk.hub.count("GET cdn") == 1


def test_no_thread_is_left_after_many(desk: Desk) -> None:
    before = threading.enumerate()
    list(fetch_all([Request("a", AdapterRef("hf", "org/sql"))], desk.store, desk.settings))
    ours = [one for one in threading.enumerate() if one.name.startswith("range-") and one not in before]
    for thread in ours:
        thread.join(2)
    assert not any(thread.is_alive() for thread in ours)
    assert threading.active_count() <= len(before) + 4
