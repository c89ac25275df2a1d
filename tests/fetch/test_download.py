"""The downloader: whatever order and shape bytes come in, what is kept is what was promised."""

import errno
import os
import resource
import subprocess
import sys
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
from lora_cli.errors import Corrupt, MachineError, Refused, Unreachable
from lora_cli.fetch import download as download_module
from lora_cli.fetch import lanes as lanes_module
from lora_cli.fetch import transfer as transfer_module
from lora_cli.fetch.crew import ENOUGH
from lora_cli.fetch.download import Job, download, partial_key
from lora_cli.fetch.lanes import Lanes
from lora_cli.fetch.progress import Silent
from lora_cli.store import Store
from lora_cli.store.partials import leave_partial, open_partial
from tests.fetch.scripted import REF, Scripted
from tests.store.keeping import tree

MIB = 1 << 20
WEIGHTS = "adapter_model.safetensors"


class Counting(Silent):
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.bytes = 0
        self.open = 0

    def began(self, file: str, size: int | None, have: int) -> None:
        self.bytes += have
        self.open += 1

    def advanced(self, file: str, count: int) -> None:
        self.bytes += count

    def ended(self, file: str) -> None:
        self.open -= 1


def downloaded(source: Scripted, root: Path, jobs: int = 4, **how: int) -> dict[str, bytes]:
    """Path → bytes that are in the store afterwards."""
    job = job_of(source, root, **how)
    with Lanes(jobs) as lanes:
        blobs = download(job, job.revision.files, lanes)
    return {path: job.store.blob(blob.sha256).read_bytes() for path, blob in blobs.items()}


def job_of(source: Scripted, root: Path, retries: int = 2, max_bytes: int | None = None) -> Job:
    return Job("org/name", source.resolve(REF), source, Store(root), Silent(), retries, max_bytes)


def partials(root: Path) -> list[Path]:
    return [path for path in (root / "tmp").rglob("*") if path.is_file()]


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
    step = lanes_module.SMALLEST_RANGE, lanes_module.LARGEST_RANGE
    small, download_module.SMALL = download_module.SMALL, 50_000
    lanes_module.SMALLEST_RANGE = lanes_module.LARGEST_RANGE = 50_000
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
        lanes_module.SMALLEST_RANGE, lanes_module.LARGEST_RANGE = step
        download_module.SMALL = small


def test_ranges_of_one_file_are_in_flight_together(tmp_path: Path) -> None:
    meeting = threading.Barrier(4, timeout=10)
    source = Scripted({WEIGHTS: os.urandom(16 * MIB)}, before=lambda path, start: _meet(meeting))
    assert downloaded(source, tmp_path, jobs=4) == dict(source.files)
    assert len(source.reads) == 4


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


def _mend(source: Scripted) -> None:
    """From the second read on, what is promised is served."""
    if len(source.reads) > 1:
        source.served.clear()


def _meet(barrier: threading.Barrier) -> None:
    barrier.wait()


def test_what_waits_for_a_slow_first_range_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "LARGEST_RANGE", MIB)
    monkeypatch.setattr(lanes_module, "WINDOW", 5 * MIB)
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


def near(lanes: Lanes) -> Lanes:
    """Lanes that know that their origin is nearby."""
    for _ in range(ENOUGH):
        lanes.distance.saw(0, 0.0)
    return lanes


def test_small_files_of_a_server_nearby_are_read_by_who_wants_them(tmp_path: Path) -> None:
    readers: set[str] = set()
    source = Scripted({WEIGHTS: os.urandom(300_000), "adapter_config.json": b"{}", "README.md": b""})
    source.before = lambda path, start: readers.add(threading.current_thread().name)
    job = job_of(source, tmp_path)
    with near(Lanes(4)) as lanes:
        assert download(job, job.revision.files, lanes).keys() == source.files.keys()
        source.served[WEIGHTS] = b"\0" * 300_000
        with pytest.raises(Corrupt):
            download(job_of(source, tmp_path / "other"), job.revision.files, lanes)
    assert readers == {threading.current_thread().name}


def test_no_more_than_the_jobs_are_in_flight_where_some_read_for_themselves(tmp_path: Path) -> None:
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
        job = job_of(Watched({WEIGHTS: os.urandom(size), "adapter_config.json": b"%d" % number}), tmp_path)
        done.append(len(download(job, job.revision.files, lanes)))

    done: list[int] = []
    with near(Lanes(2)) as lanes:
        threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert done == [2] * 16
    assert max(most) == 2


