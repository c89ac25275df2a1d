"""Requests that no client should send: text that UTF-8 does not have, huge names, wrong types, deep nesting."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from tests.making import llama_modules, write_adapter
from tests.warm.families import save_model
from tests.warm.running import Running

QUERIES = llama_modules(["q_proj"])
LONGEST_ANSWER = 5000

VALUES = {
    "half a pair": r'"\ud800"',
    "NUL": r'"a\u0000b"',
    "escapes": r'"\u001b[31m\u202e\r::error::x"',
    "huge": '"' + "n" * 900_000 + '"',
    "empty": '""',
    "up": '"../../x"',
    "null": "null",
    "true": "true",
    "number": "1",
    "infinite": "1e999",
    "digits": "9" * 5000,
    "list": "[]",
    "object": "{}",
    "deep list": "[" * 900 + "]" * 900,
    "deep object": '{"a":' * 900 + "1" + "}" * 900,
    "half a pair in a list": r'["\ud800"]',
    "no address": '"http://[::1"',
    "another root": '"/proc/self/root"',
    "strange ids": r'[[1], ["\ud800"], [-1], [99999999999999999999]]',
}

FIELDS: Mapping[str, Mapping[str, object]] = {
    "load_lora_adapter": {"lora_name": "x", "lora_path": "no", "load_inplace": False, "pinned": False},
    "unload_lora_adapter": {"lora_name": "x", "lora_int_id": 1},
    "completions": {
        "model": "good",
        "prompt": [1, 2],
        "max_tokens": 1,
        "stream": False,
        "stream_options": None,
        "logprobs": None,
        "stop": None,
        "ignore_eos": False,
        "return_token_ids": True,
        "temperature": 0,
        "logit_bias": None,
        "suffix": "",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strange")
    save_model(folder / "base", "llama")
    write_adapter(folder / "root" / "good", modules=QUERIES)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    argv = (folder / "root" / "good", "--base", folder / "base", "--root", folder / "root", "--forward", "model")
    with Running(folder, *argv) as running:
        yield running.until_ready()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=30) as opened:
        yield opened


def post(server: Running, client: httpx2.Client, path: str, body: bytes) -> httpx2.Response:
    """The answer, which is a clean one whatever was sent."""
    url = f"http://localhost:{server.port}/v1/{path}"
    answer = client.post(url, content=body, headers={"content-type": "application/json"})
    about = path, body[:80], answer.status_code, answer.text[:300]
    assert answer.status_code in {200, 202, 400, 404, 413, 422}, about
    assert len(answer.content) <= LONGEST_ANSWER, about
    answer.content.decode("utf-8")
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, about
    return answer


@pytest.mark.parametrize(("path", "key"), [(path, key) for path, fields in FIELDS.items() for key in fields])
def test_every_value_of_every_field_has_a_clean_answer(
    server: Running, client: httpx2.Client, path: str, key: str
) -> None:
    for value in VALUES.values():
        others = [f"{json.dumps(name)}: {json.dumps(usual)}" for name, usual in FIELDS[path].items() if name != key]
        post(server, client, path, ("{" + ", ".join([*others, f'"{key}": {value}']) + "}").encode())
    assert "Traceback" not in server.said()


@pytest.mark.parametrize("path", FIELDS)
def test_every_body_has_a_clean_answer(server: Running, client: httpx2.Client, path: str) -> None:
    texts = [*VALUES.values(), *(f"{{{value}: 1}}" for value in VALUES.values() if value[0] == '"')]
    bodies = [text.encode() for text in texts]
    bodies += [b"", b"\0" * 1000, b"\xff\xfe{}", b'{"lora_name": "\xff"}', b"[" * 1_000_000, b"{}" * 500_000]
    for body in bodies:
        assert post(server, client, path, body).status_code == 400
    assert post(server, client, path, b"[" + b"{}," * 400_000 + b"{}]").status_code == 413
    assert "Traceback" not in server.said()


def test_a_listing_stays_whole_whatever_an_adapter_says(server: Running, client: httpx2.Client, folder: Path) -> None:
    write_adapter(folder / "root" / "surrogates", modules=QUERIES, config={"target_modules": ["\ud800" * 3000]})
    write_adapter(folder / "root" / "long", modules=QUERIES, config={"peft_type": "x" * 2_000_000})
    for name in ("surrogates", "long"):
        post(server, client, "load_lora_adapter", json.dumps({"lora_name": name, "lora_path": name}).encode())
    for path in ("status", "models"):
        answer = client.get(f"http://localhost:{server.port}/v1/{path}")
        assert answer.status_code == 200
        answer.json()
        assert len(answer.content) < 20_000
    assert "Traceback" not in server.said()
