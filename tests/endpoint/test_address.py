"""What is an address of a server, and what is none."""

from pathlib import Path

import pytest

from lora_cli.endpoint.address import Address, parse_address
from lora_cli.errors import UsageError


@pytest.mark.parametrize("text", ["http://[::1", "http://h:99999", "http://", "http://x\udcff", f"http://{'a' * 64}.b"])
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a server"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://[::1]:8000/v1", Address("::1", 8000)),
        ("https://h\u00f6st.example", Address("h\u00f6st.example", 443, tls=True)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


def test_an_address_is_shown_as_it_is_asked_and_a_socket_by_its_path() -> None:
    shown = {
        Address("10.0.0.1", 81): "http://10.0.0.1:81",
        Address("::1", 81, tls=True): "https://[::1]:81",
        Address(uds=Path("/run/x")): "unix:/run/x",
    }
    assert {address: str(address) for address in shown} == shown
    assert Address(uds=Path("/run/x")).url == "http://localhost"
