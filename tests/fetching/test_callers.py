"""A shared cache hands out what the origin lets its caller have, and asks where it does not know."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.lock import LockedAdapter
from lora_cli.core.reference import parse
from lora_cli.documents.manifest import SourceRule
from lora_cli.documents.policy import Policy
from lora_cli.errors import AccessDenied, NotFound, Offline
from lora_cli.fetching.pipeline import Fetched
from lora_cli.fetching.requirements import needs_access_check
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from tests.bringing import bring
from tests.hub_server import Hub
from tests.object_servers import S3Server
from tests.web_server import Site, WebServer

FILES = {
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": bytes(range(256)) * 500,
    "README.md": b"# SQL\n",
}


class Caller:
    """Somebody with a token of their own, on a cache that others share."""

    def __init__(self, cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub, self._monkeypatch = hub, monkeypatch
        self._settings = Settings(cache, hub_endpoint=hub.endpoint, retries=0, timeout_s=5)

    def bring(self, text: str, token: str = "", *, check: bool = True, offline: bool = False) -> Fetched:
        self._monkeypatch.setenv("HF_TOKEN", token)
        policies = (Policy(require_access_check=check),)
        settings = replace(self._settings, policies=policies, offline=offline)
        ref = parse(text, is_path=os.path.lexists)
        return bring(ref, Sources(settings).of(ref), Store(settings.cache_dir), settings)

    def requests(self, text: str, token: str, *, check: bool = True) -> int:
        before = self.hub.count()
        assert self.bring(text, token, check=check).cached
        return self.hub.count() - before


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    with Hub() as hub:
        hub.add("acme/open", FILES)
        hub.add("acme/gated", FILES, gated=True)
        hub.add("acme/secret", FILES, private=True)
        hub.token("hf_alice", "acme/gated", "acme/secret")
        hub.token("hf_bob")
        yield Caller(tmp_path / "cache", hub, monkeypatch)


@pytest.mark.parametrize("name", ["acme/gated", "acme/secret"])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_shared_cache_hands_out_what_the_origin_lets_its_caller_have(caller: Caller, name: str, pinned: bool) -> None:
    text = f"{name}@{caller.hub.commit(name).id}" if pinned else name
    caller.bring(text, "hf_alice", check=False)
    assert caller.bring(text, "hf_alice").cached
    for token in ("hf_bob", "hf_unknown", ""):
        with pytest.raises((AccessDenied, NotFound)) as caught:
            caller.bring(text, token)
        assert caught.value.exit_code == 3
        assert token not in str(caught.value) or not token
    with pytest.raises(Offline, match="require_access_check"):
        caller.bring(text, "hf_alice", offline=True)
    if pinned:
        assert caller.bring(text, "hf_bob", check=False).cached


def test_the_question_costs_one_small_request(caller: Caller) -> None:
    text = f"acme/gated@{caller.hub.commit('acme/gated').id}"
    caller.bring(text, "hf_alice")
    assert caller.requests(text, "hf_alice") == 1
    assert caller.requests(text, "hf_alice", check=False) == 0
    assert caller.hub.requests[-1].range == "bytes=0-0"


def test_what_is_known_to_be_public_is_not_asked_for(caller: Caller) -> None:
    commit = caller.hub.commit("acme/open").id
    caller.bring("acme/open", "")
    assert caller.requests(f"acme/open@{commit}", "") == 0
    assert caller.bring("acme/open", "", offline=True).cached


def test_what_nobody_knows_to_be_public_is_asked_for(caller: Caller) -> None:
    text = f"acme/open@{caller.hub.commit('acme/open').id}"
    caller.bring(text, "")
    assert caller.requests(text, "") == 1


def test_a_listing_that_all_may_see_does_not_hand_out_what_is_gated(caller: Caller) -> None:
    """The files of a gated repository are listed to everybody: their digests alone must not open the cache."""
    caller.bring("acme/gated", "hf_alice")
    with pytest.raises(AccessDenied, match="policy require_access_check"):
        caller.bring("acme/gated", "hf_bob")


@pytest.mark.parametrize(
    ("text", "access", "needed"),
    [
        ("acme/gated", "", True),
        ("acme/gated", "gated", True),
        ("acme/open", "public", False),
        ("file:///srv/sql", "", False),
        ("file:///srv/sql", "gated", False),
    ],
)
def test_what_nobody_may_be_denied_needs_no_check(text: str, access: str, needed: bool, tmp_path: Path) -> None:
    ref = parse(text, is_path=lambda _: False)
    settings = Settings(tmp_path, policies=(Policy(require_access_check=True),))
    assert needs_access_check(ref, access, settings) is needed
    assert not needs_access_check(ref, access, replace(settings, policies=(Policy(),)))


def test_a_web_server_is_asked_with_the_callers_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WebServer(Site({f"sql/{path}": content for path, content in FILES.items()}, token="alices")) as server:
        rule = SourceRule(match=f"http://{server.place}/*", token_env="LORA_CLI_TOKEN_ACME")
        policy = Policy(require_access_check=True)
        settings = Settings(tmp_path / "cache", retries=0, sources=(rule,), policies=(policy,))
        ref = parse(f"http://{server.place}/sql", is_path=os.path.lexists)

        def asked(token: str, settings: Settings = settings) -> Fetched:
            monkeypatch.setenv("LORA_CLI_TOKEN_ACME", token)
            return bring(ref, Sources(settings).of(ref), Store(settings.cache_dir), settings)

        assert not asked("alices").cached
        assert asked("alices").cached
        with pytest.raises(AccessDenied):
            asked("bobs")
        with pytest.raises(Offline, match="require_access_check"):
            asked("alices", replace(settings, offline=True))


@pytest.mark.parametrize("locked", [True, False])
def test_a_bucket_is_asked_with_the_callers_keys(
    seaweed_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    bucket = seaweed_server.bucket()
    seaweed_server.put(bucket, {f"sql/{path}": content for path, content in FILES.items()})
    settings = Settings(tmp_path / "cache", retries=0, policies=(Policy(require_access_check=True),))
    ref = parse(f"s3://{bucket}/sql", is_path=os.path.lexists)

    def asked(locked: LockedAdapter | None = None, **keys: str) -> Fetched:
        for name, value in {**seaweed_server.environ, **keys}.items():
            monkeypatch.setenv(name, value)
        return bring(ref, Sources(settings).of(ref), Store(settings.cache_dir), settings, locked=locked)

    first = asked()
    lock = LockedAdapter("sql", str(ref), first.revision, first.snapshot.files)
    lock_or_none = lock if locked else None
    assert asked(lock_or_none).cached
    with pytest.raises(AccessDenied):
        asked(lock_or_none, AWS_SECRET_ACCESS_KEY="bobs")