def test_small_files_that_are_much_together_are_not_held_in_memory(tmp_path: Path) -> None:
    most: list[int] = []
    source = Scripted({f"{number}.json": os.urandom(MIB // 2) for number in range(12)})
    source.before = lambda path, start: most.append(len(partials(tmp_path)))
    assert downloaded(source, tmp_path) == dict(source.files)
    assert max(most) == 12 - download_module.HELD // (MIB // 2)


def test_where_no_file_can_be_without_a_name_small_ones_are_kept_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str, *_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "not on this file system", path)

    source = Scripted({WEIGHTS: b"weights", "adapter_config.json": b"{}"})
    monkeypatch.delattr(os, "O_TMPFILE")
    assert downloaded(source, tmp_path / "one") == dict(source.files)
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", refused)
    assert downloaded(source, tmp_path / "two") == dict(source.files)
    assert partials(tmp_path / "one") == partials(tmp_path / "two") == []


def test_a_stream_that_ends_too_early_again_and_again_is_an_error(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: bytes(1000)}, served={WEIGHTS: bytes(900)})
    with pytest.raises(Unreachable, match="ends at byte 900"):
        downloaded(source, tmp_path)


def test_wrong_bytes_are_fetched_again_and_then_refused(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"promised", "adapter_config.json": b"{}"}, served={WEIGHTS: b"PROMISED"})
    with pytest.raises(Corrupt, match=r"sha256 .* was promised"):
        downloaded(source, tmp_path, retries=5)
    assert sum(path == WEIGHTS for path, _, _ in source.reads) == 3
    assert sum(path == "adapter_config.json" for path, _, _ in source.reads) == 1
    assert partials(tmp_path) == []
    assert len([path for path in tree(tmp_path) if path.startswith("blobs")]) == 1


def test_wrong_bytes_that_come_right_are_taken(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"promised"}, served={WEIGHTS: b"PROMISED"})
    source.before = lambda path, start: _mend(source)
    assert downloaded(source, tmp_path) == {WEIGHTS: b"promised"}


def test_a_partial_with_wrong_bytes_is_thrown_away_and_costs_no_try(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"promised"})
    file = source.resolve(REF).files[0]
    partial = open_partial(Store(tmp_path), partial_key(source.resolve(REF), file), None)
    os.pwrite(partial.descriptor, b"PROM", 0)
    leave_partial(partial)
    assert downloaded(source, tmp_path, retries=0) == {WEIGHTS: b"promised"}
    assert [start for _, start, _ in source.reads] == [4, 0]


def test_a_complete_partial_costs_no_read(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"promised"})
    partial = open_partial(Store(tmp_path), partial_key(source.resolve(REF), source.resolve(REF).files[0]), None)
    os.pwrite(partial.descriptor, b"promised", 0)
    leave_partial(partial)
    assert downloaded(source, tmp_path) == {WEIGHTS: b"promised"}
    assert source.reads == []


def test_a_git_blob_id_is_verified_where_no_sha256_is_known(tmp_path: Path) -> None:
    right = "ce013625030ba8dba906f756967f9e9ca394464a"  # printf 'hello\n' | git hash-object --stdin
    source = Scripted({"README.md": b"hello\n"})
    for served, fits in ((b"hello\n", True), (b"jello\n", False)):
        source.served["README.md"] = served
        file = RemoteFile("README.md", 6, git_sha1=right)
        job = Job("org/name", Revision(REF, "r", (file,)), source, Store(tmp_path), Silent(), 0)
        with Lanes(1) as lanes:
            if fits:
                assert download(job, [file], lanes)["README.md"].size == 6
            else:
                with pytest.raises(Corrupt, match="git blob"):
                    download(job, [file], lanes)


def test_more_bytes_than_promised_are_an_error(tmp_path: Path) -> None:
    class Generous(Scripted):
        def read(self, revision, file, start, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            yield bytes(2000)

    with pytest.raises(Corrupt, match="more bytes"):
        downloaded(Generous({WEIGHTS: bytes(1000)}), tmp_path)


def test_a_file_without_a_known_size_is_taken_as_far_as_it_goes_but_not_without_end(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(3 * MIB)}, sizes=False, breaks={MIB})
    assert downloaded(source, tmp_path) == dict(source.files)
    with pytest.raises(Refused, match="more than"):
        downloaded(Scripted({WEIGHTS: os.urandom(3 * MIB)}, sizes=False), tmp_path, max_bytes=MIB)


def test_an_adapter_that_is_too_large_is_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: bytes(1000), "adapter_config.json": bytes(100)})
    with pytest.raises(Refused, match="has 1100 bytes, and 1099 are allowed"):
        downloaded(source, tmp_path, max_bytes=1099)
    assert source.reads == []


def test_a_disk_that_is_too_small_is_said_so_before_a_byte_is_read(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"x"})
    file = RemoteFile(WEIGHTS, 1 << 60)
    job = Job("org/name", Revision(REF, "r", (file,)), source, Store(tmp_path / "cache"), Silent(), 0)
    with Lanes(1) as lanes, pytest.raises(MachineError, match=r"1152921504606846976 bytes are needed") as caught:
        download(job, [file], lanes)
    assert "cache gc" in caught.value.hint
    assert source.reads == []


