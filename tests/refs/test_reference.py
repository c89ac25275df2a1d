"""A reference, in every way that users write one."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from lora_cli.errors import UsageError
from lora_cli.refs import addresses
from lora_cli.redaction import without_secrets
from lora_cli.refs.reference import AdapterRef, below, parse

COMMIT = "9f2c" * 10
DIGEST = "sha256:" + "ab" * 32


def nothing_exists(text: str) -> bool:
    return False


def everything_exists(text: str) -> bool:
    return True


def reference(text: str) -> AdapterRef:
    return parse(text, is_path=nothing_exists, base_dir=Path("/here"))


@pytest.mark.parametrize(
    ("text", "location", "subfolder", "revision"),
    [
        ("org/name", "org/name", "", None),
        ("org/name@main", "org/name", "", "main"),
        ("org/name@feature/x", "org/name", "", "feature/x"),
        ("org/name@refs/pr/3", "org/name", "", "refs/pr/3"),
        ("org/name/sub/folder@v1", "org/name", "sub/folder", "v1"),
        ("hf://org/name", "org/name", "", None),
        ("HF://org/name", "org/name", "", None),
        ("hf://gpt2", "gpt2", "", None),
        ("hf://org/name/", "org/name", "", None),
        ("hf://org/name/sub/folder", "org/name", "sub/folder", None),
        ("hf://org/name/sub//folder/@v1", "org/name", "sub/folder", "v1"),
        ("hf://org/name/a%40b@v1", "org/name", "a@b", "v1"),
        (f"hf://org/name@{COMMIT.upper()}", "org/name", "", COMMIT),
        ("https://huggingface.co/org/name", "org/name", "", None),
        ("https://huggingface.co/org/name/", "org/name", "", None),
        ("https://huggingface.co/org/name.git", "org/name", "", None),
        ("https://HuggingFace.co.:443/org/name", "org/name", "", None),
        ("https://hf.co/org/name?library=peft#usage", "org/name", "", None),
        ("huggingface.co/org/name/tree/main", "org/name", "", "main"),
        ("https://huggingface.co/org/name/tree/v1", "org/name", "", "v1"),
        ("https://huggingface.co/org/name/tree/v1/sub/folder", "org/name", "sub/folder", "v1"),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F3/sub", "org/name", "sub", "refs/pr/3"),
        ("https://huggingface.co/org/name/tree/refs/pr/3/sub", "org/name", "sub", "refs/pr/3"),
        ("https://huggingface.co/org/name/blob/v1/adapter_config.json", "org/name", "", "v1"),
        ("https://huggingface.co/org/name/resolve/v1/sub/adapter_config.json", "org/name", "sub", "v1"),
        (f"https://huggingface.co/org/name/commit/{COMMIT}", "org/name", "", COMMIT),
        ("https://huggingface.co/gpt2/tree/main", "gpt2", "", "main"),
    ],
)
def test_the_hub_is_named_in_many_ways(text: str, location: str, subfolder: str, revision: str | None) -> None:
    assert reference(text) == AdapterRef("hf", location, subfolder, revision)


@pytest.mark.parametrize(
    ("text", "scheme", "location", "revision"),
    [
        ("s3://acme-adapters/team/sql", "s3", "acme-adapters/team/sql", None),
        ("s3://acme-adapters/team/sql/", "s3", "acme-adapters/team/sql", None),
        ("s3://acme-adapters", "s3", "acme-adapters", None),
        ("s3a://acme-adapters/sql@v1", "s3", "acme-adapters/sql@v1", None),
        ("gs://acme_adapters/a b?c#d", "gs", "acme_adapters/a b?c#d", None),
        ("gcs://acme/sql", "gs", "acme/sql", None),
        ("az://loras/a b#żółw/", "az", "loras/a b#żółw", None),
        ("abfs://loras", "az", "loras", None),
        ("abfss://loras@ACME.blob.core.windows.net/sql", "az", "loras@acme.dfs.core.windows.net/sql", None),
        ("https://Example.com/a b/sql/", "https", "example.com/a%20b/sql", None),
        ("https://example.com:8443/sql@2", "https", "example.com:8443/sql@2", None),
        ("https://example.com/%7Eme/sql#top", "https", "example.com/~me/sql", None),
        ("https://Example.COM.:443//a/b%3d%c3%a9/", "https", "example.com/a/b%3D%C3%A9", None),
        ("https://example.com/sql/adapter_config.json", "https", "example.com/sql", None),
        ("https://example.com/llama/config.json", "https", "example.com/llama", None),
        ("https://example.com/adapter_model.safetensors", "https", "example.com", None),
        ("https://[0:0::1]:0443/sql", "https", "[::1]/sql", None),
        ("https://[::ffff:10.0.0.7]/sql", "https", "10.0.0.7/sql", None),
        ("http://LocalHost:80/sql", "http", "localhost/sql", None),
        ("http://127.0.0.1:8000/sql", "http", "127.0.0.1:8000/sql", None),
        ("oci://ghcr.io/acme/sql:v1", "oci", "ghcr.io/acme/sql:v1", None),
        (f"oci://ghcr.io/acme/sql@{DIGEST}", "oci", "ghcr.io/acme/sql", DIGEST),
        ("file:///srv/lora/my%20sql", "file", "/srv/lora/my sql", None),
        ("file://localhost/srv/lora/sql/", "file", "/srv/lora/sql", None),
        ("/srv/lora/sql/", "file", "/srv/lora/sql", None),
        ("//srv/lora/sql", "file", "/srv/lora/sql", None),
        ("./sql", "file", "/here/sql", None),
        ("../sql", "file", "/here/../sql", None),
        (".", "file", "/here", None),
        ("./sql@v1", "file", "/here/sql@v1", None),
        ("adapters/team/sql", "file", "/here/adapters/team/sql", None),
    ],
)
def test_other_origins_and_paths(text: str, scheme: Any, location: str, revision: str | None) -> None:
    assert reference(text) == AdapterRef(scheme, location, "", revision)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("oci://ghcr.io/acme/sql:v1/sub/folder", "oci://ghcr.io/acme/sql:v1//sub/folder"),
        (f"oci://ghcr.io/acme/sql@{DIGEST}/sub", f"oci://ghcr.io/acme/sql//sub@{DIGEST}"),
        (f"oci://ghcr.io/acme/sql:v1@{DIGEST}//a%40b/", f"oci://ghcr.io/acme/sql:v1//a%40b@{DIGEST}"),
        (f"oci://ghcr.io/acme/sql//a@{DIGEST}", f"oci://ghcr.io/acme/sql//a@{DIGEST}"),
        ("oci://GHCR.io.:443/acme/sql/team", "oci://ghcr.io/acme/sql/team"),
        ("oci://localhost:5000/sql", "oci://localhost:5000/sql"),
        ("oci://index.docker.io/sql:v1", "oci://docker.io/library/sql:v1"),
        ("oci://registry-1.docker.io/acme/sql", "oci://docker.io/acme/sql"),
    ],
)
def test_an_artifact_is_named_in_one_form(text: str, canonical: str) -> None:
    assert str(reference(text)) == canonical
    assert reference(canonical) == reference(text)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert reference("~/sql") == AdapterRef("file", "/home/me/sql")
    assert reference("~") == AdapterRef("file", "/home/me")


@pytest.mark.parametrize("text", ["sql", "org/name", "org/name@v1", "~sql", "a b c"])
def test_an_existing_path_wins_over_every_other_meaning(text: str) -> None:
    assert parse(text, is_path=everything_exists, base_dir=Path("/here")) == AdapterRef("file", f"/here/{text}")


def test_a_scheme_wins_over_an_existing_path() -> None:
    assert parse("hf://org/name", is_path=everything_exists).scheme == "hf"


def test_without_a_base_directory_a_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("./sql", is_path=nothing_exists) == AdapterRef("file", str(tmp_path / "sql"))


@pytest.mark.parametrize("word", ["sql", "sql@v1", "a b", "sql/", "org/na me", "org/.hidden", "ftp://host/x", "hf:a/b"])
def test_a_word_that_is_nothing_is_an_error_with_a_hint(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        reference(word)
    assert word in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "./a\nb",
        "x" * 5000,
        "hf://",
        "hf://org/name/../other",
        "hf://org/name/%2e%2e/other",
        "hf://org/name/a%00b",
        "hf://org/name@",
        "hf://org/name@a b",
        "hf://org/name@a..b",
        "hf://org/name@-x",
        "hf://org/na--me",
        "hf://datasets/org/name",
        "https://huggingface.co/datasets/org/name",
        "https://huggingface.co/org/name/discussions/3",
        "https://huggingface.co/org/name/tree",
        "https://huggingface.co/",
        "https://huggingface.co/gpt2/tree/main/sub",
        "file://relative/path",
        "file:///a%00b",
        "s3://UPPER/key",
        "s3:///key",
        "s3://bucket/a/../b",
        "https://example.com/a/%2e%2e/b",
        "https:///a",
        "https://example.com/a/..%2fb",
        "https://example.com/a/%252e%252e/b",
        "https://example.com/a/..%5cb",
        "https://example.com/a%00b",
        "https://2130706433/a",
        "https://0x7f.1/a",
        "https://127.1/a",
        "https://0177.0.0.1/a",
        "https://example..com/a",
        "https://example.com:0/a",
        "https://example.com:65536/a",
        "https://huggingface.co@evil.example/org/name",
        "https://me@huggingface.co/org/name",
        "http://127.0.0.1.example.com/a",
        "s3://bucket/sql?versionId=abc",
        "s3://bucket//sql",
        "gs://bucket/a//sql",
        "gs://bucket/sql?generation=12",
        "az://loras@acme.dfs.core.windows.net.evil.example/sql",
        "az://loras@127.0.0.1:10000/sql",
        "az://loras@/sql",
        "az://@acme.dfs.core.windows.net/sql",
        "az://loras/a/../b",
        "az://loras//a",
        "oci://ghcr.io",
        "oci://ghcr.io/acme/sql@sha256:12",
        "oci://ghcr.io/../sql",
        "oci://ghcr.io/acme/SQL",
        "oci://ghcr.io/acme/sql:v1//a/../b",
        "oci://ghcr.io/acme/sql//a@v1",
        f"oci://ghcr.io/acme/sql//a@{DIGEST}/b",
        "oci://1.2/sql",
        "org/name@\udcff",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:hunter2@example.com/a",
        "https://example.com/a?sig=hunter2",
        "az://c?sig=hunter2",
        "http://example.com/a?token=hunter2",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        reference(text)
    assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://hunter2@bucket/a?x=1", "s3://bucket/a"),
        ("https://hunter2@example.com/a", "https://example.com/a"),
        ("me:hunter2@host/x", "***@host/x"),
        ("hf://me:hunter2@org/name", "hf://***@org/name"),
        ("hf://org/name@main/x", "hf://org/name@main/x"),
        ("abfss://data@acme.dfs.core.windows.net/a", "abfss://data@acme.dfs.core.windows.net/a"),
    ],
)
def test_a_name_is_shown_without_its_user(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize("text", ["org/name@{}", "hf://{}/name", "https://example.com/{}/a"])
@pytest.mark.parametrize("token", ["hf_" + "a1B2" * 8, "api_org_" + "a1B2" * 8])
def test_a_token_of_the_hub_in_a_reference_is_refused_and_not_repeated(text: str, token: str) -> None:
    with pytest.raises(UsageError, match="a reference cannot contain a token") as caught:
        reference(text.format(token))
    assert token not in caught.value.message
    assert reference(f"file:///srv/{token}").location == f"/srv/{token}"


def test_only_a_commit_or_a_digest_pins() -> None:
    assert reference(f"org/name@{COMMIT}").pinned
    assert reference(f"oci://ghcr.io/acme/sql@{DIGEST}").pinned
    assert not reference("org/name@main").pinned
    assert not reference("org/name").pinned
    assert not reference("./sql").pinned


def test_the_name_is_the_last_part() -> None:
    assert reference("org/name").name == "name"
    assert reference("hf://org/name/a/b").name == "b"
    assert reference("/srv/sql").name == "sql"
    assert reference("oci://ghcr.io/acme/sql:v1").name == "sql"
    assert reference("oci://ghcr.io/acme/run:v1//checkpoint-500").name == "checkpoint-500"
    assert reference("/").name == "/"
    assert reference("s3://bucket/a:b").name == "a:b"


def test_a_folder_below_a_reference_is_one_of_it() -> None:
    assert below(reference("hf://org/name/a@v1"), "b/") == AdapterRef("hf", "org/name", "a/b", "v1")
    assert below(reference("oci://ghcr.io/acme/sql:v1//a"), "b/").subfolder == "a/b"
    assert below(reference("/srv"), "a b").location == "/srv/a b"
    assert below(reference("s3://bucket/k"), "a b").location == "bucket/k/a b"
    assert below(reference("https://example.com/k"), "a b").location == "example.com/k/a%20b"
    assert below(reference("org/name"), "") == reference("org/name")


@pytest.mark.parametrize(
    ("text", "subfolder"),
    [("org/name", "../other"), ("/srv/sql", "../other"), ("hf://gpt2", "a"), ("oci://ghcr.io/acme/sql", "../a")],
)
def test_a_folder_that_leads_out_of_the_reference_is_refused(text: str, subfolder: str) -> None:
    with pytest.raises(UsageError):
        below(reference(text), subfolder)


FOLDER = st.lists(st.text(min_size=1, max_size=8).filter(lambda s: "/" not in s), max_size=3).map("/".join)
REPOSITORY = st.from_regex(r"[a-z0-9_][a-z0-9]{0,5}/[A-Za-z0-9_]{1,6}", fullmatch=True)
PIECES = re.findall(
    r"\S+",
    "hf:// s3:// gs:// https:// file:// oci:// huggingface.co org name tree blob main sub "
    "/ / / / @ @ : % %40 %2F %25 ~ . .. ? # é -",
)
WORDS = st.lists(st.sampled_from([*PIECES, COMMIT, DIGEST, " "]), max_size=12).map("".join)


@given(st.text(max_size=40) | WORDS, st.booleans())
def test_what_is_understood_is_understood_the_same_when_written_canonically(text: str, exists: bool) -> None:
    try:
        ref = parse(text, is_path=lambda _: exists, base_dir=Path("/here"))
    except UsageError:
        reject()
    assert parse(str(ref), is_path=everything_exists, base_dir=Path("/elsewhere")) == ref
    assert parse(str(ref), is_path=nothing_exists) == ref


@given(REPOSITORY, FOLDER, st.none() | st.text(min_size=1, max_size=12))
def test_any_folder_and_revision_of_a_repository_can_be_written(
    repository: str, folder: str, revision: str | None
) -> None:
    assume(repository.partition("/")[0] not in {"datasets", "spaces", "buckets", "kernels"})
    try:
        checked = None if revision is None else addresses.revision(revision, revision)
        ref = below(AdapterRef("hf", repository, revision=checked), folder)
    except UsageError:
        reject()
    assert reference(str(ref)) == ref


@given(st.binary(min_size=1, max_size=30))
def test_any_path_can_be_written_whatever_its_bytes(name: bytes) -> None:
    text = "/" + name.decode("utf-8", "surrogateescape")
    assume(all(ord(char) >= 32 and ord(char) != 127 for char in text))
    ref = reference(text)
    assert reference(str(ref)) == ref
    assert str(ref).isascii()
