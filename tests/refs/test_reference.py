"""A reference, in every way that users write one."""

from pathlib import Path

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from lora_cli.errors import UsageError
from lora_cli.refs.reference import AdapterRef, below, parse

COMMIT = "9f2c" * 10
DIGEST = "sha256:" + "ab" * 32


def reference(text: str) -> AdapterRef:
    return parse(text, is_path=lambda _: False, base_dir=Path("/here"))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("org/name", "hf://org/name"),
        ("org/name/sub/folder@v1", "hf://org/name/sub/folder@v1"),
        ("hf://org/name/sub//folder/@v1", "hf://org/name/sub/folder@v1"),
        ("https://HuggingFace.co.:443/org/name/", "hf://org/name"),
        ("huggingface.co/org/name/tree/main", "hf://org/name@main"),
        ("https://huggingface.co/org/name/tree/v1/sub/folder", "hf://org/name/sub/folder@v1"),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F3/sub", "hf://org/name/sub@refs/pr/3"),
        ("https://huggingface.co/org/name/blob/v1/adapter_config.json", "hf://org/name@v1"),
        (f"https://huggingface.co/org/name/commit/{COMMIT}", f"hf://org/name@{COMMIT}"),
        ("s3a://acme-adapters/sql@v1", "s3://acme-adapters/sql@v1"),
        ("gs://acme_adapters/a b?c#d", "gs://acme_adapters/a b?c#d"),
        ("az://loras/a b#żółw/", "az://loras/a b#żółw"),
        ("abfss://loras@ACME.blob.core.windows.net/sql", "az://loras@acme.dfs.core.windows.net/sql"),
        ("https://Example.COM.:443//a/b%3d%c3%a9/", "https://example.com/a/b=%C3%A9"),
        ("https://example.com/llama/config.json", "https://example.com/llama"),
        ("https://[0:0::1]:0443/sql", "https://[::1]/sql"),
        ("https://[::ffff:10.0.0.7]/sql", "https://10.0.0.7/sql"),
        ("oci://ghcr.io/acme/sql:v1/sub/folder", "oci://ghcr.io/acme/sql:v1//sub/folder"),
        (f"oci://ghcr.io/acme/sql@{DIGEST}/sub", f"oci://ghcr.io/acme/sql//sub@{DIGEST}"),
        (f"oci://ghcr.io/acme/sql:v1@{DIGEST}//a%40b/", f"oci://ghcr.io/acme/sql:v1//a%40b@{DIGEST}"),
        ("oci://index.docker.io/sql:v1", "oci://docker.io/library/sql:v1"),
        ("FSSPEC+SFTP://me@host/a b/", "fsspec+sftp://me@host/a b"),
        ("file://localhost/srv/lora/my%20sql/", "file:///srv/lora/my%20sql"),
        ("//srv/lora/sql/", "file:///srv/lora/sql"),
        ("../sql@v1", "file:///here/../sql%40v1"),
        ("adapters/team/sql", "file:///here/adapters/team/sql"),
    ],
)
def test_a_reference_has_one_form(text: str, canonical: str) -> None:
    assert str(reference(text)) == canonical
    assert reference(canonical) == reference(text)


def test_a_path_is_from_the_home_the_given_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert reference("~/sql") == AdapterRef("file", "/home/me/sql")
    assert parse("./sql", is_path=lambda _: False) == AdapterRef("file", str(tmp_path / "sql"))
    for text in ("sql", "org/name", "org/name@v1", "~sql", "a b c"):
        assert parse(text, is_path=lambda _: True, base_dir=Path("/here")) == AdapterRef("file", f"/here/{text}")
    assert parse("hf://org/name", is_path=lambda _: True).scheme == "hf"


