"""Adapters that take long or much to read, all loaded at once by a client of a server: nobody else waits for them."""

import json
import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.attacks.besieged import children_of, ends_s, probed, resident_mb, weighed
from tests.making import llama_modules, write_adapter, write_base
from tests.serving.running import Running

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])
Change = Callable[[Path], object]


def template(text: str) -> Change:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def templates(text: str, count: int) -> Change:
    """Many of them, by name, as tokenizer_config.json has them."""
    named = [{"name": f"t{number}", "template": text} for number in range(count)]
    return lambda folder: (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))


def header(tensors: int) -> Change:
    """Of 150 bytes for each tensor, which are empty."""

    def write(folder: Path) -> None:
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        text = json.dumps({f"{stem}.{number}{'x' * 20}": empty for number in range(tensors)}).encode()
        (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)

    return write


def pickles(count: int, size: int, said: bytes) -> Change:
    def write(folder: Path) -> None:
        for number in range(count):
            (folder / f"training_args{number}.bin").write_bytes(said * (size // len(said)))

    return write


def config(**fields: object) -> Change:
    def write(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return write


NAMES = [f"module_{number}_with_a_name_of_its_own" for number in range(100_000)]

COSTLY: Mapping[str, Change] = {
    "braces": template("{{%c" + "%c" * 450_000),
    "blanks": template("range(" + " " * 976_000),
    "digits": template("range(" + "1" * 976_000),
    "commas": template("range(" + "a," * 480_000),
    "many-templates": templates("{{%c" + "%c" * 15_000, 30),
    "header-80-MB": header(480_000),
    "header-again": header(480_001),
    "pickles": pickles(16, 2 << 20, b"N."),
    "one-pickle": pickles(1, 32 << 20, pickle.dumps(None)),
    "rank-pattern": config(rank_pattern=dict.fromkeys(NAMES, 4)),
    "alpha-pattern": config(alpha_pattern=dict.fromkeys(NAMES, 4.0)),
    "targets": config(target_modules=NAMES, exclude_modules=NAMES, modules_to_save=NAMES),
    "expression": config(target_modules="(.*a?){40}(x+x+)+y"),
}


def test_a_server_answers_beside_all_of_them_stays_small_and_ends_when_told(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    for number, (name, change) in enumerate(COSTLY.items()):
        change(write_adapter(tmp_path / "root" / name, modules=QUERIES, seed=number))
    good = write_adapter(tmp_path / "root" / "good", modules=QUERIES)
    argv = (good, "--base", tmp_path / "base", "--root", tmp_path / "root")
    with Running(tmp_path, *argv, LORA_CLI_MAX_HEADER_BYTES="100MiB") as running:
        running.until_ready()
        with ThreadPoolExecutor(len(COSTLY)) as clients:
            with probed(running), probed(running, "/metrics"), weighed(running.process.pid) as parent_mb:
                for name in COSTLY:
                    clients.submit(running.load, name, name)
                children_mb = 0.0
                until = time.monotonic() + 6
                while time.monotonic() < until:
                    assert running.probe("good").status_code == 200
                    children_mb = max(children_mb, sum(map(resident_mb, children_of(running.process.pid))))
                    time.sleep(0.2)
            assert max(parent_mb) < 150, "what it is sent is not kept"
            assert children_mb < 3000, "two that validate, one that fetches, and the one that owns the slots"
            assert ends_s(running) < 2
