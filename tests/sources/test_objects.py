"""Buckets on a real server, beyond the contract: keys and folders, and who is not let in."""

import os
from dataclasses import replace

import pytest

from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, Changed, LoraCliError, MachineError, NotFound, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import Sources, open_source
from tests.object_servers import READER, S3Server
from tests.sources.asking import content, error_of
from tests.sources.buckets import CONFIG, at


@pytest.fixture
def server(seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    return seaweed_server


@pytest.fixture
def bucket(server: S3Server) -> str:
    """A folder in a bucket, which serves as well."""
    return server.place()


@pytest.fixture
def source(server: S3Server, settings: Settings) -> Source:
    return open_source("s3", settings)


def test_a_folder_has_what_is_below_it_but_neither_its_neighbours_nor_what_stands_for_folders(
    server: S3Server, source: Source
) -> None:
    bucket = server.bucket()
    assert isinstance(error_of(lambda: source.resolve(at(bucket, ""))), NotFound)
    folders = {"sql/": b"", "sql/sub/": b"", "sql/sub/x.json": b"{}", "sql/none": b""}
    server.put(bucket, {f"sql/{CONFIG}": b"1", f"sql-10/{CONFIG}": b"10", "sql.json": b"x", **folders})
    revision = source.resolve(at(bucket))
    assert [file.path for file in revision.files] == [CONFIG, "none", "sub/x.json"]
    assert content(source, revision, CONFIG) == b"1"
    assert f"sql-10/{CONFIG}" in {file.path for file in source.resolve(at(bucket, "")).files}


@pytest.mark.parametrize("key", ["x %41+&ż#?=@v1", "a*b[c]", "tab'q\"d", "trailing.", "a%2Fb"])
def test_a_key_is_taken_as_it_stands(server: S3Server, bucket: str, source: Source, key: str) -> None:
    server.put(bucket, {f"{key}/{CONFIG}": key.encode(), f"{key} 2/{CONFIG}": b"another"})
    assert content(source, source.resolve(at(bucket, key)), CONFIG) == key.encode()


def test_an_object_that_is_overwritten_or_removed_has_changed(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {"sql/a": b"1" * 100, "sql/b": b"1" * 100})
    revision = source.resolve(at(bucket))
    server.put(bucket, {"sql/a": b"2" * 100})
    name, _, folder = bucket.partition("/")
    server.client.delete_object(Bucket=name, Key=f"{folder}/sql/b")
    for path in ("a", "b"):
        with pytest.raises(Changed, match=f"{path}: it was overwritten or removed"):
            content(source, revision, path, 10, 20)


def test_one_run_reads_from_servers_that_have_nothing_in_common(
    seaweed_server: S3Server, rclone_server: S3Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    places, rules, profiles = [], [], settings.cache_dir.parent / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    for one in (seaweed_server, rclone_server):
        places.append(place := one.bucket())
        with profiles.open("a") as stream:
            stream.write("[{}]\naws_access_key_id={}\naws_secret_access_key={}\n".format(place, *one.keys))
        one.put(place, {f"sql/{CONFIG}": one.endpoint.encode()})
        how = {"endpoint_url": one.endpoint, "region": "eu-west-1", "profile": place}
        rules.append(SourceRule.model_validate({"match": f"s3://{place}/*", **how}))
    reached = Sources(replace(settings, sources=tuple(rules)))
    for place, one in zip(places, (seaweed_server, rclone_server), strict=True):
        source = reached.of(at(place))
        assert content(source, source.resolve(at(place)), CONFIG) == one.endpoint.encode()
        assert source is reached.of(at(place, "other"))


def test_a_forked_process_is_refused(server: S3Server, bucket: str, settings: Settings, source: Source) -> None:
    server.put(bucket, {f"sql/{CONFIG}": b"{}"})
    revision = source.resolve(at(bucket))
    child = os.fork()
    if not child:
        codes = []
        for asked in (source, open_source("s3", settings)):
            try:
                asked.resolve(at(bucket))
            except MachineError as error:
                codes.append(error.exit_code)
        os._exit(0 if codes == [6, 6] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert content(source, revision, CONFIG) == b"{}"


KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
REFUSALS: tuple[tuple[dict[str, str], type[LoraCliError], str, str], ...] = (
    ({"AWS_SECRET_ACCESS_KEY": "hunter2-hunter2"}, AccessDenied, "not accept the credentials", "aws sts"),
    (dict(zip(KEYS, READER, strict=True)), AccessDenied, f"denies access with the credentials from {KEYS[0]}", "s3:L"),
    ({"AWS_SKIP_SIGNATURE": "true"}, AccessDenied, "denies access without", "unset AWS_SKIP_SIGNATURE"),
    ({"AWS_ACCESS_KEY_ID": ""}, AccessDenied, "no AWS credentials were found", "AWS_PROFILE"),
    ({"AWS_ACCESS_KEY_ID": "", "AWS_PROFILE": "nobody"}, UsageError, "the profile nobody", "list-profiles"),
    ({"AWS_CA_BUNDLE": "/no/such/file"}, UsageError, "cannot be opened", "AWS_CA_BUNDLE"),
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, Unreachable, "no connection to 127.0.0.1:9", "AWS_ENDPOINT_URL"),
    ({}, NotFound, "there is no bucket no-such-bucket", "AWS_ENDPOINT_URL"),
)


@pytest.mark.parametrize(("changed", "kind", "says", "hint"), REFUSALS, ids=lambda value: str(value)[:40])
def test_each_refusal_says_what_is_wrong_and_no_secret(
    bucket: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    kind: type[LoraCliError],
    says: str,
    hint: str,
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    error = error_of(lambda: open_source("s3", settings).resolve(at(bucket if changed else "no-such-bucket")))
    assert type(error) is kind
    assert says in error.message
    assert hint in error.hint
    for secret in ("hunter2", "testsecret", *READER):
        assert secret not in error.message + error.hint
