"""What an operator forbids stays forbidden, however it is asked for and whether it is cached."""

import os
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


def policy_of(rules: str) -> Policy:
    return parse_yaml(f"apiVersion: lora-cli/v1\nkind: Policy\n{rules}\n", "p.yaml").read(PolicyFile)


def allowed(text: str, *policies: str) -> str:
    """The rule that forbids ``text``, or "" when all ``policies`` allow it; "usage" when it is no reference at all."""
    try:
        ref = parse(text, is_path=os.path.lexists)
        gate.refuse(Request("", ref), Settings(Path("/nowhere"), policies=tuple(map(policy_of, policies))))
    except Refused as error:
        return error.message.partition("policy ")[2].partition(":")[0] or error.message
    except UsageError:
        return "usage"
    return ""


SPELLINGS = {
    "hf://evil/*": [
        "evil/sql", "hf://Evil/sql@main", "hf://evil/sql/folder", "HF://evil/sql", "huggingface.co/evil/sql",
        "https://HuggingFace.CO:443/evil/sql", "https://huggingface.co./evil/sql", "https://hf.co/evil/sql",
        "http://huggingface.co//evil/sql/resolve/main/adapter_config.json", "https://huggingface.co/evil/sql.git?x#y",
    ],
    "https://Files.EXAMPLE.:443/%65vil/*": [
        "https://files.example/evil/sql", "https://FILES.example.:443//evil/sql", "https://files.example/%65vil/sql#ok",
    ],
    "fsspec+ssh://you@files.example/evil/*": [
        "fsspec+sftp://files.example/evil/x", "fsspec+sftp://me@FILES.example/evil/x",
        "fsspec+ssh://files.example//evil/x",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("glob", "text"), [(glob, text) for glob, texts in SPELLINGS.items() for text in texts])
def test_a_place_is_denied_however_it_is_written(glob: str, text: str) -> None:
    assert allowed(text, f"deny_sources: ['{glob}']") == "deny_sources"
    assert allowed(text, f"deny_sources: ['{glob.replace('evil', 'other').replace('%65vil', 'other')}']") == ""


@pytest.mark.parametrize(
    "text",
    [
        "https://files.example/good/../evil", "https://files.example@evil.example/good/x",
        "https://files.example.evil.example/good/x", "http://files.example/good/x", "hf://files.example/good",
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_not_made_to_look_so(text: str) -> None:
    assert allowed(text, "allow_sources: ['https://files.example/good/*']") in {"allow_sources", "usage"}
    assert allowed("https://files.example/good/x", "allow_sources: ['https://files.example/good/*']") == ""


def test_what_denies_wins_also_for_a_folder_of_it_and_an_empty_list_allows_nothing() -> None:
    assert allowed("hf://a/b/c@main", "allow_sources: ['hf://a/*']\ndeny_sources: ['hf://a/b']") == "deny_sources"
    assert allowed("hf://a/b", "allow_sources: []") == "allow_sources"


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
    assert allowed(f"file://{good}/sql/%2e%2e/../evil/sql", allow) == "allow_sources"
    assert allowed(str(good / "sql"), f"deny_sources: ['{tmp_path}/mount/*']") == "deny_sources"


def test_pickled_weights_must_be_allowed_and_named_by_the_policy_also_when_they_are_cached(desk: Desk) -> None:
    ref = f"org/old@{desk.hub.add('org/old', {'adapter_config.json': b'{}', 'adapter_model.bin': b'pickled'})}"
    named, silent = Policy(allow_formats=("pickle",)), Policy(max_bytes=10**9)
    for is_cached in (False, True):
        for policy, allow, said in ((silent, True, "policy allow_formats"), (named, False, "--allow-pickle")):
            with pytest.raises(Refused) as caught:
                desk.bring(ref, Selection(allow_pickle=allow), policies=(policy,))
            assert said in f"{caught.value.message} {caught.value.hint}"
        assert desk.bring(ref, Selection(allow_pickle=True), policies=(named,)).cached == is_cached


def test_what_a_name_means_is_held_to_the_rules_too_also_when_it_is_cached(desk: Desk, tmp_path: Path) -> None:
    (key := tmp_path / "a.pub").write_text("a key")
    desk.hub.rename("org/sql", "org/renamed")
    desk.bring("org/sql")
    signature = f"require_signature: [{{sources: ['hf://org/renamed'], keys: ['{key}']}}]"
    for rule in (f"deny_sources: ['hf://org/renamed@{desk.commit}']", "deny_sources: ['hf://org/renamed']", signature):
        for text in ("org/sql", f"org/sql@{desk.commit}", "org/renamed"):
            for offline in (False, True):
                error = desk.fails(text, policies=(policy_of(rule),), offline=offline)
                assert isinstance(error, Refused | Offline), (rule, text)
