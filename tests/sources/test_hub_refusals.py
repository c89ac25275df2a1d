"""Private, gated, missing: each refusal of the Hub has its own words and a hint, and no token is ever in them."""

from pathlib import Path

import pytest

from lora_cli.errors import AccessDenied, LoraCliError, NotFound, Unreachable
from lora_cli.refs.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from tests.hf_variables import set_variables
from tests.hub_content import Content
from tests.hub_server import Hub

FILES: dict[str, Content] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
ACME = AdapterRef("hf", "acme/sql")
TOKEN = "hf_reader_0123456789"


def read_all(settings: Settings, ref: AdapterRef = ACME) -> list[bytes]:
    source = open_source("hf", settings)
    revision = source.resolve(ref)
    return [b"".join(source.read(revision, file, 0, None)) for file in revision.files]


def fails(settings: Settings, ref: AdapterRef = ACME) -> LoraCliError:
    """The error of reading everything that ``ref`` has."""
    with pytest.raises(LoraCliError) as caught:
        read_all(settings, ref)
    assert caught.value.hint
    assert TOKEN not in f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"
    return caught.value


STRANGER, READER, WRONG = "", TOKEN, "hf_wrong_0123456789"


@pytest.mark.parametrize(
    ("text", "token", "kind", "said"),
    [
        ("missing", STRANGER, AccessDenied, "there is no repository acme/missing, or it is private| is ./NAME"),
        ("private", STRANGER, AccessDenied, "there is no repository acme/private, or it is private| HF_TOKEN"),
        ("private", READER, NotFound, "private and the token in HF_TOKEN cannot read it|check the spelling"),
        ("gated", STRANGER, AccessDenied, "acme/gated: it is gated: request access first|/acme/gated; set HF_TOKEN"),
        ("gated", READER, AccessDenied, "the account of the token in HF_TOKEN has no access|/acme/gated, or"),
        ("sql", WRONG, AccessDenied, "does not accept the token in HF_TOKEN|unset it"),
        ("sql@v2", STRANGER, NotFound, "acme/sql has no branch, tag or commit 'v2'|/acme/sql/tree/main"),
        (f"sql@{'0' * 40}", READER, NotFound, f"has no branch, tag or commit '{'0' * 40}'|/acme/sql/tree/main"),
        ("lost", STRANGER, NotFound, "acme/lost: there is no file lost.json|/acme/lost for its contents"),
    ],
)
def test_each_refusal_has_words_and_a_hint_of_its_own(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch, text: str, token: str, kind: type, said: str
) -> None:
    hub.add("acme/sql", FILES)
    hub.add("acme/private", FILES, private=True)
    hub.add("acme/gated", FILES, gated=True)
    body = f'{{"sha": "{hub.add("acme/lost", FILES)}", "siblings": [{{"rfilename": "lost.json", "size": 1}}]}}'
    hub.fault("acme/lost.*blobs=true", status=200, body=body)
    hub.token(READER)
    monkeypatch.setenv("HF_TOKEN", token)
    name, _, revision = text.partition("@")
    error = fails(settings, AdapterRef("hf", f"acme/{name}", revision=revision or None))
    assert type(error) is kind
    assert all(map(str.__contains__, (error.message, error.hint), said.split("|")))


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        (403, "Access to this resource is disabled.", AccessDenied, "(403): Access to this resource is disabled."),
        (404, "", NotFound, "not found on"),
        (400, "what?", Unreachable, "answered 400: what?"),
    ],
)
def test_any_other_refusal_says_what_the_server_said(
    hub: Hub, settings: Settings, status: int, message: str, kind: type, said: str
) -> None:
    hub.fault("", status=status, headers={"X-Error-Message": message} if message else {})
    error = fails(settings)
    assert type(error) is kind
    assert said in str(error)
    assert len(hub.requests) == 1


def test_a_token_goes_to_the_hub_and_to_no_other_server(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/sql", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN, "acme/sql"))
    assert read_all(settings) == [b"{}", b"weights"]
    assert {(request.origin, request.authorized) for request in hub.requests} == {("api", True), ("cdn", False)}
    with Hub() as other:
        other.add("acme/sql", FILES)
        where = f"{other.endpoint}/api/models/acme/sql/revision/main?blobs=true"
        hub.fault("", times=-1, status=307, headers={"Location": where})
        assert open_source("hf", settings).resolve(ACME).files
        assert [request.authorized for request in other.requests] == [False]


def test_a_token_is_found_where_the_hubs_own_client_finds_it(
    hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/sql", FILES, private=True)
    hub.token("hf_good", "acme/sql")

    def is_found(**variables: str) -> bool:
        with monkeypatch.context() as patch:
            set_variables(patch, HF_HOME=str(tmp_path), **variables)
            try:
                return bool(read_all(settings))
            except AccessDenied:
                return False

    assert not is_found()
    (tmp_path / "token").write_text("hf_good\n")
    assert is_found()
    assert not is_found(HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    (tmp_path / "token").write_text("hf_bad\n")
    assert is_found(HUGGING_FACE_HUB_TOKEN="hf_good")
    assert is_found(HUGGING_FACE_HUB_TOKEN="hf_bad", HF_TOKEN=" hf_good\n")
    (tmp_path / "elsewhere").write_text("hf_good")
    assert is_found(HF_TOKEN_PATH=str(tmp_path / "elsewhere"))
    assert not is_found(HF_OIDC_RESOURCE="acme", HF_TOKEN="hf_good")  # no provider is here: it is no fallback
