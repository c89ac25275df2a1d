"""Layers of an artifact that are tars: links, bombs, odd members and compressions."""

import gzip
import io
import os
import tarfile
from dataclasses import replace

import pytest

from lora_cli.core.reference import parse
from lora_cli.settings import Settings
from lora_cli.sources import oci_layers
from lora_cli.sources.oci import OciSource
from tests.answering import Asked, Reply, answering
from tests.attacks.lying_registry import FILES, TAR, Liar, code, error_of
from tests.oci_server import tar_of

pytestmark = pytest.mark.slow


def test_one_path_twice_is_refused(liar: Liar, settings: Settings) -> None:
    liar.tars(tar_of(FILES), tar_of({"adapter_config.json": b"{}"}))
    assert "is listed twice" in str(error_of(liar, settings))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_weights_that_are_a_link_or_a_device_are_no_weights(liar: Liar, settings: Settings, kind: bytes) -> None:
    info = tarfile.TarInfo("adapter_model.safetensors")
    info.type, info.linkname = kind, "/etc/passwd"
    liar.tars(tar_of({"adapter_config.json": b"{}"}, members=[info]))
    assert code(liar, settings) == 1


def test_a_bomb_is_not_unpacked(liar: Liar, settings: Settings) -> None:
    liar.tars(tar_of({**FILES, "zeros": bytes(90 << 20)}, "gzip"), kind=f"{TAR}+gzip")
    assert "more than 20 times its size" in str(error_of(liar, settings))


def test_a_bomb_is_not_unpacked_whatever_size_its_manifest_claims(liar: Liar, settings: Settings) -> None:
    files = {**FILES, "zeros": bytes(180 << 20), "rest": os.urandom(5 << 20)}
    layer = liar.layer(tar_of(files, "gzip"), f"{TAR}+gzip")
    path = f"/v2/acme/sql/blobs/{layer['digest']}"
    claimed, honest = 1 << 40, liar.reply

    def reply(asked: Asked) -> Reply:
        status, body, headers = honest(asked)
        told = {"Content-Range": f"bytes 0-{claimed - 1}/{claimed}", "Content-Length": str(claimed)}
        return (206, body, {**headers, **told}) if asked.path == path else (status, body, headers)

    with answering(reply) as url:
        liar.place = url.removeprefix("http://")
        liar.manifest({"layers": [{**layer, "size": claimed}]})
        assert "more than 20 times its size" in str(error_of(liar, settings))


def test_more_than_was_allowed_is_not_unpacked(liar: Liar, settings: Settings) -> None:
    liar.tars(tar_of(FILES))
    assert "over 50000 bytes" in str(error_of(liar, replace(settings, max_bytes=50_000)))
    assert code(liar, replace(settings, keep_free=1 << 60)) == 6


def test_what_is_no_file_of_the_adapter_is_bounded_too(
    liar: Liar, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_layers, "MOST_SKIPPED", 10 << 20)
    liar.tars(tar_of(FILES) + bytes(100 << 20))
    assert "over 10.0 MiB that are no files of the adapter" in str(error_of(liar, settings))


def test_members_without_end_are_refused(liar: Liar, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    liar.tars(tar_of({f"{number}": b"" for number in range(10_001)}))
    assert "over 10000 entries" in str(error_of(liar, settings))
    monkeypatch.setattr(oci_layers, "MOST_MEMBERS", 100)
    assert "over 100 members" in str(error_of(liar, settings))
    liar.tars(tar_of({f"{number}": b"" for number in range(100)}))
    assert "members" not in str(error_of(liar, settings))


def _long(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("adapter_config.json")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def _pax(records: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    padded = records + bytes(-len(records) % 512)
    return info.tobuf(tarfile.GNU_FORMAT) + padded + tar_of(FILES)


ODD = {
    "no tar": os.urandom(2000),
    "cut": tar_of(FILES)[:50_000],
    "no gzip": b"\x1f\x8b" + os.urandom(100),
    "a sparse file": _long(tarfile.GNUTYPE_SPARSE, 0),
    "a long name": _long(tarfile.GNUTYPE_LONGNAME, 1 << 20),
    "long attributes": _long(tarfile.XHDTYPE, 1 << 33),
    "a huge file": _long(tarfile.REGTYPE, 1 << 40),
    "a negative size": _long(tarfile.REGTYPE, -512),
    "records that go back": _pax(b"0 path=a\n"),
    "records that go on": _pax(b"999 path=a\n"),
    "records of digits": _pax(b"1" * 60_000),
    "a sparse map": _pax(b"22 GNU.sparse.major=1\n"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_tar_is_refused(liar: Liar, settings: Settings, name: str) -> None:
    liar.tars(ODD[name])
    assert code(liar, settings) == 1


def test_a_layer_that_is_not_compressed_so_is_refused(liar: Liar, settings: Settings) -> None:
    for data in (tar_of(FILES), tar_of(FILES, "gzip")[:5000], gzip.compress(b"no tar" * 1000)):
        liar.tars(data, kind=f"{TAR}+gzip")
        assert "is malformed" in str(error_of(liar, settings))


def test_a_thousand_streams_in_one_gzip_are_one(liar: Liar, settings: Settings) -> None:
    data, stream = tar_of(FILES), io.BytesIO()
    for at in range(0, len(data), 512):
        stream.write(gzip.compress(data[at : at + 512], 1))
    liar.tars(stream.getvalue(), kind=f"{TAR}+gzip")
    ref = parse(f"oci://{liar.place}/acme/sql:v1", is_path=lambda _: False)
    assert [file.path for file in OciSource(settings).resolve(ref).files] == [*FILES]
