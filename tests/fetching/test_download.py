"""The downloader: whatever order and shape bytes come in, what is kept is what was promised."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.errors import Unreachable
from lora_cli.fetching import scheduler as scheduler_module
from lora_cli.fetching.download import download
from tests.fetching.downloading import MIB, WEIGHTS, Counting, context_of, downloaded, job_of, meet, mend, partials
from tests.fetching.scripted import Scripted


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 300_000), min_size=1),
    st.integers(1, 6),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=20),
    st.sets(st.integers(1, 300_000), max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_bytes_arrive_whole_in_whatever_pieces_they_come(
    sizes: dict[str, int], jobs: int, chunks: list[int], breaks: set[int], known: bool, digests: bool
) -> None:
    files = {path: os.urandom(size) for path, size in sizes.items()}
    step, scheduler_module.RANGE = scheduler_module.RANGE, 50_000
    try:
        source = Scripted(files, chunk=lambda at: chunks[at % len(chunks)], breaks=breaks, sizes=known, digests=digests)
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = downloaded(source, Path(folder), jobs)
            except Unreachable:
                # A stream that breaks before its first byte has been tried again by its source.
                found = downloaded(source, Path(folder), jobs)
            assert found == files
            assert partials(Path(folder)) == []
    finally:
        scheduler_module.RANGE = step


def test_ranges_of_one_file_are_in_flight_together(tmp_path: Path) -> None:
    meeting = threading.Barrier(4, timeout=10)
    source = Scripted({WEIGHTS: os.urandom(16 * MIB)}, before=lambda path, start: meet(meeting))
    assert downloaded(source, tmp_path, jobs=4) == dict(source.files)
    assert len(source.reads) == 4


def test_files_start_as_many_threads_as_they_have_ranges(tmp_path: Path) -> None:
    others, most = {thread.ident for thread in threading.enumerate()}, 0

    def count(_path: str, _start: int) -> None:
        nonlocal most
        new = [one for one in threading.enumerate() if one.name.startswith("range-") and one.ident not in others]
        most = max(most, len(new))

    source = Scripted({WEIGHTS: os.urandom(9 * MIB), "adapter_config.json": b"{}"}, before=count)
    assert downloaded(source, tmp_path, jobs=32) == dict(source.files)
    assert most == 4


def test_small_files_do_not_wait_for_a_large_one(tmp_path: Path) -> None:
    small = {f"{number}.json": b"{}" for number in range(4)}
    finished: list[str] = []

    def slow(path: str, start: int) -> None:
        if path == WEIGHTS:
            time.sleep(0.3)
        finished.append(path)

    source = Scripted({WEIGHTS: os.urandom(40 * MIB), **small}, before=slow)
    downloaded(source, tmp_path, jobs=2)
    assert set(finished[:4]) == small.keys()


def test_what_waits_for_a_slow_first_range_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "RANGE", MIB)
    monkeypatch.setattr(scheduler_module, "WINDOW", 5 * MIB)
    seen: list[int] = []
    source = Scripted({WEIGHTS: os.urandom(40 * MIB)})

    def slow_first(path: str, start: int) -> None:
        if start == 0:
            time.sleep(0.5)
            seen.append(len(source.reads))

    source.before = slow_first
    assert downloaded(source, tmp_path, jobs=3) == dict(source.files)
    assert seen[0] == 5


def test_a_stream_that_broke_after_it_gave_something_is_gone_on_with(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(3 * MIB)}, breaks={MIB, 2 * MIB})
    assert downloaded(source, tmp_path) == dict(source.files)
    assert [start for _, start, _ in source.reads] == [0, MIB, 2 * MIB]


def test_a_stream_that_gives_nothing_is_an_error_and_what_came_is_kept(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(3 * MIB)})
    source.before = lambda path, start: source.breaks.add(2 * MIB)
    with pytest.raises(Unreachable, match="broke at"):
        downloaded(source, tmp_path)
    (partial,) = partials(tmp_path)
    assert partial.read_bytes() == source.files[WEIGHTS][: 2 * MIB]


def test_the_next_try_asks_only_for_the_rest(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(3 * MIB)})
    source.before = lambda path, start: source.breaks.add(2 * MIB)
    with pytest.raises(Unreachable):
        downloaded(source, tmp_path)
    again = Scripted(source.files)
    assert downloaded(again, tmp_path) == dict(source.files)
    assert again.reads == [(WEIGHTS, 2 * MIB, 3 * MIB)]
    assert partials(tmp_path) == []


def test_of_a_small_file_that_broke_only_the_rest_is_asked_for_too(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(300_000)}, chunk=lambda _: 100_000)
    source.before = lambda path, start: source.breaks.add(200_000)
    with pytest.raises(Unreachable, match="broke at"):
        downloaded(source, tmp_path)
    (partial,) = partials(tmp_path)
    assert partial.read_bytes() == source.files[WEIGHTS][:200_000]
    again = Scripted(source.files)
    assert downloaded(again, tmp_path) == dict(source.files)
    assert again.reads == [(WEIGHTS, 200_000, 300_000)]
    assert partials(tmp_path) == []


def test_no_more_than_the_jobs_are_in_flight_for_all_adapters_together(tmp_path: Path) -> None:
    under_way: list[str] = []
    most: list[int] = []

    class Watched(Scripted):
        def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
            under_way.append(file.path)
            most.append(len(under_way))
            time.sleep(0.002)
            yield from super().read(revision, file, start, stop)
            under_way.remove(file.path)

    def one(number: int) -> None:
        size = 3 * MIB if number % 4 == 0 else 1000
        source = Watched({WEIGHTS: os.urandom(size), "adapter_config.json": b"%d" % number})
        done.append(len(download(job_of(source, context), context)))

    done: list[int] = []
    with context_of(tmp_path, jobs=2) as context:
        threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert done == [2] * 16
    assert max(most) == 2


def test_what_is_known_to_be_the_same_is_not_read_again(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"weights"}, digests=False)
    first = downloaded(source, tmp_path)
    known = {WEIGHTS: Blob("9e" * 32, 7)}
    with context_of(tmp_path, jobs=1) as context:
        job = job_of(source, context)
        blobs = download(job, context)
        again = download(replace(job, known=blobs))
        other = download(replace(job, known=known))
    assert again == blobs == other
    assert len(source.reads) == 3
    assert first == {WEIGHTS: b"weights"}


def test_progress_adds_up_also_after_wrong_bytes(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(3 * MIB)}, served={WEIGHTS: bytes(3 * MIB)})
    source.before = lambda path, start: mend(source)
    counting = Counting()
    with context_of(tmp_path, counting, jobs=2) as context:
        download(job_of(source, context), context)
    assert (counting.bytes, counting.open) == (3 * MIB, 0)


def test_as_many_ranges_are_in_flight_as_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "RANGE", MIB)
    meeting = threading.Barrier(8, timeout=10)
    source = Scripted({WEIGHTS: os.urandom(8 * MIB)}, before=lambda path, start: meet(meeting))
    with context_of(tmp_path, jobs=8) as context:
        download(job_of(source, context), context)
    assert len(source.reads) == 8
