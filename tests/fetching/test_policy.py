"""What an operator forbids stays forbidden, however it is asked for; and a shared cache asks before it hands out."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.documents.document import parse_yaml
from lora_cli.documents.policy import Policy, PolicyFile
from lora_cli.errors import Offline, Refused, UsageError
from lora_cli.fetching import gate
from lora_cli.refs.reference import parse
from lora_cli.refs.request import Request, Selection
from lora_cli.settings import Settings
from tests.fetching.desk import Desk
from tests.making import write_adapter

MANIFESTS = Path(__file__).parents[2] / "manifests"
COMMIT = "0e9e" * 10
SETTINGS = Settings(Path("/nowhere"))


def policy_of(rules: str) -> Policy:
    return parse_yaml(f"apiVersion: lora-cli/v1\nkind: Policy\n{rules}\n", "p.yaml").read(PolicyFile)


def allowed(text: str, *policies: str, settings: Settings = SETTINGS, sha256: str | None = None) -> str:
    """The rule that forbids ``text``, or "" when all ``policies`` allow it; "usage" when it is no reference at all."""
    read = tuple(policy_of(one) for one in policies)
    try:
        ref = parse(text, is_path=os.path.lexists)
        gate.refuse(Request("", ref, sha256), replace(settings, policies=settings.policies + read))
    except Refused as error:
        return error.message.partition("policy ")[2].partition(":")[0] or error.message
    except UsageError:
        return "usage"
    return ""


@pytest.mark.parametrize(
    "text",
    [
        "hf://evil/sql", "evil/sql", "EVIL/Sql", "hf://Evil/sql@main", "hf://evil/sql/folder", "HF://evil/sql",
        "https://huggingface.co/evil/sql", "https://HuggingFace.CO:443/evil/sql", "https://huggingface.co./evil/sql",
        "https://hf.co/evil/sql", "https://www.huggingface.co/evil/sql/tree/main", "http://huggingface.co/evil/sql",
        f"https://huggingface.co/evil/sql/resolve/{COMMIT}/adapter_config.json", "https://huggingface.co//evil/sql",
        "https://huggingface.co/evil/sql.git", "https://huggingface.co/evil/sql?x#y", "huggingface.co/evil/sql",
    ],
)  # fmt: skip
@pytest.mark.parametrize("glob", ["hf://evil/*", "evil/*", "https://huggingface.co/evil/*", "HF://EVIL/*"])
def test_a_repository_is_denied_however_it_is_written(text: str, glob: str) -> None:
    assert allowed(text, f"deny_sources: ['{glob}']") == "deny_sources"
    other = re.sub("evil", "good", text, flags=re.IGNORECASE)
    assert allowed(other, f"deny_sources: ['{glob}']") == ""


@pytest.mark.parametrize(
    "text",
    [
        "https://files.example/evil/sql", "https://FILES.example/evil/sql", "https://files.example.:443/evil/sql",
        "https://files.example//evil/sql", "https://files.example/%65vil/sql",
        "https://files.example/evil/sql/adapter_config.json", "https://files.example/evil/sql#good",
    ],
)  # fmt: skip
def test_an_address_is_denied_however_it_is_written(text: str) -> None:
    assert allowed(text, "deny_sources: ['https://files.example/evil/*']") == "deny_sources"
    assert allowed(text, "deny_sources: ['https://Files.EXAMPLE.:443/%65vil/*']") == "deny_sources"
    assert allowed(text, "deny_sources: ['https://files.example/other/*']") == ""


@pytest.mark.parametrize(
    "text",
    [
        "https://files.example/good/../evil", "https://files.example/good/%2e%2e/evil",
        "https://files.example/good/..%2fevil", "https://files.example/good/%252e%252e/evil",
        "https://files.example/good/..\\evil", "https://files.example/good/%2e./evil",
        "https://files.example@evil.example/good/x", "https://files.example:x@evil.example/good/x",
        "https://evil.example/https://files.example/good/x", "https://files.example.evil.example/good/x",
        "https://files.example/good%2fx%2f..%2f..%2fevil", "http://files.example/good/x",
        "https://files.example/good;/../evil", "hf://files.example/good", "s3://files.example/good/x",
        "https://files.example/good%2f%2e%2e%2fevil/x", "https://files.example/good%5c..%5cevil/x",
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_not_made_to_look_so(text: str) -> None:
    assert allowed(text, "allow_sources: ['https://files.example/good/*']") in {"allow_sources", "usage"}
    assert allowed("https://files.example/good/x", "allow_sources: ['https://files.example/good/*']") == ""


@pytest.mark.parametrize(
    "text", ["sftp://files.example/evil/x", "sftp://me@FILES.example/evil/x", "ssh://files.example//evil/x"]
)
def test_another_machine_is_the_same_whoever_logs_in(text: str) -> None:
    text = f"fsspec+{text}"
    assert allowed(text, "deny_sources: ['fsspec+sftp://files.example/evil/*']") == "deny_sources"
    assert allowed(text, "deny_sources: ['fsspec+ssh://you@files.example/evil/*']") == "deny_sources"
    assert allowed(text, "allow_sources: ['fsspec+sftp://files.example/evil/*']") == ""
    assert allowed(text, "allow_sources: ['fsspec+sftp://files.example/good/*']") == "allow_sources"


def test_a_link_is_judged_by_its_name_and_by_where_it_leads(tmp_path: Path) -> None:
    good, evil = tmp_path / "good", tmp_path / "evil"
    write_adapter(good / "sql")
    write_adapter(evil / "sql")
    (good / "linked").symlink_to(evil / "sql")
    (evil / "linked").symlink_to(good / "sql")
    (tmp_path / "mount").symlink_to(good)
    allow, deny = f"allow_sources: ['{good}/*']", f"deny_sources: ['{evil}/*']"
    assert allowed(str(good / "sql"), allow, deny) == ""
    assert allowed(str(good / "linked"), allow) == "allow_sources"
    assert allowed(str(good / "linked"), deny) == "deny_sources"
    assert allowed(str(evil / "linked"), allow) == ""
    assert allowed(str(evil / "linked"), deny) == "deny_sources"
    assert allowed(f"{good}/x/../../evil/sql", allow) == "allow_sources"
    assert allowed(f"{good}/linked/../sql", deny) == "deny_sources"
    assert allowed(f"file://{good}/sql/%2e%2e/../evil/sql", allow) == "allow_sources"
    assert allowed(str(tmp_path / "mount" / "sql"), f"allow_sources: ['{tmp_path}/mount/*']") == ""
    assert allowed(str(good / "sql"), f"deny_sources: ['{tmp_path}/mount/*']") == "deny_sources"


@pytest.mark.parametrize(
    ("policies", "allow_pickle", "said"),
    [
        ((), True, ""),
        ((Policy(allow_formats=("pickle",)),), True, ""),
        ((Policy(max_bytes=10**9),), True, "policy allow_formats"),
        ((Policy(allow_formats=("safetensors",)),), True, "policy allow_formats"),
        ((Policy(allow_formats=("pickle",)),), False, "--allow-pickle"),
        ((), False, "--allow-pickle"),
    ],
)
@pytest.mark.parametrize("is_cached", [False, True])
def test_pickled_weights_must_be_allowed_and_named_by_the_policy(
    desk: Desk, policies: tuple[Policy, ...], allow_pickle: bool, said: str, is_cached: bool
) -> None:
    commit = desk.hub.add("org/old", {"adapter_config.json": b"{}", "adapter_model.bin": b"pickled"})
    ref, selection = f"org/old@{commit}", Selection(allow_pickle=allow_pickle)
    if is_cached:
        desk.bring(ref, Selection(allow_pickle=True))
    if not said:
        assert desk.bring(ref, selection, policies=policies).cached == is_cached
        return
    with pytest.raises(Refused) as caught:
        desk.bring(ref, selection, policies=policies)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_what_a_name_means_is_held_to_the_rules_too_also_when_it_is_cached(desk: Desk, tmp_path: Path) -> None:
    key = tmp_path / "a.pub"
    key.write_text("a key")
    desk.hub.rename("org/sql", "org/renamed")
    desk.bring("org/sql")
    for rule in (
        f"deny_sources: ['hf://org/renamed@{desk.commit}']",
        "deny_sources: ['hf://org/renamed']",
        f"require_signature: [{{sources: ['hf://org/renamed'], keys: ['{key}']}}]",
    ):
        policy = policy_of(rule)
        for text in ("org/sql", f"org/sql@{desk.commit}", "org/renamed"):
            for offline in (False, True):
                error = desk.fails(text, policies=(policy,), offline=offline)
                assert isinstance(error, Refused | Offline), (rule, text)
