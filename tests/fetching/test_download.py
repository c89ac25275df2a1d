"""The downloader: whatever order and shape bytes come in, what is kept is what was promised."""

import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.errors import Corrupt, LoraCliError, Refused, Unreachable
from lora_cli.fetching import download as readers
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.store import Store
from lora_cli.store.snapshots import open_partial
from tests.fetching.desk import CONFIG, MIB, REF, WEIGHTS, Scripted, context_of, download_of, downloaded, partials


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 300_000), min_size=1),
    st.integers(1, 6),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=20),
    st.sets(st.integers(1, 300_000), max_size=3),
    *[st.booleans()] * 3,
)
def test_bytes_arrive_whole_in_whatever_pieces_they_come(
    sizes: dict[str, int], jobs: int, chunks: list[int], breaks: set[int], known: bool, digests: bool, ranges: bool
) -> None:
    files = {path: os.urandom(size) for path, size in sizes.items()}
    source = Scripted(files, {}, lambda at: chunks[at % len(chunks)], breaks, known, digests, ranges)
    with tempfile.TemporaryDirectory() as folder, patch.object(readers, "RANGE", 50_000):
        try:
            found = downloaded(source, Path(folder), jobs=jobs)
        except Unreachable:
            # A stream that breaks before its first byte has been tried again by its source.
            found = downloaded(source, Path(folder), jobs=jobs)
        assert found == files
        assert partials(Path(folder)) == []


def test_as_many_ranges_are_in_flight_as_may_be_and_what_waits_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "RANGE", MIB)
    monkeypatch.setattr(readers, "WINDOW", 5 * MIB)
    meeting, seen, source = threading.Barrier(5, timeout=10), list[int](), Scripted({WEIGHTS: os.urandom(40 * MIB)})

    def slow_first(path: str, start: int) -> None:
        if start < 5 * MIB:
            meeting.wait()
        if start == 0:
            time.sleep(0.5)
            seen.append(len(source.reads))

    source.before = slow_first
    assert downloaded(source, tmp_path, jobs=8) == dict(source.files)
    assert seen == [5]


def test_a_stream_that_gives_nothing_is_an_error_and_the_next_try_asks_only_for_the_rest(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(3 * MIB)})
    source.before = lambda path, start: source.breaks.add(2 * MIB)
    with pytest.raises(Unreachable, match="broke at"):
        downloaded(source, tmp_path)
    (partial,) = partials(tmp_path)
    assert partial.read_bytes() == source.files[WEIGHTS][: 2 * MIB]
    again = Scripted(source.files)
    assert downloaded(again, tmp_path) == dict(source.files)
    assert again.reads == [(WEIGHTS, 2 * MIB, 3 * MIB)]
    assert partials(tmp_path) == []


def test_no_more_than_the_jobs_are_in_flight(tmp_path: Path) -> None:
    under_way, most = list[str](), list[int]()

    class Watched(Scripted):
        def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
            under_way.append(file.path)
            most.append(len(under_way))
            time.sleep(0.002)
            yield from super().read(revision, file, start, stop)
            under_way.remove(file.path)

    downloaded(Watched({f"{number}.json": b"%d" % number for number in range(16)}), tmp_path, jobs=2)
    assert max(most) == 2


def test_wrong_bytes_are_fetched_again_and_those_that_stay_wrong_are_refused_and_the_other_files_kept(
    tmp_path: Path,
) -> None:
    source = Scripted({WEIGHTS: b"promised", CONFIG: b"{}"}, served={WEIGHTS: b"PROMISED"})
    with pytest.raises(Corrupt, match=r"expected sha256 .*, received"):
        downloaded(source, tmp_path, retries=5)
    assert sorted(path for path, _, _ in source.reads) == [CONFIG, *[WEIGHTS] * 3]
    assert partials(tmp_path) == []
    source.reads.clear()
    source.before = lambda path, start: source.served.clear() if len(source.reads) > 1 else None
    assert downloaded(source, tmp_path) == dict(source.files)
    assert [path for path, _, _ in source.reads] == [WEIGHTS] * 2


@pytest.mark.parametrize(("left", "starts"), [(b"PROM", [4, 0]), (b"promised", [])])
def test_what_an_earlier_run_left_costs_no_try_when_it_is_wrong_and_no_read_when_it_is_all(
    tmp_path: Path, left: bytes, starts: list[int]
) -> None:
    source = Scripted({WEIGHTS: b"promised"})
    partial = open_partial(Store(tmp_path), source.resolve(REF).files[0].sha256 or "", 1 << 30)
    os.pwrite(partial.descriptor, left, 0)
    partial.close(keep=True)
    assert downloaded(source, tmp_path, retries=0) == {WEIGHTS: b"promised"}
    assert [start for _, start, _ in source.reads] == starts


class Generous(Scripted):
    """Sends more than it has."""

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        yield bytes(2000)


HELLO = "ce013625030ba8dba906f756967f9e9ca394464a"  # printf 'hello\n' | git hash-object --stdin
HELD: dict[str, tuple[Scripted, RemoteFile, type[LoraCliError], str]] = {
    "the git blob id": (Scripted({"a": b"jello\n"}), RemoteFile("a", 6, git_sha1=HELLO), Corrupt, "expected git blob"),
    "the size": (Generous({"a": bytes(1000)}), RemoteFile("a", 1000), Corrupt, "more bytes"),
    "the end": (Scripted({"a": bytes(900)}), RemoteFile("a", 1000), Unreachable, "ended early, at byte 900"),
    "max_bytes of a stream": (Scripted({"a": bytes(1001)}), RemoteFile("a", None), Refused, "more than 1000 bytes"),
}


@pytest.mark.parametrize("what", HELD)
def test_an_origin_is_held_to_its_word(tmp_path: Path, what: str) -> None:
    source, file, error, message = HELD[what]
    with context_of(tmp_path, retries=0, max_bytes=1000) as context, pytest.raises(error, match=message):
        download_of(source, context, file)
    assert not (tmp_path / "blobs").exists()


def test_two_hundred_files_need_few_descriptors_and_none_is_left_open(tmp_path: Path) -> None:
    source, open_ones = Scripted({f"{number}.json": b"%d" % number for number in range(200)}), Path("/proc/self/fd")
    before, (soft, hard) = len(list(open_ones.iterdir())), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, before + 100), hard))
    try:
        assert downloaded(source, tmp_path) == dict(source.files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(open_ones.iterdir())) == before
