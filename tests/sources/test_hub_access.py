"""Private, gated, missing: each refusal of the Hub has its own words and a hint, and no token is ever in them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import AccessDenied, LoraCliError, NotFound, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.http import StatusError
from lora_cli.sources.hub import HubSource
from lora_cli.sources.hub_access import Token, find_token, translate_error
from tests.hf_variables import set_variables
from tests.hub_content import Content
from tests.hub_server import Hub

FILES: dict[str, Content] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
ACME = AdapterRef("hf", "acme/sql-lora")
TOKEN = "hf_reader_0123456789"


def read_all(source: HubSource, ref: AdapterRef) -> list[bytes]:
    revision = source.resolve(ref)
    return [b"".join(source.read(revision, file, 0, None)) for file in revision.files]


def fails(settings: Settings, ref: AdapterRef = ACME) -> LoraCliError:
    """The error of reading everything that ``ref`` has."""
    with pytest.raises(LoraCliError) as caught:
        read_all(HubSource(settings), ref)
    assert caught.value.hint
    assert TOKEN not in f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"
    return caught.value


def test_a_repository_that_is_missing_or_private_says_both_to_a_stranger(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES, private=True)
    for id in ("acme/sql-lora", "acme/missing"):
        error = fails(settings, AdapterRef("hf", id))
        assert isinstance(error, AccessDenied)
        assert str(error) == f"hf://{id}: there is no repository {id}, or it is private"
        assert "HF_TOKEN" in error.hint


def test_a_reference_that_may_be_a_mistyped_path_says_so(
    hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    said = "if you mean a path: there is no out/sql in this folder; "
    assert fails(settings, AdapterRef("hf", "out/sql")).hint.startswith(said)
    assert not fails(settings, AdapterRef("hf", "elsewhere/sql")).hint.startswith("if you mean a path")
    error = fails(replace(settings, hub_endpoint="http://127.0.0.1:9", retries=0), AdapterRef("hf", "out/sql"))
    assert isinstance(error, Unreachable)
    assert error.hint.startswith(said)


def test_a_private_repository_is_read_with_its_token(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/sql-lora", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN, "acme/sql-lora"))
    assert read_all(HubSource(settings), ACME) == [b"{}", b"weights"]
    assert {(request.origin, request.authorized) for request in hub.requests} == {("api", True), ("cdn", False)}


def test_a_token_that_may_not_see_it_is_named_by_its_place(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/sql-lora", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN))
    error = fails(settings)
    assert isinstance(error, NotFound)
    assert "the token in HF_TOKEN cannot read it" in str(error)


def test_a_gated_repository_is_listed_and_then_refused_with_the_page_to_ask_at(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/sql-lora", FILES, gated=True)
    error = fails(settings)
    assert isinstance(error, AccessDenied)
    assert "is gated" in str(error)
    assert f"{hub.endpoint}/acme/sql-lora" in error.hint
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN))
    error = fails(settings)
    assert isinstance(error, AccessDenied)
    assert "the account of the token in HF_TOKEN has no access" in str(error)


def test_a_bad_token_is_said_to_be_bad_even_for_a_public_repository(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/sql-lora", FILES)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    error = fails(settings)
    assert isinstance(error, AccessDenied)
    assert "does not accept the token in HF_TOKEN" in str(error)
    assert "unset it" in error.hint


def test_no_token_is_said_to_be_bad_where_none_was_sent() -> None:
    refused = StatusError(401, "https://huggingface.co/acme/sql", {"X-Error-Message": "Invalid credentials in it"})
    error = translate_error(refused, AdapterRef("hf", "acme/sql"), Token(), "https://huggingface.co")
    assert isinstance(error, AccessDenied)
    assert "the token in" not in str(error)
    assert "set HF_TOKEN or run `hf auth login`" in error.hint


def test_a_missing_revision_is_named(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    for revision in ("v2", "0" * 40):
        error = fails(settings, replace(ACME, revision=revision))
        assert isinstance(error, NotFound)
        assert f"no branch, tag or commit '{revision}'" in str(error)


def test_a_file_that_is_gone_is_named(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    hub.fault("/tree/", status=200, body='[{"type": "file", "path": "lost.json"}]')
    error = fails(settings)
    assert isinstance(error, NotFound)
    assert "there is no file lost.json" in str(error)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "said"),
    [
        (401, {}, AccessDenied, "private"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, AccessDenied, "disabled it"),
        (403, {"X-Error-Message": "no\x1b[31m way"}, AccessDenied, r"denies access \(403\): no \[31m way"),
        (451, {}, AccessDenied, "denies access"),
        (404, {}, NotFound, "not found on"),
        (400, {"X-Error-Message": "what?"}, Unreachable, r"answered 400: what\?"),
        (304, {}, Unreachable, "answered 304"),
    ],
)
def test_any_other_refusal_says_what_the_server_said(
    hub: Hub, settings: Settings, status: int, headers: dict[str, str], kind: type[LoraCliError], said: str
) -> None:
    hub.fault("", status=status, headers=headers)
    error = fails(settings)
    assert isinstance(error, kind)
    with pytest.raises(kind, match=said):
        raise error
    assert len(hub.requests) == 1


def test_a_server_that_repeats_the_token_does_not_get_it_into_the_message(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fault("", status=403, headers={"X-Error-Message": f"Bearer {TOKEN} may not"})
    assert "Bearer *** may not" in str(fails(settings))


def test_a_redirect_to_another_origin_does_not_get_the_token(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN, "acme/sql-lora"))
    with Hub() as other:
        other.add("acme/sql-lora", FILES)
        hub.fault(
            "", times=-1, status=307, headers={"Location": f"{other.endpoint}/api/models/acme/sql-lora/tree/main"}
        )
        HubSource(settings).resolve(replace(ACME, revision="0" * 40))
        assert [request.authorized for request in hub.requests] == [True]
        assert [request.authorized for request in other.requests] == [False]


def test_no_error_of_the_network_holds_the_token(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    error = fails(replace(settings, hub_endpoint="http://127.0.0.1:9", retries=0))
    assert isinstance(error, Unreachable)
    assert "no connection to 127.0.0.1:9" in str(error)


def test_a_token_is_found_where_the_origins_own_client_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(**variables: str) -> tuple[str, str]:
        with monkeypatch.context() as patch:
            set_variables(patch, HF_HOME=str(tmp_path), **variables)
            token = find_token()
            return token.value, token.found_in

    assert found() == ("", "")
    (tmp_path / "token").write_text("hf_file\n")
    assert found() == ("hf_file", str(tmp_path / "token"))
    assert found(HUGGING_FACE_HUB_TOKEN="hf_old") == ("hf_old", "HUGGING_FACE_HUB_TOKEN")
    assert found(HUGGING_FACE_HUB_TOKEN="hf_old", HF_TOKEN=" hf_env\n") == ("hf_env", "HF_TOKEN")
    assert found(HF_TOKEN="hf_env", HF_HUB_DISABLE_IMPLICIT_TOKEN="1") == ("", "")
    (tmp_path / "elsewhere").write_text("hf_elsewhere")
    assert found(HF_TOKEN_PATH=str(tmp_path / "elsewhere"))[0] == "hf_elsewhere"
    os.mkfifo(tmp_path / "fifo")
    assert found(HF_TOKEN_PATH=str(tmp_path / "fifo")) == ("", "")


def test_a_token_is_never_shown_when_it_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert find_token().value == TOKEN
    assert TOKEN not in repr(find_token())


@pytest.mark.parametrize("token", ["hf_a b", "hf_a\r\nHost: evil", "hf_ü", "h" * 5000])
def test_what_cannot_be_a_token_is_refused_without_repeating_it(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match="the value in HF_TOKEN is not a valid token") as caught:
        find_token()
    assert token not in str(caught.value)
