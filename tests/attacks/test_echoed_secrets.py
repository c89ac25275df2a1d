"""Servers that say back what they were sent, and people who write passwords into addresses: no message repeats one."""

import base64
import html
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote

import pytest

from lora_cli.errors import LoraCliError
from lora_cli.redaction import redact
from tests.answering import Reply, answering
from tests.making import write_adapter
from tests.planted import PASSWORD, SECRET, SESSION, SIGNATURE, TOKEN, Machine
from tests.slow import slowly


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    write_adapter(tmp_path / "sql")
    return Machine(tmp_path)


STATUSES = (400, 403, 404)
SENT = ("Authorization", "x-amz-security-token", "Proxy-Authorization")
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percent-encoded": lambda text: quote(text, safe=""),
    "for a page": lambda text: html.escape(text).replace("+", "&#43;").replace("=", "&#61;"),
    "in capitals": str.upper,
    "in JSON": lambda text: text.replace("+", "\\u002b").replace("=", "\\u003d").replace("/", "\\u002f"),
    "after much else": lambda text: "x " * 40 + text,
    "within a word": lambda text: f"x{text.replace(' ', '')}x",
}


class Echo:
    """A server that says back what it was sent in its refusals, wherever those have a text.

    How it refuses is in the name of what it is asked for.
    """

    def __init__(self, form: Callable[[str], str]) -> None:
        self.form, self.said, self.refused = form, list[str](), set[int]()

    def reply(self, request: BaseHTTPRequestHandler) -> Reply:
        sent = " ".join(value for name in SENT if (value := request.headers.get(name)))
        self.said.append(sent)
        text = self.form(sent)
        body = (
            f"<Error><Code>Bad{text[:60]}</Code><Message>{text}</Message><Region>{text[-32:].lower()}</Region></Error>"
        )
        header = text.encode("ascii", "replace").decode()[:3000]
        told = {
            "X-Error-Message": header,
            "X-Error-Code": header,
            "ETag": f'"{header[:400]}"',
            "Content-Type": "text/plain",
        }
        status = next((status for status in STATUSES if f"x{status}" in request.path), STATUSES[0])
        self.refused.add(status)
        return status, body.encode(), {**told, "X-Linked-Size": "5"}

    @property
    def secrets(self) -> set[str]:
        """Each word of what was sent that is one."""
        words = " ".join(self.said).replace(",", " ").split()
        return {word.partition("Signature=")[2] or word for word in words if len(word) >= 20 and "AWS4-HMAC" not in word
                and not word.startswith(("Credential=", "SignedHeaders="))}  # fmt: skip


def parts_of(secret: str, size: int = 12) -> Iterator[str]:
    return (secret[at : at + size].casefold() for at in range(len(secret) - size + 1))


def repeated(machine: Machine, secrets: set[str]) -> list[str]:
    """Parts of secrets that were told."""
    told = "".join(machine.said).casefold()
    return sorted(part for secret in secrets for part in parts_of(secret) if part in told)


KEYS = {"AWS_ACCESS_KEY_ID": "AKIAALICE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION}
SOURCES: dict[str, tuple[str, dict[str, str]]] = {
    "hf": ("hf://acme/x", {"HF_ENDPOINT": "{}"}),
    "s3": ("s3://bucket/x", {"AWS_ENDPOINT_URL": "{}", **KEYS}),
    "gs": ("gs://bucket/x", {"ACME_TOKEN": f"ya29.{SECRET}{SESSION}"}),
    "http": ("{}/x", {"ACME_TOKEN": f"{SECRET}{SESSION}"}),
}


@pytest.mark.parametrize("form", slowly(FORMS, "percent-encoded", "in JSON"))
@pytest.mark.parametrize("source", SOURCES)
def test_a_server_that_says_back_what_it_was_sent_is_not_repeated(machine: Machine, source: str, form: str) -> None:
    echo = Echo(FORMS[form])
    with answering(echo.reply) as endpoint:
        ref, environ = SOURCES[source]
        refs = [f"{ref.format(endpoint)}{status}" for status in STATUSES]
        rule = f'[[sources]]\nmatch = "{source}://*"\ntoken_env = "ACME_TOKEN"\n' if "ACME_TOKEN" in environ else ""
        own = f'endpoint_url = "{endpoint}"\n' if source == "gs" else ""
        (machine.root / "lora-cli.toml").write_text(rule + own)
        seen = {name: value.format(endpoint) for name, value in environ.items()}
        seen |= {"LORA_CLI_RETRIES": "0", "LORA_CLI_CONFIG": str(machine.root / "lora-cli.toml")}
        assert machine.run("fetch", *refs, "--format", "json", **seen) in {1, 2, 3, 4, 5}
        assert machine.run("inspect", *refs, **seen) in {1, 2, 3, 4, 5}
    assert echo.refused == set(STATUSES)
    assert echo.secrets
    assert repeated(machine, echo.secrets) == []
    assert machine.leaks() == []


def test_what_a_library_was_given_for_google_is_told_by_its_shape() -> None:
    jwt = ".".join(
        base64.urlsafe_b64encode(json.dumps({"a": "x" * 60}).encode()).decode().rstrip("=") for _ in range(3)
    )
    for secret in (
        jwt,
        jwt[:70],
        f"ya29.{SECRET.replace('+', '-')}",
        f"Bearer {SECRET}",
        "Basic " + "YWxpY2U6aHVudGVyMg==",
    ):
        said = redact(f"the server says: {secret} is bad")
        assert not [part for part in parts_of(secret.rpartition(" ")[2], 16) if part in said.casefold()], said
        assert said.startswith("the server says: ")
        assert said.endswith(" is bad")


ADDRESSES = [
    f"https://alice:{PASSWORD}/{PASSWORD}@127.0.0.1:9/x.yaml",
    f"https://:{PASSWORD}@127.0.0.1:9/x.yaml",
    f"https://{TOKEN}@127.0.0.1:9/x.yaml",
    f"ftp://alice:{PASSWORD}@127.0.0.1:9/x.yaml",
    f"https://127.0.0.1:9/x.yaml?a=b&access_token={SIGNATURE}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_in_an_address_is_repeated_nowhere(machine: Machine, address: str) -> None:
    (machine.root / "set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: '{address}'\nadapters:\n  - {{name: a, source: ./sql}}\n"
    )
    for words in (
        ["fetch", "-f", "set.yaml"],
        ["fetch", "-f", address],
        ["fetch", "./sql", "--policy", address],
        ["validate", "./sql", "--baseline", address],
        ["validate", "./sql", "--output", address],
        ["serve-bench", "--url", address, "--format", "json"],
        ["warm", "--endpoint", address],
        ["rules", address],
    ):
        assert machine.run(*words, LORA_CLI_OFFLINE="1") in {0, 1, 2, 3, 4, 6, 7}, words
    assert machine.run("fetch", "acme/x", LORA_CLI_OFFLINE="1", HF_ENDPOINT=address) in {0, 2, 3}
    assert machine.leaks() == []


def test_a_message_has_a_bound() -> None:
    assert len(LoraCliError("x" * 10**6).message) < 20_000