@pytest.mark.parametrize(
    "text",
    [
        "sql", "sql@v1", "a b", "sql/", "org/na me", "org/.hidden", "ftp://host/x", "hf:a/b",
        "", "a\0b", "./a\nb", "x" * 5000, "hf://", "hf://org/name/../other", "hf://org/name/%2e%2e/other",
        "hf://org/name/a%00b", "hf://org/name@", "hf://org/name@a b", "hf://org/name@a..b", "hf://org/name@-x",
        "hf://org/na--me", "hf://datasets/org/name", "https://huggingface.co/datasets/org/name",
        "https://huggingface.co/org/name/discussions/3", "https://huggingface.co/org/name/tree",
        "https://huggingface.co/", "https://huggingface.co/gpt2/tree/main/sub", "file://relative/path",
        "file:///a%00b", "s3://UPPER/key", "s3:///key", "s3://bucket/a/../b", "https://example.com/a/%2e%2e/b",
        "https:///a", "https://example.com/a/..%2fb", "https://example.com/a/%252e%252e/b",
        "https://example.com/a/..%5cb", "https://example.com/a%00b", "https://2130706433/a", "https://0x7f.1/a",
        "https://127.1/a", "https://0177.0.0.1/a", "https://example..com/a", "https://example.com:0/a",
        "https://example.com:65536/a", "https://huggingface.co@evil.example/org/name",
        "https://me@huggingface.co/org/name", "http://127.0.0.1.example.com/a", "s3://bucket//sql",
        "gs://bucket/a//sql", "az://loras@acme.dfs.core.windows.net.evil.example/sql",
        "az://loras@127.0.0.1:10000/sql", "az://loras@/sql", "az://@acme.dfs.core.windows.net/sql",
        "az://loras/a/../b", "az://loras//a", "oci://ghcr.io", "oci://ghcr.io/acme/sql@sha256:12",
        "oci://ghcr.io/../sql", "oci://ghcr.io/acme/SQL", "oci://ghcr.io/acme/sql:v1//a/../b",
        "oci://ghcr.io/acme/sql//a@v1", f"oci://ghcr.io/acme/sql//a@{DIGEST}/b", "oci://1.2/sql",
        "org/name@\udcff", "fsspec+sftp:///a", "fsspec+sftp://h/a/../b", "az://c::zip://a", "ftp://host/a", "memory://a",
        "simplecache://a", "reference://a", "local://a", "fsspec+file:///etc", "fsspec+https://host/a",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        reference(text)
    assert caught.value.hint


TOKEN = "hf_" + "a1B2" * 8


@pytest.mark.parametrize("secret", ["hunter2", TOKEN, "api_org_" + "a1B2" * 8])
@pytest.mark.parametrize(
    "text",
    [
        *("https://me:{}@example.com/a", "https://example.com/a?sig={}", "az://c?sig={}", "http://example.com/a?x={}"),
        *("s3://me:{}@bucket/a", "oci://me:{}@ghcr.io/a", "fsspec+sftp://me:{}@host/a", "hf://me:{}@org/name"),
        *("s3://bucket/a?X-Amz-Security-Token={}", "gs://bucket/a?b=1&X-Goog-Signature={}"),
    ],
)
def test_a_secret_in_a_reference_is_refused_and_not_repeated(text: str, secret: str) -> None:
    with pytest.raises(UsageError) as caught:
        reference(text.format(secret))
    assert secret not in caught.value.message + caught.value.hint


def test_a_token_of_the_hub_is_refused_but_in_a_path() -> None:
    with pytest.raises(UsageError, match="a reference cannot contain a token"):
        reference(f"org/name@{TOKEN}")
    assert reference(f"file:///srv/{TOKEN}").location == f"/srv/{TOKEN}"


@pytest.mark.parametrize(
    ("text", "name", "pinned"),
    [
        (f"org/name@{COMMIT}", "name", True),
        (f"oci://ghcr.io/acme/sql:v1@{DIGEST}", "sql", True),
        ("org/name@main", "name", False),
        ("/srv/sql", "sql", False),
        ("oci://ghcr.io/acme/run:v1//checkpoint-500", "checkpoint-500", False),
    ],
)
def test_the_name_is_the_last_part_and_a_commit_or_a_digest_pins(text: str, name: str, pinned: bool) -> None:
    assert (reference(text).name, reference(text).pinned) == (name, pinned)


@pytest.mark.parametrize(
    ("text", "folder", "joined"),
    [
        ("hf://org/name/a@v1", "b/", "hf://org/name/a/b@v1"),
        ("oci://ghcr.io/acme/sql:v1//a", "b/", "oci://ghcr.io/acme/sql:v1//a/b"),
        ("/srv", "a b", "file:///srv/a%20b"),
        ("https://example.com/k", "a b", "https://example.com/k/a%20b"),
        ("org/name", "../other", ""),
        ("oci://ghcr.io/acme/sql", "../a", ""),
        ("https://example.com/k", "a;b", ""),
    ],
)
def test_a_folder_below_a_reference_is_one_of_it_and_leads_nowhere_else(text: str, folder: str, joined: str) -> None:
    if joined:
        assert str(below(reference(text), folder)) == joined
    else:
        with pytest.raises(UsageError):
            below(reference(text), folder)


PIECES = (
    "hf:// s3:// gs:// https:// file:// oci:// huggingface.co org name tree blob main sub / @ : % %40 %2F ~ . .. ? # é"
)
WORDS = st.lists(st.sampled_from([*PIECES.split(), "/", "/", COMMIT, DIGEST, " "]), max_size=12).map("".join)


PATHS = st.binary(min_size=1, max_size=30).map(lambda name: "/" + name.decode("utf-8", "surrogateescape"))


@given(st.text(max_size=40) | WORDS | PATHS, st.booleans())
def test_what_is_understood_is_understood_the_same_when_written_canonically(text: str, exists: bool) -> None:
    try:
        ref = parse(text, is_path=lambda _: exists, base_dir=Path("/here"))
    except UsageError:
        reject()
    assert parse(str(ref), is_path=lambda _: True, base_dir=Path("/elsewhere")) == ref
    assert parse(str(ref), is_path=lambda _: False) == ref
    assert str(ref).isascii() or ref.scheme != "file"
