import pytest

from lora_cli.redaction import redacted

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
