"""Addresses whose ``;`` hides a ``..`` from a policy, or a folder that it denies, from servers that cut it off."""

import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from lora_cli.cli.main import main
from lora_cli.core.globs import covers, touches
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.documents.policy import Policy
from lora_cli.documents.policy_checks import violations
from lora_cli.errors import UsageError
from tests.answering import Reply, answering
from tests.making import write_adapter

DOTS = ["..;", "..;x=1", ".;", "..;/", "%2e%2e;", ".%2e;a", "..%3b", "..%3Bx=1", "%2e%2e%3b", "%252e%252e%253b",
        "..\\;", "..%5c;", "..%2f..;", ".. ;", "..%20", "..;%2f", "..;;", "..;a=../b"]  # fmt: skip


@pytest.fixture
def tomcat(tmp_path: Path) -> Iterator[str]:
    """A server that cuts parameters off each part of a path, and then resolves ``..``; its address."""
    files = {path.name: path.read_bytes() for path in write_adapter(tmp_path / "sql").iterdir()}

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        path = request.path
        for _ in range(3):
            path = unquote(path)
        parts: list[str] = []
        for part in re.sub(r";[^/]*", "", path.replace("\\", "/")).split("/"):
            if part.strip() == "..":
                parts = parts[:-1]
            elif part.strip() not in {"", "."}:
                parts.append(part)
        folder, name = "/".join(parts[:-1]), parts[-1]
        there = folder == "repo/team-b/zubrowka" and name in files
        return (200, files[name], {"ETag": '"1"'}) if there else (404, b"", {})

    with answering(reply) as endpoint:
        yield endpoint


@pytest.mark.parametrize("dots", DOTS)
def test_no_parameter_leads_out_of_what_is_allowed(
    dots: str, tomcat: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: ['{tomcat}/repo/team-a/*']\n"
    )
    asked = ["--cache-dir", str(tmp_path / "cache"), "fetch", "--policy", str(tmp_path / "policy.yaml")]
    assert main([*asked, f"{tomcat}/repo/team-a/{dots}/team-b/zubrowka"]) in {1, 2}
    assert not (tmp_path / "cache" / "records").exists()
    capsys.readouterr()
    assert main([*asked[:3], f"{tomcat}/repo/team-b/zubrowka"]) == 0


@pytest.mark.parametrize("dots", DOTS)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_an_address_with_dots_before_a_parameter_is_none(scheme: str, dots: str) -> None:
    with pytest.raises(UsageError, match="as a segment"):
        parse(f"{scheme}://localhost/a/{dots}/b", is_path=lambda _: False)


def test_a_policy_refuses_dots_before_a_parameter_itself() -> None:
    for ref in (
        AdapterRef("https", "h/a/..;x/b"),
        AdapterRef("s3", "bucket/a/..;/b"),
        AdapterRef("https", "h/a/%2e.;/b"),
    ):
        glob = f"{ref.scheme}://{ref.location.partition('/')[0]}/*"
        assert [one.rule for one in violations(Policy(allow_sources=(glob,)), ref)] == ["allow_sources"]


@pytest.mark.parametrize("text", ["team-b;x=1", "team-b;", "team-b%3Bx", "te%61m-b;a;b", quote("team-b;é")])
def test_what_is_denied_is_so_with_a_parameter(text: str) -> None:
    ref = parse(f"https://host/repo/{text}/zubrowka", is_path=lambda _: False)
    assert touches("https://host/repo/team-b/*", ref)
    assert not covers("https://host/repo/team-b;*", AdapterRef("https", "host/repo/team-a;x/y"))


def test_a_parameter_that_hides_nothing_is_kept_and_covered() -> None:
    ref = parse("https://host/repo;v=1/team-a/x;y=2", is_path=lambda _: False)
    assert ref.location == "host/repo;v=1/team-a/x;y=2"
    assert covers("https://host/repo;v=1/*", ref)
    assert covers("https://host/repo*", ref)
    assert not covers("https://host/repo/*", AdapterRef("https", "host/other;x=/repo/a"))
    assert str(parse("https://host/a...;b/..c/d", is_path=lambda _: False)) == "https://host/a...;b/..c/d"
