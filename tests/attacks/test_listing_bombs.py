"""Servers that list more than anybody wants: 32 at once are refused within 300 MiB, and an honest one is not."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import LoraCliError, Refused
from lora_cli.settings import Settings
from lora_cli.sources.listed_paths import check_listed
from lora_cli.sources.registry import open_source
from tests.answering import Reply, answering
from tests.attacks.peak_memory import run
from tests.making import write_base_config
from tests.sources.s3_answers import source_at

pytestmark = pytest.mark.slow

AT_ONCE, MOST_MIB = 32, 300
COMMIT = "a" * 40
INFO = json.dumps({"sha": COMMIT, "private": False, "gated": False}).encode()
EMOJI = "\U0001f600"
MIB = 1 << 20


def array(element: str, size: int) -> bytes:
    """A JSON array of so many bytes: one emoji makes four bytes of each character of its text."""
    return f"[{','.join([element] * (size // (len(element) + 1)))},{json.dumps(EMOJI, ensure_ascii=False)}]".encode()


def tree(paths: Iterator[str], **more: object) -> bytes:
    listed = [{"type": "file", "path": path, "size": 10**15 + number, **more} for number, path in enumerate(paths)]
    return json.dumps(listed, ensure_ascii=False).encode()


def values() -> bytes:
    numbers = ",".join(["12345678901234567"] * 115_000)
    return f'{{"sha":"{COMMIT}","x":[{numbers},"{EMOJI}"]}}'.encode()


HUBS: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "a description of small objects": lambda: (array('{"":0}', 16 * MIB), b"[]"),
    "a description just small enough": lambda: (array('{"":0}', 650_000), b"[]"),
    "a description of numbers": lambda: (values(), b"[]"),
    "a listing of small objects": lambda: (INFO, array('{"":0}', 15 * MIB)),
    "a listing of large objects": lambda: (INFO, array(json.dumps({"a": [{}] * 15_000}), 12 * MIB)),
    "a listing of deep paths": lambda: (INFO, tree(f"{n}/{'a/' * 500}b" for n in range(10_000))),
    "a listing of long names": lambda: (INFO, tree(f"{EMOJI}{n:06}{'a' * 200}/{'b' * 200}" for n in range(10_000))),
    "a listing just small enough": lambda: (
        INFO,
        tree((f"{EMOJI}/{'a' * 15}{n:06}" for n in range(10_000)), oid="b" * 40),
    ),
}


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        *(("fetch", kind) for kind in HUBS if kind != "a listing of deep paths"),
        pytest.param("fetch", "a listing of deep paths", marks=pytest.mark.slow),
        ("validate", "a description of numbers"),
        pytest.param("validate", "a listing just small enough", marks=pytest.mark.slow),
    ],
)
def test_many_hubs_that_list_without_end_are_left_within_bounds(command: str, kind: str, tmp_path: Path) -> None:
    info, listing = HUBS[kind]()
    base = ["--base", str(write_base_config(tmp_path / "base"))] if command == "validate" else []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        return 200, listing if "/tree/" in request.path else info, {}

    with answering(reply) as endpoint:
        done = run(tmp_path, command, *(f"acme/x{n}" for n in range(AT_ONCE)), *base, HF_ENDPOINT=endpoint)
    assert done.code in {1, 4}
    assert done.peak < MOST_MIB
    assert command == "validate" or done.err.count("error: ") == AT_ONCE
    assert "Traceback" not in done.err


def objects(count: int, **said: str) -> bytes:
    said = {"Key": "x{n}/" + "k" * 100 + "{n}", "Size": "1", "ETag": "e" * 32, **said}
    one = "".join(f"<{name}>{text}</{name}>" for name, text in said.items())
    return "".join(f"<Contents>{one.format(n=n)}</Contents>" for n in range(count)).encode()


BUCKETS: dict[str, Callable[[], bytes]] = {
    "a page of many objects": lambda: objects(4 * MIB // 200),
    "a page of long keys": lambda: objects(3000, Key=EMOJI + "{n}" + "k" * 1000),
    "a page of long ETags": lambda: objects(400, ETag="e" * 8000),
    "one text": lambda: b"<Contents><Key>" + b"k" * 7 * MIB,
    "one tag of attributes": lambda: b"<a " + b" ".join(b'b%d=""' % n for n in range(MIB // 2)) + b"/>",
    "many kinds of tags": lambda: b"<Contents>" + b"".join(b"<a%d>b</a%d>" % (n, n) for n in range(MIB // 4)),
    "tags within tags": lambda: b"<a>" * (2 * MIB),
    "a comment": lambda: b"<!--" + b"x" * 7 * MIB,
}


@pytest.mark.parametrize("kind", BUCKETS)
def test_many_buckets_that_list_without_end_are_left_within_bounds(kind: str, tmp_path: Path) -> None:
    body = b"<ListBucketResult>" + BUCKETS[kind]() + b"</ListBucketResult>"
    with answering(lambda _: (200, body, {})) as endpoint:
        refs = (f"s3://bucket-{n}" for n in range(AT_ONCE))
        done = run(tmp_path, "fetch", *refs, AWS_ENDPOINT_URL=endpoint, AWS_SKIP_SIGNATURE="true")
    assert done.code in {1, 4}
    assert done.peak < MOST_MIB
    assert done.err.count("error: ") == AT_ONCE


def test_many_web_servers_with_an_index_without_end_are_left_within_bounds(tmp_path: Path) -> None:
    index = array('{"":0}', 15 * MIB)

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if request.path.endswith(".index.json"):
            return 200, index, {}
        return (200, b"{}", {}) if request.path.endswith("adapter_config.json") else (404, b"", {})

    with answering(reply) as endpoint:
        done = run(tmp_path, "inspect", *(f"{endpoint}/x{n}" for n in range(AT_ONCE)), "--format", "json")
    assert done.peak < MOST_MIB
    assert "Traceback" not in done.err


def test_an_honest_repository_of_ten_thousand_files_is_listed_in_one_page_and_in_many(tmp_path: Path) -> None:
    names = [
        f"checkpoint-{n // 10:04}/a rather usual name of a file, such as there are, {n % 10}" for n in range(9_998)
    ]
    paths = sorted([*names, "adapter_config.json", "adapter_model.safetensors"])
    more = {"lfs": {"oid": "c" * 64, "size": 5, "pointerSize": 9}, "xetHash": "d" * 64, "lastCommit": {"id": COMMIT}}
    entries: list[dict[str, object]] = [
        {"type": "file", "path": path, "size": 5, "oid": "b" * 40, **more} for path in paths
    ]
    pages = [
        json.dumps(entries).encode(),
        *(json.dumps(entries[n : n + 1000]).encode() for n in range(0, 10_000, 1000)),
    ]
    info = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": path} for path in paths]}).encode()

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if "/tree/" not in request.path:
            return 200, info, {}
        if "acme/one" in request.path:
            return 200, pages[0], {}
        number = int(request.path.rpartition("page=")[2]) if "page=" in request.path else 1
        link = f'<http://127.0.0.1/x?page={number + 1}>; rel="next"'
        return 200, pages[number], {"Link": link} if number < 10 else {}

    with answering(reply) as endpoint:
        source = open_source("hf", Settings(tmp_path, hub_endpoint=endpoint, timeout_s=20, retries=0))
        for name in ("one", "many"):
            assert [file.path for file in source.resolve(AdapterRef("hf", f"acme/{name}")).files] == paths
        entries.append({"type": "directory", "path": "one-more"})
        pages[0] = json.dumps(entries).encode()
        with pytest.raises(Refused, match="over 10000 entries") as caught:
            source.resolve(AdapterRef("hf", "acme/one"))
    assert "hf://ORG/NAME/FOLDER" in caught.value.hint


def test_an_honest_page_of_a_bucket_is_listed(tmp_path: Path) -> None:
    more = {
        "StorageClass": "STANDARD",
        "ChecksumAlgorithm": "CRC64NVME",
        "ChecksumType": "FULL_OBJECT",
        "Owner": "<ID>x</ID>",
    }
    entries = objects(
        1000, Key="x/{n}" + "&amp;" * 200, ETag="&quot;e&quot;", LastModified="2026-11-24T12:00:00.000Z", **more
    )
    with answering(lambda _: (200, b"<ListBucketResult>" + entries + b"</ListBucketResult>", {})) as endpoint:
        found = source_at(endpoint, tmp_path).resolve(AdapterRef("s3", "abc/x")).files
    assert len(found) == 1000
    assert found[0].path == "0" + "&" * 200


def test_a_path_within_a_path_is_found_without_a_table_of_all_folders() -> None:
    deep = "a/" * 500
    check_listed([f"{n}/{deep}b" for n in range(2000)], "x")
    with pytest.raises(LoraCliError, match="is both a file and a folder"):
        check_listed([f"{n}/{deep}b" for n in range(2000)] + ["7/a/a"], "x")
