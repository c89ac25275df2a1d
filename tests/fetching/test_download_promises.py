"""The downloader holds an origin to what it promised: bytes, sizes and digests."""

import os
from pathlib import Path

import pytest

from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Corrupt, Refused, Unreachable
from lora_cli.fetching.download import download, partial_key
from lora_cli.store import Store
from lora_cli.store.partials import open_partial
from tests.fetching.downloading import MIB, WEIGHTS, context_of, downloaded, job_of, mend, partials
from tests.fetching.scripted import REF, Scripted
from tests.store.keeping import tree


def test_a_stream_that_ends_too_early_again_and_again_is_an_error(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: bytes(1000)}, served={WEIGHTS: bytes(900)})
    with pytest.raises(Unreachable, match="ends at byte 900"):
        downloaded(source, tmp_path)


def test_wrong_bytes_are_fetched_again_and_then_refused(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"promised", "adapter_config.json": b"{}"}, served={WEIGHTS: b"PROMISED"})
    with pytest.raises(Corrupt, match=r"expected sha256 .*, received"):
        downloaded(source, tmp_path, retries=5)
    assert sum(path == WEIGHTS for path, _, _ in source.reads) == 3
    assert sum(path == "adapter_config.json" for path, _, _ in source.reads) == 1
    assert partials(tmp_path) == []
    assert len([path for path in tree(tmp_path) if path.startswith("blobs")]) == 1


def test_wrong_bytes_that_come_right_are_taken(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"promised"}, served={WEIGHTS: b"PROMISED"})
    source.before = lambda path, start: mend(source)
    assert downloaded(source, tmp_path) == {WEIGHTS: b"promised"}


def test_a_partial_with_wrong_bytes_is_thrown_away_and_costs_no_try(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"promised"})
    file = source.resolve(REF).files[0]
    partial = open_partial(Store(tmp_path), partial_key(source.resolve(REF), file), 1 << 30)
    os.pwrite(partial.descriptor, b"PROM", 0)
    partial.close(keep=True)
    assert downloaded(source, tmp_path, retries=0) == {WEIGHTS: b"promised"}
    assert [start for _, start, _ in source.reads] == [4, 0]


def test_a_complete_partial_costs_no_read(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"promised"})
    partial = open_partial(Store(tmp_path), partial_key(source.resolve(REF), source.resolve(REF).files[0]), 1 << 30)
    os.pwrite(partial.descriptor, b"promised", 0)
    partial.close(keep=True)
    assert downloaded(source, tmp_path) == {WEIGHTS: b"promised"}
    assert source.reads == []


def test_a_git_blob_id_is_verified_where_no_sha256_is_known(tmp_path: Path) -> None:
    right = "ce013625030ba8dba906f756967f9e9ca394464a"  # printf 'hello\n' | git hash-object --stdin
    source = Scripted({"README.md": b"hello\n"})
    for served, fits in ((b"hello\n", True), (b"jello\n", False)):
        source.served["README.md"] = served
        file = RemoteFile("README.md", 6, git_sha1=right)
        with context_of(tmp_path, jobs=1, retries=0) as context:
            if fits:
                assert download(job_of(source, context, file), context)["README.md"].size == 6
            else:
                with pytest.raises(Corrupt, match="git blob"):
                    download(job_of(source, context, file), context)


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
    with pytest.raises(Refused, match="has 1100 bytes, but 1099 are allowed"):
        downloaded(source, tmp_path, max_bytes=1099)
    assert source.reads == []
