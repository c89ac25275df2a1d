from collections.abc import Iterator

import pytest

from lora_cli.redaction import forget, redact, redacted, remember

ENVIRON = {
    "HF_TOKEN": "s3cret/one",
    "AWS_SECRET_ACCESS_KEY": "abcdef+gh",
    "HOME": "/home/me",
    "EMPTY_TOKEN": "",
    "A_KEY": "x",
}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("token s3cret/one and s3cret%2Fone", "token *** and ***"),
        ("{'Authorization': 'Bearer abc.def'}", "{'Authorization': 'Bearer ***'}"),
        ("http://me:hunter2@proxy:3128/x", "http://***@proxy:3128/x"),
        ("https://s3.example/x?X-Amz-Signature=12ab&b=c 'next'", "https://s3.example/x?*** 'next'"),
        ("hf_abcdefgh123 at hf://org/name@main", "*** at hf://org/name@main"),
        ('File "/home/me/x.py", line 3: x = 1', 'File "/home/me/x.py", line 3: x = 1'),
    ],
)
def test_what_may_be_a_secret_is_taken_out_and_nothing_else(text: str, left: str) -> None:
    assert redacted(text, ENVIRON) == left


@pytest.fixture
def nothing_known() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.mark.usefixtures("nothing_known")
@pytest.mark.parametrize(
    "echo", ["+/=+/=", r"\u002b\u002f\u003d\u002B\u002F\u003D", "%2B%2F%3D%2b%2f%3d", "&#43;&#47;&#61;+/="]
)
def test_a_secret_of_signs_is_known_in_any_form(echo: str) -> None:
    assert redact(f"x {echo} y") != "x *** y"
    remember("+/=+/=")
    assert redact(f"x {echo} y") == "x *** y"