def test_a_disk_that_fills_up_is_cleaned_and_ends_with_what_to_do(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here; the limit of a file's size is tested below")
    try:
        source = Scripted({WEIGHTS: os.urandom(5 * MIB), "adapter_config.json": b"{}"}, sizes=False)
        with pytest.raises(MachineError, match="No space left on device") as caught:
            downloaded(source, small)
        assert "cache gc" in caught.value.hint
        assert partials(small) == []
        assert downloaded(Scripted({WEIGHTS: os.urandom(MIB)}), small)
    finally:
        subprocess.run(["umount", str(small)], check=True)


FETCH_WITH_A_LIMIT = """
import resource, sys
from lora_cli.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
sys.exit(main(sys.argv[1:]))
"""


def test_a_write_that_the_system_refuses_is_exit_6_and_leaves_nothing(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_bytes(b"{}")
    (adapter / WEIGHTS).write_bytes(os.urandom(3 * MIB))
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", FETCH_WITH_A_LIMIT, "fetch", "--cache-dir", str(cache), str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert f"writing adapter: {WEIGHTS} to {cache}: File too large" in done.stderr
    assert "cache gc" in done.stderr
    assert done.stdout == ""
    assert partials(cache) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_is_known_to_be_the_same_is_not_read_again(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"weights"}, digests=False)
    first = downloaded(source, tmp_path)
    job = job_of(source, tmp_path)
    known = {WEIGHTS: Blob("9e" * 32, 7)}
    with Lanes(1) as lanes:
        blobs = download(job, job.revision.files, lanes)
        again = download(replace(job, known=blobs), job.revision.files, lanes)
        other = download(replace(job, known=known), job.revision.files, lanes)
    assert again == blobs == other
    assert len(source.reads) == 3
    assert first == {WEIGHTS: b"weights"}


def test_progress_adds_up_also_after_wrong_bytes(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(3 * MIB)}, served={WEIGHTS: bytes(3 * MIB)})
    source.before = lambda path, start: _mend(source)
    counting = Counting()
    job = Job("org/name", source.resolve(REF), source, Store(tmp_path), counting, 2)
    with Lanes(2) as lanes:
        download(job, job.revision.files, lanes)
    assert (counting.bytes, counting.open) == (3 * MIB, 0)


def test_two_hundred_files_do_not_need_two_hundred_descriptors(tmp_path: Path) -> None:
    source = Scripted({f"{number}.json": b"%d" % number for number in range(200)})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 32
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, open_now + 100), hard))
    try:
        assert downloaded(source, tmp_path) == dict(source.files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    downloaded(Scripted({"a": bytes(MIB), "b": b""}), tmp_path)
    with pytest.raises(Corrupt):
        downloaded(Scripted({"a": b"12", "c": b"1"}, served={"a": b"21"}), tmp_path)
    source = Scripted({"a": bytes(5), "d": b"12"})
    source.before = lambda path, start: source.breaks.add(0)
    with pytest.raises(Unreachable):
        downloaded(source, tmp_path)
    assert count() == before


def test_of_an_origin_far_away_as_many_ranges_are_in_flight_as_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_module, "LARGEST_RANGE", MIB)
    meeting = threading.Barrier(8, timeout=10)
    source = Scripted({WEIGHTS: os.urandom(8 * MIB)}, before=lambda path, start: _meet(meeting))
    job = job_of(source, tmp_path)
    with Lanes(8) as lanes:
        for _ in range(ENOUGH):
            lanes.distance.saw(0, 1.0)
        download(job, job.revision.files, lanes)
    assert len(source.reads) == 8


def test_a_server_nearby_is_asked_for_few_large_ranges(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(30 * MIB)})
    job = job_of(source, tmp_path)
    with Lanes(8) as lanes:
        for _ in range(ENOUGH):
            lanes.distance.saw(0, 0.0)
        download(job, job.revision.files, lanes)
    assert len(source.reads) == 4


def test_what_is_written_is_given_to_the_disk_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(transfer_module, "FLUSHED_BYTES", MIB)
    monkeypatch.setattr(transfer_module, "flush", flushed.append)
    source = Scripted({WEIGHTS: os.urandom(12 * MIB)})
    assert downloaded(source, tmp_path) == dict(source.files)
    assert flushed


def test_a_disk_that_does_not_take_it_on_the_way_is_an_error_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(transfer_module, "FLUSHED_BYTES", 1000)
    monkeypatch.setattr(transfer_module, "flush", full)
    with pytest.raises(MachineError, match="Input/output error"):
        downloaded(Scripted({WEIGHTS: os.urandom(2 * MIB)}), tmp_path)
    assert not (tmp_path / "blobs").exists()
