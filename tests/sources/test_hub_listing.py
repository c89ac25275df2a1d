"""A listing is not trusted: whatever a server lists, no path leads out, and each stands for one file."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Refused, Unreachable
from lora_cli.sources.hub_listing import files_of


def listed(*entries: Any, folder: str = "") -> tuple[RemoteFile, ...]:
    return files_of(entries, "hf://acme/sql-lora", folder)


def entry(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, **more}


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/etc/passwd", "is absolute"),
        ("../outside", "leads out"),
        ("a/../../outside", "leads out"),
        ("..", "leads out"),
        ("a/./b", "empty segment"),
        ("a//b", "empty segment"),
        ("a/", "empty segment"),
        ("", "empty segment"),
        ("a\\b", "backslash"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x1b[31mb", "control"),
        ("gpj.\u202enosj", "control"),
        ("\ud800", "control"),
        ("n" * 256, "too long"),
        ("n/" * 520 + "n", "too long"),
    ],
)
def test_a_path_that_is_unfit_for_a_folder_is_refused_by_name(path: str, wrong: str) -> None:
    with pytest.raises(Refused, match=wrong) as caught:
        listed(entry("adapter_config.json"), entry(path))
    assert ascii(path)[1:50] in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "path", ["a b.json", "Screenshot\u202f9.41\xa0AM.png", "é/😀\u200d🚀.txt", ".gitattributes", "..."]
)
def test_an_odd_but_harmless_name_is_not_refused(path: str) -> None:
    assert [file.path for file in listed(entry(path))] == [path]


def test_a_path_that_stands_there_twice_is_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"'a/b\.json' is listed twice"):
        listed(entry("a/b.json"), entry("c"), entry("a/b.json"))


def test_a_path_that_is_a_file_and_a_folder_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="'a/b' is both a file and a folder"):
        listed(entry("a/b/c"), entry("a/b"))


def test_folders_and_other_kinds_of_entries_are_no_files() -> None:
    assert listed({"type": "directory", "path": "a"}, {"type": "submodule", "path": "b"}, entry("a/c"))[0].path == "a/c"


def test_what_lies_outside_of_the_folder_is_left_out() -> None:
    entries = entry("a"), entry("sub/b"), entry("subway/c"), entry("sub/sub/d")
    assert [file.path for file in listed(*entries, folder="sub")] == ["b", "sub/d"]


@pytest.mark.parametrize("size", [None, -1, True, 1.5, "7", 2**63, [], "missing"])
def test_a_size_that_is_none_is_unknown(size: Any) -> None:
    more = {} if size == "missing" else {"size": size}
    assert listed(entry("a", **more))[0].size is None


def test_digests_are_kept_only_in_their_own_form() -> None:
    sha256, sha1 = "a" * 64, "b" * 40
    assert listed(entry("a", size=3, oid=sha1))[0].git_sha1 == sha1
    assert listed(entry("a", size=3, oid=sha1.upper()))[0].git_sha1 is None
    lfs = listed(entry("a", size=3, oid=sha1, lfs={"oid": sha256, "size": 4}))[0]
    assert (lfs.sha256, lfs.git_sha1, lfs.size) == (sha256, None, 4)
    assert listed(entry("a", size=3, oid=sha1, lfs={"oid": f"sha256:{sha256}"}))[0].sha256 == sha256
    assert listed(entry("a", lfs={"oid": sha256[1:]}))[0].sha256 is None
    assert listed(entry("a", lfs={"oid": ["x"]}))[0].sha256 is None


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
paths = st.text(st.sampled_from("a./\\\0é\n~"), max_size=9)
entries = st.fixed_dictionaries(
    {"type": st.sampled_from(["file", "directory"]), "path": paths}, optional={"size": json, "oid": json, "lfs": json}
)


@given(st.lists(entries | json, max_size=5))
def test_whatever_is_listed_stays_below_the_folder_and_is_unique(listing: list[Any]) -> None:
    try:
        files = listed(*listing)
    except (Refused, Unreachable):
        return
    found = [PurePosixPath(file.path) for file in files]
    assert len(set(found)) == len(found)
    for path, file in zip(found, files, strict=True):
        assert str(path) == file.path
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert not set(path.parents[:-1] if path.parents else ()) & set(found)
