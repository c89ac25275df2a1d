"""Servers that say back what they were sent, and people who write passwords into addresses: no message repeats one."""

import base64
import html
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote

import pytest

from lora_cli import redaction
from lora_cli.cli.main import main
from lora_cli.errors import LoraCliError
from lora_cli.redaction import redact, remember
from tests.answering import Reply, answering
from tests.planted import ALWAYS, PASSWORD, SECRET, SESSION, SIGNATURE, TOKEN, Machine
from tests.slow import slowly

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


@pytest.mark.parametrize(
    "text",
    [
        "hf://gpt2@main: there is no branch main",
        "fsspec+sftp://alice@host/x: no such thing",
        "fsspec+sftp://host:9870/a@b:c: no",
        "http://127.0.0.1:8080/x@y is not the address",
        "oci://registry:5000/name:tag@sha256:0123",
        "http://[::1]:80/x@y",
        "send the bearer token; basic authentication is not read",
        "digest " + "ab" * 32 + " was listed, but " + "cd" * 32 + " is offered",
        "write https://HOST, without user, query or fragment",
        "the adapter acme/production-token-classifier@v1 has no weights",
    ],
)
def test_what_is_no_secret_is_told(text: str) -> None:
    remember("s3cretS3cretS3cret")
    remember("abc")
    assert redact(text) == text


ADDRESSES = [
    f"https://alice:{PASSWORD}@127.0.0.1:9/x.yaml",
    f"https://alice:{PASSWORD}/{PASSWORD}@127.0.0.1:9/x.yaml",
    f"https://:{PASSWORD}@127.0.0.1:9/x.yaml",
    f"https://{TOKEN}@127.0.0.1:9/x.yaml",
    f"https://gh{PASSWORD}@127.0.0.1:9/x.yaml",
    f"HTTPS://Alice:{PASSWORD}@127.0.0.1:9/x.yaml",
    f"ftp://alice:{PASSWORD}@127.0.0.1:9/x.yaml",
    f"https://127.0.0.1:9/x.yaml?sig={SIGNATURE}",
    f"https://127.0.0.1:9/x.yaml?a=b&access_token={SIGNATURE}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_in_an_address_is_repeated_nowhere(
    machine: Machine, address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(machine.root)
    for name, value in {**machine.environ, "LORA_CLI_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    for words in (
        ["fetch", "-f", address],
        ["fetch", "./sql", "--policy", address],
        ["fetch", address],
        ["validate", "-f", address],
        ["validate", "./sql", "--base", address],
        ["validate", "./sql", "--baseline", address],
        ["validate", "./sql", "--output", address],
        ["inspect", address, "--format", "json"],
        ["serve-bench", "--url", address],
        ["serve-bench", "--url", address, "--format", "json"],
        ["warm", "--endpoint", address],
        ["cache", "verify", "--repair", "-f", address],
        ["rules", address],
        ["engines", address],
    ):
        (machine.root / "set.yaml").write_text(
            f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: '{address}'\nadapters:\n  - {{name: a, source: ./sql}}\n"
        )
        assert main([*words, *(ALWAYS if "cache" not in words else [])]) in {0, 1, 2, 3, 4, 6, 7}, words
    machine.said += capfd.readouterr()
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert main(["fetch", "acme/x"]) in {0, 2, 3}
    machine.said += capfd.readouterr()
    for left in machine.root.rglob("*"):
        assert PASSWORD not in left.name
    told = "".join(machine.said)
    assert not [secret for secret in (PASSWORD, TOKEN, SIGNATURE) if secret in told], told


def test_a_message_has_a_bound() -> None:
    assert len(LoraCliError("x" * 10**6).message) < 20_000


def test_what_is_remembered_is_forgotten() -> None:
    remember("plantedAndForgotten")
    assert redact("a plantedAndForgotten b") == "a *** b"
    redaction.forget()
    assert redact("a plantedAndForgotten b") == "a plantedAndForgotten b"
